/**
 * vgremove: a volume group goes with all its LVs, and its PVs become orphans (facts: LVM2 tools/vgremove.c).
 *
 * Invariants
 *  - One commit removes everything: no crash leaves a VG with some of its LVs.
 *  - An LV that can't be removed by itself (one that a pvmove is moving) keeps the VG: nothing is removed then.
 *  - PVs that are missing keep what they hold; when they come back, their VG comes back with them, as in LVM2.
 */
import { labelOf } from '../pv-write.ts';
import type { LabelledDevice, VolumeGroup } from '../model.ts';
import { CommandError } from './errors.ts';
import { discardsOf } from './lv-freed.ts';
import { inRemovalOrder, LvRemover, type RemovalAround } from './lv-remove.ts';
import { emptyPlan, type Plan, type PlanMessage, type PvLabelWrite } from './plan.ts';

/** LVs that users see. */
export function visibleVolumes({ vg }: VolumeGroup): readonly string[] {
  return vg.logicalVolumes.filter((lv) => lv.status.includes('VISIBLE')).map((lv) => lv.name);
}

export interface VgRemoval extends RemovalAround {
  /** -f or -y: missing PVs don't matter, nor hidden LVs that belong to nothing. */
  readonly forced: boolean;
}

/** Throws CommandError (5) with LVM2's reasons. */
export async function removeVgPlan(group: VolumeGroup, { forced, ...around }: VgRemoval): Promise<Plan> {
  const { name } = group.vg;
  const remover = new LvRemover(group.vg, around);
  for (const lv of inRemovalOrder(group.vg)) if (!remover.isGone(lv.name)) await remover.remove(lv.name);
  const left = remover.result();
  if (group.partial && !forced) {
    throw new CommandError([
      `Volume group "${name}" not found, is inconsistent or has PVs missing.`,
      'Consider vgreduce --removemissing if metadata is inconsistent.',
    ]);
  }
  return {
    ...emptyPlan(group, null),
    clearOutdated: true,
    labels: group.pvs.flatMap((pv) => (pv.found === null ? [] : orphanLabel(pv.found))),
    effects: around.discards ? discardsOf(group, { ...group.vg, logicalVolumes: [] }) : [],
    messages: [...left.lines, `Volume group "${name}" successfully removed`].map((text): PlanMessage => ({
      stream: 'stdout',
      when: 'after',
      text,
    })),
  };
}

/** The label of a PV that leaves its VG where it has to change: an orphan's size is its device's. */
export function orphanLabel(found: LabelledDevice): readonly PvLabelWrite[] {
  const { device } = found;
  if (found.headerSizeBytes === device.sizeBytes) return [];
  const label = { ...labelOf(found), deviceSizeBytes: device.sizeBytes };
  return [{ device, found, label, kind: 'update', zeroHead: false, ignoredAreas: [], when: 'after' }];
}
