/**
 * Copying extents from one PV to another.
 *
 * Invariants
 *  - When it resolves, the destination holds the source's bytes, and they are on its disk.
 *  - The source is only read. Ranges must not overlap.
 */
import type { BlockDevice } from '../../block/device.ts';
import { flush, readBytes, writeBytes } from '../../block/sync-io.ts';

const CHUNK_BYTES = 4 * 1024 * 1024;
/** Chunks under way: reading and writing overlap. */
const DEPTH = 4;

export interface CopyRequest {
  readonly from: { readonly device: BlockDevice; readonly offset: number };
  readonly to: { readonly device: BlockDevice; readonly offset: number };
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
        await writeBytes(to.device, to.offset + at, await readBytes(from.device, from.offset + at, count));
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
