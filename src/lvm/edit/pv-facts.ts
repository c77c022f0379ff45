/**
 * What a text says of its PVs that no edit decides: where each was last seen, and whether it was missing when the text was
 * written (facts: LVM2 lib/format_text/export.c, lib/metadata/metadata.c vg_read).
 *
 * Invariants
 *  - A PV whose device is not there is flagged MISSING, with the device "[unknown]": when it comes back, its data is old.
 *  - A flag that a returned PV carries is dropped only if LVM2 drops it (no extent of it is in use), or the edit did.
 */
import { resolve } from 'node:path';
import type { PhysicalVolumeText, VolumeGroupText } from '../../ondisk/metadata.ts';
import type { ScannedDevice } from '../model.ts';
import type { Plan } from './plan.ts';

const UNKNOWN_DEVICE = '[unknown]';

/** The VG with its PVs' devices and MISSING flags as they are now. */
export function withPvFacts(vg: VolumeGroupText, plan: Plan): VolumeGroupText {
  const devices = devicesOf(plan);
  const reappeared = new Set((plan.before?.pvs ?? []).filter((pv) => !pv.missing).map((pv) => pv.uuid));
  return {
    ...vg,
    physicalVolumes: vg.physicalVolumes.map((pv) => {
      const device = devices.get(pv.id);
      if (device === undefined) return asMissing(pv);
      const { path, deviceId } = device;
      const known = deviceId === undefined ? {} : { deviceId: deviceId.name, deviceIdType: deviceId.type };
      const present = { ...pv, device: resolve(path), ...known };
      return reappeared.has(pv.id) ? withoutMissing(present) : present;
    }),
  };
}

function devicesOf(plan: Plan): ReadonlyMap<string, ScannedDevice> {
  const devices = new Map<string, ScannedDevice>();
  for (const { found, uuid } of plan.before?.pvs ?? []) if (found !== null) devices.set(uuid, found.device);
  for (const found of plan.joining ?? []) devices.set(found.uuid, found.device);
  for (const { device, label } of plan.labels) devices.set(label.uuid, device);
  return devices;
}

function asMissing(pv: PhysicalVolumeText): PhysicalVolumeText {
  const flags = isMissing(pv) ? pv.flags : [...pv.flags, 'MISSING'];
  return { ...pv, device: UNKNOWN_DEVICE, flags };
}

function isMissing(pv: PhysicalVolumeText): boolean {
  return pv.flags.includes('MISSING') || pv.status.includes('MISSING');
}

function withoutMissing(pv: PhysicalVolumeText): PhysicalVolumeText {
  if (!isMissing(pv)) return pv;
  return { ...pv, flags: otherWords(pv.flags), status: otherWords(pv.status) };
}

function otherWords(words: readonly string[]): readonly string[] {
  return words.filter((word) => word !== 'MISSING');
}
