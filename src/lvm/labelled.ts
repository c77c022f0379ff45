/**
 * A device's reading as the model shows it: the label's facts and the state of its metadata areas.
 *
 * Invariant: an ignored area has no text here, whatever its slot still points to.
 */
import { hasPrecommit, isIgnored, maxTextBytes } from '../ondisk/mda.ts';
import { PV_EXT_USED, SECTOR_BYTES } from '../ondisk/label.ts';
import type { LabelledDevice, MetadataArea } from './model.ts';
import type { AreaReading, DeviceReading } from './read-device.ts';

/** The model's view of a reading that has a label. `problems` says which areas are of no use, and why. */
export function labelledDevice(reading: DeviceReading, problems: ReadonlyMap<AreaReading, string>): LabelledDevice {
  const { label } = reading;
  if (label === null) throw new TypeError(`${reading.device.path} has no label`);
  return {
    device: reading.device,
    uuid: label.uuid,
    labelSector: label.sector,
    headerSizeBytes: label.deviceSizeBytes,
    dataAreas: label.dataAreas,
    metadataAreas: reading.areas.map((area, index) => metadataArea(area, index, problems.get(area))),
    bootloaderAreas: label.bootloaderAreas,
    extensionVersion: label.extensionVersion,
    inUse: (label.extensionFlags & PV_EXT_USED) !== 0,
  };
}

function metadataArea(area: AreaReading, index: number, problem: string | undefined): MetadataArea {
  const { header, locn, text } = area;
  const summary = text?.summary ?? null;
  return {
    index,
    ...area.place,
    ignored: header !== null && isIgnored(header),
    ...(locn !== null && summary !== null ? { text: { ...locn, vgName: summary.vgName, seqno: summary.seqno } } : {}),
    precommit: header !== null && hasPrecommit(header),
    ...(problem === undefined ? {} : { problem }),
    freeBytes: freeBytes(area),
  };
}

/** LVM2's mda_free: whole sectors that the largest text has more than the committed one; nothing in an ignored area. */
function freeBytes(area: AreaReading): number {
  const { header } = area;
  if (header === null || isIgnored(header)) return 0;
  const used = header.slots[0].offset === 0 ? 0 : header.slots[0].size;
  const free = Math.max(0, maxTextBytes(header.size) - used);
  return free - (free % SECTOR_BYTES);
}
