/**
 * An exception in the making: a chunk that has its place on the COW device and is being copied there, or waits for its record,
 * or for reads of the origin that began before.
 *
 * Invariants
 *  - Pendings of a snapshot stand in order of their new chunks, which is the order of their records.
 *  - What waits here is taken out before the pending is used again.
 */
import { type IoRequest, RequestQueue } from '../../block/request.ts';

export class Pending {
  oldChunk = 0;
  newChunk = 0;
  /** Later ones have larger numbers. */
  sequence = 0;
  /** The chunk is on the COW device, not yet durable. */
  copied = false;
  /** Reads of the origin's chunk for the snapshot that were begun before the exception counted. */
  reads = 0;
  /** The origin's writes that wait, to be tried again. */
  readonly originWrites: RequestQueue = new RequestQueue();
  /** Pieces for the COW chunk, to be submitted when the exception counts. */
  readonly writes: RequestQueue = new RequestQueue();
  /** A piece that wrote whole chunks, this the last of them: it ends when the exception counts. */
  whole: IoRequest | null = null;
  /** In order of sequence; also the link of the free list. */
  next: Pending | null = null;
}

export class PendingPool {
  #free: Pending | null = null;
  #sequence = 0;

  acquire(oldChunk: number, newChunk: number): Pending {
    const pending = this.#free ?? new Pending();
    this.#free = pending.next;
    pending.oldChunk = oldChunk;
    pending.newChunk = newChunk;
    pending.sequence = ++this.#sequence;
    pending.copied = false;
    pending.reads = 0;
    pending.next = null;
    return pending;
  }

  release(pending: Pending): void {
    pending.next = this.#free;
    this.#free = pending;
  }
}
