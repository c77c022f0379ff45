/**
 * What a daemon says of the volumes of the VGs that were read, put beside what their metadata say.
 *
 * Invariant: a VG without `served` belongs to no daemon: nothing of it is active.
 */
import type { LogicalVolumeText } from '../ondisk/metadata.ts';
import { mergesOf } from './deferred-merges.ts';
import { type LiveStatus, type LiveVolumes, volumeId } from './live.ts';
import type { Scan, VolumeGroup } from './model.ts';

/** The scan, with the daemon's answer at this moment. */
export async function withServed(scan: Scan, live: LiveVolumes | undefined): Promise<Scan> {
  if (live?.present !== true) return scan;
  const served = await live.status();
  return { ...scan, volumeGroups: scan.volumeGroups.map((group) => ({ ...group, served })) };
}

/**
 * Of an active LV; null: it is not active. Of a snapshot that its origin takes in, the origin's: there is no volume of it any more.
 */
export function servedStatus({ vg, served }: VolumeGroup, lv: LogicalVolumeText): LiveStatus | null {
  if (served === undefined) return null;
  const status = served.get(volumeId(vg, lv));
  if (status?.active === true) return status;
  const merge = mergesOf(vg).find(({ cowName }) => cowName === lv.name);
  const origin = merge === undefined ? undefined : served.get(merge.origin);
  return origin?.active === true ? origin : null;
}

/** Whether any LV of a VG is active. */
export function hasActiveVolumes({ vg, served }: VolumeGroup): boolean {
  const prefix = volumeId(vg, { id: '' });
  return [...(served?.values() ?? [])].some(({ id, active }) => active && id.startsWith(prefix));
}

/** LVs of a VG that clients have open. */
export function openVolumes(group: VolumeGroup): number {
  if (group.served === undefined) return 0;
  return group.vg.logicalVolumes.filter((lv) => (servedStatus(group, lv)?.openCount ?? 0) > 0).length;
}
