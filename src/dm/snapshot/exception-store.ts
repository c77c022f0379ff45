/**
 * Where a snapshot keeps its exceptions: what persistent and transient stores offer to it.
 *
 *     allocate ── the chunk is copied ── put … put ── commit ── onCommitted ── the exceptions count
 *
 * Invariants
 *  - `put` is called in order of `allocate`, at most `room` times before `commit`; one commit at a time.
 *  - When `onCommitted(0)` comes, what was written to the COW device before `commit` and the records are as durable as the store
 *    can make them.
 */
import type { BlockDevice } from '../../block/device.ts';
import type { StoreGeometry } from '../../ondisk/snapshot-store.ts';

/** Sectors, as the target's status prints them. */
export interface StoreUsage {
  readonly used: number;
  readonly total: number;
  readonly metadata: number;
}

export interface ExceptionStore {
  readonly geometry: StoreGeometry;
  /** The COW device; replaced only while the store is idle. */
  device: BlockDevice;
  /** Told of the end of a commit. */
  onCommitted: (errno: number) => void;
  /** The chunk that `allocate` would give, or -1 when the device is full. */
  readonly nextChunk: number;
  /** Records that the next commit can take. */
  readonly room: number;
  allocate(): number;
  put(oldChunk: number, newChunk: number): void;
  commit(): void;
  usage(): StoreUsage;
}
