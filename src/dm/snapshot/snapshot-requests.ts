/**
 * The requests of a snapshot's own volume.
 *
 *     chunk with an exception      the COW device, in place
 *     without one, read            the origin; counted, so that the origin's chunk stays as it is until the read has ended
 *     without one, written         a pending exception: whole chunks are written to their new place, others copied first; the
 *                                  request ends when the exception counts
 *
 * Invariants
 *  - A piece lies in chunks that are treated alike; pieces of one chunk keep their order.
 *  - Discards do nothing: as the kernel's targets, snapshots offer none.
 */
import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { type IoRequest, Op } from '../../block/request.ts';
import type { Pending } from './pending.ts';
import { Pieces } from './pieces.ts';
import type { Snapshot } from './snapshot.ts';

const { EIO } = constants.errno;

/** Bytes of new whole chunks in one piece. */
const MAX_FILL_BYTES = 1 << 20;
/** `tag` of pieces: a read of the origin is counted. */
const PLAIN = 0;
const ORIGIN_READ = 1;

export class SnapshotRequests extends Pieces {
  readonly #snapshot: Snapshot;

  constructor(snapshot: Snapshot) {
    super();
    this.#snapshot = snapshot;
  }

  protected override ready(): boolean {
    return this.#snapshot.isKnown;
  }

  protected override flush(gather: IoRequest): void {
    this.#snapshot.setup.cow.submit(this.piece(gather, gather.parent!, 0, 0, PLAIN));
  }

  protected override send(gather: IoRequest, request: IoRequest): number {
    const snapshot = this.#snapshot;
    if (request.op === Op.read ? !snapshot.isReadable : !snapshot.isWritable) {
      gather.error = EIO;
      return 0;
    }
    const { table, setup } = snapshot;
    const { chunkBytes } = snapshot.store.geometry;
    const chunk = Math.floor(gather.offset / chunkBytes);
    const inChunk = gather.offset - chunk * chunkBytes;
    table.find(chunk);
    const length = Math.min(gather.length, table.run * chunkBytes - inChunk);
    if (table.mapped) {
      const offset = table.newChunk * chunkBytes + inChunk;
      setup.cow.submit(this.piece(gather, request, offset, length, PLAIN));
      return length;
    }
    if (request.op !== Op.read) return this.#sendNew(gather, request, chunk, inChunk, table.run);
    const piece = this.piece(gather, request, gather.offset, length, ORIGIN_READ);
    snapshot.copies.beginRead(piece);
    setup.originDevice.submit(piece);
    return length;
  }

  protected override returned(piece: IoRequest): void {
    if (piece.tag === ORIGIN_READ) this.#snapshot.copies.endRead(piece);
  }

  /** Sends a write of the first of `run` chunks without exceptions, or of several if it covers them. */
  #sendNew(gather: IoRequest, request: IoRequest, chunk: number, inChunk: number, run: number): number {
    const snapshot = this.#snapshot;
    const { chunkBytes } = snapshot.store.geometry;
    const pending = snapshot.copies.pendingOf(chunk);
    if (pending !== null) return this.#queue(gather, request, pending, inChunk);
    const whole = inChunk === 0 ? Math.min(run, this.#wholeChunks(gather)) : 0;
    if (whole === 0) {
      const begun = snapshot.copies.beginCopy(chunk);
      return begun === null ? this.#noRoom(gather) : this.#queue(gather, request, begun, inChunk);
    }
    const job = snapshot.copies.beginFill(chunk, Math.max(1, Math.min(whole, MAX_FILL_BYTES / chunkBytes)));
    if (job === null) return this.#noRoom(gather);
    const length = Math.min(job.count * chunkBytes, gather.length);
    snapshot.copies.fill(job, this.piece(gather, request, gather.offset, length, PLAIN));
    return length;
  }

  /** Chunks that the rest of a request covers: the origin's last one may be short. */
  #wholeChunks(gather: IoRequest): number {
    const { chunkBytes } = this.#snapshot.store.geometry;
    const atEnd = gather.offset + gather.length >= this.#snapshot.setup.originDevice.limits.sizeBytes;
    return atEnd ? Math.ceil(gather.length / chunkBytes) : Math.floor(gather.length / chunkBytes);
  }

  /** Lets the part in a pending's chunk wait for its exception. */
  #queue(gather: IoRequest, request: IoRequest, pending: Pending, inChunk: number): number {
    const { chunkBytes } = this.#snapshot.store.geometry;
    const length = Math.min(gather.length, chunkBytes - inChunk);
    assert(length > 0);
    pending.writes.push(this.piece(gather, request, pending.newChunk * chunkBytes + inChunk, length, PLAIN));
    return length;
  }

  #noRoom(gather: IoRequest): number {
    this.#snapshot.overflow();
    gather.error = EIO;
    return 0;
  }
}
