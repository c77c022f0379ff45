/**
 * What goes on being served though a scan finds something wrong with its volume group: a copy of a physical volume, damaged
 * metadata, a device that can't be read. As with LVM2, trouble that is found later leaves active volumes active. Pure.
 *
 * Invariants
 *  - The newest sound metadata decides. What was known before stands in only for what can't be read now: an older copy that
 *    was found instead of damaged newer ones is not followed.
 *  - A device stands in only if this scan met it and could not read it, or no longer found its label; one that is gone (as is
 *    one without a size), or belongs to another PV now, does not.
 *  - Only a volume that is served with this very table can go on: `asServed` never makes a volume active.
 */
import type { Waits } from '../lvm/deferred-merges.ts';
import type { VolumeId } from '../lvm/live.ts';
import type { LabelledDevice, PhysicalVolume, Scan, ScannedDevice, VolumeGroup } from '../lvm/model.ts';

/** What is served when a scan ends. */
export interface Holding {
  /** By VG id: the groups of which something is served, as they were last known. */
  readonly groups: ReadonlyMap<string, VolumeGroup>;
  /** By identity, and by path where it could not even be opened: why this scan could not read a device. */
  readonly unreadable: ReadonlyMap<string, string>;
  /** What is served of a volume; null: nothing. */
  readonly served: (id: VolumeId) => { readonly key: string; readonly readOnly: boolean } | null;
  /** Whether the merge of a snapshot into this origin waits for the origin's next activation. */
  readonly mergeWaits: Waits;
}

export const NOTHING_HELD: Holding = {
  groups: new Map(),
  unreadable: new Map(),
  served: () => null,
  mergeWaits: () => false,
};

/** A group of which volumes may be made active, or may go on. */
export interface Candidate {
  /** What decides. */
  readonly group: VolumeGroup;
  /** The same with the devices that served volumes use: what goes on is looked for in it. */
  readonly asServed: VolumeGroup;
  /** Why nothing new of it can be made active; null: see `group`. */
  readonly problem: string | null;
}

/** The groups that a scan found, and those that it should have found. */
export function candidates(scan: Scan, holding: Holding): readonly Candidate[] {
  const labelled = labelledByIdentity(scan);
  const empty = new Set(scan.devices.filter(({ sizeBytes }) => sizeBytes === 0).map(({ identity }) => identity));
  const met = { labelled, empty };
  const found = scan.volumeGroups.map((group): Candidate => {
    const known = holding.groups.get(group.vg.id);
    if (known === undefined) return { group, asServed: group, problem: null };
    const damage = group.vg.seqno < known.vg.seqno ? damageOf(known, met, holding) : null;
    if (damage === null) return { group, asServed: withHeld(group, known, scan, met, holding), problem: null };
    const problem = `only metadata of seqno ${group.vg.seqno} instead of ${known.vg.seqno} can be read: ${damage}`;
    return { group: known, asServed: withoutGone(known, scan, met, holding), problem };
  });
  const ids = new Set(scan.volumeGroups.map(({ vg }) => vg.id));
  const lost = [...holding.groups.values()].flatMap((known): readonly Candidate[] => {
    if (ids.has(known.vg.id)) return [];
    const refused = scan.unreadable.find(({ id }) => id === known.vg.id)?.reason;
    const damage = refused ?? damageOf(known, met, holding);
    if (damage === null) return [];
    const asServed = withoutGone(known, scan, met, holding);
    return [{ group: known, asServed, problem: `the metadata of ${known.vg.name} can't be read: ${damage}` }];
  });
  return [...found, ...lost];
}

/** Which PVs of a group are on several devices; null: none. */
export function duplicateProblem(group: VolumeGroup, scan: Scan): string | null {
  const problems = group.pvs.flatMap(({ uuid, found }) => {
    const others = scan.duplicates.filter((other) => other.uuid === uuid).map(({ device }) => device.path);
    if (found === null || others.length === 0) return [];
    return [`PV ${uuid} is on ${found.device.path}, which is in use, and also on ${others.join(', ')}`];
  });
  return problems.length === 0 ? null : problems.join('; ');
}

/** What this scan found behind the devices, by identity. */
interface Met {
  readonly labelled: ReadonlyMap<string, LabelledDevice>;
  /** Devices that have no size any more. */
  readonly empty: ReadonlySet<string>;
}

/** Why the newest metadata of a group may have escaped this scan; null: all its devices that are there were read. */
function damageOf(known: VolumeGroup, { labelled, empty }: Met, { unreadable }: Holding): string | null {
  for (const { found } of known.pvs) {
    if (found === null) continue;
    const { identity } = found.device;
    if (empty.has(identity)) continue;
    const problem =
      reasonFor(found.device, unreadable) ??
      labelled.get(identity)?.metadataAreas.find((area) => area.problem !== undefined)?.problem;
    if (problem !== undefined) return problem;
  }
  return null;
}

/** The group with the devices that it had for PVs that are there and can't be read. */
function withHeld(group: VolumeGroup, known: VolumeGroup, scan: Scan, met: Met, { unreadable }: Holding): VolumeGroup {
  const there = new Set(scan.devices.map(({ identity }) => identity));
  const isThere = (device: ScannedDevice): boolean =>
    !met.labelled.has(device.identity) && isMet(device, there, met, unreadable);
  const pvs = group.pvs.map((pv): PhysicalVolume => {
    if (pv.found !== null || isFlaggedMissing(pv)) return pv;
    const before = known.pvs.find(({ uuid }) => uuid === pv.uuid)?.found ?? null;
    return before === null || !isThere(before.device) ? pv : { ...pv, found: before, missing: false };
  });
  return { ...group, pvs };
}

/** A group that stands in for what can't be read, without the devices that are gone, or are other PVs now. */
function withoutGone(known: VolumeGroup, scan: Scan, met: Met, { unreadable }: Holding): VolumeGroup {
  const there = new Set(scan.devices.map(({ identity }) => identity));
  const pvs = known.pvs.map((pv): PhysicalVolume => {
    if (pv.found === null) return pv;
    const label = met.labelled.get(pv.found.device.identity);
    const stays = label === undefined ? isMet(pv.found.device, there, met, unreadable) : label.uuid === pv.uuid;
    return stays ? pv : { ...pv, found: null, missing: true };
  });
  return { ...known, pvs };
}

/** Whether a scan met a device, if only to find that it can't be read. `there`: identities of what it could read. */
function isMet(
  device: ScannedDevice,
  there: ReadonlySet<string>,
  { empty }: Met,
  unreadable: Holding['unreadable'],
): boolean {
  return !empty.has(device.identity) && (there.has(device.identity) || reasonFor(device, unreadable) !== undefined);
}

function reasonFor({ identity, path }: ScannedDevice, unreadable: Holding['unreadable']): string | undefined {
  return unreadable.get(identity) ?? unreadable.get(path);
}

function isFlaggedMissing({ text }: PhysicalVolume): boolean {
  return text !== undefined && (text.flags.includes('MISSING') || text.status.includes('MISSING'));
}

/** Everything that a scan found to be a PV, wherever it belongs. */
export function labelledByIdentity(scan: Scan): ReadonlyMap<string, LabelledDevice> {
  const pvs = [...scan.orphans, ...scan.volumeGroups.flatMap((group) => group.pvs)];
  const all = [
    ...pvs.flatMap(({ found }) => (found === null ? [] : [found])),
    ...scan.volumeGroups.flatMap(({ outdated }) => outdated),
    ...scan.unreadable.flatMap(({ devices }) => devices),
    ...scan.duplicates,
  ];
  return new Map(all.map((found) => [found.device.identity, found]));
}
