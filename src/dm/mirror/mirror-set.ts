/**
 * What a mirror does with requests: changes go to all legs where they are in sync, else to the primary; reads come from the primary.
 *
 * Invariants
 *  - Legs hold the same bytes wherever the sync map says so: overlapping changes go one after the other, and changes and copies
 *    of a chunk too, in order of arrival (dm/range-locks.ts). What was discarded has no bytes that could be the same.
 *  - A change ends well only if the primary took it. If another leg did not, its chunks are out of sync before the change ends;
 *    once `sealed`, such a change fails instead: then every acknowledged change is on all legs.
 *  - With handle_errors a change that a leg did not take waits for the suspend by which somebody reacts, and is done again after it.
 *  - A flush goes to all legs. One that fails on a leg puts everything out of sync, for nobody knows what it lost.
 *  - Nothing completes inside `submit`; records are pooled.
 */
import { IoRequest, Op, RequestPool, RequestQueue, type RequestOwner } from '../../block/request.ts';
import { RangeEntry, RangeLocks } from '../range-locks.ts';
import { REQUEUE } from '../target.ts';
import { Failure, type Legs } from './legs.ts';
import { Copy, Recovery } from './recovery.ts';
import type { SyncMap } from './sync-map.ts';

/** A change or a flush on its way to the legs. */
class Fanout extends RangeEntry implements RequestOwner {
  /** One per leg. */
  readonly io: readonly IoRequest[];
  request: IoRequest | null = null;
  pending = 0;
  /** The primary's errno, and the first of the others'. */
  primaryError = 0;
  otherError = 0;
  readonly #set: MirrorSet;

  constructor(set: MirrorSet, legs: number) {
    super();
    this.partial = true;
    this.io = Array.from({ length: legs }, () => new IoRequest());
    this.#set = set;
  }

  ioDone(io: IoRequest): void {
    this.#set.legDone(this, io);
  }
}

export class MirrorSet implements RequestOwner {
  readonly legs: Legs;
  readonly sync: SyncMap;
  readonly recovery: Recovery;
  readonly #handleErrors: boolean;
  readonly #locks = new RangeLocks<RangeEntry>((entry) => this.#granted(entry));
  readonly #reads = new RequestPool();
  readonly #free: Fanout[] = [];
  /** Changes that failed on a leg and wait for a suspend. */
  readonly #held = new RequestQueue();
  #inFlight = 0;
  #sealed = false;
  #suspending = false;
  #quietWaiters: (() => void)[] = [];

  constructor(options: { readonly legs: Legs; readonly sync: SyncMap; readonly handleErrors: boolean }) {
    this.legs = options.legs;
    this.sync = options.sync;
    this.#handleErrors = options.handleErrors;
    this.recovery = new Recovery({
      legs: this.legs,
      sync: this.sync,
      locks: this.#locks,
      clients: () => this.#inFlight,
      ended: () => this.#wakeIfQuiet(),
    });
  }

  get sealed(): boolean {
    return this.#sealed;
  }

  submit(request: IoRequest): void {
    this.#inFlight++;
    if (request.op === Op.read) {
      const start = request.offset;
      const { primary } = this.legs;
      const useOther = !this.legs.isAlive(primary) && this.sync.allInSync(start, start + request.length);
      const other = useOther ? this.legs.aliveAfter(primary) : -1;
      this.#read(this.#reads.acquire(this), request, other < 0 ? primary : other);
      return;
    }
    const fanout = this.#free.pop() ?? new Fanout(this, this.legs.all.length);
    fanout.request = request;
    if (request.op === Op.flush) {
      this.#send(fanout, true);
      return;
    }
    fanout.start = request.offset;
    fanout.end = request.offset + request.length;
    if (this.#locks.add(fanout)) this.#change(fanout);
  }

  /** Failures are forgotten, and what is out of sync is copied. A seal stays: what relies on it may have been done meanwhile. */
  resume(): void {
    this.#suspending = false;
    this.legs.forgetFailures();
    this.recovery.start();
  }

  /** Failures and the seal are forgotten, and what is out of sync is copied again. */
  restart(): void {
    this.#sealed = false;
    this.legs.forgetFailures();
    this.recovery.restart();
  }

  /** Lets go of changes that wait for somebody to react: he has begun to. */
  presuspend(): void {
    this.#suspending = true;
    for (let request = this.#held.shift(); request !== null; request = this.#held.shift()) this.#end(request, REQUEUE);
  }

  /** Settles when no copy is under way; a `resume` before takes it back. */
  async suspend(): Promise<void> {
    this.recovery.stop();
    while (!this.recovery.running && (this.recovery.active > 0 || this.#inFlight > 0)) {
      await new Promise<void>((resolve) => {
        this.#quietWaiters.push(resolve);
      });
    }
  }

  /** Whether from now on every acknowledged change is on all legs, all of it flushed. */
  async seal(): Promise<boolean> {
    if (!this.#canSeal()) return false;
    const request = new IoRequest();
    request.op = Op.flush;
    await new Promise<void>((resolve) => {
      request.owner = { ioDone: () => resolve() };
      this.submit(request);
    });
    // In this turn: a leg that fails a change after this fails it for its client too.
    this.#sealed = request.error === 0 && this.#canSeal();
    return this.#sealed;
  }

  unseal(): void {
    this.#sealed = false;
  }

  #canSeal(): boolean {
    return this.sync.complete && !this.legs.broken && this.recovery.running;
  }

  /** A read has ended: another leg is tried if this one failed and the other holds the same bytes. */
  ioDone(io: IoRequest): void {
    const request = io.parent!;
    const { error, tag: leg, pending: tried } = io;
    if (error !== 0) {
      this.legs.fail(leg, Failure.read);
      const other = this.legs.aliveAfter(leg);
      const start = request.offset;
      const mayTry = tried < this.legs.all.length && this.sync.allInSync(start, start + request.length);
      if (other >= 0 && mayTry) {
        io.error = 0;
        this.#read(io, request, other);
        return;
      }
    }
    this.#reads.release(io);
    this.#end(request, error);
  }

  /** For Fanout: a leg has done its part. */
  legDone(fanout: Fanout, io: IoRequest): void {
    const { error, tag: leg } = io;
    if (error !== 0) {
      if (leg === this.legs.primary) fanout.primaryError = error;
      else if (fanout.otherError === 0) fanout.otherError = error;
      // A discard may fail anywhere: the bytes are nobody's.
      if (io.op === Op.flush) this.legs.fail(leg, Failure.flush);
      else if (io.op !== Op.discard) this.legs.fail(leg, Failure.write);
    }
    fanout.pending--;
    if (fanout.pending === 0) this.#settle(fanout);
  }

  #granted(entry: RangeEntry): void {
    if (entry instanceof Copy) this.recovery.granted(entry);
    else this.#change(entry as Fanout);
  }

  #change(fanout: Fanout): void {
    // Out of sync is out of sync: the copy that is to come takes the change along.
    this.#send(fanout, this.sync.anyInSync(fanout.start, fanout.end));
  }

  #send(fanout: Fanout, everywhere: boolean): void {
    const { all, primary } = this.legs;
    if (!everywhere) {
      fanout.pending = 1;
      this.#sendTo(fanout, primary);
      return;
    }
    const flush = fanout.request!.op === Op.flush;
    fanout.pending = flush ? this.legs.devices : all.length;
    for (let leg = 0; leg < all.length; leg++) if (!flush || !this.legs.sharesDevice(leg)) this.#sendTo(fanout, leg);
  }

  #sendTo(fanout: Fanout, leg: number): void {
    const request = fanout.request!;
    const { device, offset } = this.legs.all[leg]!;
    const io = fanout.io[leg]!;
    io.owner = fanout;
    io.op = request.op;
    io.flags = request.flags;
    io.tag = leg;
    if (request.op !== Op.flush) {
      io.offset = offset + request.offset;
      io.length = request.length;
      io.buffer = request.buffer;
      io.bufferOffset = request.bufferOffset;
    }
    device.submit(io);
  }

  /** All legs have done their part. */
  #settle(fanout: Fanout): void {
    const request = fanout.request!;
    const { primaryError, otherError, start, end } = fanout;
    const failed = primaryError !== 0 || otherError !== 0;
    const counts = failed && request.op !== Op.discard;
    if (counts) {
      const wasComplete = this.sync.complete;
      this.recovery.lost(request.op === Op.flush ? this.#loseAll() : this.sync.lose(start, end));
      if (this.#handleErrors && wasComplete && primaryError !== 0 && otherError === 0) this.#switchPrimary();
    }
    if (request.op !== Op.flush) this.#locks.remove(fanout);
    this.#release(fanout);
    if (counts && this.#handleErrors && this.#hold(request)) return;
    this.#end(request, primaryError !== 0 || (this.#sealed && counts) ? primaryError || otherError : 0);
  }

  /** Keeps a change until somebody reacts; false if nobody can help, for no leg is left. */
  #hold(request: IoRequest): boolean {
    if (this.legs.all.every((_, leg) => !this.legs.isAlive(leg))) return false;
    if (this.#suspending) this.#end(request, REQUEUE);
    else this.#held.push(request);
    return true;
  }

  /** The others hold what the primary failed to take. */
  #switchPrimary(): void {
    const other = this.legs.aliveAfter(this.legs.primary);
    if (other >= 0) this.legs.primary = other;
  }

  #loseAll(): number {
    this.sync.setAll(false);
    return 0;
  }

  #read(io: IoRequest, request: IoRequest, leg: number): void {
    const { device, offset } = this.legs.all[leg]!;
    io.op = Op.read;
    io.flags = request.flags;
    io.offset = offset + request.offset;
    io.length = request.length;
    io.buffer = request.buffer;
    io.bufferOffset = request.bufferOffset;
    io.parent = request;
    io.tag = leg;
    io.pending++;
    device.submit(io);
  }

  #release(fanout: Fanout): void {
    for (const io of fanout.io) io.reset();
    fanout.request = null;
    fanout.primaryError = 0;
    fanout.otherError = 0;
    this.#free.push(fanout);
  }

  #end(request: IoRequest, errno: number): void {
    this.#inFlight--;
    request.error = errno;
    request.owner.ioDone(request);
    this.recovery.kick();
    this.#wakeIfQuiet();
  }

  #wakeIfQuiet(): void {
    if (this.#quietWaiters.length === 0) return;
    const waiters = this.#quietWaiters;
    this.#quietWaiters = [];
    for (const wake of waiters) wake();
  }
}
