/**
 * Which fields, keys and criteria the options of a command line ask a report for: -o, -O and -S, as often as they are given,
 * with --configreport saying which report they are for.
 */
import type { CommandContext } from '../command.ts';
import { CommandError, EXIT } from '../messages.ts';
import type { OptionGroup } from '../options.ts';
import { applyOptionLists } from './columns.ts';
import type { ReportDefaults } from './defaults.ts';
import { reportName, type ReportRequest, type RowKind } from './report.ts';

/** The report that a group of options is for, when --configreport names one. */
function namedReport(group: OptionGroup, base: RowKind | 'full'): string | undefined {
  const name = group.get('configreport');
  if (name === undefined || base === 'full') return name;
  // In a single report, the segments' names mean the report itself.
  if (name === 'pvseg') return 'pv';
  return name === 'seg' ? 'lv' : name;
}

function plainName(base: RowKind): string {
  if (base === 'label' || base === 'pvseg') return 'pv';
  return base === 'seg' ? 'lv' : base;
}

/** The -o, -O and -S that are meant for a report: those before any --configreport, or after one that names it. */
function optionsFor(context: CommandContext, base: RowKind, full: boolean): { o: string[]; O?: string; S?: string } {
  const result: { o: string[]; O?: string; S?: string } = { o: [] };
  // Before any --configreport, options are for the only report; of several reports they are for none.
  let target: string | null = null;
  for (const group of context.options.groups) {
    target = namedReport(group, full ? 'full' : base) ?? target;
    if (target === null ? full : target !== (full ? reportName(base) : plainName(base))) continue;
    const options = group.get('options');
    if (options !== undefined) result.o.push(options);
    const sort = group.get('sort');
    if (sort !== undefined) result.O = sort;
    const select = group.get('select');
    if (select !== undefined) result.S = select;
  }
  return result;
}

/** report/compact_output_cols as an option list: fields to leave out where every row's is blank. */
function compacted({ settings }: CommandContext): readonly string[] {
  const fields = settings.string('report/compact_output_cols');
  return fields === '' ? [] : [`#${fields}`];
}

/**
 * The request for one report. `full`: it is one of several, whose options need --configreport. Throws CommandError (5) for
 * an empty list of fields.
 */
export function requestOf(
  context: CommandContext,
  base: RowKind,
  defaults: ReportDefaults,
  full: boolean,
): ReportRequest {
  const given = optionsFor(context, base, full);
  const lists = applyOptionLists(defaults.options, [...compacted(context), ...given.o], reportName(base));
  if (lists === null) throw new CommandError(EXIT.failed, ['Invalid options string: ']);
  const compactAll = context.settings.bool('report/compact_output');
  return { ...lists, compactAll, base, keys: given.O ?? defaults.keys, selection: given.S ?? '', now: context.now };
}
