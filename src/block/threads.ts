/**
 * The `threads` engine: a file or block device served by Node's own file calls, which run in libuv's thread pool.
 *
 * Invariants
 *  - A short read is first tried from the page cache, in the turn itself: a thread's wake-ups cost more than the copy. It
 *    never waits for a device, so one cold block delays nobody else.
 *  - A slot's callbacks are bound once, so that an I/O makes no closure.
 *  - The pool (UV_THREADPOOL_SIZE, 4 by default) serves all devices. Where there are several, none may have more calls in it than
 *    its share, so one that hangs does not hold up the others.
 *  - Discards and zeroing go through the addon's pool calls, never through the event loop's thread.
 */
import { fdatasync, read, write } from 'node:fs';
import { blockDiscard, fallocate, type RangeCallback, readCached } from '../native/addon.ts';
import { Errno, errnoOf } from './errors.ts';
import { type EngineCalls, Slot, type SlotOwner } from './engine-calls.ts';
import { SystemDevice, type SystemDeviceOptions } from './system-device.ts';

/** More than libuv has threads, so that its queue is never empty while ours isn't. */
const MAX_SLOTS = 16;
/** Longer reads go to the pool at once: there the copies run beside each other. */
const MAX_CACHED_BYTES = 128 * 1024;
/** Devices that may hang at the same time before the rest has to wait, where the pool is large enough. */
const SHARES = 4;

type IoCallback = (error: NodeJS.ErrnoException | null, bytes: number) => void;
type IoCall = (fd: number, buffer: Buffer, at: number, bytes: number, position: number, done: IoCallback) => void;

/** What the engine asks of the system; tests put calls in its place that move less, fail, or wait. */
export interface SystemCalls {
  readonly read: IoCall;
  readonly write: IoCall;
  /** Bytes read without waiting, or minus an errno. */
  readonly readCached: (fd: number, buffer: Buffer, at: number, bytes: number, position: number) => number;
  readonly fdatasync: (fd: number, done: (error: NodeJS.ErrnoException | null) => void) => void;
  readonly fallocate: (fd: number, mode: number, offset: number, bytes: number, done: RangeCallback) => void;
  readonly blockDiscard: (fd: number, offset: number, bytes: number, done: RangeCallback) => void;
}

const SYSTEM: SystemCalls = { read, write, readCached, fdatasync, fallocate, blockDiscard };

/** Devices of this engine that are open and have been used. */
let usedDevices = 0;

/** Threads of libuv's pool, by its own rules. */
function poolThreads(): number {
  const threads = Number.parseInt(process.env['UV_THREADPOOL_SIZE'] ?? '4', 10);
  return Math.min(Math.max(Number.isNaN(threads) ? 1 : threads, 1), 1024);
}

class ThreadsSlot extends Slot {
  readonly onIo: IoCallback;
  readonly onRange: RangeCallback;

  constructor(owner: SlotOwner) {
    super(owner);
    this.onIo = (error, bytes) => {
      owner.moved(this, error === null ? 0 : errnoOf(error), bytes);
    };
    this.onRange = (errno) => {
      owner.ranged(this, errno);
    };
  }
}

class ThreadsCalls implements EngineCalls<ThreadsSlot> {
  readonly gathers = false;
  readonly durableWrites = false;
  readonly #fd: number;
  readonly #calls: SystemCalls;
  readonly #threads = poolThreads();
  #canReadCached = true;
  #used = false;

  constructor(fd: number, calls: SystemCalls) {
    this.#fd = fd;
    this.#calls = calls;
  }

  get slots(): number {
    // The only one so far leaves room for those to come, and for its own flush.
    const share = usedDevices <= 1 ? this.#threads - 2 : Math.floor(this.#threads / Math.min(usedDevices, SHARES));
    return Math.max(1, Math.min(MAX_SLOTS, share));
  }

  newSlot(owner: SlotOwner): ThreadsSlot {
    if (!this.#used) usedDevices++;
    this.#used = true;
    return new ThreadsSlot(owner);
  }

  hasRoom(): boolean {
    return true;
  }

  /** Reads what is in memory. Any failure is left to the pool's call to meet. */
  readAtOnce(buffer: Buffer, at: number, bytes: number, position: number): number {
    if (bytes > MAX_CACHED_BYTES || !this.#canReadCached) return 0;
    const count = this.#calls.readCached(this.#fd, buffer, at, bytes, position);
    if (count === -Errno.EOPNOTSUPP || count === -Errno.ENOSYS) this.#canReadCached = false;
    return Math.max(count, 0);
  }

  read(slot: ThreadsSlot, buffer: Buffer, at: number, bytes: number, position: number): void {
    this.#calls.read(this.#fd, buffer, at, bytes, position, slot.onIo);
  }

  write(slot: ThreadsSlot, buffer: Buffer, at: number, bytes: number, position: number): void {
    this.#calls.write(this.#fd, buffer, at, bytes, position, slot.onIo);
  }

  fdatasync(done: (errno: number) => void): void {
    this.#calls.fdatasync(this.#fd, (error) => {
      done(error === null ? 0 : errnoOf(error));
    });
  }

  fallocate(slot: ThreadsSlot, mode: number, offset: number, bytes: number): void {
    this.#calls.fallocate(this.#fd, mode, offset, bytes, slot.onRange);
  }

  blockDiscard(slot: ThreadsSlot, offset: number, bytes: number): void {
    this.#calls.blockDiscard(this.#fd, offset, bytes, slot.onRange);
  }

  close(): void {
    if (this.#used) usedDevices--;
  }
}

export interface ThreadsDeviceOptions extends SystemDeviceOptions {
  /** Default: the system's own. */
  readonly calls?: SystemCalls;
}

export class ThreadsDevice extends SystemDevice<ThreadsSlot> {
  constructor(options: ThreadsDeviceOptions) {
    super(options, new ThreadsCalls(options.handle.fd, options.calls ?? SYSTEM));
  }
}
