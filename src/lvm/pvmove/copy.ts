/**
 * Copying extents from one PV to another.
 *
 * Invariants
 *  - When it resolves, the destination holds the source's bytes, and they are on its disk.
 *  - The source is only read. Ranges must not overlap.
 *  - What is known to be a hole of the source, and is read as zeroes, becomes one of the destination, where it can have holes: a sparse image stays sparse.
 */
import type { BlockDevice } from '../../block/device.ts';
import { blockStatusOf, ExtentFlag, ExtentList } from '../../block/extents.ts';
import { flush, readBytes, writeBytes, writeZeroes } from '../../block/sync-io.ts';
import { isZero } from '../../block/zeroes.ts';

const CHUNK_BYTES = 4 * 1024 * 1024;
/** Holes count in multiples of it from a chunk's beginning, so that what is copied around them stays in large pieces. */
const HOLE_BYTES = 64 * 1024;
/** Extents of a chunk that are looked at; what is behind them is copied. */
const MAX_EXTENTS = 64;
/** Chunks under way: reading and writing overlap. */
const DEPTH = 4;

interface Place {
  readonly device: BlockDevice;
  readonly offset: number;
}

export interface CopyRequest {
  readonly from: Place;
  readonly to: Place;
  /** Bytes. */
  readonly length: number;
  /** Told of bytes copied since the last call. */
  readonly onProgress: (bytes: number) => void;
}

/** Copies and flushes. Throws DeviceError; then part of the destination is written. */
export async function copyExtents({ from, to, length, onProgress }: CopyRequest): Promise<void> {
  let next = 0;
  let failed = false;
  const worker = async (): Promise<void> => {
    while (next < length && !failed) {
      const at = next;
      const count = Math.min(CHUNK_BYTES, length - at);
      next += count;
      try {
        await copyChunk(
          { device: from.device, offset: from.offset + at },
          { device: to.device, offset: to.offset + at },
          count,
        );
      } catch (error) {
        failed = true;
        throw error;
      }
      onProgress(count);
    }
  };
  for (const result of await Promise.allSettled(Array.from({ length: DEPTH }, worker))) {
    if (result.status === 'rejected') throw result.reason;
  }
  await flush(to.device);
}

/** A hole is one where zeroes are read: file systems are known to call a hole what they were not told of yet. */
async function copyChunk(from: Place, to: Place, length: number): Promise<void> {
  const known = await holesOf(from, length);
  const bytes = await readBytes(from.device, from.offset, length);
  const holes = known.filter(({ start, end }) => isZero(bytes.subarray(start, end), end - start));
  let at = 0;
  for (const { start, end } of [...holes, { start: length, end: length }]) {
    if (start > at) await writeBytes(to.device, to.offset + at, bytes.subarray(at, start));
    if (end > start) await writeZeroes(to.device, to.offset + start, end - start);
    at = end;
  }
}

/** The holes of a chunk, from its beginning; none where nothing is known. */
async function holesOf({ device, offset }: Place, length: number): Promise<readonly { start: number; end: number }[]> {
  const extents = new ExtentList(MAX_EXTENTS);
  const errno = await new Promise<number>((resolve) => blockStatusOf(device, offset, length, extents, resolve));
  const holes: { start: number; end: number }[] = [];
  if (errno !== 0) return holes;
  let at = 0;
  for (let i = 0; i < extents.count; i++) {
    const start = Math.ceil(at / HOLE_BYTES) * HOLE_BYTES;
    at += extents.lengths[i] ?? 0;
    const end = at >= length ? length : Math.floor(at / HOLE_BYTES) * HOLE_BYTES;
    if (((extents.flags[i] ?? 0) & ExtentFlag.zero) !== 0 && end > start) holes.push({ start, end });
  }
  return holes;
}
