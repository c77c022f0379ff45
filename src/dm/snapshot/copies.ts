/**
 * The exceptions in the making of a snapshot: which chunks are being copied, or filled by a write of whole chunks, the commits that
 * make them count, and the reads of the origin that have to end before the origin's chunk may change.
 *
 *     a chunk is needed ── allocate ── copy job ── commit (with others) ── exception ── reads of before have ended ── gone
 *                             └───────────────── a pending exception; the origin's writes wait ─────────────────┘
 *
 * Invariants
 *  - An exception counts only when the chunk and its record are durable; until then the origin's chunk does not change.
 *  - Nor does it change while it is being read for the snapshot: such reads are counted against the exception.
 *  - Records are committed in the order in which the chunks were allocated.
 */
import assert from 'node:assert/strict';
import { constants } from 'node:os';
import type { BlockDevice } from '../../block/device.ts';
import { errnoText } from '../../block/errors.ts';
import type { IoRequest, RequestQueue } from '../../block/request.ts';
import { MAX_COPY_BYTES } from './copy-buffers.ts';
import { CopyJob, type JobOwner } from './copy-job.ts';
import type { ExceptionStore } from './exception-store.ts';
import type { ExceptionTable } from './exception-table.ts';
import type { Origin } from './origin.ts';
import { type Pending, PendingPool } from './pending.ts';

const { EIO } = constants.errno;

/** The snapshot that they are made for. */
export interface CopiesOwner {
  readonly table: ExceptionTable;
  readonly store: ExceptionStore;
  readonly setup: { readonly origin: Origin; readonly originDevice: BlockDevice; readonly cow: BlockDevice };
  /** Valid: what is made counts. */
  readonly isReadable: boolean;
  invalidate(problem: string): void;
  /** Something has ended that `isIdle` depends on. */
  wakeIfIdle(): void;
}

export class Copies implements JobOwner {
  readonly #owner: CopiesOwner;
  readonly #pool = new PendingPool();
  /** By old chunk: those being made, and those that wait for reads. */
  readonly #pendings = new Map<number, Pending>();
  /** Those being made, in order. */
  #first: Pending | null = null;
  #last: Pending | null = null;
  /** Those that wait for reads. */
  #draining: Pending[] = [];
  /** Reads of the origin for the snapshot. */
  readonly #reads = new Set<IoRequest>();
  #freeJobs: CopyJob | null = null;
  #jobsOut = 0;
  /** Records in the commit under way. */
  #committing = 0;
  #commitScheduled = false;
  #copiedChunks = 0;
  readonly #onTurn = (): void => this.#commit();

  constructor(owner: CopiesOwner) {
    this.#owner = owner;
  }

  /** Chunks that were copied so far. */
  get copiedChunks(): number {
    return this.#copiedChunks;
  }

  /** Nothing is being made, and nothing waits for reads. */
  get isIdle(): boolean {
    return this.#pendings.size === 0 && this.#jobsOut === 0 && this.#committing === 0;
  }

  /** Whether an exception that counts already may still wait for reads of the origin. */
  get isDraining(): boolean {
    return this.#draining.length > 0;
  }

  // Those of a chunk without an exception find its pending exception, or begin one.

  pendingOf(chunk: number): Pending | null {
    return this.#pendings.get(chunk) ?? null;
  }

  /**
   * Begins to copy those chunks from `chunk` to `end` that have no exception. Gives the queue of the last that is not made yet, null
   * when none is; `full`: there is no room.
   */
  copyOut(from: number, end: number): RequestQueue | null | 'full' {
    const { table } = this.#owner;
    let latest: Pending | null = null;
    let job: CopyJob | null = null;
    for (let chunk = from; chunk < end; chunk++) {
      let pending = this.#pendings.get(chunk) ?? null;
      if (pending === null) {
        table.find(chunk);
        if (table.mapped) {
          if (this.#draining.length === 0) chunk += table.run - 1;
          continue;
        }
        pending = this.#allocate(chunk);
        if (pending === null) {
          if (job !== null) this.#startCopy(job);
          return 'full';
        }
        job = this.#addToJob(job, pending);
      }
      if (latest === null || pending.sequence > latest.sequence) latest = pending;
    }
    if (job !== null) this.#startCopy(job);
    return latest === null ? null : latest.originWrites;
  }

  /** Begins to copy a chunk; null when there is no room. */
  beginCopy(chunk: number): Pending | null {
    const pending = this.#allocate(chunk);
    if (pending !== null) this.#startCopy(this.#addToJob(null, pending));
    return pending;
  }

  /**
   * Gives places to whole chunks that will be written, from `chunk` on, as long as they follow each other on the COW device and
   * none is being made already; `fill` starts the job. Null when there is no room for the first.
   */
  beginFill(chunk: number, limit: number): CopyJob | null {
    const pending = this.#allocate(chunk);
    if (pending === null) return null;
    const job = this.#addToJob(null, pending);
    const { newChunk } = pending;
    while (job.count < limit && this.#owner.store.nextChunk === newChunk + job.count) {
      if (this.#pendings.has(chunk + job.count) || this.#allocate(chunk + job.count) === null) break;
      job.count++;
    }
    return job;
  }

  /** Starts a job of `beginFill`; the piece ends when its last exception counts. */
  fill(job: CopyJob, piece: IoRequest): void {
    let last = job.first!;
    for (let i = 1; i < job.count; i++) last = last.next!;
    last.whole = piece;
    this.#jobsOut++;
    job.fill(piece, this.#owner.setup.cow, job.first!.newChunk * this.#owner.store.geometry.chunkBytes);
  }

  beginRead(piece: IoRequest): void {
    this.#reads.add(piece);
  }

  endRead(piece: IoRequest): void {
    this.#reads.delete(piece);
    if (this.#draining.length === 0) return;
    const { chunkBytes } = this.#owner.store.geometry;
    const drained: Pending[] = [];
    this.#draining = this.#draining.filter((pending) => {
      if (overlaps(piece, pending, chunkBytes)) pending.reads--;
      if (pending.reads > 0) return true;
      drained.push(pending);
      return false;
    });
    for (const pending of drained) this.#finish(pending);
    this.#owner.wakeIfIdle();
  }

  /** A job has ended. */
  copied(job: CopyJob): void {
    const { error } = job;
    const lost = !this.#owner.isReadable;
    for (let pending = job.first, left = job.count; left > 0; pending = pending!.next, left--) {
      pending!.copied = true;
      if (lost) failWhole(pending!);
    }
    if (error === 0) this.#copiedChunks += job.count;
    this.#jobsOut--;
    job.first = null;
    job.count = 0;
    job.nextFree = this.#freeJobs;
    this.#freeJobs = job;
    if (error !== 0) this.#owner.invalidate(`copying a chunk failed: ${reason(error)}`);
    else if (!this.#commitScheduled) {
      // Copies that end in this turn share one commit.
      this.#commitScheduled = true;
      setImmediate(this.#onTurn);
    }
    this.#owner.wakeIfIdle();
  }

  /** The snapshot is invalid: nothing that was being made is made; writes of the origin that waited go to `waiting`. */
  fail(waiting: RequestQueue): void {
    for (let pending = this.#first; pending !== null; pending = pending.next) {
      this.#pendings.delete(pending.oldChunk);
      for (let write = pending.writes.shift(); write !== null; write = pending.writes.shift()) failPiece(write);
      const { originWrites } = pending;
      for (let write = originWrites.shift(); write !== null; write = originWrites.shift()) waiting.push(write);
      // Otherwise its job still uses the payload.
      if (pending.copied) failWhole(pending);
    }
    this.#first = null;
    this.#last = null;
  }

  #allocate(oldChunk: number): Pending | null {
    const newChunk = this.#owner.store.allocate();
    if (newChunk < 0) return null;
    const pending = this.#pool.acquire(oldChunk, newChunk);
    this.#pendings.set(oldChunk, pending);
    if (this.#last === null) this.#first = pending;
    else this.#last.next = pending;
    this.#last = pending;
    return pending;
  }

  /** The job with the pending at its end; starts it and takes a new one when the pending does not follow, or it is long enough. */
  #addToJob(job: CopyJob | null, pending: Pending): CopyJob {
    if (job !== null) {
      const first = job.first!;
      const follows =
        first.oldChunk + job.count === pending.oldChunk && first.newChunk + job.count === pending.newChunk;
      if (follows && (job.count + 1) * this.#owner.store.geometry.chunkBytes <= MAX_COPY_BYTES) {
        job.count++;
        return job;
      }
      this.#startCopy(job);
    }
    const next = this.#freeJobs ?? new CopyJob(this);
    this.#freeJobs = next.nextFree;
    next.nextFree = null;
    next.first = pending;
    next.count = 1;
    return next;
  }

  #startCopy(job: CopyJob): void {
    const { originDevice, cow } = this.#owner.setup;
    const { chunkBytes } = this.#owner.store.geometry;
    const from = job.first!.oldChunk * chunkBytes;
    const length = Math.min(job.count * chunkBytes, originDevice.limits.sizeBytes - from);
    this.#jobsOut++;
    job.copy(originDevice, cow, from, job.first!.newChunk * chunkBytes, length);
  }

  #commit(): void {
    this.#commitScheduled = false;
    if (this.#committing > 0 || !this.#owner.isReadable) return;
    const { store } = this.#owner;
    let count = 0;
    for (let pending = this.#first; pending !== null && pending.copied && store.room > 0; pending = pending.next) {
      store.put(pending.oldChunk, pending.newChunk);
      count++;
    }
    if (count === 0) return;
    this.#committing = count;
    store.commit();
  }

  committed(errno: number): void {
    const count = this.#committing;
    this.#committing = 0;
    if (this.#owner.isReadable && errno !== 0) {
      this.#owner.invalidate(`writing exceptions failed: ${reason(errno)}`);
    } else if (this.#owner.isReadable) {
      // All of them count before anything that waited goes on.
      for (let pending = this.#first, left = count; left > 0; pending = pending!.next, left--) {
        assert(this.#owner.table.add(pending!.oldChunk, pending!.newChunk));
      }
      for (let left = count; left > 0; left--) {
        const pending = this.#first!;
        this.#first = pending.next;
        if (this.#first === null) this.#last = null;
        this.#complete(pending);
      }
      this.#commit();
    }
    this.#owner.wakeIfIdle();
  }

  /** The exception counts. */
  #complete(pending: Pending): void {
    const { cow } = this.#owner.setup;
    for (let write = pending.writes.shift(); write !== null; write = pending.writes.shift()) cow.submit(write);
    const { chunkBytes } = this.#owner.store.geometry;
    for (const read of this.#reads) if (overlaps(read, pending, chunkBytes)) pending.reads++;
    const { whole } = pending;
    pending.whole = null;
    if (pending.reads > 0) this.#draining.push(pending);
    else this.#finish(pending);
    if (whole === null) return;
    whole.error = 0;
    whole.owner.ioDone(whole);
  }

  #finish(pending: Pending): void {
    this.#pendings.delete(pending.oldChunk);
    const { origin } = this.#owner.setup;
    const writes = pending.originWrites;
    for (let write = writes.shift(); write !== null; write = writes.shift()) origin.retry(write);
    this.#pool.release(pending);
  }
}

function overlaps(read: IoRequest, pending: Pending, chunkBytes: number): boolean {
  const start = pending.oldChunk * chunkBytes;
  return read.offset < start + chunkBytes && start < read.offset + read.length;
}

/** A negative errno is a device's that gives its requests back because it is being suspended; here nobody could do them again. */
function reason(errno: number): string {
  return errno > 0 ? errnoText(errno) : 'its device is being suspended';
}

function failPiece(piece: IoRequest): void {
  piece.error = EIO;
  piece.owner.ioDone(piece);
}

function failWhole(pending: Pending): void {
  const { whole } = pending;
  pending.whole = null;
  if (whole !== null) failPiece(whole);
}
