/**
 * How a reporting command shows what it finds: units, headings, separators, format, sorted or not.
 *
 * Source: lvmreport(7) and lvs(8).
 */
import type { CommandContext } from '../command.ts';
import { CommandError, EXIT } from '../messages.ts';
import { parseUnits, type Units } from '../units.ts';
import type { CellFormat } from './cell.ts';
import type { ReportContext } from './field.ts';
import type { TableFormat } from './table.ts';

/** The sizes' units and suffix that --units and --nosuffix ask for. Throws CommandError (3). */
export function sizeFormatOf(context: CommandContext): { units: Units; suffix: boolean } {
  const { options, settings } = context;
  const units = parseUnits(options.value('units') ?? settings.string('global/units'));
  if (units === null) throw new CommandError(EXIT.badUsage, ['Invalid units specification']);
  return { units, suffix: !options.has('nosuffix') && settings.bool('global/suffix') };
}

export interface Settings {
  readonly format: 'basic' | 'json' | 'json_std';
  readonly cells: CellFormat;
  readonly table: TableFormat;
  readonly buffered: boolean;
  readonly sorted: boolean;
  readonly context: ReportContext;
}

function headingsOf({ options, settings }: CommandContext): TableFormat['headings'] {
  const given = options.value('headings');
  if (given === undefined) return options.has('noheadings') || !settings.bool('report/headings') ? 'none' : 'abbrev';
  if (given === 'none' || given === '0') return 'none';
  return given === 'full' || given === '2' ? 'full' : 'abbrev';
}

/** Reads the options of reports. Throws CommandError (3) for units that are none. */
export function settingsOf(context: CommandContext): Settings {
  const { options, settings } = context;
  const wanted = options.value('reportformat') ?? settings.string('report/output_format');
  const format = (['json', 'json_std'] as const).find((name) => name === wanted) ?? 'basic';
  const prefixes = options.has('nameprefixes') || settings.bool('report/prefixes');
  const asRows = options.has('rows') || settings.bool('report/columns_as_rows');
  const aligned = options.has('aligned') || (!options.has('separator') && settings.bool('report/aligned'));
  const unbuffered = (options.has('unbuffered') || !settings.bool('report/buffered')) && !options.has('sort');
  return {
    format,
    cells: {
      ...sizeFormatOf(context),
      binary: options.has('binary') || settings.bool('report/binary_values_as_numeric'),
      strict: format === 'json_std',
      timeFormat: settings.string('report/time_format'),
      listSeparator: settings.string('report/list_item_separator'),
    },
    table: {
      headings: headingsOf(context),
      separator: options.value('separator') ?? settings.string('report/separator'),
      aligned: aligned && !prefixes && !asRows,
      prefixes,
      quoted: !options.has('unquoted') && settings.bool('report/quoted'),
      asRows,
    },
    buffered: !unbuffered || asRows || format !== 'basic',
    sorted: !unbuffered,
    context: { markHidden: settings.bool('report/mark_hidden_devices'), showHistory: options.has('history') },
  };
}
