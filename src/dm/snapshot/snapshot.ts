/**
 * A snapshot: what its COW store holds, and the copies that are being made for it. It outlives the tables that use it, so that
 * a changed table, or the merge into the origin, goes on where the one before stopped.
 *
 *     a chunk is needed ── allocate ── copy job ── commit (with others) ── exception ── reads of before have ended ── gone
 *                             └───────────────── a pending exception; the origin's writes wait ─────────────────┘
 *
 * Invariants
 *  - An exception counts only when the chunk and its record are durable; until then the origin's chunk does not change.
 *  - Nor does it change while it is being read for the snapshot: such reads are counted against the exception.
 *  - Whatever fails makes the snapshot invalid and nothing else. The origin's writes go on when that is on the COW device: a
 *    snapshot that is valid after a power cut has all that it needs.
 *  - One owner: the target of a live table. Another may adopt the snapshot only when the first has been suspended.
 */
import assert from 'node:assert/strict';
import { constants } from 'node:os';
import type { BlockDevice } from '../../block/device.ts';
import { DeviceError, errnoText } from '../../block/errors.ts';
import { type IoRequest, RequestQueue } from '../../block/request.ts';
import { FormatError } from '../../ondisk/errors.ts';
import { MAX_CHUNK_NUMBER } from '../../ondisk/snapshot-store.ts';
import { MAX_COPY_BYTES } from './copy-buffers.ts';
import { CopyJob, type JobOwner } from './copy-job.ts';
import { ExceptionTable } from './exception-table.ts';
import type { ExceptionStore, StoreUsage } from './exception-store.ts';
import type { Origin, OriginSnapshot } from './origin.ts';
import { type Pending, PendingPool } from './pending.ts';
import { markInvalid, PersistentStore } from './persistent-store.ts';
import { TransientStore } from './transient-store.ts';

const { EIO } = constants.errno;

export type SnapshotState = 'new' | 'loading' | 'valid' | 'invalidating' | 'invalid';

/** What a table says of a snapshot. */
export interface SnapshotSetup {
  readonly origin: Origin;
  readonly originDevice: BlockDevice;
  readonly cow: BlockDevice;
  /** Bytes of the snapshot: from there on the origin is its own. */
  readonly sizeBytes: number;
  /** Where exceptions are kept: P persistent, PO persistent and the user knows about overflow, N nowhere. */
  readonly persistent: 'P' | 'PO' | 'N';
  /** Sectors, for a new store. */
  readonly chunkSectors: number;
  /** The origin takes the snapshot in: it needs no copies any more. */
  readonly merging: boolean;
  /** Called when the snapshot has been loaded, or could not be. */
  readonly onLoaded: () => void;
}

export class Snapshot implements OriginSnapshot, JobOwner {
  readonly id: string | null;
  readonly table: ExceptionTable = new ExceptionTable();
  readonly #forget: () => void;
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
  /** The origin's writes that wait until the snapshot is loaded, or known to be invalid. */
  readonly #waiting = new RequestQueue();
  #freeJobs: CopyJob | null = null;
  #jobsOut = 0;
  /** Records in the commit under way. */
  #committing = 0;
  #commitScheduled = false;
  readonly #onTurn = (): void => this.#commit();
  #state: SnapshotState = 'new';
  #store: ExceptionStore | null = null;
  #setup: SnapshotSetup | null = null;
  #owner: object | null = null;
  #quiet = true;
  /** Counts suspends and their ends. */
  #suspends = 0;
  /** The origin on hold while the owner is suspended. */
  #holding: Origin | null = null;
  #overflowed = false;
  #problem = '';
  #copiedChunks = 0;
  #loading: Promise<void> = Promise.resolve();
  #idleWaiters: (() => void)[] = [];

  constructor(id: string | null, forget: () => void) {
    this.id = id;
    this.#forget = forget;
  }

  get state(): SnapshotState {
    return this.#state;
  }

  /** Why it is invalid; '' while it is not. */
  get problem(): string {
    return this.#problem;
  }

  /** A write of its own found no room (persistent: PO): no more are taken. */
  get overflowed(): boolean {
    return this.#overflowed;
  }

  /** Chunks that were copied since it was loaded. */
  get copiedChunks(): number {
    return this.#copiedChunks;
  }

  get setup(): SnapshotSetup {
    assert(this.#setup !== null);
    return this.#setup;
  }

  /** Loaded, or known to be unusable. */
  get isKnown(): boolean {
    return this.#state !== 'new' && this.#state !== 'loading';
  }

  get isReadable(): boolean {
    return this.#state === 'valid';
  }

  get isWritable(): boolean {
    return this.#state === 'valid' && !this.#overflowed;
  }

  /** The store of a snapshot that was loaded. */
  get store(): ExceptionStore {
    assert(this.#store !== null);
    return this.#store;
  }

  /** The same, of a snapshot whose table says P or PO. */
  get persistentStore(): PersistentStore {
    assert(this.#store instanceof PersistentStore);
    return this.#store;
  }

  /** Sectors; null before the snapshot is loaded. */
  get chunkSectors(): number | null {
    return this.#store?.geometry.chunkSectors ?? null;
  }

  usage(): StoreUsage | null {
    return this.#store?.usage() ?? null;
  }

  // The owner's verbs.

  /** The owner's table is live: from now on the snapshot is as it says. */
  adopt(owner: object, setup: SnapshotSetup): void {
    assert(this.#owner === null || this.#owner === owner || this.#quiet, 'a COW store in use by two live tables');
    const before = this.#setup;
    this.#owner = owner;
    this.#quiet = false;
    this.#suspends++;
    this.#setup = setup;
    if (before !== null && (before.origin !== setup.origin || setup.merging)) before.origin.detach(this);
    if (this.#store !== null) this.#store.device = setup.cow;
    if (this.#state === 'new') {
      this.#state = 'loading';
      this.#loading = this.#load(setup);
    }
    if (!setup.merging) setup.origin.attach(this);
    this.#unhold();
  }

  /** Settles when no copy is under way and none is begun before the next `adopt`. */
  async suspend(): Promise<void> {
    const { origin, merging } = this.setup;
    const turn = ++this.#suspends;
    if (this.#holding === null && !merging) {
      this.#holding = origin;
      origin.hold();
    }
    await this.#loading;
    if (!merging) await origin.quiet();
    while (!this.#isIdle()) {
      await new Promise<void>((resolve) => {
        this.#idleWaiters.push(resolve);
      });
    }
    // Taken back meanwhile, it changes nothing.
    if (turn === this.#suspends) this.#quiet = true;
  }

  /** The owner's table has gone; whoever adopts the snapshot before the next turn has it as it is. */
  letGo(owner: object): void {
    if (this.#owner !== owner) return;
    this.#owner = null;
    setImmediate(() => {
      if (this.#owner !== null) return;
      this.#forget();
      this.setup.origin.detach(this);
      this.#unhold();
    });
  }

  // For the origin.

  firstNeeded(from: number, to: number): number {
    const { sizeBytes } = this.setup;
    if (this.#state === 'invalid' || from >= sizeBytes) return to;
    if (this.#state !== 'valid') return from;
    const { chunkBytes } = this.store.geometry;
    const end = Math.min(to, sizeBytes);
    for (let at = from; at < end;) {
      const chunk = Math.floor(at / chunkBytes);
      this.table.find(chunk);
      if (!this.table.mapped) return at;
      const next = (chunk + this.table.run) * chunkBytes;
      if (this.#draining.length > 0) {
        const last = Math.ceil(Math.min(next, end) / chunkBytes);
        for (let other = chunk; other < last; other++) {
          if (this.#pendings.has(other)) return Math.max(at, other * chunkBytes);
        }
      }
      at = next;
    }
    return to;
  }

  copyOut(from: number, to: number): RequestQueue | null {
    const { sizeBytes } = this.setup;
    if (this.#state === 'invalid' || from >= sizeBytes) return null;
    if (this.#state !== 'valid') return this.#waiting;
    const { chunkBytes } = this.store.geometry;
    const end = Math.ceil(Math.min(to, sizeBytes) / chunkBytes);
    let latest: Pending | null = null;
    let job: CopyJob | null = null;
    for (let chunk = Math.floor(from / chunkBytes); chunk < end; chunk++) {
      let pending = this.#pendings.get(chunk) ?? null;
      if (pending === null) {
        this.table.find(chunk);
        if (this.table.mapped) {
          if (this.#draining.length === 0) chunk += this.table.run - 1;
          continue;
        }
        pending = this.#allocate(chunk);
        if (pending === null) {
          if (job !== null) this.#startCopy(job);
          this.invalidate('its COW store is full');
          return this.#waiting;
        }
        job = this.#addToJob(job, pending);
      }
      if (latest === null || pending.sequence > latest.sequence) latest = pending;
    }
    if (job !== null) this.#startCopy(job);
    return latest === null ? null : latest.originWrites;
  }

  // For the snapshot's own requests. Those of a chunk without an exception find its pending exception, or begin one.

  pendingOf(chunk: number): Pending | null {
    return this.#pendings.get(chunk) ?? null;
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
    while (job.count < limit && this.store.nextChunk === newChunk + job.count) {
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
    job.fill(piece, this.setup.cow, job.first!.newChunk * this.store.geometry.chunkBytes);
  }

  /** A write of the snapshot's own finds no room. */
  overflow(): void {
    if (this.setup.persistent === 'PO') this.#overflowed = true;
    else this.invalidate('its COW store is full');
  }

  beginRead(piece: IoRequest): void {
    this.#reads.add(piece);
  }

  endRead(piece: IoRequest): void {
    this.#reads.delete(piece);
    if (this.#draining.length === 0) return;
    const { chunkBytes } = this.store.geometry;
    const drained: Pending[] = [];
    this.#draining = this.#draining.filter((pending) => {
      if (overlaps(piece, pending, chunkBytes)) pending.reads--;
      if (pending.reads > 0) return true;
      drained.push(pending);
      return false;
    });
    for (const pending of drained) this.#finish(pending);
    this.#wakeIfIdle();
  }

  /** A job has ended. */
  copied(job: CopyJob): void {
    const { error } = job;
    const lost = this.#state !== 'valid';
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
    if (error !== 0) this.invalidate(`copying a chunk failed: ${reason(error)}`);
    else if (!this.#commitScheduled) {
      // Copies that end in this turn share one commit.
      this.#commitScheduled = true;
      setImmediate(this.#onTurn);
    }
    this.#wakeIfIdle();
  }

  /** From now on the snapshot is no more; what waits for it goes on when the COW device says so too. */
  invalidate(problem: string): void {
    if (this.#state !== 'valid') return;
    this.#state = 'invalidating';
    this.#problem = problem;
    // On another turn: whoever calls may be submitting a request.
    setImmediate(() => {
      this.#failPendings();
      void this.#writeInvalid();
    });
  }

  // Inside.

  async #writeInvalid(): Promise<void> {
    await this.#markInvalid(this.store.geometry.chunkSectors);
    this.#state = 'invalid';
    this.#retryWaiting();
    this.#wakeIfIdle();
  }

  /** A device that takes no writes can't be told; the origin goes on nevertheless. */
  async #markInvalid(chunkSectors: number): Promise<void> {
    const { cow, persistent } = this.setup;
    if (persistent === 'N') return;
    try {
      await markInvalid(cow, chunkSectors);
    } catch (error) {
      if (!(error instanceof DeviceError)) throw error;
      this.#problem += `; nor could it be marked invalid: ${error.message}`;
    }
  }

  async #load(setup: SnapshotSetup): Promise<void> {
    try {
      const store = await this.#openStore(setup);
      const { chunkBytes } = store.geometry;
      if (setup.sizeBytes / chunkBytes > MAX_CHUNK_NUMBER) {
        const place = { device: setup.cow.name, offset: 0, what: 'snapshot store, chunk size' };
        throw new FormatError({
          code: 'OUT_OF_RANGE',
          ...place,
          expected: `at most ${MAX_CHUNK_NUMBER} chunks of the origin`,
          actual: Math.ceil(setup.sizeBytes / chunkBytes),
        });
      }
      store.onCommitted = (errno) => this.#committed(errno);
      this.#store = store;
      // Another device may have taken the place of the first one meanwhile.
      store.device = this.setup.cow;
    } catch (error) {
      if (!(error instanceof FormatError) && !(error instanceof DeviceError)) throw error;
      this.#problem = error.message;
      // What is damaged stays unusable. What could not be read may be whole, and the origin will not wait for it.
      if (error instanceof DeviceError) await this.#markInvalid(setup.chunkSectors);
    }
    this.#state = this.#problem === '' ? 'valid' : 'invalid';
    this.#retryWaiting();
    this.setup.onLoaded();
  }

  async #openStore({ persistent, cow, chunkSectors }: SnapshotSetup): Promise<ExceptionStore> {
    if (persistent === 'N') return new TransientStore(cow, chunkSectors);
    const store = await PersistentStore.open(cow, chunkSectors, (oldChunk, newChunk, where) => {
      if (this.table.add(oldChunk, newChunk)) return;
      const problem = 'a second exception for a chunk';
      throw new FormatError({ code: 'INCONSISTENT', ...where, what: 'snapshot exceptions', problem, actual: oldChunk });
    });
    if (!store.valid) this.#problem = `${cow.name} says that the snapshot is invalid`;
    return store;
  }

  #allocate(oldChunk: number): Pending | null {
    const newChunk = this.store.allocate();
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
      if (follows && (job.count + 1) * this.store.geometry.chunkBytes <= MAX_COPY_BYTES) {
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
    const { originDevice, cow } = this.setup;
    const { chunkBytes } = this.store.geometry;
    const from = job.first!.oldChunk * chunkBytes;
    const length = Math.min(job.count * chunkBytes, originDevice.limits.sizeBytes - from);
    this.#jobsOut++;
    job.copy(originDevice, cow, from, job.first!.newChunk * chunkBytes, length);
  }

  #commit(): void {
    this.#commitScheduled = false;
    if (this.#committing > 0 || this.#state !== 'valid') return;
    const { store } = this;
    let count = 0;
    for (let pending = this.#first; pending !== null && pending.copied && store.room > 0; pending = pending.next) {
      store.put(pending.oldChunk, pending.newChunk);
      count++;
    }
    if (count === 0) return;
    this.#committing = count;
    store.commit();
  }

  #committed(errno: number): void {
    const count = this.#committing;
    this.#committing = 0;
    if (this.#state === 'valid' && errno !== 0) {
      this.invalidate(`writing exceptions failed: ${reason(errno)}`);
    } else if (this.#state === 'valid') {
      // All of them count before anything that waited goes on.
      for (let pending = this.#first, left = count; left > 0; pending = pending!.next, left--) {
        assert(this.table.add(pending!.oldChunk, pending!.newChunk));
      }
      for (let left = count; left > 0; left--) {
        const pending = this.#first!;
        this.#first = pending.next;
        if (this.#first === null) this.#last = null;
        this.#complete(pending);
      }
      this.#commit();
    }
    this.#wakeIfIdle();
  }

  /** The exception counts. */
  #complete(pending: Pending): void {
    const { cow } = this.setup;
    for (let write = pending.writes.shift(); write !== null; write = pending.writes.shift()) cow.submit(write);
    const { chunkBytes } = this.store.geometry;
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
    const { origin } = this.setup;
    const writes = pending.originWrites;
    for (let write = writes.shift(); write !== null; write = writes.shift()) origin.retry(write);
    this.#pool.release(pending);
  }

  /** The snapshot is invalid: nothing that was being made is made. Those that wait for reads have been. */
  #failPendings(): void {
    for (let pending = this.#first; pending !== null; pending = pending.next) {
      this.#pendings.delete(pending.oldChunk);
      for (let write = pending.writes.shift(); write !== null; write = pending.writes.shift()) fail(write);
      const { originWrites } = pending;
      for (let write = originWrites.shift(); write !== null; write = originWrites.shift()) this.#waiting.push(write);
      // Otherwise its job still uses the payload.
      if (pending.copied) failWhole(pending);
    }
    this.#first = null;
    this.#last = null;
  }

  #retryWaiting(): void {
    for (let count = this.#waiting.size; count > 0; count--) this.setup.origin.retry(this.#waiting.shift()!);
  }

  #unhold(): void {
    const origin = this.#holding;
    this.#holding = null;
    origin?.release();
  }

  #isIdle(): boolean {
    return (
      this.isKnown &&
      this.#state !== 'invalidating' &&
      this.#pendings.size === 0 &&
      this.#jobsOut === 0 &&
      this.#committing === 0
    );
  }

  #wakeIfIdle(): void {
    if (this.#idleWaiters.length === 0 || !this.#isIdle()) return;
    const waiters = this.#idleWaiters;
    this.#idleWaiters = [];
    for (const wake of waiters) wake();
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

function fail(piece: IoRequest): void {
  piece.error = EIO;
  piece.owner.ioDone(piece);
}

function failWhole(pending: Pending): void {
  const { whole } = pending;
  pending.whole = null;
  if (whole !== null) fail(whole);
}
