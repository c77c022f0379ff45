/**
 * The tables of COW snapshots, their origins, and origins that take a snapshot in.
 *
 *     LVM2's devices                      here
 *     vg-o         snapshot-origin        VG/o     snapshot-origin over the layer VG/o-real
 *     vg-o-real    linear                 the layer: its own in every table; what they share goes by the LVs' ids
 *     vg-s         snapshot               VG/s     snapshot over the layers VG/o-real and VG/s-cow
 *     vg-s-cow     linear                 the layer
 *     vg-o, merging   snapshot-merge      VG/o     snapshot-merge over VG/o-real and VG/s-cow
 *
 * Invariants
 *  - A snapshot only reads its origin, so its layer of it may be another than the origin's own: it takes no part in a move, whose
 *    source has all there is to read.
 *  - An origin is writable only if every one of its snapshots is active: nothing is written behind a snapshot's back.
 *  - Pure: nothing is opened.
 */
import type { SnapshotOriginParams, SnapshotParams } from '../dm/snapshot/params.ts';
import type { Layer, Table } from '../dm/table.ts';
import type { LvActivation } from './activate.ts';
import { volumeId } from './live.ts';
import type { PhysicalVolume, VolumeGroup } from './model.ts';
import type { LvFacts, SnapshotLink, VgRelations } from './relations.ts';

/** The table of an LV's own segments and the devices in it by path, or why there is none. */
export type PlainTable =
  | { readonly lines: Table; readonly used: ReadonlyMap<string, PhysicalVolume>; readonly reason?: never }
  | { readonly reason: string };

export interface SnapshotContext {
  readonly group: VolumeGroup;
  readonly relations: VgRelations;
  /** `takesPart`: whether the table copies what a move moves. */
  readonly plainTable: (facts: LvFacts, takesPart: boolean) => PlainTable;
}

/** Whether an LV's table is made here. */
export function isSnapshotFamily(facts: LvFacts): boolean {
  return facts.snapshot !== null || facts.snapshots.length > 0;
}

/** The table of a COW snapshot or of an origin. */
export function snapshotFamilyTable(context: SnapshotContext, facts: LvFacts): PlainTable {
  if (facts.snapshot !== null) return snapshotTable(context, facts, facts.snapshot);
  const merging = facts.snapshots.find(({ segment }) => segment.merging);
  return merging === undefined ? originTable(context, facts) : mergeTable(context, facts, merging);
}

/** What an origin and its snapshots have in common, and nothing else: they meet in the memory of one process. */
export function familyKey(context: SnapshotContext, facts: LvFacts): string {
  const origin = context.relations.lvs.get(facts.snapshot?.origin ?? facts.name) ?? facts;
  return `origin ${idOf(context, origin)}`;
}

/** The visible origin of a COW snapshot, with which LVM2 activates and deactivates it. */
export function originOfSnapshot(relations: VgRelations, facts: LvFacts): string | null {
  const origin = facts.snapshot?.origin;
  return origin !== undefined && relations.lvs.get(origin)?.visible === true ? origin : null;
}

/** Export names of the snapshots that have to be active for an origin to be written. */
export function neededSnapshots(context: SnapshotContext, facts: LvFacts): readonly string[] {
  return others(facts).map(({ cow }) => `${context.group.vg.name}/${cow}`);
}

/** The plan in which origins of snapshots that are not active take no writes. */
export function withoutLostSnapshots(plan: readonly LvActivation[]): readonly LvActivation[] {
  const reasons = new Map(plan.flatMap((entry) => (entry.active ? [] : [[entry.exportName, entry.reason] as const])));
  return plan.map((entry) => {
    if (!entry.active || entry.readOnly || entry.needs === undefined) return entry;
    const lost = entry.needs.find((name) => reasons.has(name));
    if (lost === undefined) return entry;
    const note = `read-only: its snapshot ${lost} would miss what is written: ${reasons.get(lost)}`;
    return { ...entry, readOnly: true, note };
  });
}

function snapshotTable(context: SnapshotContext, facts: LvFacts, link: SnapshotLink): PlainTable {
  const origin = context.relations.lvs.get(link.origin);
  if (origin === undefined) return { reason: `its origin ${link.origin} does not exist` };
  const real = context.plainTable(origin, false);
  if (real.reason !== undefined) return { reason: `its origin can't be read: ${real.reason}` };
  const cow = context.plainTable(facts, true);
  if (cow.reason !== undefined) return cow;
  const params: SnapshotParams = {
    origin: realLayer(context, origin, real.lines),
    originId: idOf(context, origin),
    ...storeParams(context, facts, link, cow.lines),
  };
  const length = link.segment.extentCount * context.group.vg.extentSizeSectors;
  if (length > origin.sizeSectors) return { reason: `it is larger than its origin ${link.origin}` };
  return {
    lines: [{ start: 0, length, target: 'snapshot', params }],
    used: new Map([...cow.used, ...real.used]),
  };
}

function originTable(context: SnapshotContext, facts: LvFacts): PlainTable {
  const real = context.plainTable(facts, true);
  if (real.reason !== undefined) return real;
  const params: SnapshotOriginParams = {
    origin: realLayer(context, facts, real.lines),
    originId: idOf(context, facts),
    snapshots: idsOfOthers(context, facts),
  };
  return { lines: [{ start: 0, length: facts.sizeSectors, target: 'snapshot-origin', params }], used: real.used };
}

function mergeTable(context: SnapshotContext, facts: LvFacts, link: SnapshotLink): PlainTable {
  const store = context.relations.lvs.get(link.cow);
  if (store === undefined) return { reason: `the snapshot ${link.cow} that is merging into it does not exist` };
  const real = context.plainTable(facts, true);
  if (real.reason !== undefined) return real;
  const cow = context.plainTable(store, true);
  if (cow.reason !== undefined) return { reason: `snapshot ${link.cow} is merging into it: ${cow.reason}` };
  const params: SnapshotParams = {
    origin: realLayer(context, facts, real.lines),
    originId: idOf(context, facts),
    ...storeParams(context, store, link, cow.lines),
    snapshots: idsOfOthers(context, facts),
  };
  const length = facts.sizeSectors;
  return {
    lines: [{ start: 0, length, target: 'snapshot-merge', params }],
    used: new Map([...real.used, ...cow.used]),
  };
}

function storeParams(
  { group }: SnapshotContext,
  cow: LvFacts,
  { segment }: SnapshotLink,
  table: Table,
): Pick<SnapshotParams, 'cow' | 'cowId' | 'persistent' | 'chunkSize'> {
  return {
    cow: { name: `${group.vg.name}/${cow.name}-cow`, table },
    cowId: volumeId(group.vg, cow.lv),
    persistent: 'P',
    chunkSize: segment.chunkSizeSectors,
  };
}

function realLayer({ group }: SnapshotContext, origin: LvFacts, table: Table): Layer {
  return { name: `${group.vg.name}/${origin.name}-real`, table };
}

function idOf({ group }: SnapshotContext, { lv }: LvFacts): string {
  return volumeId(group.vg, lv);
}

function idsOfOthers(context: SnapshotContext, facts: LvFacts): readonly string[] {
  return others(facts).flatMap(({ cow }) => {
    const found = context.relations.lvs.get(cow);
    return found === undefined ? [] : [idOf(context, found)];
  });
}

/** The snapshots of an origin, without one that is merging into it. */
function others({ snapshots }: LvFacts): readonly SnapshotLink[] {
  return snapshots.filter(({ segment }) => !segment.merging);
}
