/**
 * A file or block device of the system: the part that all engines share. What is queued and how a request is carried out in pieces is
 * decided here, when data is durable in durability.ts; an engine only makes the calls (`EngineCalls`).
 *
 * Invariants
 *  - A slot carries one request at a time, and at most `calls.slots` are taken, so one device can't use up what all share.
 *  - An engine that gathers by itself gets a request in `submit`; for any other the queue is handed to free slots once per
 *    event-loop turn. Either way nothing completes inside `submit`.
 *  - Short reads and writes are continued where they stopped; end of file inside the device is EIO.
 *  - Where the engine can write durably (`durableWrites`), FUA writes need no flush of their own.
 *  - With `bounce` (O_DIRECT) data that is not `aligned` goes through aligned memory of a bounded size. A request that finds none left
 *    waits for it.
 */
import assert from 'node:assert/strict';
import type { FileHandle } from 'node:fs/promises';
import { dataRanges, Falloc } from '../native/addon.ts';
import type { AlignedMemory } from './aligned-memory.ts';
import { Durability } from './durability.ts';
import { assertInLimits, type DeviceLimits, type OpenedDevice } from './device.ts';
import type { EngineCalls, Slot, SlotOwner } from './engine-calls.ts';
import { Errno } from './errors.ts';
import { type ExtentList, HOLE_STATUS, type StatusDone } from './extents.ts';
import { Op, RequestFlag, RequestQueue, type IoRequest } from './request.ts';

/** Linux moves at most 2 GiB less a page per call. */
const MAX_CALL_BYTES = 2 ** 30;
const ZEROES_BYTES = 2 ** 20;
let zeroes: Buffer | null = null;

/** What a range holds is asked for. */
interface StatusQuestion {
  readonly offset: number;
  readonly length: number;
  readonly extents: ExtentList;
  readonly done: StatusDone;
}

export interface SystemDeviceOptions {
  readonly name: string;
  readonly kind: 'file' | 'block';
  readonly identity: string;
  readonly limits: DeviceLimits;
  /** The device owns it from here on. */
  readonly handle: FileHandle;
  /** What the limits would be if it were opened now; default: as they are. */
  readonly measure?: () => Promise<DeviceLimits>;
  /** Aligned memory that data must go through; default: none is needed. */
  readonly bounce?: AlignedMemory;
}

export class SystemDevice<S extends Slot> implements OpenedDevice, SlotOwner {
  readonly name: string;
  readonly kind: 'file' | 'block';
  readonly identity: string;
  onFlushLost: ((errno: number) => void) | null = null;
  readonly #handle: FileHandle;
  readonly #measure: () => Promise<DeviceLimits>;
  readonly #calls: EngineCalls<S>;
  readonly #bounce: AlignedMemory | null;
  #limits: DeviceLimits;
  readonly #queue = new RequestQueue();
  readonly #freeSlots: S[] = [];
  #busy = 0;
  #scheduled = false;
  #waiting = false;
  readonly #durability: Durability;
  /** Questions about what ranges hold: one at a time, so that they can't fill the thread pool. The first is under way. */
  readonly #questions: StatusQuestion[] = [];
  /** What has turned out to be unsupported is not tried again. */
  #canDiscard: boolean;
  #canPunchHole = true;
  #canZeroRange = true;
  #closed: Promise<void> | null = null;
  #drained: (() => void) | null = null;
  readonly #onTurn = (): void => {
    this.#scheduled = false;
    this.#turn();
  };
  readonly #onRoom = (): void => {
    this.#waiting = false;
    this.#turn();
  };

  constructor(options: SystemDeviceOptions, calls: EngineCalls<S>) {
    this.name = options.name;
    this.kind = options.kind;
    this.identity = options.identity;
    this.#limits = options.limits;
    this.#handle = options.handle;
    this.#measure = options.measure ?? (() => Promise.resolve(options.limits));
    this.#calls = calls;
    this.#bounce = options.bounce ?? null;
    this.#canDiscard = options.limits.canDiscard;
    this.#durability = new Durability({
      fdatasync: (done) => calls.fdatasync(done),
      complete: (request, errno) => this.#complete(request, errno),
      lost: (errno) => this.onFlushLost?.(errno),
      ended: () => {
        if (this.#durability.isDue) this.#schedule();
        this.#checkDrained();
      },
    });
  }

  get limits(): DeviceLimits {
    return this.#limits;
  }

  /** Those who use the device count on the size that they were told, so a smaller one is left to show as EIO. */
  async remeasure(): Promise<void> {
    const { sizeBytes } = await this.#measure();
    if (sizeBytes > this.#limits.sizeBytes) this.#limits = { ...this.#limits, sizeBytes };
  }

  loseFlushes(errno: number): void {
    this.#durability.lose(errno);
  }

  submit(request: IoRequest): void {
    assert(this.#closed === null, 'submitted to a closed device');
    assertInLimits(this.#limits, request);
    request.error = 0;
    // A flush need not wait for what is queued before it: it covers what was completed before it.
    if (request.op === Op.flush) {
      this.#durability.add(request);
    } else if (this.#calls.gathers && this.#queue.size === 0 && this.#canStart() && !this.#mustDefer(request)) {
      this.#start(request);
      return;
    } else {
      this.#queue.push(request);
      if (this.#waiting) return;
    }
    this.#schedule();
  }

  /** Where a range can be given back or marked unwritten; what a block device does for the latter may be to write zeroes. */
  zeroesFast(_offset: number, length: number, flags: number): boolean {
    const mode = this.#zeroesMode(flags);
    return this.kind === 'file' ? mode !== 0 : mode === Falloc.punchHole && length >= 2 * this.#limits.logicalBlockSize;
  }

  /** Files know their holes; of a block device all is data. */
  blockStatus(offset: number, length: number, extents: ExtentList, done: StatusDone): void {
    assert(this.#closed === null, 'a question to a closed device');
    assert(offset >= 0 && length > 0 && offset + length <= this.#limits.sizeBytes);
    if (this.kind === 'block') {
      extents.add(length, 0);
      setImmediate(done, 0);
      return;
    }
    this.#questions.push({ offset, length, extents, done });
    if (this.#questions.length === 1) this.#answer(this.#questions[0]!);
  }

  #answer(question: StatusQuestion): void {
    const { offset, length, extents, done } = question;
    dataRanges(this.#handle.fd, offset, length, (errno, lengths) => {
      // Where the file system can't tell, or the file has become shorter, it is for a read to show what is there.
      if (errno !== 0 || lengths.length === 0) extents.add(length, 0);
      else for (let i = 0; i < lengths.length && extents.add(lengths[i]!, i % 2 === 0 ? 0 : HOLE_STATUS); i++);
      this.#questions.shift();
      const [next] = this.#questions;
      if (next !== undefined) this.#answer(next);
      done(0);
      this.#checkDrained();
    });
  }

  get fd(): number {
    return this.#handle.fd;
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
    this.#calls.close();
    await this.#handle.close();
  }

  #isIdle(): boolean {
    const moving = this.#busy > 0 || this.#queue.size > 0 || this.#questions.length > 0;
    return !moving && this.#durability.isIdle;
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#onTurn);
  }

  #turn(): void {
    // Only what is queued now: what owners submit when a read ends at once has its turn later.
    for (let count = this.#queue.size; count > 0 && this.#canStart(); count--) this.#start(this.#queue.shift()!);
    this.#startSync();
    this.#checkDrained();
  }

  #checkDrained(): void {
    if (this.#drained !== null && this.#isIdle()) this.#drained();
  }

  /** Whether a slot, a call and aligned memory are to be had. */
  #canStart(): boolean {
    if (this.#busy >= this.#calls.slots) return false;
    if (this.#waiting) return false;
    if (!this.#calls.hasRoom(this.#onRoom) || this.#bounce?.hasRoom(this.#onRoom) === false) {
      this.#waiting = true;
      return false;
    }
    return true;
  }

  /** Whether it may end without a call. */
  #mustDefer({ op }: IoRequest): boolean {
    return op === Op.discard || (op !== Op.read && this.#limits.readOnly);
  }

  #start(request: IoRequest): void {
    const slot = this.#freeSlots.pop() ?? this.#calls.newSlot(this);
    this.#busy++;
    slot.request = request;
    slot.position = request.offset;
    slot.end = request.offset + request.length;
    slot.durable = this.#durability.allowsDurableWrites && this.#canBeDurable(request);
    if (request.op !== Op.read && this.#limits.readOnly) {
      this.#finish(slot, Errno.EROFS);
      return;
    }
    if (request.op === Op.read && this.#bounce === null) {
      slot.position += this.#calls.readAtOnce(request.buffer, request.bufferOffset, request.length, request.offset);
    }
    this.#advance(slot);
  }

  /** Starts the next piece of a slot's request, or finishes it. */
  #advance(slot: S): void {
    const request = slot.request!;
    if (slot.position === slot.end) {
      this.#finish(slot, 0);
      return;
    }
    if (request.op === Op.read || request.op === Op.write) this.#transfer(slot, request);
    else if (request.op === Op.writeZeroes) this.#advanceZeroes(slot);
    else this.#advanceDiscard(slot);
  }

  #transfer(slot: S, request: IoRequest): void {
    const at = request.bufferOffset + slot.position - request.offset;
    const left = slot.end - slot.position;
    const isRead = request.op === Op.read;
    const durable = slot.durable && slot.failed === 0;
    if (this.#bounce === null || request.aligned) {
      const count = Math.min(left, MAX_CALL_BYTES);
      slot.pieceEnd = slot.position + count;
      if (isRead) this.#calls.read(slot, request.buffer, at, count, slot.position);
      else this.#calls.write(slot, request.buffer, at, count, slot.position, durable);
      return;
    }
    slot.bounce ??= this.#bounce.acquire(left);
    const { slab, at: slabAt, bytes } = slot.bounce;
    const count = Math.min(left, bytes);
    slot.pieceEnd = slot.position + count;
    if (isRead) {
      this.#calls.read(slot, slab, slabAt, count, slot.position);
    } else {
      request.buffer.copy(slab, slabAt, at, at + count);
      this.#calls.write(slot, slab, slabAt, count, slot.position, durable);
    }
  }

  /** Whether it can be durable when it ends. */
  #canBeDurable({ op, flags }: IoRequest): boolean {
    return op === Op.write && (flags & RequestFlag.fua) !== 0 && this.#calls.durableWrites;
  }

  moved(slot: S, errno: number, bytes: number): void {
    const request = slot.request!;
    if (errno === Errno.EINTR) {
      this.#advance(slot);
    } else if (slot.failed !== 0) {
      this.#durability.settle(slot.failed, errno === 0);
      this.#finish(slot, slot.failed);
      this.#schedule();
    } else if (errno !== 0 && slot.durable) {
      this.#durability.doubt();
      slot.failed = errno;
      this.#transfer(slot, request);
    } else if (errno !== 0) {
      this.#finish(slot, errno);
    } else if (bytes === 0) {
      // Nothing moved: the file is shorter than the device was when it was opened.
      this.#finish(slot, Errno.EIO);
    } else {
      if (slot.bounce !== null && request.op === Op.read) {
        const { slab, at } = slot.bounce;
        slab.copy(request.buffer, request.bufferOffset + slot.position - request.offset, at, at + bytes);
      }
      slot.position += bytes;
      this.#advance(slot);
    }
  }

  ranged(slot: S, errno: number): void {
    if (errno === 0) slot.position = slot.pieceEnd;
    if (errno === 0 || errno === Errno.EINTR) this.#advance(slot);
    else if (errno === Errno.EOPNOTSUPP || errno === Errno.ENOSYS || errno === Errno.ENOTTY) this.#demote(slot);
    else this.#finish(slot, errno);
  }

  /** Not supported here: all later requests take the next way, and so does the slot's, anew, as that may need aligned memory. */
  #demote(slot: S): void {
    if (slot.request!.op === Op.discard) this.#canDiscard = false;
    else if (slot.mode === Falloc.punchHole) this.#canPunchHole = false;
    else this.#canZeroRange = false;
    this.#queue.push(this.#vacate(slot));
    if (!this.#waiting) this.#schedule();
  }

  /** Ways to zero a range: give it back, mark it unwritten, or (0) write zeroes. */
  #zeroesMode(flags: number): number {
    if (this.#canPunchHole && (flags & RequestFlag.noUnmap) === 0) return Falloc.punchHole;
    return this.#canZeroRange ? Falloc.zeroRange : 0;
  }

  /**
   * Block devices zero whole logical blocks only, so parts of blocks at either end are written. Files take any range.
   * fallocate on a block device is what BLKZEROOUT does, with the choice of whether to unmap.
   */
  #advanceZeroes(slot: S): void {
    const mode = this.#zeroesMode(slot.request!.flags);
    const unit = this.kind === 'block' ? this.#limits.logicalBlockSize : 1;
    const aligned = Math.ceil(slot.position / unit) * unit;
    const alignedEnd = slot.end - (slot.end % unit);
    if (mode !== 0 && slot.position === aligned && aligned < alignedEnd) {
      slot.mode = mode;
      slot.pieceEnd = alignedEnd;
      this.#calls.fallocate(slot, mode | Falloc.keepSize, aligned, alignedEnd - aligned);
      return;
    }
    const stop = mode !== 0 && slot.position < aligned ? Math.min(aligned, slot.end) : slot.end;
    this.#writeZeroes(slot, stop - slot.position);
  }

  #writeZeroes(slot: S, bytes: number): void {
    if (this.#bounce === null) {
      zeroes ??= Buffer.alloc(ZEROES_BYTES);
      this.#calls.write(slot, zeroes, 0, Math.min(bytes, ZEROES_BYTES), slot.position, false);
      return;
    }
    slot.bounce ??= this.#bounce.acquire(bytes);
    const { slab, at } = slot.bounce;
    const count = Math.min(bytes, slot.bounce.bytes);
    slab.fill(0, at, at + count);
    this.#calls.write(slot, slab, at, count, slot.position, false);
  }

  /** Discards what whole blocks there are; a discard is a hint, so the rest, and failing to support it, is no error. */
  #advanceDiscard(slot: S): void {
    const unit = this.kind === 'block' ? this.#limits.logicalBlockSize : 1;
    const start = Math.ceil(slot.position / unit) * unit;
    const length = slot.end - (slot.end % unit) - start;
    slot.pieceEnd = slot.end;
    if (!this.#canDiscard || length <= 0) this.#finish(slot, 0);
    else if (this.kind === 'block') this.#calls.blockDiscard(slot, start, length);
    else this.#calls.fallocate(slot, Falloc.punchHole | Falloc.keepSize, start, length);
  }

  /** Frees the slot; gives its request. */
  #vacate(slot: S): IoRequest {
    const request = slot.request!;
    slot.request = null;
    slot.failed = 0;
    if (slot.bounce !== null) {
      this.#bounce!.release(slot.bounce);
      slot.bounce = null;
    }
    this.#freeSlots.push(slot);
    this.#busy--;
    return request;
  }

  #finish(slot: S, errno: number): void {
    const { durable } = slot;
    const request = this.#vacate(slot);
    if (this.#queue.size > 0 && !this.#waiting) this.#schedule();
    if (errno === 0 && request.op !== Op.read && (request.flags & RequestFlag.fua) !== 0) {
      if (!durable || this.#durability.inDoubt) {
        this.#durability.add(request);
        this.#schedule();
        return;
      }
      errno = this.#durability.errno;
    }
    this.#complete(request, errno);
    this.#checkDrained();
  }

  #complete(request: IoRequest, errno: number): void {
    request.error = errno;
    request.owner.ioDone(request);
  }

  #startSync(): void {
    if (this.#waiting || !this.#durability.isDue) return;
    if (!this.#calls.hasRoom(this.#onRoom)) {
      this.#waiting = true;
      return;
    }
    this.#durability.begin(!this.#limits.readOnly);
  }
}
