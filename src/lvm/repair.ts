/**
 * Repairing a volume group's metadata copies from the best one (vgck --updatemetadata, the auto_recovery setting): stale and
 * damaged copies are rewritten, old copies on devices that left the VG are cleared.
 *
 * Invariant: nothing of the VG changes but its seqno and the facts about missing PVs.
 */
import type { Plan } from './edit/plan.ts';
import { emptyPlan } from './edit/plan.ts';
import type { VolumeGroup } from './model.ts';
import { PV_HEADER_EXTENSION_VERSION } from '../ondisk/label.ts';

/** Whether some copy that can be repaired is not what it should be, or some header is out of date. */
export function needsRepair(group: VolumeGroup): boolean {
  if (group.staleAreas.some(({ repairable }) => repairable) || group.outdated.length > 0) return true;
  return group.pvs.some(({ found }) => {
    if (found === null) return false;
    const precommitted = found.metadataAreas.some((area) => area.precommit);
    return precommitted || !found.inUse || found.extensionVersion < PV_HEADER_EXTENSION_VERSION;
  });
}

/** Commits the VG as it is, to every copy that can take it. */
export function repairPlan(group: VolumeGroup): Plan {
  return { ...emptyPlan(group, group.vg), repairDamaged: true, clearOutdated: true };
}
