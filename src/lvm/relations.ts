/**
 * Derived facts about the LVs of a volume group: sizes, what uses what, who is visible, and the names by which LVM2 reports
 * origins, pools and parents. Reports and activation read these; lv_role and lv_layout are in layout.ts.
 *
 * Invariants
 *  - Everything is computed from the text alone, once per text (it is never mutated, so the result is kept with it).
 *  - Linear in the size of the text: a VG of 65,536 LVs is no special case.
 *  - Names that no LV bears (a text that lvm/validate.ts would refuse) are left out, never a crash.
 *  - The LVs of type snapshot (`snapshot0` …) are records that tie a COW store to its origin; no report shows them. The COW
 *    store is what the user knows as the snapshot.
 */
import type {
  LogicalVolumeText,
  PhysicalVolumeText,
  Segment,
  SnapshotSegment,
  VolumeGroupText,
} from '../ondisk/metadata.ts';
import { segmentReferences } from './references.ts';
import type { ReferenceKind, SegmentReference } from './references.ts';

/** One use of an LV by another. */
export interface LvUse {
  /** Name of the LV whose segment names this one. */
  readonly user: string;
  readonly kind: ReferenceKind;
  readonly segment: Segment;
}

/** A COW snapshot: its store, its origin and the record that ties them. */
export interface SnapshotLink {
  /** The `snapshotN` LV. */
  readonly record: string;
  readonly origin: string;
  readonly cow: string;
  readonly segment: SnapshotSegment;
}

export interface LvFacts {
  readonly lv: LogicalVolumeText;
  readonly name: string;
  readonly sizeExtents: number;
  /** 512-byte sectors. */
  readonly sizeSectors: number;
  /** What LVM2 lists without `-a`. */
  readonly visible: boolean;
  /** It is a `snapshotN` record, not a volume. */
  readonly snapshotRecord: boolean;
  /** LVs that it names. */
  readonly uses: readonly SegmentReference[];
  /** LVs that name it. */
  readonly usedBy: readonly LvUse[];
  /** Set on a COW store. */
  readonly snapshot: SnapshotLink | null;
  /** COW snapshots of it, in the text's order. */
  readonly snapshots: readonly SnapshotLink[];
  /** A hidden origin (`_vorigin`): the snapshot is a sparse volume. */
  readonly virtualOrigin: boolean;
  /** As reported by `origin`: of a COW snapshot, a thin snapshot, a cache, a writecache, an integrity LV. */
  readonly origin: string | null;
  /** As reported by `pool_lv`: of a thin, a cache, a writecache, a vdo LV. */
  readonly pool: string | null;
  /** As reported by `data_lv` and `metadata_lv`. */
  readonly dataLv: string | null;
  readonly metadataLv: string | null;
  /** As reported by `mirror_log`. */
  readonly mirrorLog: string | null;
  /** As reported by `lv_parent`: only images, logs and the parts of pools have one. */
  readonly parent: string | null;
}

export interface VgRelations {
  readonly vg: VolumeGroupText;
  /** By LV name, in the text's order. */
  readonly lvs: ReadonlyMap<string, LvFacts>;
  /** By the label that segments use ("pv0"). */
  readonly pvs: ReadonlyMap<string, PhysicalVolumeText>;
}

const known = new WeakMap<VolumeGroupText, VgRelations>();

/** The relations of a VG's text; computed once per text. */
export function relationsOf(vg: VolumeGroupText): VgRelations {
  let relations = known.get(vg);
  if (relations === undefined) {
    relations = computeRelations(vg);
    known.set(vg, relations);
  }
  return relations;
}

/** The segment's type as LVM2 reports it (`segtype`): "linear" for one stripe, the type's own word otherwise. */
export function segmentTypeName(segment: Segment): string {
  if (segment.type === 'striped') return segment.areas.length === 1 ? 'linear' : 'striped';
  if (segment.type === 'raid') return segment.raidType;
  return segment.type === 'unknown' ? segment.typeName : segment.type;
}

/** Whether an LV is a pvmove in progress: its status says so. */
export function isPvmove(lv: LogicalVolumeText): boolean {
  return lv.status.includes('PVMOVE');
}

/**
 * Sectors, as LVM2 reports `origin_size`: the size of a COW snapshot's or external origin's origin, and of a COW origin its own.
 * Null for other LVs.
 */
export function originSizeSectors(relations: VgRelations, facts: LvFacts): number | null {
  if (facts.snapshots.length > 0) return facts.sizeSectors;
  const external = facts.uses.find((use) => use.kind === 'external-origin')?.name;
  const origin = facts.snapshot?.origin ?? external;
  return origin === undefined ? null : (relations.lvs.get(origin)?.sizeSectors ?? null);
}

/**
 * LVs that a snapshot comes from, nearest first (`lv_ancestors`): along COW, thin and external origins.
 * A cycle ends the list.
 */
export function ancestorsOf(relations: VgRelations, name: string): readonly string[] {
  const found = new Set<string>();
  for (let at = snapshotSource(relations, name); at !== null && at !== name; at = snapshotSource(relations, at)) {
    if (found.has(at)) break;
    found.add(at);
  }
  return [...found];
}

/** LVs that come from an LV (`lv_descendants`): each snapshot followed by its own. */
export function descendantsOf(relations: VgRelations, name: string): readonly string[] {
  const found = new Set<string>();
  const pending = [...snapshotsFrom(relations, name)].toReversed();
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    if (next === name || found.has(next)) continue;
    found.add(next);
    pending.push(...[...snapshotsFrom(relations, next)].toReversed());
  }
  return [...found];
}

/** The LV that a COW or thin snapshot was taken of, or the external origin of a thin LV. */
function snapshotSource(relations: VgRelations, name: string): string | null {
  const facts = relations.lvs.get(name);
  if (facts === undefined) return null;
  if (facts.snapshot !== null) return facts.snapshot.origin;
  return facts.uses.find((use) => use.kind === 'thin-origin' || use.kind === 'external-origin')?.name ?? null;
}

function snapshotsFrom(relations: VgRelations, name: string): readonly string[] {
  const facts = relations.lvs.get(name);
  if (facts === undefined) return [];
  return [
    ...facts.snapshots.map((link) => link.cow),
    ...facts.usedBy
      .filter((use) => use.kind === 'thin-origin' || use.kind === 'external-origin')
      .map((use) => use.user),
  ];
}

function computeRelations(vg: VolumeGroupText): VgRelations {
  const pvs = new Map(vg.physicalVolumes.map((pv) => [pv.label, pv]));
  const byName = new Map(vg.logicalVolumes.map((lv) => [lv.name, lv]));
  const links = snapshotLinks(vg);
  const index = referenceIndex(vg, (name) => pvs.has(name));
  const lvs = new Map<string, LvFacts>();
  for (const lv of byName.values()) {
    const uses = index.uses.get(lv.name) ?? [];
    const usedBy = index.usedBy.get(lv.name) ?? [];
    const snapshot = links.byCow.get(lv.name) ?? null;
    const snapshots = links.byOrigin.get(lv.name) ?? [];
    const sizeExtents = lv.segments.reduce((sum, segment) => sum + segment.extentCount, 0);
    lvs.set(lv.name, {
      lv,
      name: lv.name,
      sizeExtents,
      sizeSectors: sizeExtents * vg.extentSizeSectors,
      visible: isVisible(lv, snapshot, byName),
      snapshotRecord: lv.segments[0]?.type === 'snapshot',
      uses,
      usedBy,
      snapshot,
      snapshots,
      virtualOrigin: snapshots.length > 0 && !lv.status.includes('VISIBLE'),
      origin: snapshot?.origin ?? nameOf(uses, ORIGIN_KINDS),
      pool: nameOf(uses, POOL_KINDS),
      dataLv: nameOf(uses, ['pool-data']),
      metadataLv: nameOf(uses, ['pool-metadata']),
      mirrorLog: nameOf(uses, ['mirror-log']),
      parent: usedBy.find((use) => PARENT_KINDS.has(use.kind))?.user ?? null,
    });
  }
  return { vg, lvs, pvs };
}

const ORIGIN_KINDS: readonly ReferenceKind[] = [
  'thin-origin',
  'external-origin',
  'cache-origin',
  'writecache-origin',
  'integrity-origin',
];
const POOL_KINDS: readonly ReferenceKind[] = ['thin-pool', 'cache-pool', 'writecache-cache', 'vdo-pool'];
const PARENT_KINDS: ReadonlySet<ReferenceKind> = new Set<ReferenceKind>([
  'mirror-image',
  'mirror-log',
  'raid-image',
  'raid-metadata',
  'pool-data',
  'pool-metadata',
]);

/** The first LV named as one of `kinds`; kinds are tried in their order. */
function nameOf(uses: readonly SegmentReference[], kinds: readonly ReferenceKind[]): string | null {
  if (uses.length === 0) return null;
  for (const kind of kinds) {
    const use = uses.find((candidate) => candidate.kind === kind);
    if (use !== undefined) return use.name;
  }
  return null;
}

/** LVM2's lv_is_visible(): a COW store is as visible as its origin, or always when that is virtual, or never when merging. */
function isVisible(
  lv: LogicalVolumeText,
  snapshot: SnapshotLink | null,
  byName: ReadonlyMap<string, LogicalVolumeText>,
): boolean {
  const first = lv.segments[0];
  if (first?.type === 'snapshot') return false;
  // A thin snapshot that is being merged is no volume of its own any more.
  if (first?.type === 'thin' && first.merge !== undefined) return false;
  if (snapshot === null) return lv.status.includes('VISIBLE');
  if (!(byName.get(snapshot.origin)?.status.includes('VISIBLE') ?? false)) return true;
  return !snapshot.segment.merging;
}

function snapshotLinks(vg: VolumeGroupText): {
  readonly byCow: ReadonlyMap<string, SnapshotLink>;
  readonly byOrigin: ReadonlyMap<string, readonly SnapshotLink[]>;
} {
  const byCow = new Map<string, SnapshotLink>();
  const byOrigin = new Map<string, SnapshotLink[]>();
  for (const lv of vg.logicalVolumes) {
    const segment = lv.segments[0];
    if (segment?.type !== 'snapshot') continue;
    const link: SnapshotLink = { record: lv.name, origin: segment.origin, cow: segment.cowStore, segment };
    byCow.set(link.cow, link);
    append(byOrigin, link.origin, link);
  }
  return { byCow, byOrigin };
}

function referenceIndex(
  vg: VolumeGroupText,
  isPv: (name: string) => boolean,
): {
  readonly uses: ReadonlyMap<string, readonly SegmentReference[]>;
  readonly usedBy: ReadonlyMap<string, readonly LvUse[]>;
} {
  const uses = new Map<string, SegmentReference[]>();
  const usedBy = new Map<string, LvUse[]>();
  for (const lv of vg.logicalVolumes) {
    for (const segment of lv.segments) {
      for (const reference of segmentReferences(segment, isPv)) {
        append(uses, lv.name, reference);
        append(usedBy, reference.name, { user: lv.name, kind: reference.kind, segment });
      }
    }
  }
  return { uses, usedBy };
}

function append<Value>(map: Map<string, Value[]>, key: string, value: Value): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [value]);
  else list.push(value);
}
