/**
 * pvcreate and pvremove: what is written to a device that becomes a PV, or stops being one.
 *
 * Invariants
 *  - A new PV has one data area, which reaches to the end of the device, and belongs to no VG.
 *  - A PV that is made again from a backup (--restorefile) keeps its first 2 KiB but for labels, as in LVM2.
 */
import type { DeviceTopology } from '../../block/device.ts';
import { type Label, PV_HEADER_EXTENSION_VERSION, SECTOR_BYTES } from '../../ondisk/label.ts';
import type { ScannedDevice } from '../model.ts';
import { type LayoutDefaults, layOutPv, type RestoredPlaces } from '../pv-layout.ts';
import { CommandError } from './errors.ts';
import { emptyPlan, type EraseMethod, type Plan, type PvLabelWrite } from './plan.ts';

/** What pvcreate's options ask for; sizes in sectors, 0: not given. */
export interface PvCreateRequest {
  /** -Z y */
  readonly zero: boolean;
  readonly labelSector: number;
  readonly metadataIgnore: boolean;
  readonly metadataSectors: number;
  readonly metadataCopies: 0 | 1 | 2;
  readonly alignmentSectors: number;
  readonly alignmentOffsetSectors: number;
  readonly bootloaderSectors: number;
  readonly sizeSectors: number;
  readonly restored: RestoredPlaces | null;
  readonly defaults: LayoutDefaults;
}

export interface NewPv {
  readonly name: string;
  readonly device: ScannedDevice;
  readonly topology: DeviceTopology | null;
  readonly uuid: string;
}

/** What is written to make a PV of a device. Throws CommandError with LVM2's reasons. */
export function newPvWrite(pv: NewPv, request: PvCreateRequest): PvLabelWrite {
  try {
    const label = labelFor(pv, request);
    return {
      device: pv.device,
      label,
      kind: 'create',
      zeroHead: request.zero,
      ignoredAreas: request.metadataIgnore ? label.metadataAreas.map((_, index) => index) : [],
      when: 'before',
    };
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new CommandError([...error.lines, `Failed to setup physical volume "${pv.name}".`], 5, { cause: error });
  }
}

function labelFor({ name, device, topology, uuid }: NewPv, request: PvCreateRequest): Label {
  const layout = layOutPv({ ...request, device: name, deviceSectors: device.sizeBytes / SECTOR_BYTES, topology });
  // The list of data areas can't say 0; the VG's own metadata can, and counts.
  const dataStart = layout.peStartSectors === 0 ? SECTOR_BYTES : layout.peStartSectors * SECTOR_BYTES;
  return {
    sector: request.labelSector,
    uuid,
    deviceSizeBytes: layout.sizeSectors * SECTOR_BYTES,
    dataAreas: [{ offset: dataStart, size: 0 }],
    metadataAreas: layout.metadataAreas,
    extensionVersion: PV_HEADER_EXTENSION_VERSION,
    extensionFlags: 0,
    bootloaderAreas: layout.bootloaderArea === null ? [] : [layout.bootloaderArea],
  };
}

/** pvcreate of one device. */
export function createPvPlan(name: string, write: PvLabelWrite): Plan {
  const text = `Physical volume "${name}" successfully created.`;
  return { ...emptyPlan(null, null), labels: [write], messages: [{ stream: 'stdout', when: 'after', text }] };
}

/** pvremove of one device; with `erase` the whole device is overwritten after its labels are gone. */
export function removePvPlan(name: string, device: ScannedDevice, erase: EraseMethod | null): Plan {
  const text = `Labels on physical volume "${name}" successfully wiped.`;
  const ranges = [{ device: device.path, offset: 0, length: device.sizeBytes }];
  return {
    ...emptyPlan(null, null),
    wipes: [{ device }],
    effects: erase === null ? [] : [{ kind: 'erase', method: erase, what: `physical volume ${name}`, ranges }],
    messages: [{ stream: 'stdout', when: 'after', text }],
  };
}
