/**
 * The order in which LVM2 goes through VGs when none is named: the last found comes first, devices being found by their
 * numbers. Which VG fails first, and what is printed first, depends on it.
 */
import type { Scan, ScannedDevice, VolumeGroup } from './model.ts';

function deviceNumber({ major = 0, minor = 0 }: ScannedDevice): number {
  return major * 2 ** 20 + minor;
}

/** Block devices by their numbers, as LVM2 goes through them; files as they were given. */
export function devicesInOrder(scan: Scan): readonly ScannedDevice[] {
  return scan.devices.toSorted((a, b) => deviceNumber(a) - deviceNumber(b));
}

/** Every VG that was read, in LVM2's order. */
export function vgsInOrder(scan: Scan): readonly VolumeGroup[] {
  const first = new Map<string, number>();
  for (const [index, device] of devicesInOrder(scan).entries()) first.set(device.identity, index);
  const place = (vg: VolumeGroup): number =>
    Math.min(...vg.pvs.flatMap((pv) => (pv.found === null ? [] : [first.get(pv.found.device.identity) ?? 0])));
  const places = new Map(scan.volumeGroups.map((vg) => [vg, place(vg)]));
  return scan.volumeGroups.toSorted((a, b) => (places.get(b) ?? 0) - (places.get(a) ?? 0));
}
