/**
 * Runs a command of one report: options to columns, devices to rows, rows to output.
 *
 * Invariants
 *  - What can be refused is refused before any device is read.
 *  - JSON output is complete JSON whatever fails: the report is then empty, and the exit code and stderr say why.
 */
import { type HostContext, PLAIN_HOST } from '../../lvm/access.ts';
import type { CommandContext } from '../command.ts';
import { CommandError, EXIT, type ExitCode } from '../messages.ts';
import { readVolumeGroups, type Reading } from '../scan.ts';
import { parseLvArguments, parsePvArguments, parseVgArguments } from './arguments.ts';
import type { Cell } from './cell.ts';
import type { Column } from './columns.ts';
import { reportDefaults } from './defaults.ts';
import type { ReportRow } from './field.ts';
import { reportFields } from './fields/table.ts';
import { jsonLines, type JsonReport } from './json.ts';
import { Report, reportName, type RowKind } from './report.ts';
import { requestOf } from './request.ts';
import { type Settings, settingsOf } from './settings.ts';
import { TableWriter } from './table.ts';
import { Walk } from './walk.ts';

/** Prints rows in columns; in JSON nothing is printed before the end. */
export function printTable(
  columns: readonly Column[],
  rows: readonly Cell[][],
  settings: Settings,
  context: CommandContext,
): void {
  if (settings.format !== 'basic') return;
  const writer = new TableWriter(columns, settings.table);
  const batches = settings.buffered ? (rows.length === 0 ? [] : [rows]) : rows.map((row) => [row]);
  for (const batch of batches) for (const line of writer.lines(batch)) context.output.print(line, true);
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

/** A walk over what was read, with the options of `context`. `exported`: exported VGs are shown too. */
export function walkOf(context: CommandContext, reading: Reading, exported: boolean): Walk {
  return new Walk({
    scan: reading.scan,
    host: hostOf(context, reading),
    all: context.options.has('all'),
    history: context.options.has('history'),
    exported,
    verbose: context.options.has('verbose'),
    output: context.output,
  });
}

/** The rows that the arguments mean for a report; an exit code if the arguments are bad, which was said. */
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

export interface Outcome {
  /** The objects of "report" in JSON, each with its reports. */
  readonly groups: readonly (readonly JsonReport[])[];
  readonly exitCode: ExitCode;
}

/** Runs `body` and prints JSON if that is the format; a failure still ends JSON output properly. */
export async function withJson(
  context: CommandContext,
  settings: Settings,
  body: () => Promise<Outcome>,
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

/** Makes the cells of `rows`, prints them as a table, or gives them for JSON. */
export function showRows(
  report: Report,
  rows: readonly ReportRow[],
  settings: Settings,
  context: CommandContext,
): JsonReport {
  const cells = report.helped ? [] : report.cells(rows, settings.cells, settings.context, settings.sorted);
  const columns = settings.buffered ? report.compacted(cells, context.output) : report.columns;
  printTable(columns, cells, settings, context);
  return { name: reportName(report.base), columns, rows: cells };
}

/** pvs, vgs, lvs. `exported`: the command also shows exported VGs. */
export async function runReport(context: CommandContext, start: RowKind, exported: boolean): Promise<ExitCode> {
  const settings = settingsOf(context);
  // Tags are metadata: a report of labels that names some is one of PVs.
  const base = start === 'label' && context.args.some((arg) => arg.startsWith('@')) ? 'pv' : start;
  return withJson(context, settings, async () => {
    const defaults = reportDefaults(context.settings, base, context.options.has('verbose'));
    const request = requestOf(context, base, defaults, false);
    const report = new Report(request, reportFields, context.output);
    if (report.helped) return { groups: [[showRows(report, [], settings, context)]], exitCode: EXIT.ok };
    const walk = walkOf(context, await readVolumeGroups(context), exported);
    const rows = collect(report, walk, context);
    const bad = typeof rows === 'number';
    const shown = showRows(report, bad ? [] : rows, settings, context);
    return { groups: [[shown]], exitCode: bad ? rows : walk.exitCode };
  });
}
