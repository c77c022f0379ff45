/** vgck: checks volume groups; with --updatemetadata their metadata is written anew, over damaged and stale copies. */
import { emptyPlan } from '../../lvm/edit/plan.ts';
import { changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandError, EXIT, type ExitCode, noSuchSyntax } from '../messages.ts';
import { REPORTFORMAT_OPTION } from '../option-values.ts';
import { eachVgArgument } from '../vg-targets.ts';

export const command: Command = {
  summary: 'Check the consistency of volume group(s)',
  argumentsUsage: '[ VG|Tag ... ]',
  options: [
    { long: 'updatemetadata', description: 'Write the metadata anew: repairs stale and damaged copies.' },
    REPORTFORMAT_OPTION,
  ],
  run: vgck,
};

async function vgck(context: CommandContext): Promise<ExitCode> {
  const updates = context.options.has('updatemetadata');
  if (updates && context.args.length !== 1) throw noSuchSyntax(context.name);
  const change = await changeContext(context);
  const request = updates
    ? ({ handlesMissing: true, handlesUnknownSegments: true } as const)
    : ({ mode: 'read' } as const);
  await eachVgArgument(context, change, request, async (group, changes) => {
    if (updates) {
      await changes.apply({ ...emptyPlan(group, group.vg), repairDamaged: true, clearOutdated: true });
      return;
    }
    const missing = group.pvs.filter((pv) => pv.missing).length;
    if (missing > 0) {
      throw new CommandError(EXIT.failed, [`The volume group is missing ${missing} physical volumes.`]);
    }
  });
  return EXIT.ok;
}
