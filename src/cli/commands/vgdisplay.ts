/** vgdisplay: volume groups in blocks (-v with their LVs and PVs), with -c in lines of colons, -s in short, -C as vgs. */
import type { VolumeGroup } from '../../lvm/model.ts';
import { servedStatus } from '../../lvm/served.ts';
import type { Command, CommandContext } from '../command.ts';
import { columnsReport, DISPLAY_OPTIONS, refuseMixed, refuseReportOptions } from '../display/columns.ts';
import { Display, selected } from '../display/lines.ts';
import { LV_KEY_WIDTH, lvView, showLv } from '../display/lv-display.ts';
import { KEY_WIDTH } from '../display/pv-display.ts';
import { showVg, showVgColons, showVgPvs, showVgShort } from '../display/vg-display.ts';
import { EXIT, type ExitCode } from '../messages.ts';
import { parseVgArguments } from '../report/arguments.ts';
import { walkOf } from '../report/run.ts';
import { readVolumeGroups } from '../scan.ts';

async function run(context: CommandContext): Promise<ExitCode> {
  const { options, output } = context;
  if (options.has('columns')) return columnsReport(context, 'vg', ['colon', 'short', 'activevolumegroups'], true);
  refuseReportOptions(context, []);
  refuseMixed(context, 'Option -c is not allowed with option -s', 'colon', 'short');
  if (options.has('activevolumegroups') && context.args.length > 0) {
    output.error('Option -A is not allowed with volume group names');
    return EXIT.badUsage;
  }
  const parsed = parseVgArguments(context.args, output);
  if (parsed === null) return EXIT.badUsage;
  const display = new Display(context, KEY_WIDTH);
  const lvDisplay = new Display(context, LV_KEY_WIDTH);
  const walk = walkOf(context, await readVolumeGroups(context), true);
  const onlyActive = options.has('activevolumegroups');
  const groups = walk.vgs(parsed).filter((vg) => !onlyActive || hasActive(vg));
  const rows = groups.map((vg) => walk.row({ vg }));
  for (const { vg } of selected(context, 'vg', rows)) {
    if (vg === null) continue;
    if (options.has('short')) showVgShort(display, vg);
    else if (options.has('colon')) showVgColons(display, vg);
    else showVg(display, vg);
    if (!options.has('verbose') || options.has('short') || options.has('colon')) continue;
    for (const { lv } of walk.lvsOf(vg)) {
      const view = lv === null ? null : lvView(vg, lv);
      if (view !== null) showLv(lvDisplay, view);
    }
    showVgPvs(display, vg);
  }
  return walk.exitCode;
}

function hasActive(group: VolumeGroup): boolean {
  return group.vg.logicalVolumes.some((lv) => servedStatus(group, lv) !== null);
}

export const command: Command = {
  summary: 'Display volume group information',
  argumentsUsage: '[ VG|Tag ... ]',
  options: [
    ...DISPLAY_OPTIONS.filter((option) => option.long !== 'all'),
    {
      long: 'activevolumegroups',
      short: 'A',
      description: 'Only show volume groups with active LVs: those that a running orion-lvmd serves.',
    },
    { long: 'short', short: 's', description: 'Only show size, used and free space of each volume group.' },
  ],
  run,
};
