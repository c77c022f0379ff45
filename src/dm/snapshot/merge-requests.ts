/**
 * The requests of an origin that takes a snapshot in: to its user it has the snapshot's content from the first moment.
 *
 *     chunk with an exception      the COW device, in place; a write waits while the chunk is being merged
 *     without one                  the origin; a write after the other snapshots have copied what they need
 *
 * Invariants
 *  - Of a snapshot that is invalid nothing is taken: everything goes to the origin. Of one that could not be read nobody knows what
 *    is the origin's already: everything fails.
 *  - Chunks whose records may be gone or not (the device failed while they were cleared) take no writes.
 *  - A piece lies in chunks that are treated alike.
 */
import { constants } from 'node:os';
import { type IoRequest, Op, RequestQueue } from '../../block/request.ts';
import { Merge, type MergedRequests } from './merge.ts';
import type { ChunkRun } from './persistent-store.ts';
import { Pieces } from './pieces.ts';
import type { Snapshot } from './snapshot.ts';

const { EIO } = constants.errno;

const PLAIN = 0;
const COW_WRITE = 1;

export class MergeRequests extends Pieces implements MergedRequests {
  readonly merge: Merge;
  readonly #snapshot: Snapshot;
  /** Writes to the COW device. */
  readonly #writes = new Set<IoRequest>();
  #writeWaiters: (() => void)[] = [];
  /** Writes of chunks that are being merged, as pieces for the origin. */
  readonly #queued = new RequestQueue();
  /** Answers of `#findMerging`. */
  #merging = false;
  #run = 0;

  constructor(snapshot: Snapshot) {
    super();
    this.#snapshot = snapshot;
    this.merge = new Merge(snapshot, this);
  }

  async drained(runs: readonly ChunkRun[]): Promise<void> {
    while (this.#anyWriteOf(runs)) {
      await new Promise<void>((resolve) => {
        this.#writeWaiters.push(resolve);
      });
    }
  }

  stepEnded(errno: number): void {
    const { origin } = this.#snapshot.setup;
    for (let piece = this.#queued.shift(); piece !== null; piece = this.#queued.shift()) {
      if (errno === 0) {
        origin.write(piece);
        continue;
      }
      piece.error = errno;
      this.ioDone(piece);
    }
  }

  protected override ready(): boolean {
    return this.#snapshot.isKnown;
  }

  protected override flush(gather: IoRequest): void {
    const { cow, originDevice } = this.#snapshot.setup;
    originDevice.submit(this.piece(gather, gather.parent!, 0, 0, PLAIN));
    cow.submit(this.piece(gather, gather.parent!, 0, 0, PLAIN));
  }

  protected override send(gather: IoRequest, request: IoRequest): number {
    const snapshot = this.#snapshot;
    const { origin, originDevice, cow } = snapshot.setup;
    const { offset } = gather;
    let { length } = gather;
    if (snapshot.isUnread) {
      gather.error = EIO;
      return 0;
    }
    if (snapshot.isReadable) {
      const { table } = snapshot;
      const { chunkBytes } = snapshot.store.geometry;
      const chunk = Math.floor(offset / chunkBytes);
      const inChunk = offset - chunk * chunkBytes;
      table.find(chunk);
      const { mapped, newChunk } = table;
      this.#findMerging(chunk, table.run);
      length = Math.min(length, this.#run * chunkBytes - inChunk);
      if (mapped && request.op !== Op.read && this.#merging) {
        if (this.merge.failure !== null) {
          gather.error = EIO;
          return 0;
        }
        this.#queued.push(this.piece(gather, request, offset, length, PLAIN));
        return length;
      }
      if (mapped) {
        const tag = request.op === Op.read ? PLAIN : COW_WRITE;
        const piece = this.piece(gather, request, newChunk * chunkBytes + inChunk, length, tag);
        if (tag === COW_WRITE) this.#writes.add(piece);
        cow.submit(piece);
        return length;
      }
    }
    const piece = this.piece(gather, request, offset, length, PLAIN);
    if (request.op === Op.read) originDevice.submit(piece);
    else origin.write(piece);
    return length;
  }

  protected override returned(piece: IoRequest): void {
    if (piece.tag !== COW_WRITE) return;
    this.#writes.delete(piece);
    const waiters = this.#writeWaiters;
    this.#writeWaiters = [];
    for (const wake of waiters) wake();
  }

  /** Whether the chunk is being merged, and for how many of the next `run` chunks the same holds. */
  #findMerging(chunk: number, run: number): void {
    this.#merging = false;
    this.#run = run;
    for (const { oldChunk, count } of this.merge.runs) {
      if (chunk >= oldChunk && chunk < oldChunk + count) {
        this.#merging = true;
        this.#run = Math.min(run, oldChunk + count - chunk);
        return;
      }
      if (oldChunk > chunk) this.#run = Math.min(this.#run, oldChunk - chunk);
    }
  }

  #anyWriteOf(runs: readonly ChunkRun[]): boolean {
    const { chunkBytes } = this.#snapshot.store.geometry;
    for (const { offset, length } of this.#writes) {
      for (const { newChunk, count } of runs) {
        if (offset < (newChunk + count) * chunkBytes && newChunk * chunkBytes < offset + length) return true;
      }
    }
    return false;
  }
}
