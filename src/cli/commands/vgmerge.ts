/** vgmerge: puts all of one volume group into another. */
import { ActiveVolumes } from '../../lvm/active-volumes.ts';
import { hostname } from 'node:os';
import type { Changes } from '../../lvm/changes.ts';
import { withChanges } from '../../lvm/command.ts';
import { CommandError } from '../../lvm/edit/errors.ts';
import type { SpareContext } from '../../lvm/edit/pool-spare.ts';
import { validatePlan } from '../../lvm/edit/validate.ts';
import { exportForMerge, importAgain, mergePlan } from '../../lvm/edit/vg-merge.ts';
import type { VolumeGroup } from '../../lvm/model.ts';
import { changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { refuseAttachedLvs } from '../lv/attached.ts';
import { EXIT, type ExitCode } from '../messages.ts';
import { isValidName } from '../../ondisk/vg-validate.ts';
import { withoutDevDirectory } from '../names.ts';
import { AUTOBACKUP_OPTION, flagOf } from '../option-values.ts';
import { yesOrNo } from '../common-options.ts';

async function run(context: CommandContext): Promise<ExitCode> {
  const { options, output, args } = context;
  if (args.length < 2) {
    output.error('Please enter 2 or more volume groups to merge');
    return EXIT.badUsage;
  }
  const [toName, fromName, extra] = args.map(withoutDevDirectory);
  if (toName === undefined || fromName === undefined) return EXIT.badUsage;
  if (extra !== undefined) {
    output.error(`Command does not accept argument: ${extra}.`);
    return EXIT.badUsage;
  }
  if (toName === fromName) throw new CommandError(`Duplicate volume group name "${fromName}"`);
  const vgs = [fromName, toName].filter(isValidName).map((name) => ({ name, mode: 'write' as const }));
  const change = await changeContext(context);
  await withChanges(change, { globalLock: 'write', vgs }, async (changes) => {
    const [first = '', second = ''] = [fromName, toName].sort();
    const groups = [
      await changes.volumeGroup({ vgName: first }),
      await changes.volumeGroup({ vgName: second }),
    ] as const;
    const [from, to] = first === fromName ? groups : [groups[1], groups[0]];
    const active = await ActiveVolumes.of(context.live, from.vg);
    active.refuseAny(`Logical volumes in "${from.vg.name}" must be inactive`);
    await refuseAttachedLvs(context.live, from.vg);
    const spare = {
      wanted: flagOf(options, 'poolmetadataspare') ?? true,
      creationTime: context.now,
      creationHost: hostname(),
    };
    // What the merge would refuse is refused before anything is written.
    validatePlan(mergePlan(from, to, spare));
    const merged = await merge(changes, from, to, spare);
    if (merged !== null && options.has('list')) listGroup(context, merged);
  });
  return EXIT.ok;
}

async function merge(
  changes: Changes,
  from: VolumeGroup,
  to: VolumeGroup,
  spare: SpareContext,
): Promise<VolumeGroup | null> {
  const exported = await changes.apply(exportForMerge(from));
  if (exported === null) return null;
  try {
    return await changes.apply(mergePlan(exported, to, spare));
  } catch (error) {
    // A failure after the commit leaves nothing to take back.
    if (changes.scan.volumeGroups.some(({ vg }) => vg.id === from.vg.id)) await changes.apply(importAgain(exported));
    throw error;
  }
}

/** -l: what the merged group consists of. */
function listGroup({ output }: CommandContext, { vg, pvs }: VolumeGroup): void {
  output.print(`Volume group "${vg.name}" now has:`);
  for (const pv of pvs) output.print(`  PV ${pv.found?.device.path ?? '[unknown]'}`);
  for (const lv of vg.logicalVolumes) if (lv.status.includes('VISIBLE')) output.print(`  LV ${vg.name}/${lv.name}`);
}

export const command: Command = {
  summary: 'Merge volume groups',
  argumentsUsage: 'VG VG',
  options: [
    AUTOBACKUP_OPTION,
    { long: 'list', short: 'l', description: 'Show the PVs and LVs of the merged volume group.' },
    {
      long: 'poolmetadataspare',
      argument: 'y|n',
      check: yesOrNo,
      description: 'Whether the spare for pool metadata is made or dropped as the pools need it. Default: yes.',
    },
  ],
  run,
};
