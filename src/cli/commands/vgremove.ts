/** vgremove: removes volume groups with their LVs. */
import { ActiveVolumes } from '../../lvm/active-volumes.ts';
import type { Changes } from '../../lvm/changes.ts';
import { removeVgPlan, visibleVolumes } from '../../lvm/edit/vg-remove.ts';
import type { VolumeGroup } from '../../lvm/model.ts';
import { changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { SELECT_OPTION } from '../criteria.ts';
import { refuseAttachedLvs } from '../lv/attached.ts';
import { CommandError, EXIT, type ExitCode } from '../messages.ts';
import { FORCE_OPTION, REPORTFORMAT_OPTION } from '../option-values.ts';
import { eachVgArgument } from '../vg-targets.ts';

export const command: Command = {
  summary: 'Remove volume group(s)',
  argumentsUsage: 'VG|Tag ...',
  options: [
    FORCE_OPTION,
    REPORTFORMAT_OPTION,
    SELECT_OPTION,
    { long: 'noudevsync', description: 'Nothing to do here: udev is not waited for.' },
  ],
  run: vgremove,
};

async function vgremove(context: CommandContext): Promise<ExitCode> {
  if (context.args.length === 0 && !context.options.has('select')) {
    throw new CommandError(EXIT.badUsage, [
      'Please enter one or more volume group paths or use --select for selection.',
    ]);
  }
  const change = await changeContext(context);
  const forced = change.force > 0 || change.yes > 0;
  const discards = context.settings.bool('devices/issue_discards');
  const answers = (question: string): Promise<boolean> =>
    change.force > 0 ? Promise.resolve(true) : change.prompt(question);
  const request = { globalLock: 'write', handlesMissing: true } as const;
  await eachVgArgument(context, change, request, async (group, changes) => {
    const disconnect = change.force > 0;
    if (!disconnect) await refuseAttachedLvs(context.live, group.vg);
    if (!forced) await confirm(changes, group);
    const active = await ActiveVolumes.of(context.live, group.vg);
    await changes.apply(await removeVgPlan(group, { forced, confirm: answers, discards, active, disconnect }));
  });
  return EXIT.ok;
}

async function confirm({ context }: Changes, group: VolumeGroup): Promise<void> {
  const { name } = group.vg;
  const { length } = visibleVolumes(group);
  if (length === 0) return;
  const missing = group.pvs.filter((pv) => pv.missing).length;
  if (missing > 0) context.err(`WARNING: ${missing} physical volumes are currently missing from the system.`);
  const question = `Do you really want to remove volume group "${name}" containing ${length} logical volumes? [y/n]: `;
  if (!(await context.prompt(question))) throw new CommandError(EXIT.failed, [`Volume group "${name}" not removed`]);
}
