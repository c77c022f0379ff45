/**
 * What the display commands share: lines of a key and a value in fixed columns, sizes in words, and the rows that an option
 * like --select lets through.
 *
 * Invariant: every block ends with a line that holds one blank, as LVM2's do.
 */
import { plainText } from '../../ondisk/plain-text.ts';
import type { CommandContext } from '../command.ts';
import { formatTime } from '../report/cell.ts';
import type { ReportRow } from '../report/field.ts';
import { reportFields } from '../report/fields/table.ts';
import { Report, type RowKind } from '../report/report.ts';
import { requestOf } from '../report/request.ts';
import { settingsOf, sizeFormatOf } from '../report/settings.ts';
import type { Output } from '../messages.ts';
import { formatSize, type SizeFormat } from '../units.ts';

/** Prints blocks of lines for one command. */
export class Display {
  readonly #output: Output;
  readonly #sizes: SizeFormat;
  /** Columns that keys take. */
  readonly #keyWidth: number;
  /** global/lvdisplay_shows_full_device_path: LVs are shown by their paths only. */
  readonly fullPaths: boolean;

  constructor(context: CommandContext, keyWidth: number) {
    this.#output = context.output;
    this.#sizes = { ...sizeFormatOf(context), style: 'short' };
    this.#keyWidth = keyWidth;
    this.fullPaths = context.settings.bool('global/lvdisplay_shows_full_device_path');
  }

  print(line: string): void {
    this.#output.print(line);
  }

  title(text: string): void {
    this.print(`--- ${text} ---`);
  }

  /** A key and its value; a key that fills the column is parted from it by one blank. */
  pair(key: string, value: string | number): void {
    const padded = key.length < this.#keyWidth - 1 ? key.padEnd(this.#keyWidth) : `${key} `;
    this.print(`${padded}${plainText(String(value))}`);
  }

  blank(): void {
    this.print(' ');
  }

  /** "4.00 MiB" */
  size(sectors: number): string {
    return formatSize(sectors, this.#sizes);
  }
}

/** A point in time, blank if it isn't known. */
export function timeText(seconds: number | undefined): string {
  return formatTime(seconds ?? 0);
}

/** The rows that -S lets through. Throws CommandError for criteria that make no sense. */
export function selected(context: CommandContext, base: RowKind, rows: readonly ReportRow[]): readonly ReportRow[] {
  if (!context.options.has('select')) return rows;
  const first = reportFields.find((field) => field.section === base);
  const request = requestOf(context, base, { options: first?.id ?? '', keys: '' }, false);
  const report = new Report({ ...request, options: first?.id ?? '' }, reportFields, context.output);
  if (report.helped) return [];
  const { cells, context: values } = settingsOf(context);
  return rows.filter((row) => report.cells([row], cells, values, false).length > 0);
}
