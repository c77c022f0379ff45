/**
 * One volume group from its chosen metadata and the devices that are its own: which PVs were found, what is missing, which
 * copies of the metadata are out of date.
 *
 * Invariants
 *  - The PVs are those of the metadata, in its order, found or not.
 *  - A PV flagged MISSING that came back is used again only if it holds no allocated extent: its data may be old.
 *  - Warnings are LVM2's, in its order; each names the VG.
 */
import type { PhysicalVolumeText, VolumeGroupText } from '../ondisk/metadata.ts';
import { isIgnored } from '../ondisk/mda.ts';
import { PV_HEADER_EXTENSION_VERSION } from '../ondisk/label.ts';
import { allocationMapOf } from './allocation-map.ts';
import type { Duplicate } from './duplicates.ts';
import type { LabelledDevice, PhysicalVolume, ScanWarning, VolumeGroup } from './model.ts';
import type { AreaReading, DeviceReading } from './read-device.ts';
import type { UsableCopy } from './texts.ts';

export interface GroupParts {
  readonly chosen: UsableCopy;
  /** Devices that belong to this VG, listed by it or outdated. */
  readonly own: readonly DeviceReading[];
  readonly labelled: ReadonlyMap<DeviceReading, LabelledDevice>;
  readonly problems: ReadonlyMap<AreaReading, string>;
  readonly duplicates: readonly Duplicate[];
}

/** Builds a readable VG and says what is noteworthy about it. */
export function buildGroup(parts: GroupParts): {
  readonly group: VolumeGroup;
  readonly warnings: readonly ScanWarning[];
} {
  const { chosen } = parts;
  const { metadata } = chosen;
  const { vg } = metadata;
  const listed = new Set(vg.physicalVolumes.map((pv) => pv.id));
  const byUuid = new Map(parts.own.map((reading) => [reading.label?.uuid ?? '', reading]));
  const pvs = vg.physicalVolumes.map((text) => physicalVolume(vg, text, parts, byUuid.get(text.id)));
  const outdated = parts.own.filter((reading) => !listed.has(reading.label?.uuid ?? ''));
  const group: VolumeGroup = {
    metadata,
    vg,
    pvs,
    partial: pvs.some((pv) => pv.missing),
    hasDuplicates: parts.duplicates.some((duplicate) => listed.has(duplicate.uuid)),
    outdated: outdated.flatMap((reading) => parts.labelled.get(reading) ?? []),
    rawText: chosen.bytes,
    staleAreas: parts.own
      .filter((reading) => listed.has(reading.label?.uuid ?? ''))
      .flatMap((reading) => staleAreas(reading, chosen, parts.problems)),
  };
  const messages = [...typeWarnings(vg), ...outdatedWarnings(group), ...pvWarnings(group)];
  const warnings = messages.map((message): ScanWarning => ({ severity: 'warning', message, vgName: vg.name }));
  return { group, warnings: [...warnings, ...sizeWarnings(group)] };
}

function physicalVolume(
  vg: VolumeGroupText,
  text: PhysicalVolumeText,
  parts: GroupParts,
  reading: DeviceReading | undefined,
): PhysicalVolume {
  const found = (reading === undefined ? undefined : parts.labelled.get(reading)) ?? null;
  const allocated = allocationMapOf(vg).pvs.get(text.label)?.allocated ?? 0;
  return { uuid: text.id, found, text, missing: found === null || (isFlaggedMissing(text) && allocated > 0) };
}

function isFlaggedMissing(text: PhysicalVolumeText): boolean {
  return text.flags.includes('MISSING') || text.status.includes('MISSING');
}

/** Areas of a PV that hold anything but the chosen text and are not ignored. */
function staleAreas(
  reading: DeviceReading,
  chosen: UsableCopy,
  problems: ReadonlyMap<AreaReading, string>,
): VolumeGroup['staleAreas'] {
  const stale: VolumeGroup['staleAreas'][number][] = [];
  for (const [areaIndex, area] of reading.areas.entries()) {
    if (area.text === chosen || (area.header !== null && isIgnored(area.header))) continue;
    const problem = problems.get(area);
    const seqno = area.text?.summary?.seqno;
    const age = seqno === undefined ? 'holds no metadata' : `seqno ${seqno} instead of ${chosen.summary.seqno}`;
    // What follows a header without its magic may be anything: the commit leaves it to pvck --repair, as LVM2 does.
    const repairable = area.header !== null || !area.headerFaults.some((fault) => fault.includes('wrong magic number'));
    stale.push({ devicePath: reading.device.path, areaIndex, reason: problem ?? age, repairable });
  }
  return stale;
}

function typeWarnings(vg: VolumeGroupText): readonly string[] {
  const names = vg.logicalVolumes.flatMap((lv) =>
    lv.segments.flatMap((segment) => (segment.type === 'unknown' ? segment.typeName : [])),
  );
  return [...new Set(names)].map((name) => `WARNING: Unrecognised segment type ${name}`);
}

function outdatedWarnings(group: VolumeGroup): readonly string[] {
  if (group.outdated.length === 0) return [];
  const { name, seqno } = group.vg;
  const messages = group.outdated.map((found) => {
    const old = Math.max(...found.metadataAreas.map((area) => area.text?.seqno ?? 0));
    return `WARNING: outdated PV ${found.device.path} seqno ${old} has been removed in current VG ${name} seqno ${seqno}.`;
  });
  return [...messages, 'See vgck --updatemetadata to clear outdated metadata.'];
}

function pvWarnings(group: VolumeGroup): readonly string[] {
  const { pvs } = group;
  const { name } = group.vg;
  return [
    ...pvs.flatMap((pv) =>
      cameBack(pv) ? `WARNING: VG ${name} was previously updated while PV ${pathOf(pv)} was missing.` : [],
    ),
    ...pvs.flatMap((pv) => (pv.found === null ? `WARNING: Couldn't find device with uuid ${pv.uuid}.` : [])),
    ...pvs.flatMap((pv) => missingWarning(name, pv)),
    ...pvs.flatMap((pv) => headerWarning(name, pv)),
  ];
}

function cameBack(pv: PhysicalVolume): boolean {
  return pv.found !== null && pv.text !== undefined && isFlaggedMissing(pv.text);
}

function pathOf(pv: PhysicalVolume): string {
  return pv.found?.device.path ?? '[unknown]';
}

function missingWarning(vgName: string, pv: PhysicalVolume): readonly string[] {
  if (cameBack(pv)) {
    const what = pv.missing ? 'was missing PV' : 'has unused reappeared PV';
    return [`WARNING: VG ${vgName} ${what} ${pathOf(pv)} ${pv.uuid}.`];
  }
  if (pv.found !== null) return [];
  const hint = pv.text?.device;
  if (hint === undefined) return [`WARNING: VG ${vgName} is missing PV ${pv.uuid}.`];
  return [`WARNING: VG ${vgName} is missing PV ${pv.uuid} (last written to ${hint}).`];
}

function headerWarning(vgName: string, pv: PhysicalVolume): readonly string[] {
  if (pv.found === null) return [];
  const place = `WARNING: PV ${pathOf(pv)} in VG ${vgName}`;
  if (pv.found.extensionVersion < PV_HEADER_EXTENSION_VERSION) {
    return [`${place} is using an old PV header, modify the VG to update.`];
  }
  return pv.found.inUse ? [] : [`${place} is missing the used flag in PV header.`];
}

/** Devices that are smaller than their PVs (metadata/check_pv_device_sizes). */
export function sizeWarnings(group: VolumeGroup): readonly ScanWarning[] {
  const messages: string[] = [];
  for (const pv of group.pvs) {
    const size = pv.text?.devSizeSectors ?? 0;
    const sectors = (pv.found?.device.sizeBytes ?? 0) / 512;
    if (pv.found === null || sectors >= size) continue;
    messages.push(
      `WARNING: Device ${pathOf(pv)} has size of ${sectors} sectors which is smaller than corresponding PV size of ` +
        `${size} sectors. Was device resized?`,
    );
  }
  if (messages.length > 0)
    messages.push(`WARNING: One or more devices used as PVs in VG ${group.vg.name} have changed sizes.`);
  return messages.map((message) => ({ severity: 'warning', message, vgName: group.vg.name, pvSize: true }));
}
