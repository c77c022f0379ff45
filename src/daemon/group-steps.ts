/**
 * A change of a VG (group-change.ts), volume by volume.
 *
 * Invariant: pure. What is said of a step follows from the volume as it is served, and from what it is to be.
 */
import type { VolumeId } from '../lvm/live.ts';
import { keepsDevices } from './kept-extents.ts';
import { snapshotsNamed } from './lost-snapshots.ts';
import { type ActivePlan, type DesiredVolume, exchangedDisk, type Load, type ServedVolume } from './served-volume.ts';
import type { WorkerHost } from './worker/host.ts';

/** A volume that is to have another table, or its first. */
export interface Step {
  readonly desired: DesiredVolume;
  readonly plan: ActivePlan;
  readonly served: ServedVolume;
  readonly load: Load;
  /** It has never been live. */
  readonly isNew: boolean;
}

export type HostOf = (step: Step) => WorkerHost;

/** Why the volume can't go on, even with another table; null if it can. */
export function endOf(served: ServedVolume, desired: DesiredVolume | undefined): string | null {
  if (served.leaving) return 'it is on its way out';
  if (desired === undefined) return 'no metadata that was found has such a logical volume';
  if (!desired.plan.active) return desired.plan.reason;
  const disk = exchangedDisk(served.disks, desired.plan.disks);
  return disk === null ? null : `physical volume ${disk} is another device now`;
}

/** The same for reading only. */
export function muted(step: Step, reason: string): Step {
  const { spec, key } = step.load;
  const load = { spec: { ...spec, readOnly: true }, key: `${key} read-only` };
  return { ...step, load, plan: { ...step.plan, readOnly: true, note: `read-only: ${reason}` } };
}

export function namedBy({ load }: Step): readonly VolumeId[] {
  return snapshotsNamed(load.spec.table);
}

export function keepsPlace({ served, load }: Step): boolean {
  return keepsDevices(served.load.spec, load.spec);
}

export function byHost(steps: readonly Step[], hostOf: HostOf): readonly (readonly [WorkerHost, readonly Step[]])[] {
  const groups = new Map<WorkerHost, Step[]>();
  for (const step of steps) {
    const host = hostOf(step);
    const own = groups.get(host);
    if (own === undefined) groups.set(host, [step]);
    else own.push(step);
  }
  return [...groups];
}
