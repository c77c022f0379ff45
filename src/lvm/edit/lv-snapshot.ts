/**
 * lvcreate -s: a COW snapshot of an LV, or a sparse LV, which is a snapshot of zeros.
 *
 *     s            the COW store, an LV like others; as a volume it is the snapshot
 *     snapshotN    the record that ties it to its origin; as long as that one, and no volume
 *     s_vorigin    of a sparse LV: its origin, of type zero, hidden
 *
 * Invariants
 *  - Store and record come with one commit, and the store's head is zeroed before it: a store that the metadata knows of is one
 *    that was begun for this snapshot, whatever its extents held before.
 *  - A store is never larger than the largest that can be filled.
 *
 * Source: lvcreate(8); messages, sizes and what is stored as of lvcreate 2.03.16; formats note §2.7.
 */
import { newUuid } from '../../ondisk/uuid.ts';
import type { LogicalVolumeText, Segment, VolumeGroupText } from '../../ondisk/metadata.ts';
import { isValidName } from '../../ondisk/vg-validate.ts';
import type { VolumeGroup } from '../model.ts';
import { isPvmove, type LvFacts, segmentTypeName } from '../relations.ts';
import { CommandError } from './errors.ts';
import { createLv, extentsOfSize, type LvCreateRequest } from './lv-create.ts';
import { displayName, lvFacts, MAX_EXTENTS, withStatus } from './lv-facts.ts';
import { generatedName } from './lv-names.ts';
import type { Notes } from './lv-notes.ts';
import { emptyPlan, type Plan } from './plan.ts';

export interface SnapshotRequest extends Omit<LvCreateRequest, 'type' | 'store' | 'zero' | 'wipeSignatures'> {
  /** What it is a snapshot of: an LV, or zeros of a size. */
  readonly origin: { readonly name: string } | { readonly virtualSectors: number };
  readonly chunkSectors: number;
}

/** Bytes of an exception record: as many go into a metadata area, which is a chunk, as fit. */
const RECORD_BYTES = 16;
const SECTOR_BYTES = 512;
const PLAIN_TYPES: ReadonlySet<Segment['type']> = new Set<Segment['type']>(['striped', 'error', 'zero']);

/** The plan for a new snapshot, and its name. Throws CommandError (5). */
function createSnapshot(
  group: VolumeGroup,
  request: SnapshotRequest,
  notes: Notes,
): { readonly plan: Plan; readonly lvName: string } {
  const { vg } = group;
  const { origin, chunkSectors } = request;
  const facts = 'name' in origin ? originFacts(vg, origin.name) : null;
  const virtualExtents = 'name' in origin ? 0 : extentsOfSize(group, origin.virtualSectors, notes);
  const sizes =
    facts === null ? null : { extents: facts.sizeExtents, mostExtents: mostStoreExtents(vg, facts, chunkSectors) };
  const store = { chunkSectors, origin: sizes };
  // The store is written to, whatever the snapshot allows.
  const wanted = { ...request, type: 'striped', writable: true, zero: true, wipeSignatures: false, store } as const;
  const created = createLv(group, wanted, notes);
  const after = created.plan.after ?? vg;
  const parts = { name: created.lvName, chunkSectors, writable: request.writable };
  const tied =
    facts === null
      ? withSparse(after, request, parts, virtualExtents)
      : withRecord(after, request, parts, { name: facts.name, extents: facts.sizeExtents });
  return {
    plan: { ...emptyPlan(group, tied), effects: created.plan.effects, messages: notes.messages },
    lvName: parts.name,
  };
}

/**
 * The plan for several snapshots: one commit, so that whoever serves the origins suspends them all before any goes on, and every
 * snapshot is of the same moment. Throws CommandError (5).
 */
export function createSnapshots(
  group: VolumeGroup,
  requests: readonly SnapshotRequest[],
  notes: Notes,
): { readonly plan: Plan; readonly lvNames: readonly string[] } {
  let { vg } = group;
  const effects: Plan['effects'][number][] = [];
  const lvNames: string[] = [];
  for (const request of requests) {
    const { plan, lvName } = createSnapshot({ ...group, vg }, request, notes);
    vg = plan.after ?? vg;
    effects.push(...plan.effects);
    lvNames.push(lvName);
  }
  return { plan: { ...emptyPlan(group, vg), effects, messages: notes.messages }, lvNames };
}

/**
 * Extents of a COW store that holds every chunk of its origin: a header, the chunks, and an area of records for as many of them as
 * fit into one, the last of which has room for the record that ends them.
 */
export function mostStoreExtents(vg: VolumeGroupText, origin: LvFacts, chunkSectors: number): number {
  const chunks = Math.ceil(origin.sizeSectors / chunkSectors);
  const perArea = (chunkSectors * SECTOR_BYTES) / RECORD_BYTES;
  const areas = Math.floor((chunks + perArea) / perArea);
  const sectors = (1 + chunks + areas) * chunkSectors;
  return Math.min(Math.ceil(sectors / vg.extentSizeSectors), MAX_EXTENTS);
}

/** The origin, if it may have a snapshot. Throws CommandError (5). */
export function originFacts(vg: VolumeGroupText, name: string): LvFacts {
  const facts = lvFacts(vg, name);
  if (facts === null || facts.snapshotRecord) {
    throw new CommandError(`Snapshot origin LV ${name} not found in Volume group ${vg.name}.`);
  }
  if (facts.virtualOrigin) throw new CommandError("Can't share virtual origins. Use --virtualsize.");
  const unfit = unfitness(facts);
  if (unfit !== null) throw new CommandError(`Snapshots of ${unfit} are not supported.`);
  const other = facts.lv.segments.find(({ type }) => !PLAIN_TYPES.has(type));
  if (other !== undefined) {
    throw new CommandError(
      `Can't create a snapshot of ${displayName(vg, facts.lv)}: LV type ${segmentTypeName(other)} is not supported yet.`,
    );
  }
  return facts;
}

function unfitness(facts: LvFacts): string | null {
  if (facts.snapshot !== null) return 'snapshots';
  if (facts.lv.status.includes('LOCKED')) return 'locked volumes';
  if (isPvmove(facts.lv)) return 'pvmoved volumes';
  if (!facts.visible) return 'hidden volumes';
  const merging = facts.snapshots.some(({ segment }) => segment.merging);
  return merging ? 'an origin that has a merging snapshot' : null;
}

interface Parts {
  /** Of the store, and so of the snapshot. */
  readonly name: string;
  readonly chunkSectors: number;
  readonly writable: boolean;
}
type Made = Pick<SnapshotRequest, 'now' | 'hostName'>;

/** The VG with the store made a snapshot of an LV. */
function withRecord(
  vg: VolumeGroupText,
  made: Made,
  { name, chunkSectors, writable }: Parts,
  origin: { readonly name: string; readonly extents: number },
): VolumeGroupText {
  const record = snapshotRecord(vg, made, { chunkSectors, origin: origin.name, extents: origin.extents, cow: name });
  const logicalVolumes = vg.logicalVolumes.map((lv) =>
    lv.name === name ? withStatus(withStatus(lv, 'VISIBLE', false), 'WRITE', writable) : lv,
  );
  return { ...vg, logicalVolumes: [...logicalVolumes, record] };
}

/** A new record that ties a store to its origin. */
export function snapshotRecord(
  vg: VolumeGroupText,
  made: Made,
  tie: { readonly chunkSectors: number; readonly origin: string; readonly extents: number; readonly cow: string },
): LogicalVolumeText {
  const segment: Segment = {
    type: 'snapshot',
    startExtent: 0,
    extentCount: tie.extents,
    tags: [],
    typeFlags: [],
    chunkSizeSectors: tie.chunkSectors,
    origin: tie.origin,
    cowStore: tie.cow,
    merging: false,
    extra: [],
  };
  return hiddenLv(made, generatedName(vg, 'snapshot'), ['READ', 'WRITE', 'VISIBLE'], segment);
}

/** The VG with the store made a snapshot of zeros. */
function withSparse(vg: VolumeGroupText, made: Made, parts: Parts, extents: number): VolumeGroupText {
  const name = `${parts.name}_vorigin`;
  if (!isValidName(name)) throw new CommandError('Virtual origin name is too long.');
  const segment: Segment = { type: 'zero', startExtent: 0, extentCount: extents, tags: [], typeFlags: [], extra: [] };
  const origin = hiddenLv(made, name, ['READ'], segment);
  return withRecord({ ...vg, logicalVolumes: [...vg.logicalVolumes, origin] }, made, parts, { name, extents });
}

function hiddenLv(
  { now, hostName }: Made,
  name: string,
  status: readonly string[],
  segment: Segment,
): LogicalVolumeText {
  return {
    name,
    id: newUuid(),
    status,
    flags: [],
    tags: [],
    creationTime: now,
    creationHost: hostName,
    segments: [segment],
    extra: [],
  };
}
