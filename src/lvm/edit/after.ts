/**
 * What a scan would find once a plan is carried out, computed: commands go on with it after a commit (or after `--test`, when
 * there is nothing to scan).
 *
 * Invariants
 *  - Metadata, PVs, their devices and labels are those that a scan would give.
 *  - The place of a text is known where the commit put one; elsewhere it is left out, and nobody relies on it.
 */
import { PV_EXT_USED, PV_HEADER_EXTENSION_VERSION, SECTOR_BYTES, type Label } from '../../ondisk/label.ts';
import { maxTextBytes, type RawLocn } from '../../ondisk/mda.ts';
import type { MetadataText } from '../../ondisk/metadata.ts';
import { allocationMapOf } from '../allocation-map.ts';
import type { LabelledDevice, MetadataArea, PhysicalVolume, Scan, ScannedDevice, VolumeGroup } from '../model.ts';
import type { Plan } from './plan.ts';

/** What became of a plan. */
export interface Outcome {
  /** Null: the plan leaves no VG. */
  readonly metadata: MetadataText | null;
  /** Its bytes. */
  readonly text: Buffer | null;
  /** Where the commit put the text, by `areaKey`; empty with `--test`. */
  readonly texts: ReadonlyMap<string, RawLocn>;
}

/** Names a metadata area of a device. */
export function areaKey(identity: string, offset: number): string {
  return `${identity}@${offset}`;
}

/** The VG after the plan; null if it leaves none. */
export function groupAfter(plan: Plan, outcome: Outcome): VolumeGroup | null {
  const { metadata, text: rawText } = outcome;
  if (metadata === null || rawText === null) return null;
  const { vg } = metadata;
  const found = devicesOf(plan);
  const allocation = allocationMapOf(vg);
  const pvs = vg.physicalVolumes.map((text): PhysicalVolume => {
    const device = found.get(text.id);
    const flagged = text.flags.includes('MISSING') || text.status.includes('MISSING');
    const allocated = allocation.pvs.get(text.label)?.allocated ?? 0;
    const missing = device === undefined || (flagged && allocated > 0);
    return { uuid: text.id, found: device === undefined ? null : asMember(device, plan, outcome), text, missing };
  });
  return {
    metadata,
    vg,
    pvs,
    partial: pvs.some((pv) => pv.missing),
    hasDuplicates: plan.before?.hasDuplicates ?? false,
    outdated: plan.clearOutdated === true ? [] : (plan.before?.outdated ?? []),
    rawText,
    staleAreas: [],
  };
}

/** Everything after the plan. `group` is what `groupAfter` gave. */
export function scanAfter(scan: Scan, plan: Plan, group: VolumeGroup | null): Scan {
  const ids = new Set([plan.before?.vg.id, group?.vg.id]);
  const others = scan.volumeGroups.filter(({ vg }) => !ids.has(vg.id));
  const volumeGroups = (group === null ? others : [...others, group]).toSorted((a, b) => compare(a.vg.name, b.vg.name));
  const members = new Set(volumeGroups.flatMap(({ pvs }) => pvs.flatMap((pv) => pv.found?.device.identity ?? [])));
  const changed = new Set([...plan.wipes, ...plan.labels].map(({ device }) => device.identity));
  const left = [
    ...(plan.before?.pvs ?? []).flatMap(({ found }) => (found === null ? [] : withoutVg(found))),
    ...scan.orphans.flatMap(({ found }) => found ?? []),
  ].filter(({ device }) => !changed.has(device.identity));
  const written = plan.labels.map((write) =>
    labelledAs(write.device, write.label, plan.ignoredAreas?.get(write.label.uuid) ?? write.ignoredAreas),
  );
  const orphans = [...left, ...written].filter(({ device }) => !members.has(device.identity));
  return {
    ...scan,
    volumeGroups,
    orphans: orphans.map((found) => ({ uuid: found.uuid, found, missing: false })),
  };
}

/** Every device that may be a member, by PV uuid. */
function devicesOf(plan: Plan): ReadonlyMap<string, LabelledDevice> {
  const devices = new Map<string, LabelledDevice>();
  for (const { found, uuid } of plan.before?.pvs ?? []) if (found !== null) devices.set(uuid, found);
  for (const found of plan.joining ?? []) devices.set(found.uuid, found);
  for (const { device, label } of plan.labels) devices.set(label.uuid, labelledAs(device, label));
  return devices;
}

function asMember(found: LabelledDevice, plan: Plan, { texts, metadata }: Outcome): LabelledDevice {
  const ignored = plan.ignoredAreas?.get(found.uuid);
  return {
    ...found,
    extensionVersion: PV_HEADER_EXTENSION_VERSION,
    inUse: true,
    metadataAreas: found.metadataAreas.map(({ text: _text, ...area }): MetadataArea => {
      const text = texts.get(areaKey(found.device.identity, area.offset));
      const isIgnored = ignored?.includes(area.index) ?? area.ignored;
      if (isIgnored) return { ...area, ignored: true, precommit: false, freeBytes: 0 };
      const empty = { ...area, ignored: false, precommit: false };
      if (text === undefined || metadata === null) return empty;
      const { offset, size, checksum } = text;
      const { problem: _problem, ...repaired } = empty;
      return {
        ...repaired,
        freeBytes: freeBytes(area.size, text.size),
        text: { offset, size, checksum, vgName: metadata.vg.name, seqno: metadata.vg.seqno },
      };
    }),
  };
}

/** A PV that left its VG. */
function withoutVg(found: LabelledDevice): LabelledDevice {
  return {
    ...found,
    extensionVersion: PV_HEADER_EXTENSION_VERSION,
    inUse: false,
    metadataAreas: found.metadataAreas.map(({ text: _text, ...area }) => ({
      ...area,
      precommit: false,
      freeBytes: area.ignored ? 0 : freeBytes(area.size, 0),
    })),
  };
}

/** A device with a label that was just written. */
function labelledAs(device: ScannedDevice, label: Label, ignored: readonly number[] = []): LabelledDevice {
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
      freeBytes: ignored.includes(index) ? 0 : freeBytes(place.size, 0),
    })),
    bootloaderAreas: label.bootloaderAreas,
    extensionVersion: PV_HEADER_EXTENSION_VERSION,
    inUse: (label.extensionFlags & PV_EXT_USED) !== 0,
  };
}

/** What the scan says: whole sectors that the largest text has more. */
function freeBytes(areaBytes: number, textBytes: number): number {
  const free = Math.max(0, maxTextBytes(areaBytes) - textBytes);
  return free - (free % SECTOR_BYTES);
}

/** By code units, whatever the locale. */
function compare(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
