/**
 * The display commands' options: -C turns them into reports, whose options are refused without it.
 *
 * Source: tools/{pvdisplay,vgdisplay,lvdisplay}.c for which options go together; messages observed with LVM2 2.03.16.
 */
import type { CommandContext } from '../command.ts';
import { CommandError, EXIT, type ExitCode } from '../messages.ts';
import type { OptionSpec } from '../options.ts';
import { ACCESS_OPTIONS, REPORT_OPTIONS, SIZE_OPTIONS } from '../report/options.ts';
import type { RowKind } from '../report/report.ts';
import { runReport } from '../report/run.ts';

/** Options of reports that the display commands don't have. */
const REPORTS_ONLY: ReadonlySet<string> = new Set(['headings', 'nameprefixes', 'reportformat', 'rows', 'unquoted']);
/** Options of reports that mean something without -C. */
const ALWAYS: ReadonlySet<string> = new Set(['all', 'select', 'configreport']);

const REPORT_OPTIONS_HERE = REPORT_OPTIONS.filter((option) => !REPORTS_ONLY.has(option.long));

/** Options of pvdisplay, vgdisplay and lvdisplay alike. */
export const DISPLAY_OPTIONS: readonly OptionSpec[] = [
  ...REPORT_OPTIONS_HERE,
  ...SIZE_OPTIONS,
  ...ACCESS_OPTIONS,
  { long: 'colon', short: 'c', description: 'One line of fields separated by colons for each object.' },
  { long: 'columns', short: 'C', description: 'Show columns, as the command that reports on these objects does.' },
];

/** Throws (3) if both options are given. */
export function refuseMixed(context: CommandContext, message: string, ...both: readonly [string, string]): void {
  if (both.every((option) => context.options.has(option))) throw badOptions(message);
}

/** Throws (3) if an option is given that needs -C: those of reports, and `others`. */
export function refuseReportOptions(context: CommandContext, others: readonly string[]): void {
  const names = [...REPORT_OPTIONS_HERE.map((option) => option.long).filter((name) => !ALWAYS.has(name)), ...others];
  // Only pvdisplay says it without a full stop.
  const stop = context.name === 'pvdisplay' ? '' : '.';
  if (names.some((name) => context.options.has(name))) throw badOptions(`Incompatible options selected${stop}`);
}

/** -C: the report, unless one of `refused` is given. */
export async function columnsReport(
  context: CommandContext,
  base: RowKind,
  refused: readonly string[],
  exported: boolean,
): Promise<ExitCode> {
  if (refused.some((name) => context.options.has(name))) throw badOptions('Incompatible options selected');
  return runReport(context, base, exported);
}

function badOptions(message: string): CommandError {
  return new CommandError(EXIT.badUsage, [message]);
}
