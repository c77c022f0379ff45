/**
 * What a cache counts of one device, as plain data.
 *
 * Invariant: counts only grow while the device is open; `dirtyBytes` and `cachedBytes` are of the moment.
 */
import { BLOCK_BYTES } from './frames.ts';

export interface CacheSnapshot {
  /** Reads that were answered from memory alone, and those that were not. */
  readonly hits: number;
  readonly misses: number;
  /** Bytes read ahead that somebody asked for later, and that left without. */
  readonly readAheadUsedBytes: number;
  readonly readAheadWastedBytes: number;
  /** Blocks that had to make room. */
  readonly evictions: number;
  /** Bytes that the device does not have yet. */
  readonly dirtyBytes: number;
  /** Bytes in the cache. */
  readonly cachedBytes: number;
  /** Requests, and bytes, that write-back wrote; requests that failed. */
  readonly writeBackBatches: number;
  readonly writeBackBytes: number;
  readonly writeBackErrors: number;
}

export class CacheCounters {
  hits = 0;
  misses = 0;
  aheadUsed = 0;
  aheadWasted = 0;
  evictions = 0;
  batches = 0;
  batchBytes = 0;
  batchErrors = 0;

  /** As plain data; `dirty` and `cached` are blocks. */
  snapshot(dirty: number, cached: number): CacheSnapshot {
    return {
      hits: this.hits,
      misses: this.misses,
      readAheadUsedBytes: this.aheadUsed * BLOCK_BYTES,
      readAheadWastedBytes: this.aheadWasted * BLOCK_BYTES,
      evictions: this.evictions,
      dirtyBytes: dirty * BLOCK_BYTES,
      cachedBytes: cached * BLOCK_BYTES,
      writeBackBatches: this.batches,
      writeBackBytes: this.batchBytes,
      writeBackErrors: this.batchErrors,
    };
  }
}

/** Two workers' counts of one device. */
export function addCache(a: CacheSnapshot | null, b: CacheSnapshot | null): CacheSnapshot | null {
  if (a === null || b === null) return a ?? b;
  return {
    hits: a.hits + b.hits,
    misses: a.misses + b.misses,
    readAheadUsedBytes: a.readAheadUsedBytes + b.readAheadUsedBytes,
    readAheadWastedBytes: a.readAheadWastedBytes + b.readAheadWastedBytes,
    evictions: a.evictions + b.evictions,
    dirtyBytes: a.dirtyBytes + b.dirtyBytes,
    cachedBytes: a.cachedBytes + b.cachedBytes,
    writeBackBatches: a.writeBackBatches + b.writeBackBatches,
    writeBackBytes: a.writeBackBytes + b.writeBackBytes,
    writeBackErrors: a.writeBackErrors + b.writeBackErrors,
  };
}
