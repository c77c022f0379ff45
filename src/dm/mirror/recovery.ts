/**
 * Copying what is out of sync from the primary to the other legs, in the background.
 *
 * Invariants
 *  - A chunk is copied under its range lock: changes of it that came before have ended, and later ones wait. So what is copied is
 *    what the primary holds when the chunk becomes in sync.
 *  - Few chunks are under way at a time, and only one while clients have requests in flight: they come first, yet copying ends
 *    under any load, because locks are granted in order of arrival.
 *  - A chunk that the primary calls a hole, and that is read as zeroes, becomes zeroes of the other legs, and holes where they can have
 *    them: a sparse image stays sparse. What is read decides: file systems are known to call a hole what they were not told of yet.
 *  - After a failure nothing more is copied until `restart`. Nothing is begun while stopped.
 *  - Buffers are pooled, made when first needed, and given up when everything is in sync.
 */
import { blockStatusOf, ExtentFlag, ExtentList, type StatusDone } from '../../block/extents.ts';
import { IoRequest, Op, type RequestOwner } from '../../block/request.ts';
import { isZero } from '../../block/zeroes.ts';
import { RangeEntry, type RangeLocks } from '../range-locks.ts';
import { Failure, type Legs } from './legs.ts';
import type { SyncMap } from './sync-map.ts';

/** Chunks under way while no client has requests in flight. */
const IDLE_DEPTH = 4;

interface RecoveryOptions {
  readonly legs: Legs;
  readonly sync: SyncMap;
  readonly locks: RangeLocks<RangeEntry>;
  /** Requests of clients in flight. */
  readonly clients: () => number;
  /** A copy under way has ended. */
  readonly ended: () => void;
}

/** One chunk under way. */
export class Copy extends RangeEntry implements RequestOwner {
  readonly io: IoRequest = new IoRequest();
  chunk = 0;
  /** The leg that is written now. */
  leg = 0;
  /** Of the sync map when the copy was begun. */
  epoch = 0;
  /** The primary says that the chunk is a hole. */
  isHole = false;
  /** What the primary knows of the chunk: its first extent. */
  readonly extents: ExtentList = new ExtentList(1);
  readonly known: StatusDone = (errno) => {
    this.#recovery.known(this, errno);
  };
  readonly #recovery: Recovery;

  constructor(recovery: Recovery) {
    super();
    this.partial = true;
    this.#recovery = recovery;
  }

  ioDone(): void {
    this.#recovery.ioDone(this);
  }
}

export class Recovery {
  readonly #options: RecoveryOptions;
  readonly #free: Copy[] = [];
  #buffers: Buffer[] = [];
  #running = false;
  #active = 0;
  /** No chunk before it is out of sync and not under way. */
  #cursor = 0;

  constructor(options: RecoveryOptions) {
    this.#options = options;
  }

  /** Chunks under way. */
  get active(): number {
    return this.#active;
  }

  get running(): boolean {
    return this.#running;
  }

  start(): void {
    this.#running = true;
    this.restart();
  }

  stop(): void {
    this.#running = false;
  }

  /** Looks at everything again. */
  restart(): void {
    this.#cursor = 0;
    this.kick();
  }

  /** A chunk that was in sync no longer is. */
  lost(chunk: number): void {
    if (chunk < this.#cursor) this.#cursor = chunk;
  }

  /** Begins as many copies as may be under way now. */
  kick(): void {
    const { sync, legs, clients } = this.#options;
    while (this.#running && !legs.broken && this.#active < (clients() > 0 ? 1 : IDLE_DEPTH)) {
      const chunk = sync.nextOutOfSync(this.#cursor);
      if (chunk < 0) {
        if (this.#active === 0) this.#buffers = [];
        return;
      }
      this.#cursor = chunk + 1;
      this.#begin(chunk);
    }
  }

  #begin(chunk: number): void {
    const { sync, locks } = this.#options;
    const copy = this.#free.pop() ?? new Copy(this);
    this.#active++;
    copy.chunk = chunk;
    copy.start = chunk * sync.chunkBytes;
    copy.end = Math.min(copy.start + sync.chunkBytes, sync.sizeBytes);
    if (locks.add(copy)) this.granted(copy);
  }

  /** Nobody else changes the chunk now. */
  granted(copy: Copy): void {
    const { legs, sync } = this.#options;
    const { device, offset } = legs.all[legs.primary]!;
    copy.leg = -1;
    copy.epoch = sync.epoch;
    copy.extents.clear(1);
    blockStatusOf(device, offset + copy.start, copy.end - copy.start, copy.extents, copy.known);
  }

  /** What the primary holds there is known, or not. */
  known(copy: Copy, errno: number): void {
    const { legs, sync } = this.#options;
    const { io, extents } = copy;
    io.owner = copy;
    io.length = copy.end - copy.start;
    copy.isHole = errno === 0 && extents.bytes === io.length && (extents.flags[0]! & ExtentFlag.zero) !== 0;
    io.op = Op.read;
    io.buffer = this.#buffers.pop() ?? Buffer.allocUnsafeSlow(sync.chunkBytes);
    this.#submit(copy, legs.primary);
  }

  ioDone(copy: Copy): void {
    const { legs } = this.#options;
    const { io } = copy;
    if (io.error !== 0) {
      legs.fail(io.op === Op.read ? legs.primary : copy.leg, Failure.sync);
      this.#end(copy);
      return;
    }
    if (io.op === Op.read) io.op = copy.isHole && isZero(io.buffer, io.length) ? Op.writeZeroes : Op.write;
    this.#toNextLeg(copy);
  }

  #toNextLeg(copy: Copy): void {
    const { legs, sync } = this.#options;
    copy.leg++;
    if (copy.leg === legs.primary) copy.leg++;
    if (copy.leg < legs.all.length) {
      this.#submit(copy, copy.leg);
      return;
    }
    if (copy.epoch === sync.epoch) sync.set(copy.chunk, true);
    this.#end(copy);
  }

  #submit(copy: Copy, leg: number): void {
    const { device, offset } = this.#options.legs.all[leg]!;
    copy.io.offset = offset + copy.start;
    device.submit(copy.io);
  }

  #end(copy: Copy): void {
    this.#buffers.push(copy.io.buffer);
    copy.io.reset();
    this.#active--;
    this.#options.locks.remove(copy);
    this.#free.push(copy);
    this.kick();
    this.#options.ended();
  }
}
