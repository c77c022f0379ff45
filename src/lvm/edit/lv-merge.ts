/**
 * lvconvert on COW snapshots: merging one into its origin, splitting one off, joining a store to an origin again.
 *
 *     begin   the record says `merging_store` and is hidden, and so is the snapshot: the origin has its content from then on
 *     end     record and store are gone
 *     split   the record is gone, the store is an LV of its own, with its exceptions in it
 *     join    the inverse: an LV becomes the store of a snapshot
 *
 * Invariants
 *  - An origin takes in one snapshot at a time, and only what it can be written with.
 *  - A merge is ended only by who knows that every chunk of the snapshot is the origin's.
 *
 * Source: lvconvert(8); messages, checks and what is stored as of lvconvert 2.03.16; formats note §2.8.
 */
import type { LogicalVolumeText, SnapshotSegment, VolumeGroupText } from '../../ondisk/metadata.ts';
import type { VolumeGroup } from '../model.ts';
import { isPvmove, type LvFacts, segmentTypeName } from '../relations.ts';
import { CommandError } from './errors.ts';
import { complexity, displayName, lvFacts, withStatus } from './lv-facts.ts';
import { refuseSmallStore } from './lv-create.ts';
import type { Notes } from './lv-notes.ts';
import { originFacts, snapshotRecord } from './lv-snapshot.ts';
import { emptyPlan, type Plan } from './plan.ts';

const SECTOR_BYTES = 512;

/** What LVM2 says of an LV that a command does not take. */
function notPermitted(vg: VolumeGroupText, lv: LogicalVolumeText, what: string): CommandError {
  const name = displayName(vg, lv);
  return new CommandError([`Command on LV ${name} ${what}.`, `Command not permitted on LV ${name}.`]);
}

function typeRefusal(vg: VolumeGroupText, facts: LvFacts): CommandError {
  const [first] = facts.lv.segments;
  const type = facts.snapshot !== null ? 'snapshot' : first === undefined ? 'unknown' : segmentTypeName(first);
  return notPermitted(vg, facts.lv, `does not accept LV type ${type}`);
}

/** LVM2's list of what may not be merged or split, whatever it is otherwise. */
function refuseProperties(
  vg: VolumeGroupText,
  facts: LvFacts,
  properties: readonly (readonly [string, boolean])[],
): void {
  const found = properties.filter(([, holds]) => holds).map(([name]) => name);
  if (found.length > 0) throw notPermitted(vg, facts.lv, `is invalid on LV with properties: ${found.join(' ')} `);
}

function found(vg: VolumeGroupText, name: string): LvFacts {
  const facts = lvFacts(vg, name);
  if (facts === null || facts.snapshotRecord)
    throw new CommandError(`Failed to find logical volume "${vg.name}/${name}"`);
  return facts;
}

export interface MergeRequest {
  readonly name: string;
  /** --mergesnapshot: nothing but a COW snapshot will do. */
  readonly onlySnapshots: boolean;
  /** It is known to be invalid. */
  readonly invalid: boolean;
}

/** The commit that begins a merge, and the origin. Throws CommandError (5). */
export function beginMerge(
  group: VolumeGroup,
  { name, onlySnapshots, invalid }: MergeRequest,
): { readonly plan: Plan; readonly origin: LvFacts; readonly cow: LvFacts } {
  const { vg } = group;
  const cow = found(vg, name);
  const { snapshot } = cow;
  if (snapshot === null && onlySnapshots) throw typeRefusal(vg, cow);
  refuseProperties(vg, cow, [
    ['lv_is_locked', cow.lv.status.includes('LOCKED')],
    ['lv_is_pvmove', isPvmove(cow.lv)],
    ['lv_is_merging_origin', cow.snapshots.some(({ segment }) => segment.merging)],
    ['lv_is_virtual_origin', cow.virtualOrigin],
    ['lv_is_external_origin', cow.usedBy.some(({ kind }) => kind === 'external-origin')],
    ['lv_is_merging_cow', snapshot?.segment.merging === true],
  ]);
  const full = displayName(vg, cow.lv);
  if (cow.lv.segments[0]?.type === 'thin') {
    throw new CommandError(`Cannot merge ${full}: LV type thin is not supported yet.`);
  }
  if (snapshot === null) throw new CommandError(`${full} cannot be merged because --trackchanges was not used.`);
  const origin = found(vg, snapshot.origin);
  refuseMergeInto(vg, full, origin, invalid);
  return { plan: emptyPlan(group, withMerging(vg, snapshot.record)), origin, cow };
}

function refuseMergeInto(vg: VolumeGroupText, full: string, origin: LvFacts, invalid: boolean): void {
  const into = displayName(vg, origin.lv);
  const other = origin.snapshots.find(({ segment }) => segment.merging);
  if (other !== undefined) {
    const merging = `${vg.name}/${other.cow}`;
    throw new CommandError(`Cannot merge snapshot ${full} into the origin ${into} with merging snapshot ${merging}.`);
  }
  if (origin.usedBy.some(({ kind }) => kind === 'external-origin')) {
    throw new CommandError(`Cannot merge snapshot ${full} into the read-only external origin ${into}.`);
  }
  if (!origin.lv.status.includes('WRITE')) {
    throw new CommandError(`Cannot merge snapshot ${full} into the read-only origin ${into}. (Use lvchange -p rw).`);
  }
  if (invalid) throw new CommandError(`Unable to merge invalidated snapshot LV ${full}.`);
  // What is moved is copied below the origin and its stores at the same time.
  if (origin.lv.status.includes('LOCKED'))
    throw new CommandError(`Unable to merge into locked logical volume ${into}.`);
}

function withMerging(vg: VolumeGroupText, record: string): VolumeGroupText {
  return mapLv(vg, record, (lv) =>
    withStatus(
      withSegment(lv, (segment) => ({ ...segment, merging: true })),
      'VISIBLE',
      false,
    ),
  );
}

/** The metadata as it is to whoever serves a merge that is deferred: origin and snapshot are what they were. */
export function withoutMerge(vg: VolumeGroupText, record: string): VolumeGroupText {
  return mapLv(vg, record, (lv) =>
    withStatus(
      withSegment(lv, (segment) => ({ ...segment, merging: false })),
      'VISIBLE',
      true,
    ),
  );
}

function mapLv(
  vg: VolumeGroupText,
  name: string,
  change: (lv: LogicalVolumeText) => LogicalVolumeText,
): VolumeGroupText {
  return { ...vg, logicalVolumes: vg.logicalVolumes.map((lv) => (lv.name === name ? change(lv) : lv)) };
}

function withSegment(lv: LogicalVolumeText, change: (segment: SnapshotSegment) => SnapshotSegment): LogicalVolumeText {
  return { ...lv, segments: lv.segments.map((segment) => (segment.type === 'snapshot' ? change(segment) : segment)) };
}

/** The commit that ends a merge: the snapshot, of which nothing is left, is removed. */
export function endMerge(group: VolumeGroup, { snapshot, name }: LvFacts): Plan {
  const gone = new Set([name, snapshot?.record]);
  return emptyPlan(group, {
    ...group.vg,
    logicalVolumes: group.vg.logicalVolumes.filter((lv) => !gone.has(lv.name)),
  });
}

/** The snapshot, if it may be split off. Throws CommandError (5). */
export function splittable({ vg }: VolumeGroup, name: string): LvFacts {
  const cow = found(vg, name);
  if (cow.snapshot === null) throw typeRefusal(vg, cow);
  refuseProperties(vg, cow, [
    ['lv_is_locked', cow.lv.status.includes('LOCKED')],
    ['lv_is_pvmove', isPvmove(cow.lv)],
    ['lv_is_merging_cow', cow.snapshot.segment.merging],
  ]);
  if (lvFacts(vg, cow.snapshot.origin)?.virtualOrigin === true) {
    throw new CommandError(`Unable to split off snapshot ${displayName(vg, cow.lv)} with virtual origin.`);
  }
  return cow;
}

/** The commit that makes the store of a snapshot an LV of its own. */
export function splitSnapshot(group: VolumeGroup, { snapshot, name }: LvFacts): Plan {
  const others = group.vg.logicalVolumes.filter((lv) => lv.name !== snapshot?.record);
  const after = mapLv({ ...group.vg, logicalVolumes: others }, name, (lv) => withStatus(lv, 'VISIBLE', true));
  return emptyPlan(group, after);
}

export interface JoinRequest {
  readonly originName: string;
  readonly cowName: string;
  readonly chunkSectors: number;
  /** Its head is zeroed: what was in it is gone, and the snapshot begins now. Otherwise the exceptions that it has count. */
  readonly zero: boolean;
  readonly now: number;
  readonly hostName: string;
}

/** The LV that is to be a store, if it can be one of this origin. Throws CommandError (5). */
export function joinable(group: VolumeGroup, request: JoinRequest, notes: Notes): LvFacts {
  const { vg } = group;
  const { originName, cowName } = request;
  const cow = found(vg, cowName);
  if (cow.snapshot !== null) throw typeRefusal(vg, cow);
  const full = displayName(vg, cow.lv);
  if (originName === cowName) throw new CommandError(`Unable to use ${full} as both snapshot and origin.`);
  originFacts(vg, originName);
  refuseProperties(vg, cow, [
    ['lv_is_locked', cow.lv.status.includes('LOCKED')],
    ['lv_is_pvmove', isPvmove(cow.lv)],
    ['lv_is_origin', cow.snapshots.length > 0],
    ['lv_is_external_origin', cow.usedBy.some(({ kind }) => kind === 'external-origin')],
  ]);
  const problem = complexity(vg, cow);
  if (problem !== null || !cow.visible) {
    throw new CommandError(`Unable to use ${full} as a COW store: ${problem ?? 'it is not visible'}.`);
  }
  if (cow.lv.segments.some(({ type }) => type !== 'striped')) throw typeRefusal(vg, cow);
  if (!cow.lv.status.includes('WRITE')) throw new CommandError(`Unable to use read-only ${full} as a COW store.`);
  refuseSmallStore(group, request, cow.sizeExtents, notes);
  return cow;
}

/** The commit that makes an LV the store of a snapshot. */
export function joinSnapshot(group: VolumeGroup, request: JoinRequest): Plan {
  const { originName, cowName, chunkSectors, zero } = request;
  const { vg } = group;
  const record = snapshotRecord(vg, request, {
    chunkSectors,
    origin: originName,
    extents: originFacts(vg, originName).sizeExtents,
    cow: cowName,
  });
  const hidden = mapLv(vg, cowName, (lv) => withStatus(lv, 'VISIBLE', false));
  const plan = emptyPlan(group, { ...hidden, logicalVolumes: [...hidden.logicalVolumes, record] });
  const wipe = { kind: 'wipe-lv', lvName: cowName, zeroBytes: chunkSectors * SECTOR_BYTES, signatures: false } as const;
  return zero ? { ...plan, effects: [{ ...wipe, beforeCommit: true }] } : plan;
}
