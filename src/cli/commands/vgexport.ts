/** vgexport: marks volume groups as on their way to another host. */
import { ActiveVolumes } from '../../lvm/active-volumes.ts';
import { exportVgPlan } from '../../lvm/edit/vg-change.ts';
import { changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { SELECT_OPTION } from '../criteria.ts';
import { refuseAttachedLvs } from '../lv/attached.ts';
import { CommandError, EXIT, type ExitCode } from '../messages.ts';
import { REPORTFORMAT_OPTION } from '../option-values.ts';
import { eachVgArgument } from '../vg-targets.ts';

export const command: Command = {
  summary: 'Unregister volume group(s) from the system',
  argumentsUsage: '[ VG|Tag ... ]',
  options: [{ long: 'all', short: 'a', description: 'All VGs.' }, REPORTFORMAT_OPTION, SELECT_OPTION],
  run: vgexport,
};

async function vgexport(context: CommandContext): Promise<ExitCode> {
  const { options, args } = context;
  const all = options.has('all');
  if (!all && args.length === 0 && !options.has('select')) {
    throw new CommandError(EXIT.badUsage, [
      'Please supply volume groups or use --select for selection or use -a for all.',
    ]);
  }
  if (all && args.length > 0) {
    throw new CommandError(EXIT.badUsage, ['No arguments permitted when using -a for all.']);
  }
  const change = await changeContext(context);
  await eachVgArgument(context, change, {}, async (group, changes) => {
    const active = await ActiveVolumes.of(context.live, group.vg);
    active.refuseAny(`Volume group "${group.vg.name}" has active logical volumes`);
    await refuseAttachedLvs(context.live, group.vg);
    await changes.apply(exportVgPlan(group));
  });
  return EXIT.ok;
}
