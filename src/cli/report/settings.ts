/**
 * How a reporting command shows what it finds: units, headings, separators, format, sorted or not.
 *
 * Source: lvmreport(7) and lvs(8).
 */
import type { CommandContext } from '../command.ts';
import { CommandError, EXIT } from '../messages.ts';
import { DEFAULT_UNITS, parseUnits, type Units } from '../units.ts';
import type { CellFormat } from './cell.ts';
import type { ReportContext } from './field.ts';
import type { TableFormat } from './table.ts';

/** The sizes' units and suffix that --units and --nosuffix ask for. Throws CommandError (3). */
export function sizeFormatOf(context: CommandContext): { units: Units; suffix: boolean } {
  const given = context.options.value('units');
  const units = given === undefined ? DEFAULT_UNITS : parseUnits(given);
  if (units === null) throw new CommandError(EXIT.badUsage, ['Invalid units specification']);
  return { units, suffix: !context.options.has('nosuffix') };
}

export interface Settings {
  readonly format: 'basic' | 'json' | 'json_std';
  readonly cells: CellFormat;
  readonly table: TableFormat;
  readonly buffered: boolean;
  readonly sorted: boolean;
  readonly context: ReportContext;
}

function headingsOf({ options }: CommandContext): TableFormat['headings'] {
  const given = options.value('headings');
  if (given === undefined) return options.has('noheadings') ? 'none' : 'abbrev';
  if (given === 'none' || given === '0') return 'none';
  return given === 'full' || given === '2' ? 'full' : 'abbrev';
}

/** Reads the options of reports. Throws CommandError (3) for units that are none. */
export function settingsOf(context: CommandContext): Settings {
  const { options } = context;
  const format = (['json', 'json_std'] as const).find((name) => name === options.value('reportformat')) ?? 'basic';
  const prefixes = options.has('nameprefixes');
  const asRows = options.has('rows');
  const spaced = !options.has('separator') || options.has('aligned');
  const unbuffered = options.has('unbuffered') && !options.has('sort');
  return {
    format,
    cells: { ...sizeFormatOf(context), binary: options.has('binary'), strict: format === 'json_std' },
    table: {
      headings: headingsOf(context),
      separator: options.value('separator') ?? ' ',
      aligned: spaced && !prefixes && !asRows,
      prefixes,
      quoted: !options.has('unquoted'),
      asRows,
    },
    buffered: !unbuffered || asRows || format !== 'basic',
    sorted: !unbuffered,
    context: { markHidden: true, showHistory: options.has('history') },
  };
}
