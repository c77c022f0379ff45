/**
 * From what devices say to volume groups: pure, so that every kind of damage can be tried without a device.
 *
 * Invariants
 *  - Each device ends up in one place: a PV of one VG, outdated in one VG, a PV of an unreadable VG, an orphan, a duplicate,
 *    or no PV at all.
 *  - A PV is in the VG whose metadata lists it. If more than one does, one that is not exported wins, then the PV's own metadata
 *    decides, else the highest seqno; in the other VGs it is missing, so that no extent is ever served for two VGs.
 *  - An exported VG whose PVs are all another's does not exist: a vgsplit was cut before, or a vgmerge after, it took effect.
 *  - The order of volume groups and orphans depends on names and devices only.
 */
import type { VolumeGroupText } from '../ondisk/metadata.ts';
import { chooseMetadata } from './choose-metadata.ts';
import type { GroupChoice, MetadataChoice } from './choose-metadata.ts';
import { chooseDevices } from './duplicates.ts';
import type { Duplicate, InUse } from './duplicates.ts';
import { buildGroup } from './group.ts';
import { labelledDevice } from './labelled.ts';
import type { LabelledDevice, Scan, ScanWarning, UnreadableVolumeGroup, VolumeGroup } from './model.ts';
import type { DeviceReading } from './read-device.ts';

/** Assembles volume groups from readings in the order in which the devices were given. */
export function assemble(
  readings: readonly DeviceReading[],
  before: readonly ScanWarning[] = [],
  inUse: InUse = () => false,
): Scan {
  const warnings: ScanWarning[] = [...before];
  for (const fault of readings.flatMap((reading) => reading.faults))
    warnings.push({ severity: 'warning', message: fault });
  const { chosen, duplicates } = chooseDevices(readings, inUse);
  warnings.push(...duplicates.flatMap(duplicateWarnings));
  const metadata = chooseMetadata(chosen);
  warnings.push(...metadata.warnings);

  const owners = findOwners(chosen, metadata, warnings);
  const labelled = new Map(chosen.map((reading) => [reading, labelledDevice(reading, metadata.problems)]));
  const volumeGroups: VolumeGroup[] = [];
  const unreadable: UnreadableVolumeGroup[] = [];
  for (const group of metadata.groups) {
    const own = chosen.filter((reading) => owners.get(reading) === group);
    warnings.push(...group.warnings);
    if (group.chosen === null) {
      unreadable.push({
        name: group.name,
        id: group.id,
        reason: group.failure,
        devices: own.map((reading) => labelledOf(labelled, reading)),
      });
      continue;
    }
    if (own.length === 0 && isExported(group)) continue;
    const built = buildGroup({ chosen: group.chosen, own, labelled, problems: metadata.problems, duplicates });
    volumeGroups.push(built.group);
    warnings.push(...built.warnings);
  }
  volumeGroups.sort((a, b) => compare(a.vg.name, b.vg.name) || compare(a.vg.id, b.vg.id));
  warnings.push(...sameNameWarnings(volumeGroups.map((group) => group.vg)));
  const orphans = chosen.filter((reading) => !owners.has(reading)).map((reading) => labelledOf(labelled, reading));
  warnings.push(...orphans.flatMap(orphanWarnings));
  return {
    devices: readings.map((reading) => reading.device),
    volumeGroups,
    orphans: orphans.map((found) => ({ uuid: found.uuid, found, missing: false })),
    duplicates: duplicates.flatMap((duplicate) =>
      duplicate.others.map((other) => labelledDevice(other, metadata.problems)),
    ),
    unreadable,
    warnings,
  };
}

function labelledOf(labelled: ReadonlyMap<DeviceReading, LabelledDevice>, reading: DeviceReading): LabelledDevice {
  return labelled.get(reading) ?? labelledDevice(reading, new Map());
}

/** The group that each device belongs to; devices of none are left out. */
function findOwners(
  readings: readonly DeviceReading[],
  metadata: MetadataChoice,
  warnings: ScanWarning[],
): ReadonlyMap<DeviceReading, GroupChoice> {
  const groupsById = new Map(metadata.groups.map((group) => [group.id, group]));
  const claims = new Map<string, GroupChoice[]>();
  for (const group of metadata.groups) {
    for (const pv of group.chosen?.metadata.vg.physicalVolumes ?? []) {
      const list = claims.get(pv.id);
      if (list === undefined) claims.set(pv.id, [group]);
      else list.push(group);
    }
  }
  const owners = new Map<DeviceReading, GroupChoice>();
  for (const reading of readings) {
    const own = groupsById.get(ownGroupId(reading) ?? '');
    const claiming = claims.get(reading.label?.uuid ?? '') ?? [];
    const owner = ownerOf(own, claiming);
    if (owner === undefined) continue;
    owners.set(reading, owner);
    if (claiming.length > 1 || (claiming.length === 1 && claiming[0] !== owner)) {
      warnings.push(claimWarning(reading, owner, claiming));
    }
  }
  return owners;
}

function ownerOf(own: GroupChoice | undefined, claiming: readonly GroupChoice[]): GroupChoice | undefined {
  const inUse = claiming.filter((group) => !isExported(group));
  const claimants = inUse.length > 0 ? inUse : claiming;
  if (own !== undefined && (own.chosen === null || claimants.includes(own))) return own;
  // Listed by nobody: outdated in the VG that its own copy speaks of.
  if (claimants.length === 0) return own;
  return claimants.reduce((best, group) => (seqno(group) > seqno(best) ? group : best));
}

/** vgsplit and vgmerge mark a group so while another one has, or still has, the better claim to its PVs. */
function isExported(group: GroupChoice): boolean {
  return group.chosen?.metadata.vg.status.includes('EXPORTED') ?? false;
}

function seqno(group: GroupChoice): number {
  return group.chosen?.summary.seqno ?? -1;
}

/** Id of the VG that the newest text on a device speaks of. */
function ownGroupId(reading: DeviceReading): string | null {
  const summaries = reading.areas.flatMap((area) => area.text?.summary ?? []);
  return summaries.toSorted((a, b) => b.seqno - a.seqno)[0]?.vgId ?? null;
}

function claimWarning(reading: DeviceReading, owner: GroupChoice, claiming: readonly GroupChoice[]): ScanWarning {
  const names = claiming.map((group) => `${group.name} (${group.id})`).join(' and ');
  const message =
    `PV ${reading.label?.uuid} on ${reading.device.path} is claimed by VG ${names}; ` +
    `it is used for ${owner.name} (${owner.id}) only.`;
  return { severity: 'error', message };
}

function duplicateWarnings(duplicate: Duplicate): readonly ScanWarning[] {
  const { uuid, chosen, because } = duplicate;
  const messages = duplicate.others.map((other) => `WARNING: Not using device ${other.device.path} for PV ${uuid}.`);
  messages.push(`WARNING: PV ${uuid} prefers device ${chosen.device.path} because ${because}.`);
  return messages.map((message) => ({ severity: 'warning', message }));
}

/** Two VGs with one name: both are listed, and a name alone does not tell which is meant. */
function sameNameWarnings(vgs: readonly VolumeGroupText[]): readonly ScanWarning[] {
  const warnings: ScanWarning[] = [];
  for (const [index, vg] of vgs.entries()) {
    const other = vgs[index + 1];
    if (other?.name !== vg.name) continue;
    const messages = [
      `WARNING: VG name ${vg.name} is used by VGs ${vg.id} and ${other.id}.`,
      'Fix duplicate VG names with vgrename uuid, a device filter, or system IDs.',
    ];
    for (const message of messages) warnings.push({ severity: 'warning', message });
  }
  return warnings;
}

function orphanWarnings(found: LabelledDevice): readonly ScanWarning[] {
  if (!found.inUse) return [];
  const { path } = found.device;
  const messages = [
    `WARNING: PV ${path} is marked in use but no VG was found using it.`,
    `WARNING: PV ${path} might need repairing.`,
  ];
  return messages.map((message) => ({ severity: 'warning', message, orphan: true }));
}

/** By code units, whatever the locale. */
function compare(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
