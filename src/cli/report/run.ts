/**
 * Runs a reporting command: options to reports, devices to rows, rows to output.
 *
 * Invariants
 *  - What can be refused is refused before any device is read.
 *  - JSON output is complete JSON whatever fails: the report is then empty, and the exit code and stderr say why.
 */
import { type HostContext, PLAIN_HOST } from '../../lvm/access.ts';
import type { VolumeGroup } from '../../lvm/model.ts';
import type { CommandContext } from '../command.ts';
import { CommandError, EXIT, type ExitCode, worse } from '../messages.ts';
import type { OptionGroup } from '../options.ts';
import { readVolumeGroups, type Reading } from '../scan.ts';
import { DEFAULT_UNITS, parseUnits, type Units } from '../units.ts';
import { parseLvArguments, parsePvArguments, parseVgArguments } from './arguments.ts';
import type { Cell, CellFormat } from './cell.ts';
import { applyOptionLists, type Column } from './columns.ts';
import { DEFAULTS, FULL_REPORTS, type ReportDefaults } from './defaults.ts';
import type { ReportContext, ReportRow } from './field.ts';
import { reportFields } from './fields/table.ts';
import { jsonLines, type JsonReport } from './json.ts';
import { Report, reportName, type ReportName, type ReportRequest, type RowKind } from './report.ts';
import { type TableFormat, TableWriter } from './table.ts';
import { Walk } from './walk.ts';

/** The sizes' units and suffix that --units and --nosuffix ask for. Throws CommandError (3). */
export function sizeFormatOf(context: CommandContext): { units: Units; suffix: boolean } {
  const given = context.options.value('units');
  const units = given === undefined ? DEFAULT_UNITS : parseUnits(given);
  if (units === null) throw new CommandError(EXIT.badUsage, ['Invalid units specification']);
  return { units, suffix: !context.options.has('nosuffix') };
}

interface Settings {
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

function settingsOf(context: CommandContext): Settings {
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

function requestOf(
  context: CommandContext,
  base: RowKind,
  defaults: Pick<ReportDefaults, 'options' | 'keys'>,
  full: boolean,
): ReportRequest {
  const given = optionsFor(context, base, full);
  const lists = applyOptionLists(defaults.options, given.o, reportName(base));
  if (lists === null) throw new CommandError(EXIT.failed, ['Invalid options string: ']);
  return { ...lists, base, keys: given.O ?? defaults.keys, selection: given.S ?? '', now: context.now };
}

/** Prints one report's rows in columns. */
function printTable(report: Report, rows: readonly Cell[][], settings: Settings, context: CommandContext): void {
  const columns = report.compacted(settings.buffered ? rows : [], context.output);
  const writer = new TableWriter(columns, settings.table);
  const batches = settings.buffered ? (rows.length === 0 ? [] : [rows]) : rows.map((row) => [row]);
  for (const batch of batches) for (const line of writer.lines(batch)) context.output.print(line);
}

function printJson(groups: readonly (readonly JsonReport[])[], settings: Settings, context: CommandContext): void {
  if (settings.format === 'basic') return;
  for (const line of jsonLines(groups, settings.format === 'json_std')) context.output.print(line);
}

function hostOf(context: CommandContext, reading: Reading): HostContext {
  const { options } = context;
  return {
    ...PLAIN_HOST,
    systemId: reading.systemId,
    extraSystemIds: reading.extraSystemIds,
    allowForeign: options.has('foreign'),
    allowShared: options.has('shared'),
  };
}

function walkOf(context: CommandContext, reading: Reading, exported: boolean): Walk {
  return new Walk({
    scan: reading.scan,
    host: hostOf(context, reading),
    all: context.options.has('all'),
    history: context.options.has('history'),
    exported,
    output: context.output,
  });
}

/** The rows that the arguments mean for a report; null if the arguments are bad, with the exit code. */
function collect(report: Report, walk: Walk, context: CommandContext): ReportRow[] | ExitCode {
  const { args, output } = context;
  const { base, kind } = report;
  if (base === 'label' || base === 'pv' || base === 'pvseg') {
    if (kind === 'label') return walk.labels(args);
    const parsed = parsePvArguments(args, output);
    if (parsed === null) return EXIT.badUsage;
    const rows = walk.pvs(parsed);
    return kind === 'pvseg' ? walk.pvSegments(rows) : rows;
  }
  if (kind === 'lv' || kind === 'seg') {
    const parsed = parseLvArguments(args, context.env['LVM_VG_NAME'], output);
    if (parsed === null) return EXIT.failed;
    const rows = walk.lvs(parsed);
    return kind === 'seg' ? walk.segments(rows) : rows;
  }
  const parsed = parseVgArguments(args, output);
  if (parsed === null) return EXIT.badUsage;
  const groups = walk.vgs(parsed);
  if (kind === 'vg') return groups.map((vg) => walk.row({ vg }));
  const rows = groups.flatMap((vg) => walk.pvsOf(vg));
  return kind === 'pvseg' ? walk.pvSegments(rows) : rows;
}

/** Runs `body`; a failure still ends JSON output properly. */
async function withJson(
  context: CommandContext,
  settings: Settings,
  body: () => Promise<{ groups: readonly (readonly JsonReport[])[]; exitCode: ExitCode }>,
): Promise<ExitCode> {
  try {
    const { groups, exitCode } = await body();
    printJson(groups, settings, context);
    return exitCode;
  } catch (error) {
    if (!(error instanceof CommandError) || error.exitCode !== EXIT.failed) throw error;
    for (const line of error.lines) context.output.error(line);
    printJson([], settings, context);
    return error.exitCode;
  }
}

/** pvs, vgs, lvs. `exported`: the command also shows exported VGs. */
export async function runReport(context: CommandContext, start: RowKind, exported: boolean): Promise<ExitCode> {
  const settings = settingsOf(context);
  // Tags are metadata: a report of labels that names some is one of PVs.
  const base = start === 'label' && context.args.some((arg) => arg.startsWith('@')) ? 'pv' : start;
  return withJson(context, settings, async () => {
    const { verbose, options, keys } = DEFAULTS[base];
    const columns = context.options.has('verbose') ? verbose : options;
    const report = new Report(
      requestOf(context, base, { options: columns, keys }, false),
      reportFields,
      context.output,
    );
    if (report.helped) return { groups: jsonGroup(report, report.columns, []), exitCode: EXIT.ok };
    const walk = walkOf(context, await readVolumeGroups(context), exported);
    const found = collect(report, walk, context);
    const rows = typeof found === 'number' ? [] : found;
    const cells = report.cells(rows, settings.cells, settings.context, settings.sorted);
    if (settings.format === 'basic') printTable(report, cells, settings, context);
    const exitCode = typeof found === 'number' ? found : walk.exitCode;
    const shown = settings.format === 'basic' ? report.columns : report.compacted(cells, context.output);
    return { groups: jsonGroup(report, shown, cells), exitCode };
  });
}

function jsonGroup(report: Report, columns: readonly Column[], rows: readonly Cell[][]): JsonReport[][] {
  const name: ReportName = reportName(report.base);
  return [[{ name, columns, rows }]];
}

/** fullreport: five reports for each VG, and two for the PVs that are in none. */
export async function runFullReport(context: CommandContext): Promise<ExitCode> {
  const settings = settingsOf(context);
  return withJson(context, settings, async () => {
    const parsed = parseVgArguments(context.args, context.output);
    if (parsed === null) return { groups: [], exitCode: EXIT.badUsage };
    const walk = walkOf(context, await readVolumeGroups(context), true);
    const groups: JsonReport[][] = [];
    for (const vg of walk.vgs(parsed)) groups.push(fullReportOf(vg, walk, context, settings));
    const orphans = context.args.length === 0 ? walk.orphans() : [];
    if (orphans.length > 0) groups.push(orphanReports(orphans, walk, context, settings));
    return { groups, exitCode: worse(walk.exitCode, EXIT.ok) };
  });
}

function subReport(
  [base, defaults]: (typeof FULL_REPORTS)[number],
  vgName: string,
  rows: readonly ReportRow[],
  context: CommandContext,
  settings: Settings,
): JsonReport {
  const request = { ...requestOf(context, base, defaults, true), withinVg: vgName };
  const report = new Report(request, reportFields, context.output);
  const cells = report.helped ? [] : report.cells(rows, settings.cells, settings.context, settings.sorted);
  if (settings.format === 'basic') printTable(report, cells, settings, context);
  return { name: reportName(base), columns: report.compacted(cells, context.output), rows: cells };
}

function fullReportOf(vg: VolumeGroup, walk: Walk, context: CommandContext, settings: Settings): JsonReport[] {
  const lvs = walk.lvsOf(vg);
  const pvs = walk.pvsOf(vg);
  const rows: Partial<Record<RowKind, ReportRow[]>> = {
    vg: [walk.row({ vg })],
    pv: pvs,
    lv: lvs,
    pvseg: walk.pvSegments(pvs),
    seg: walk.segments(lvs),
  };
  return FULL_REPORTS.map((entry) => subReport(entry, vg.vg.name, rows[entry[0]] ?? [], context, settings));
}

function orphanReports(
  pvs: readonly ReportRow[],
  walk: Walk,
  context: CommandContext,
  settings: Settings,
): JsonReport[] {
  const rows: Partial<Record<RowKind, readonly ReportRow[]>> = { pv: pvs, pvseg: walk.pvSegments(pvs) };
  return FULL_REPORTS.flatMap((entry) => {
    const own = rows[entry[0]];
    return own === undefined ? [] : [subReport(entry, '#orphans_lvm2', own, context, settings)];
  });
}
