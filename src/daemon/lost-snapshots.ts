/**
 * Origins whose tables name snapshots that can't be loaded: nothing would be written to such an origin before the snapshot is there, and
 * its clients would wait for ever.
 *
 * Invariant: pure. Who holds back, or takes no writes, is decided here; whoever loads tables does it.
 */
import type { SnapshotParams } from '../dm/snapshot/params.ts';
import type { Table } from '../dm/table.ts';
import type { VolumeId } from '../lvm/live.ts';
import { keepsAll } from './kept-extents.ts';
import type { VolumeSpec } from './worker/host.ts';

/** Snapshots that have to be there before a volume with this table is written. */
export function snapshotsNamed(table: Table): readonly VolumeId[] {
  const [line] = table;
  if (line?.target !== 'snapshot-origin' && line?.target !== 'snapshot-merge') return [];
  return (line.params as Pick<SnapshotParams, 'snapshots'>).snapshots ?? [];
}

/** Why a volume with this table can't be written when these volumes are lost, by id; null: it can. */
export function lossOf(
  { table, readOnly }: { readonly table: Table; readonly readOnly: boolean },
  lost: ReadonlyMap<VolumeId, string>,
): string | null {
  const id = readOnly ? undefined : snapshotsNamed(table).find((each) => lost.has(each));
  return id === undefined ? null : (lost.get(id) ?? null);
}

/**
 * Whether a volume that was to have `after` may go on with `before` when these volumes are lost: all of it is still its own, nothing is
 * written that should not be, and its snapshots are those that it knows.
 */
export function mayStay(before: VolumeSpec, after: VolumeSpec, lost: Pick<ReadonlySet<VolumeId>, 'has'>): boolean {
  if (!keepsAll(before, after)) return false;
  if (before.readOnly || after.readOnly) return before.readOnly;
  const known = snapshotsNamed(before.table);
  const left = snapshotsNamed(after.table).filter((id) => !lost.has(id));
  return known.length === left.length && known.every((id) => left.includes(id));
}
