/** pvdisplay: physical volumes in blocks, with -c in lines of colons, -s in short, -m with their maps, -C as pvs. */
import type { Command, CommandContext } from '../command.ts';
import { columnsReport, DISPLAY_OPTIONS, refuseMixed, refuseReportOptions } from '../display/columns.ts';
import { Display, selected } from '../display/lines.ts';
import { announcePv, KEY_WIDTH, pvView, showPv, showPvColons, showPvMap, showPvShort } from '../display/pv-display.ts';
import { EXIT, type ExitCode } from '../messages.ts';
import { parsePvArguments } from '../report/arguments.ts';
import { walkOf } from '../report/run.ts';
import { readVolumeGroups } from '../scan.ts';

async function run(context: CommandContext): Promise<ExitCode> {
  const { options } = context;
  if (options.has('columns')) return columnsReport(context, 'label', ['colon', 'maps', 'short'], true);
  refuseReportOptions(context, ['all']);
  refuseMixed(context, 'Option -c not allowed with option -m', 'colon', 'maps');
  refuseMixed(context, 'Option -c is not allowed with option -s', 'colon', 'short');
  const parsed = parsePvArguments(context.args, context.output);
  if (parsed === null) return EXIT.badUsage;
  const display = new Display(context, KEY_WIDTH);
  const walk = walkOf(context, await readVolumeGroups(context), true);
  for (const row of selected(context, 'pv', walk.pvs(parsed))) {
    const view = pvView(row);
    if (view === null) continue;
    if (options.has('short')) {
      showPvShort(display, view);
      continue;
    }
    announcePv(display, view);
    if (options.has('colon')) {
      showPvColons(display, view);
      continue;
    }
    showPv(display, view);
    if (options.has('maps')) showPvMap(display, view);
  }
  return walk.exitCode;
}

export const command: Command = {
  summary: 'Display various attributes of physical volume(s)',
  argumentsUsage: '[ PV|Tag ... ]',
  options: [
    ...DISPLAY_OPTIONS,
    { long: 'maps', short: 'm', description: 'Also show which logical volume each run of extents belongs to.' },
    { long: 'short', short: 's', description: 'Only show how much is free on each physical volume.' },
  ],
  run,
};
