/**
 * vgremove: a volume group goes with all its LVs, and its PVs become orphans (facts: LVM2 tools/vgremove.c).
 *
 * Invariants
 *  - One commit removes everything: no crash leaves a VG with some of its LVs.
 *  - PVs that are missing keep what they hold; when they come back, their VG comes back with them, as in LVM2.
 */
import { labelOf } from '../pv-write.ts';
import type { LabelledDevice, VolumeGroup } from '../model.ts';
import { CommandError } from './errors.ts';
import { emptyPlan, type Plan, type PlanMessage, type PvLabelWrite } from './plan.ts';

/** LVs that users see. */
export function visibleVolumes({ vg }: VolumeGroup): readonly string[] {
  return vg.logicalVolumes.filter((lv) => lv.status.includes('VISIBLE')).map((lv) => lv.name);
}

/** `forced`: -f or -y, then missing PVs don't matter. */
export function removeVgPlan(group: VolumeGroup, forced: boolean): Plan {
  const { name } = group.vg;
  if (group.partial && !forced) {
    throw new CommandError([
      `Volume group "${name}" not found, is inconsistent or has PVs missing.`,
      'Consider vgreduce --removemissing if metadata is inconsistent.',
    ]);
  }
  const removed = visibleVolumes(group).map((lv) => `Logical volume "${lv}" successfully removed.`);
  return {
    ...emptyPlan(group, null),
    clearOutdated: true,
    labels: group.pvs.flatMap((pv) => (pv.found === null ? [] : orphanLabel(pv.found))),
    messages: [...removed, `Volume group "${name}" successfully removed`].map((text): PlanMessage => ({
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
