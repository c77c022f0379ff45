/**
 * The `threads` engine: a file or block device served by Node's own file calls, which run in libuv's thread pool.
 *
 * Invariants
 *  - Requests queue in `submit`; once per event-loop turn the queue is handed to free slots, at most `SLOTS` at a time.
 *  - A short read is first tried from the page cache, in the turn itself: a thread's wake-ups cost more than the copy. It
 *    never waits for a device, so one cold block delays nobody else.
 *  - A slot carries one request at a time and has its callbacks bound once, so that an I/O makes no closure. Short reads and
 *    writes are continued where they stopped; end of file inside the device is EIO.
 *  - One fdatasync runs at a time and serves every flush (and every FUA request whose data is written) that was waiting when
 *    it began. What arrives while it runs waits for the next one.
 *  - After a failed fdatasync every later flush fails as well: the kernel reports a lost page only once, and drops it, so a
 *    later success would claim durability for data that is gone.
 *  - Discards and zeroing go through the addon's pool calls, never through the event loop's thread.
 * The pool (UV_THREADPOOL_SIZE, 4 by default) serves all devices, so one that hangs can hold up the others.
 */
import assert from 'node:assert/strict';
import { fdatasync, read, write } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { blockDiscard, fallocate, Falloc, type RangeCallback, readCached } from '../native/addon.ts';
import { assertInLimits, type DeviceLimits, type OpenedDevice } from './device.ts';
import { Errno, errnoOf } from './errors.ts';
import { Op, RequestFlag, RequestQueue, type IoRequest } from './request.ts';

/** More than libuv has threads, so that its queue is never empty while ours isn't. */
const SLOTS = 16;
/** Linux moves at most 2 GiB less a page per call. */
const MAX_CALL_BYTES = 2 ** 30;
/** Longer reads go to the pool at once: there the copies run beside each other. */
const MAX_CACHED_BYTES = 128 * 1024;
const ZEROES: Buffer = Buffer.alloc(2 ** 20);

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

/** A request being carried out, piece by piece: [position, pieceEnd) is under way, [pieceEnd, end) is still to do. */
class Slot {
  request: IoRequest | null = null;
  position = 0;
  pieceEnd = 0;
  end = 0;
  /** How the piece under way is zeroed: a mode of fallocate, or 0 for a write. */
  mode = 0;
  readonly onIo: IoCallback;
  readonly onRange: RangeCallback;

  constructor(onIo: (slot: Slot, errno: number, bytes: number) => void, onRange: (slot: Slot, errno: number) => void) {
    this.onIo = (error, bytes) => {
      onIo(this, error === null ? 0 : errnoOf(error), bytes);
    };
    this.onRange = (errno) => {
      onRange(this, errno);
    };
  }
}

export interface ThreadsDeviceOptions {
  readonly name: string;
  readonly kind: 'file' | 'block';
  readonly identity: string;
  readonly limits: DeviceLimits;
  /** The device owns it from here on. */
  readonly handle: FileHandle;
  /** What the limits would be if it were opened now; default: as they are. */
  readonly measure?: () => Promise<DeviceLimits>;
  /** Default: the system's own. */
  readonly calls?: SystemCalls;
}

export class ThreadsDevice implements OpenedDevice {
  readonly name: string;
  readonly kind: 'file' | 'block';
  readonly identity: string;
  readonly #handle: FileHandle;
  readonly #measure: () => Promise<DeviceLimits>;
  readonly #fd: number;
  readonly #calls: SystemCalls;
  #limits: DeviceLimits;
  readonly #queue = new RequestQueue();
  readonly #freeSlots: Slot[] = [];
  #scheduled = false;
  /** Flushes and written FUA requests that no fdatasync covers yet, and those that the running one covers. */
  #unsynced = new RequestQueue();
  #syncing = new RequestQueue();
  #syncRunning = false;
  #syncErrno = 0;
  /** What has turned out to be unsupported is not tried again. */
  #canDiscard: boolean;
  #canPunchHole = true;
  #canReadCached = true;
  #canZeroRange = true;
  #closed: Promise<void> | null = null;
  #drained: (() => void) | null = null;
  readonly #onTurn = (): void => {
    this.#turn();
  };
  readonly #onSync = (error: NodeJS.ErrnoException | null): void => {
    this.#synced(error === null ? 0 : errnoOf(error));
  };

  constructor(options: ThreadsDeviceOptions) {
    this.name = options.name;
    this.kind = options.kind;
    this.identity = options.identity;
    this.#limits = options.limits;
    this.#handle = options.handle;
    this.#measure = options.measure ?? (() => Promise.resolve(options.limits));
    this.#fd = options.handle.fd;
    this.#calls = options.calls ?? SYSTEM;
    this.#canDiscard = options.limits.canDiscard;
    for (let i = 0; i < SLOTS; i++) {
      this.#freeSlots.push(
        new Slot(
          (slot, errno, bytes) => {
            this.#moved(slot, errno, bytes);
          },
          (slot, errno) => {
            this.#ranged(slot, errno);
          },
        ),
      );
    }
  }

  get limits(): DeviceLimits {
    return this.#limits;
  }

  /** Those who use the device count on the size that they were told, so a smaller one is left to show as EIO. */
  async remeasure(): Promise<void> {
    const { sizeBytes } = await this.#measure();
    if (sizeBytes > this.#limits.sizeBytes) this.#limits = { ...this.#limits, sizeBytes };
  }

  submit(request: IoRequest): void {
    assert(this.#closed === null, 'submitted to a closed device');
    assertInLimits(this.#limits, request);
    request.error = 0;
    // A flush need not wait for what is queued before it: it covers what was completed before it.
    if (request.op === Op.flush) this.#unsynced.push(request);
    else this.#queue.push(request);
    this.#schedule();
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    if (!this.#isIdle()) {
      await new Promise<void>((resolve) => {
        this.#drained = resolve;
      });
    }
    await this.#handle.close();
  }

  #isIdle(): boolean {
    return (
      this.#freeSlots.length === SLOTS && this.#queue.size === 0 && this.#unsynced.size === 0 && !this.#syncRunning
    );
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#onTurn);
  }

  #turn(): void {
    this.#scheduled = false;
    // Only what is queued now: what owners submit when a cached read ends has its turn later.
    for (let count = this.#queue.size; count > 0 && this.#freeSlots.length > 0; count--)
      this.#start(this.#queue.shift()!);
    this.#startSync();
    this.#checkDrained();
  }

  #checkDrained(): void {
    if (this.#drained !== null && this.#isIdle()) this.#drained();
  }

  #start(request: IoRequest): void {
    const slot = this.#freeSlots.pop()!;
    slot.request = request;
    slot.position = request.offset;
    slot.end = request.offset + request.length;
    if (request.op !== Op.read && this.#limits.readOnly) {
      this.#finish(slot, Errno.EROFS);
      return;
    }
    if (request.op === Op.read && request.length <= MAX_CACHED_BYTES && this.#canReadCached) this.#takeCached(slot);
    this.#advance(slot);
  }

  /** Reads the head of a slot's request as far as it is in memory. Any failure is left to the pool's call to meet. */
  #takeCached(slot: Slot): void {
    const { buffer, bufferOffset, length, offset } = slot.request!;
    const bytes = this.#calls.readCached(this.#fd, buffer, bufferOffset, length, offset);
    if (bytes > 0) slot.position += bytes;
    else if (bytes === -Errno.EOPNOTSUPP || bytes === -Errno.ENOSYS) this.#canReadCached = false;
  }

  /** Starts the next piece of a slot's request, or finishes it. */
  #advance(slot: Slot): void {
    const request = slot.request!;
    if (slot.position === slot.end) {
      this.#finish(slot, 0);
      return;
    }
    const count = Math.min(slot.end - slot.position, MAX_CALL_BYTES);
    const at = request.bufferOffset + slot.position - request.offset;
    slot.pieceEnd = slot.position + count;
    if (request.op === Op.read) this.#calls.read(this.#fd, request.buffer, at, count, slot.position, slot.onIo);
    else if (request.op === Op.write) this.#calls.write(this.#fd, request.buffer, at, count, slot.position, slot.onIo);
    else if (request.op === Op.writeZeroes) this.#advanceZeroes(slot);
    else this.#advanceDiscard(slot);
  }

  /** A read or write call has ended. */
  #moved(slot: Slot, errno: number, bytes: number): void {
    if (errno === Errno.EINTR) this.#advance(slot);
    else if (errno !== 0) this.#finish(slot, errno);
    // Nothing moved: the file is shorter than the device was when it was opened.
    else if (bytes === 0) this.#finish(slot, Errno.EIO);
    else {
      slot.position += bytes;
      this.#advance(slot);
    }
  }

  /** A fallocate or discard call has ended. */
  #ranged(slot: Slot, errno: number): void {
    if (errno === 0) slot.position = slot.pieceEnd;
    else if (errno === Errno.EOPNOTSUPP || errno === Errno.ENOSYS || errno === Errno.ENOTTY) this.#demote(slot);
    else {
      this.#finish(slot, errno);
      return;
    }
    this.#advance(slot);
  }

  /** What the slot's request tried is not supported here: the next way is taken, for this request and all later ones. */
  #demote(slot: Slot): void {
    if (slot.request!.op === Op.discard) this.#canDiscard = false;
    else if (slot.mode === Falloc.punchHole) this.#canPunchHole = false;
    else this.#canZeroRange = false;
  }

  /** Ways to zero a range: give it back, mark it unwritten, or (0) write zeroes. */
  #zeroesMode(request: IoRequest): number {
    if (this.#canPunchHole && (request.flags & RequestFlag.noUnmap) === 0) return Falloc.punchHole;
    return this.#canZeroRange ? Falloc.zeroRange : 0;
  }

  /**
   * Block devices zero whole logical blocks only, so parts of blocks at either end are written. Files take any range.
   * fallocate on a block device is what BLKZEROOUT does, with the choice of whether to unmap.
   */
  #advanceZeroes(slot: Slot): void {
    const mode = this.#zeroesMode(slot.request!);
    const unit = this.kind === 'block' ? this.#limits.logicalBlockSize : 1;
    const aligned = Math.ceil(slot.position / unit) * unit;
    const alignedEnd = slot.end - (slot.end % unit);
    if (mode !== 0 && slot.position === aligned && aligned < alignedEnd) {
      slot.mode = mode;
      slot.pieceEnd = alignedEnd;
      this.#calls.fallocate(this.#fd, mode | Falloc.keepSize, aligned, alignedEnd - aligned, slot.onRange);
      return;
    }
    const stop = mode !== 0 && slot.position < aligned ? Math.min(aligned, slot.end) : slot.end;
    this.#calls.write(this.#fd, ZEROES, 0, Math.min(stop - slot.position, ZEROES.length), slot.position, slot.onIo);
  }

  /** Discards what whole blocks there are; a discard is a hint, so the rest, and failing to support it, is no error. */
  #advanceDiscard(slot: Slot): void {
    const unit = this.kind === 'block' ? this.#limits.logicalBlockSize : 1;
    const start = Math.ceil(slot.position / unit) * unit;
    const length = slot.end - (slot.end % unit) - start;
    slot.pieceEnd = slot.end;
    if (!this.#canDiscard || length <= 0) this.#finish(slot, 0);
    else if (this.kind === 'block') this.#calls.blockDiscard(this.#fd, start, length, slot.onRange);
    else this.#calls.fallocate(this.#fd, Falloc.punchHole | Falloc.keepSize, start, length, slot.onRange);
  }

  #finish(slot: Slot, errno: number): void {
    const request = slot.request!;
    slot.request = null;
    this.#freeSlots.push(slot);
    if (errno === 0 && request.op !== Op.read && (request.flags & RequestFlag.fua) !== 0) {
      this.#unsynced.push(request);
      this.#schedule();
      return;
    }
    if (this.#queue.size > 0) this.#schedule();
    this.#complete(request, errno);
    this.#checkDrained();
  }

  #complete(request: IoRequest, errno: number): void {
    request.error = errno;
    request.owner.ioDone(request);
  }

  #startSync(): void {
    if (this.#syncRunning || this.#unsynced.size === 0) return;
    const covered = this.#unsynced;
    this.#unsynced = this.#syncing;
    this.#syncing = covered;
    // Nothing was ever written through a read-only device.
    if (this.#limits.readOnly || this.#syncErrno !== 0) {
      this.#synced(this.#syncErrno);
      return;
    }
    this.#syncRunning = true;
    this.#calls.fdatasync(this.#fd, this.#onSync);
  }

  #synced(errno: number): void {
    this.#syncRunning = false;
    this.#syncErrno = errno;
    for (let request = this.#syncing.shift(); request !== null; request = this.#syncing.shift()) {
      this.#complete(request, errno);
    }
    if (this.#unsynced.size > 0) this.#schedule();
    this.#checkDrained();
  }
}
