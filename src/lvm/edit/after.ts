/**
 * A volume group as a scan would find it once a plan is carried out, computed: commands go on with it after a commit (or after
 * `--test`, when there is nothing to scan).
 *
 * Invariant: metadata, PVs, their devices and labels are those that a scan would give; the places of texts in metadata areas
 * are left out, since commits read headers themselves.
 */
import { PV_EXT_USED, PV_HEADER_EXTENSION_VERSION, type Label } from '../../ondisk/label.ts';
import { maxTextBytes } from '../../ondisk/mda.ts';
import type { MetadataText } from '../../ondisk/metadata.ts';
import { encodeText } from '../../ondisk/text-bytes.ts';
import { printMetadataText } from '../../ondisk/vg-text.ts';
import type { PrintContext } from '../../ondisk/vg-print.ts';
import { allocationMapOf } from '../allocation-map.ts';
import type { LabelledDevice, PhysicalVolume, ScannedDevice, VolumeGroup } from '../model.ts';
import type { Plan } from './plan.ts';

/** Null if the plan leaves no VG. */
export function groupAfter(plan: Plan, metadata: MetadataText | null, print: PrintContext): VolumeGroup | null {
  if (metadata === null) return null;
  const { vg } = metadata;
  const found = devicesOf(plan);
  const allocation = allocationMapOf(vg);
  const pvs = vg.physicalVolumes.map((text): PhysicalVolume => {
    const device = found.get(text.id) ?? null;
    const flagged = text.flags.includes('MISSING') || text.status.includes('MISSING');
    const allocated = allocation.pvs.get(text.label)?.allocated ?? 0;
    return { uuid: text.id, found: device, text, missing: device === null || (flagged && allocated > 0) };
  });
  return {
    metadata,
    vg,
    pvs,
    partial: pvs.some((pv) => pv.missing),
    hasDuplicates: plan.before?.hasDuplicates ?? false,
    outdated: plan.clearOutdated === true ? [] : (plan.before?.outdated ?? []),
    rawText: encodeText(printMetadataText(metadata, 'disk', print)),
    staleAreas: [],
  };
}

/** Every device that may be a member, by PV uuid, with its label as it then is. */
function devicesOf(plan: Plan): ReadonlyMap<string, LabelledDevice> {
  const devices = new Map<string, LabelledDevice>();
  for (const { found, uuid } of plan.before?.pvs ?? []) if (found !== null) devices.set(uuid, inUse(found, plan));
  for (const found of plan.joining ?? []) devices.set(found.uuid, inUse(found, plan));
  for (const write of plan.labels) {
    devices.set(write.label.uuid, labelledAs(write.device, write.label, plan.ignoredAreas?.get(write.label.uuid)));
  }
  return devices;
}

function inUse(found: LabelledDevice, plan: Plan): LabelledDevice {
  const ignored = plan.ignoredAreas?.get(found.uuid);
  return {
    ...found,
    extensionVersion: PV_HEADER_EXTENSION_VERSION,
    inUse: true,
    metadataAreas: found.metadataAreas.map(({ text: _text, ...area }) => ({
      ...area,
      ignored: ignored?.includes(area.index) ?? area.ignored,
      precommit: false,
    })),
  };
}

/** A device with a label that was just written. */
export function labelledAs(device: ScannedDevice, label: Label, ignored: readonly number[] = []): LabelledDevice {
  return {
    device,
    uuid: label.uuid,
    labelSector: label.sector,
    headerSizeBytes: label.deviceSizeBytes,
    dataAreas: label.dataAreas,
    metadataAreas: label.metadataAreas.map((place, index) => ({
      ...place,
      index,
      ignored: ignored.includes(index),
      precommit: false,
      freeBytes: maxTextBytes(place.size),
    })),
    bootloaderAreas: label.bootloaderAreas,
    extensionVersion: PV_HEADER_EXTENSION_VERSION,
    inUse: (label.extensionFlags & PV_EXT_USED) !== 0,
  };
}
