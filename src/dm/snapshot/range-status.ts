/**
 * What ranges of a snapshot hold: what the COW device says of chunks with an exception, what the origin says of the others.
 *
 * Invariants
 *  - What the origin said counts only if none of its chunks got an exception meanwhile: until then they did not change.
 *  - The work for one answer is bounded, so an answer may cover less than was asked for.
 */
import { constants } from 'node:os';
import type { BlockDevice } from '../../block/device.ts';
import { blockStatusOf, ExtentList } from '../../block/extents.ts';
import type { Snapshot } from './snapshot.ts';

/** Questions to devices for one answer. */
const MAX_QUERIES = 64;
/** Extents of one of them. */
const PART_EXTENTS = 64;

/** Adds what the range holds to `extents`, or the beginning of it; gives 0, or an errno when not a byte is known. */
export async function snapshotRangeStatus(
  snapshot: Snapshot,
  { offset, end }: { readonly offset: number; readonly end: number },
  extents: ExtentList,
): Promise<number> {
  await snapshot.loaded;
  const part = new ExtentList(PART_EXTENTS);
  let at = offset;
  for (let queries = 0; at < end && queries < MAX_QUERIES; queries++) {
    if (!snapshot.isReadable) return at > offset ? 0 : constants.errno.EIO;
    const { table, store, setup } = snapshot;
    const { chunkBytes } = store.geometry;
    const chunk = Math.floor(at / chunkBytes);
    const inChunk = at - chunk * chunkBytes;
    table.find(chunk);
    const { mapped } = table;
    const length = Math.min(end - at, table.run * chunkBytes - inChunk);
    const position = mapped ? table.newChunk * chunkBytes + inChunk : at;
    part.clear(PART_EXTENTS);
    const errno = await ask(mapped ? setup.cow : setup.originDevice, position, length, part);
    if (errno !== 0) return at > offset ? 0 : errno;
    if (!mapped) {
      table.find(chunk);
      if (table.mapped || (chunk + table.run) * chunkBytes < at + part.bytes) continue;
    }
    for (let i = 0; i < part.count; i++) if (!extents.add(part.lengths[i]!, part.flags[i]!)) return 0;
    at += part.bytes;
  }
  // What changes all the time is data.
  if (at === offset) extents.add(end - offset, 0);
  return 0;
}

/**
 * See BlockDevice.zeroRun: chunks without an exception are as the origin, which may know zeroes (of a sparse volume it has nothing else).
 * An exception never goes while the snapshot is there, so a read that has just ended without one found the origin's content.
 */
export function snapshotZeroRun(snapshot: Snapshot, offset: number, length: number): number {
  if (!snapshot.isReadable || snapshot.setup.merging) return -length;
  const { table, store, setup } = snapshot;
  const { chunkBytes } = store.geometry;
  const chunk = Math.floor(offset / chunkBytes);
  table.find(chunk);
  const run = Math.min(length, (chunk + table.run) * chunkBytes - offset);
  return table.mapped ? -run : (setup.originDevice.zeroRun?.(offset, run) ?? -run);
}

function ask(device: BlockDevice, offset: number, length: number, extents: ExtentList): Promise<number> {
  return new Promise((resolve) => {
    blockStatusOf(device, offset, length, extents, resolve);
  });
}
