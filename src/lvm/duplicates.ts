/**
 * One PV uuid on two devices: a copied image, a snapshot of a disk, two paths to one disk. Which device is the PV?
 *
 * Invariants
 *  - The choice does not depend on the order of devices unless nothing else tells them apart.
 *  - Every device is either the chosen one of its uuid or in the list of duplicates; nothing of a duplicate is used.
 *
 * Source: LVM2 lib/cache/lvmcache.c (choice of duplicates), observed with 2.03.16: the device that an active LV uses, then the
 * one whose size is that of the PV, then the one whose name the metadata remembers, then the first.
 */
import type { ScannedDevice } from './model.ts';
import type { DeviceReading } from './read-device.ts';

export interface Duplicate {
  readonly uuid: string;
  readonly chosen: DeviceReading;
  readonly others: readonly DeviceReading[];
  /** "device size is correct" */
  readonly because: string;
}

export interface Choice {
  /** Chosen devices in the order given; those without a label are left out. */
  readonly chosen: readonly DeviceReading[];
  readonly duplicates: readonly Duplicate[];
}

/** Whether this process serves LVs from a device: then no copy of it may take its place. */
export type InUse = (device: ScannedDevice) => boolean;

/** Chooses one device for each PV uuid. */
export function chooseDevices(readings: readonly DeviceReading[], inUse: InUse): Choice {
  const byUuid = new Map<string, DeviceReading[]>();
  for (const reading of readings) {
    if (reading.label === null) continue;
    const list = byUuid.get(reading.label.uuid);
    if (list === undefined) byUuid.set(reading.label.uuid, [reading]);
    else list.push(reading);
  }
  const duplicates: Duplicate[] = [];
  const dropped = new Set<DeviceReading>();
  for (const [uuid, candidates] of byUuid) {
    if (candidates.length < 2) continue;
    const duplicate = choose(uuid, candidates, nameHints(readings, uuid), inUse);
    duplicates.push(duplicate);
    for (const other of duplicate.others) dropped.add(other);
  }
  const chosen = readings.filter((reading) => reading.label !== null && !dropped.has(reading));
  return { chosen, duplicates };
}

/** Each test keeps the candidates that pass it, if that tells them apart at all. */
function choose(
  uuid: string,
  candidates: readonly DeviceReading[],
  names: ReadonlySet<string>,
  inUse: InUse,
): Duplicate {
  const tests: readonly (readonly [string, (reading: DeviceReading) => boolean])[] = [
    ['device is used by LV', (reading) => reading.device.held === true || inUse(reading.device)],
    ['device size is correct', (reading) => reading.device.sizeBytes === reading.label?.deviceSizeBytes],
    ['device name matches previous', (reading) => names.has(reading.device.path)],
  ];
  let left = candidates;
  for (const [because, test] of tests) {
    const passing = left.filter(test);
    if (passing.length > 0 && passing.length < left.length) left = passing;
    if (left.length === 1) return decided(uuid, candidates, left, because);
  }
  return decided(uuid, candidates, left, 'device was seen first');
}

function decided(
  uuid: string,
  candidates: readonly DeviceReading[],
  left: readonly DeviceReading[],
  because: string,
): Duplicate {
  const chosen = left[0] ?? candidates[0];
  if (chosen === undefined) throw new RangeError('a choice among no devices');
  return { uuid, chosen, others: candidates.filter((candidate) => candidate !== chosen), because };
}

/** Device names that the newest texts found remember for a PV. */
function nameHints(readings: readonly DeviceReading[], uuid: string): ReadonlySet<string> {
  let newest = -1;
  let names = new Set<string>();
  const copies = new Set(readings.flatMap((reading) => reading.areas.map((area) => area.text)));
  for (const copy of copies) {
    const vg = copy?.metadata?.vg;
    const device = vg?.physicalVolumes.find((pv) => pv.id === uuid)?.device;
    if (vg === undefined || device === undefined || vg.seqno < newest) continue;
    if (vg.seqno > newest) names = new Set();
    newest = vg.seqno;
    names.add(device);
  }
  return names;
}
