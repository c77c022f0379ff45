/**
 * Which bytes of an origin or a snapshot may differ from what another snapshot of the same origin has: answered from the exceptions in
 * memory, without reading anything.
 *
 *     origin       vs snapshot S    chunks with an exception in S
 *     snapshot T   vs snapshot S    chunks with an exception in S or in T: each may have been written, or copied when the origin was
 *     merging M    vs snapshot S    chunks with an exception in S or, not merged yet, in M
 *
 * Invariants
 *  - What was written (to the origin, or to either snapshot) before the question differs only inside the answer: a write is acknowledged
 *    after its exception counts. An answer may name more: chunks that two snapshots copied at the same time, or that were written alike.
 *  - Bytes that only one of the two has differ.
 *  - A snapshot that is not known, or not valid, is no base: the question fails.
 *  - The work for one answer is bounded, so an answer may cover less than was asked for; nothing is made per chunk.
 */
import { constants } from 'node:os';
import type { ExtentList } from '../../block/extents.ts';
import type { ExceptionTable } from './exception-table.ts';
import type { Origin } from './origin.ts';
import { knownSnapshot } from './registry.ts';
import type { Snapshot } from './snapshot.ts';

const { EIO, ENOENT } = constants.errno;

/** Flag of extents: the bytes may differ. */
export const CHANGED_STATUS = 1;

/** Searches in exception tables for one answer: about two milliseconds. */
const MAX_LOOKUPS = 8192;

/** One side of a comparison, where it is not the origin as it is. */
export interface ChangedSide {
  readonly table: ExceptionTable;
  readonly chunkBytes: number;
}

/** A range, and the bytes that both sides of the comparison have. */
export interface ComparedRange {
  readonly offset: number;
  readonly end: number;
  readonly commonBytes: number;
}

/** Adds which bytes of the range may differ, as far as there is room and patience: at least the first. */
export function addChanges(sides: readonly ChangedSide[], range: ComparedRange, extents: ExtentList): void {
  const { end, commonBytes } = range;
  const limit = Math.min(end, commonBytes);
  let lookups = 0;
  for (let at = range.offset; at < end && lookups < MAX_LOOKUPS;) {
    if (at >= limit) {
      extents.add(end - at, CHANGED_STATUS);
      return;
    }
    let next = limit;
    let flags = 0;
    for (let i = 0; i < sides.length && flags === 0; i++) {
      const { table, chunkBytes } = sides[i]!;
      const chunk = Math.floor(at / chunkBytes);
      table.find(chunk);
      lookups++;
      const stop = Math.min(limit, (chunk + table.run) * chunkBytes);
      if (table.mapped) {
        next = stop;
        flags = CHANGED_STATUS;
      } else if (stop < next) next = stop;
    }
    if (!extents.add(next - at, flags)) return;
    at = next;
  }
}

/** What asks: a volume's origin, and what it has instead of the origin's content. */
export interface ChangedVolume {
  readonly origin: Origin;
  /** The snapshot itself, or the one that the origin takes in; null: the origin as it is. */
  readonly own: Snapshot | null;
}

/** Adds what of the range may differ from the snapshot with that id. Gives 0, or an errno: ENOENT, no such snapshot; EIO, it is invalid. */
export async function changesSince(
  { origin, own }: ChangedVolume,
  since: string,
  { offset, end }: { readonly offset: number; readonly end: number },
  extents: ExtentList,
): Promise<number> {
  const base = knownSnapshot(since);
  if (base === undefined) return ENOENT;
  await Promise.all([base.loaded, own?.loaded]);
  // One that merges changes with every step, and is the origin in the end.
  if (base.setup.origin !== origin || base.setup.merging) return ENOENT;
  if (!base.isReadable) return EIO;
  const sides: ChangedSide[] = own === base ? [] : [sideOf(base)];
  if (own !== null && own !== base) {
    // Of an invalid snapshot nothing is merged: the origin is as it is.
    if (!own.isReadable && (!own.setup.merging || own.isUnread)) return EIO;
    if (own.isReadable) sides.push(sideOf(own));
  }
  addChanges(sides, { offset, end, commonBytes: base.setup.sizeBytes }, extents);
  return 0;
}

function sideOf({ table, store }: Snapshot): ChangedSide {
  return { table, chunkBytes: store.geometry.chunkBytes };
}
