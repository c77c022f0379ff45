/**
 * A snapshot: what its COW store holds, and the copies that are being made for it. It outlives the tables that use it, so that
 * a changed table, or the merge into the origin, goes on where the one before stopped.
 *
 *     new ── loading ── valid ── invalidating ── invalid
 *                └── what can't be loaded ─────────┘
 *
 * Invariants
 *  - Exceptions are made by copies.ts; all that count are in the table.
 *  - Whatever fails makes the snapshot invalid and nothing else. The origin's writes go on when that is on the COW device: a
 *    snapshot that is valid after a power cut has all that it needs.
 *  - One owner: the target of a live table. Another may adopt the snapshot only when the first has been suspended.
 */
import assert from 'node:assert/strict';
import type { BlockDevice } from '../../block/device.ts';
import { DeviceError } from '../../block/errors.ts';
import { RequestQueue } from '../../block/request.ts';
import { FormatError } from '../../ondisk/errors.ts';
import { MAX_CHUNK_NUMBER } from '../../ondisk/snapshot-store.ts';
import { Copies, type CopiesOwner } from './copies.ts';
import { ExceptionTable } from './exception-table.ts';
import type { ExceptionStore, StoreUsage } from './exception-store.ts';
import type { Origin, OriginSnapshot } from './origin.ts';
import { InvalidMark } from './invalid-mark.ts';
import { type ChunkRun, PersistentStore } from './persistent-store.ts';
import { TransientStore } from './transient-store.ts';

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
  /** A store that was made for the table, and has nothing in it; null: the COW device is to be read. */
  readonly made: PersistentStore | null;
  /** Called when the snapshot has been loaded, or could not be. */
  readonly onLoaded: () => void;
}

export class Snapshot implements OriginSnapshot, CopiesOwner {
  readonly id: string | null;
  readonly table: ExceptionTable = new ExceptionTable();
  readonly #forget: () => void;
  /** Its exceptions in the making. */
  readonly copies: Copies = new Copies(this);
  /** The origin's writes that wait until the snapshot is loaded, or known to be invalid. */
  readonly #waiting = new RequestQueue();
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
  /** It has every chunk, and no read of the origin for it is left: it needs nothing any more as long as its setup is the same. */
  #complete = false;
  /** Exceptions of chunks that the snapshot does not have: nobody makes such, but a store may hold them. */
  #outside = 0;
  #problem = '';
  /** Once it is invalid, its COW device is to say so. */
  readonly #mark = new InvalidMark(() => ({
    device: this.setup.cow,
    chunkSectors: this.chunkSectors ?? this.setup.chunkSectors,
  }));
  /** It could not be loaded, and merges: see `isUnread`. */
  #unread = false;
  /** Of a merge: chunks that are the origin's or not, as nobody knows whether their records were taken off the device. */
  doubtful: readonly ChunkRun[] = [];
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
    const { failure } = this.#mark;
    return failure === null ? this.#problem : `${this.#problem}; nor could it be marked invalid: ${failure}`;
  }

  /** A write of its own found no room (persistent: PO): no more are taken. */
  get overflowed(): boolean {
    return this.#overflowed;
  }

  get setup(): SnapshotSetup {
    assert(this.#setup !== null);
    return this.#setup;
  }

  /** Loaded, or known to be unusable. */
  get isKnown(): boolean {
    return this.#state !== 'new' && this.#state !== 'loading';
  }

  /** Settles when it is known. */
  get loaded(): Promise<void> {
    return this.#loading;
  }

  get isReadable(): boolean {
    return this.#state === 'valid';
  }

  get isWritable(): boolean {
    return this.#state === 'valid' && !this.#overflowed;
  }

  /** It merges, and what is left to be merged could not be read: nobody knows what its origin holds. Adopted again, it is loaded again. */
  get isUnread(): boolean {
    return this.#unread;
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
    this.#complete = false;
    if (before !== null && (before.origin !== setup.origin || setup.merging)) before.origin.detach(this);
    if (this.#store !== null) this.#store.device = setup.cow;
    if (this.#unread) this.#forgetLoad();
    if (this.#state === 'new' && setup.made !== null && fits(setup.made, setup)) {
      this.#take(setup.made);
      this.#state = 'valid';
      setup.onLoaded();
    } else if (this.#state === 'new') {
      this.#state = 'loading';
      this.#loading = this.#load(setup);
    }
    if (!setup.merging) setup.origin.attach(this);
    this.#mark.goOn();
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
    await this.#mark.stop();
    // Taken back meanwhile, it changes nothing.
    if (turn === this.#suspends) this.#quiet = true;
    else this.#mark.goOn();
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
    if (this.#complete) return to;
    const { sizeBytes } = this.setup;
    if (this.#state === 'invalid' || from >= sizeBytes) return to;
    if (this.#state !== 'valid') return from;
    const { chunkBytes } = this.store.geometry;
    if ((this.table.size - this.#outside) * chunkBytes >= sizeBytes && !this.copies.isDraining) {
      this.#complete = true;
      return to;
    }
    const end = Math.min(to, sizeBytes);
    for (let at = from; at < end;) {
      const chunk = Math.floor(at / chunkBytes);
      this.table.find(chunk);
      if (!this.table.mapped) return at;
      const next = (chunk + this.table.run) * chunkBytes;
      if (this.copies.isDraining) {
        const last = Math.ceil(Math.min(next, end) / chunkBytes);
        for (let other = chunk; other < last; other++) {
          if (this.copies.pendingOf(other) !== null) return Math.max(at, other * chunkBytes);
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
    const queue = this.copies.copyOut(Math.floor(from / chunkBytes), end);
    if (queue !== 'full') return queue;
    this.invalidate('its COW store is full');
    return this.#waiting;
  }

  /** A write of the snapshot's own finds no room. */
  overflow(): void {
    if (this.setup.persistent === 'PO') this.#overflowed = true;
    else this.invalidate('its COW store is full');
  }

  /** From now on the snapshot is no more; what waits for it goes on when the COW device says so too. */
  invalidate(problem: string): void {
    if (this.#state !== 'valid') return;
    this.#state = 'invalidating';
    this.#problem = problem;
    // On another turn: whoever calls may be submitting a request.
    setImmediate(() => {
      this.copies.fail(this.#waiting);
      void this.#writeInvalid();
    });
  }

  // Inside.

  async #writeInvalid(): Promise<void> {
    await this.#markInvalid();
    this.#state = 'invalid';
    this.#retryWaiting();
    this.wakeIfIdle();
  }

  /** A device that takes no writes can't be told yet; the origin goes on nevertheless. */
  async #markInvalid(): Promise<void> {
    if (this.setup.persistent !== 'N') await this.#mark.mark();
  }

  async #load(setup: SnapshotSetup): Promise<void> {
    try {
      const store = await this.#openStore(setup);
      if (!fits(store, setup)) {
        const place = { device: setup.cow.name, offset: 0, what: 'snapshot store, chunk size' };
        throw new FormatError({
          code: 'OUT_OF_RANGE',
          ...place,
          expected: `at most ${MAX_CHUNK_NUMBER} chunks of the origin`,
          actual: Math.ceil(setup.sizeBytes / store.geometry.chunkBytes),
        });
      }
      this.#take(store);
      const chunks = Math.ceil(setup.sizeBytes / store.geometry.chunkBytes);
      this.table.forEach((oldChunk, _, count) => {
        this.#outside += Math.max(0, oldChunk + count - Math.max(oldChunk, chunks));
      });
      // Another device may have taken the place of the first one meanwhile.
      store.device = this.setup.cow;
    } catch (error) {
      if (!(error instanceof FormatError) && !(error instanceof DeviceError)) throw error;
      this.#problem = error.message;
      if (setup.merging) this.#unread = true;
      // What is damaged stays unusable. What could not be read may be whole, and the origin will not wait for it.
      else if (error instanceof DeviceError) await this.#markInvalid();
    }
    this.#state = this.#problem === '' ? 'valid' : 'invalid';
    this.#retryWaiting();
    this.setup.onLoaded();
  }

  #forgetLoad(): void {
    this.#unread = false;
    this.#state = 'new';
    this.#problem = '';
    this.#outside = 0;
    this.table.remove(0, MAX_CHUNK_NUMBER + 1);
  }

  #take(store: ExceptionStore): void {
    store.onCommitted = (errno) => this.copies.committed(errno);
    this.#store = store;
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

  #retryWaiting(): void {
    for (let count = this.#waiting.size; count > 0; count--) this.setup.origin.retry(this.#waiting.shift()!);
  }

  #unhold(): void {
    const origin = this.#holding;
    this.#holding = null;
    origin?.release();
  }

  #isIdle(): boolean {
    return this.isKnown && this.#state !== 'invalidating' && this.copies.isIdle;
  }

  wakeIfIdle(): void {
    if (this.#idleWaiters.length === 0 || !this.#isIdle()) return;
    const waiters = this.#idleWaiters;
    this.#idleWaiters = [];
    for (const wake of waiters) wake();
  }
}

/** Whether the chunks of so large an origin have numbers that tables can hold. */
function fits({ geometry }: ExceptionStore, { sizeBytes }: SnapshotSetup): boolean {
  return sizeBytes / geometry.chunkBytes <= MAX_CHUNK_NUMBER;
}
