/**
 * The dirty blocks of one device and their way to it.
 *
 * Dirty frames are listed in the order in which they became dirty, each with the epoch since when it is. `mark()` ends an epoch:
 * everything acknowledged so far is on the device when `isClean(mark)`. A batch is a run of adjacent dirty blocks, copied to
 * staging memory, so that its frames may be written to again at once.
 *
 *     clean ── markDirty ──> dirty (since) ── batch begins ──> flying ── ends ──> clean
 *                              ^  <──────────── fails: since as before ──┘
 *
 * Invariants
 *  - At most one batch in flight covers a block; only units that were written here are written to the device: what else is in the
 *    block may belong to somebody else.
 *  - A block stays dirty until a write of its newest bytes has succeeded: an error loses nothing. After one, batches begin only when
 *    somebody waits for their bytes, or after RETRY_MS: who only waits for room in the cache gets none from a device that refuses.
 *  - The list is sorted by `since`: a frame whose batch failed comes back to its head.
 *  - `none` writes in order of dirtying; `deadline` in sweeps of ascending blocks, but for blocks that are overdue.
 */
import assert from 'node:assert/strict';
import type { AlignedPiece } from '../aligned-memory.ts';
import { IoRequest, Op, RequestFlag, type RequestOwner } from '../request.ts';
import { BLOCK_BYTES, type Frames } from './frames.ts';
import type { Operation } from './operation.ts';
import { LARGE_BYTES, type Staging } from './staging.ts';
import type { CacheCounters } from './stats.ts';

export const IO_SCHEDULERS = ['none', 'deadline'] as const;
export type IoScheduler = (typeof IO_SCHEDULERS)[number];

/** Batches of one device in flight. */
const MAX_BATCHES = 16;
const RETRY_MS = 1000;
const NONE = -1;

/** What a batch that has ended means is up to the device. */
export interface WriteBackHost {
  batchDone(batch: Batch): void;
  /** Every block up to this epoch is wanted on the device now; -1: none. */
  urgentEpoch(): number;
  /** Whether writes of some device wait for room. */
  isPressed(): boolean;
  /** Durable writes that wait for their blocks. */
  readonly durable: readonly Operation[];
  submitBelow(request: IoRequest): void;
}

export interface WriteBackOptions {
  readonly frames: Frames;
  /** The first key of the device. */
  readonly base: number;
  /** Bytes that the device takes at least. */
  readonly unitBytes: number;
  readonly staging: Staging;
  readonly scheduler: IoScheduler;
  /** A block is written when it has been dirty for so long. */
  readonly writeDeadlineMs: number;
  /** So many dirty blocks are written without a reason, until half of them are left. */
  readonly backgroundBlocks: number;
  readonly counters: CacheCounters;
  /** Frames dirty or flying of all devices together. */
  readonly total: { unclean: number };
}

/** A run of blocks on its way to the device. */
export class Batch implements RequestOwner {
  readonly io: IoRequest = new IoRequest();
  firstBlock = 0;
  blocks = 0;
  /** The oldest epoch of its blocks. */
  since = 0;
  durable = false;
  error = 0;
  staging: AlignedPiece | null = null;
  readonly #done: (batch: Batch) => void;

  constructor(done: (batch: Batch) => void) {
    this.#done = done;
    this.io.owner = this;
  }

  ioDone(): void {
    this.#done(this);
  }
}

export class WriteBack {
  readonly #host: WriteBackHost;
  readonly #frames: Frames;
  readonly #base: number;
  readonly #unitBytes: number;
  readonly #wholeBlock: number;
  readonly #staging: Staging;
  readonly #sorted: boolean;
  readonly #deadlineMs: number;
  readonly #background: number;
  readonly #counters: CacheCounters;
  readonly #total: { unclean: number };
  /** Frames dirty or flying. */
  unclean = 0;
  /** The errno of the last batch, if it failed. */
  failing = 0;
  #epoch = 1;
  #head = NONE;
  #tail = NONE;
  #draining = false;
  readonly #batches: Batch[] = [];
  readonly #freeBatches: Batch[] = [];
  /** What is left of the sweep under way: blocks in ascending order. */
  #sweep: Float64Array = new Float64Array(0);
  #sweepAt = 0;
  #sweepEnd = 0;
  #timer: NodeJS.Timeout | null = null;
  /** Without a reason nothing is tried again before, in milliseconds. */
  #retryAt = 0;
  readonly #onTimer = (): void => {
    this.#timer = null;
    this.pump();
    this.#arm();
  };
  #waiting = false;
  readonly #onRoom = (): void => {
    this.#waiting = false;
    this.pump();
  };
  readonly #onDone = (batch: Batch): void => this.#ended(batch);

  constructor(host: WriteBackHost, options: WriteBackOptions) {
    this.#host = host;
    this.#frames = options.frames;
    this.#base = options.base;
    this.#unitBytes = options.unitBytes;
    this.#wholeBlock = 2 ** (BLOCK_BYTES / options.unitBytes) - 1;
    this.#staging = options.staging;
    this.#sorted = options.scheduler === 'deadline';
    this.#deadlineMs = options.writeDeadlineMs;
    this.#background = options.backgroundBlocks;
    this.#counters = options.counters;
    this.#total = options.total;
  }

  /** Ends an epoch: gives the one that everything acknowledged so far belongs to. */
  mark(): number {
    return this.#epoch++;
  }

  /** Whether every change up to this epoch is on the device. */
  isClean(epoch: number): boolean {
    if (this.#head !== NONE && this.#frames.since[this.#head]! <= epoch) return false;
    for (const batch of this.#batches) if (batch.since <= epoch) return false;
    return true;
  }

  /** Whether what a frame held up to this epoch is on the device. A frame that flies counts as not. */
  isFrameClean(frame: number, epoch: number): boolean {
    const { dirty, flying, since } = this.#frames;
    return flying[frame] === 0 && (dirty[frame] === 0 || since[frame]! > epoch);
  }

  /** The units of a block that [from, to) of it covers, or touches. */
  unitsOf(from: number, to: number): number {
    return ((1 << Math.ceil(to / this.#unitBytes)) - 1) & ~((1 << Math.floor(from / this.#unitBytes)) - 1);
  }

  markDirty(frame: number, units: number): void {
    const { dirty, flying, since, dirtyAt } = this.#frames;
    const before = dirty[frame]!;
    dirty[frame] = before | units;
    if (before !== 0) return;
    if (flying[frame] === 0) this.#count(1);
    since[frame] = this.#epoch;
    dirtyAt[frame] = performance.now();
    this.#append(frame);
    if (this.#timer === null) this.#arm();
  }

  /** Forgets which of these units a frame has that the device has not. It must not fly. Gives whether it is clean now. */
  discard(frame: number, units: number): boolean {
    const { dirty, flying } = this.#frames;
    assert(flying[frame] === 0);
    if (dirty[frame] === 0) return true;
    dirty[frame]! &= ~units;
    if (dirty[frame] !== 0) return false;
    this.#unlist(frame);
    this.#count(-1);
    return true;
  }

  #count(by: number): void {
    this.unclean += by;
    this.#total.unclean += by;
  }

  /** Begins as many batches as are called for and possible. */
  pump(): void {
    while (this.#batches.length < MAX_BATCHES && this.#head !== NONE) {
      const urgent = this.#seedOfDurable();
      const seed = urgent === NONE ? this.#nextSeed() : urgent;
      if (seed === NONE) return;
      if (!this.#begin(seed, urgent !== NONE)) return;
    }
  }

  /** Nothing is dirty any more that anybody could wait for. */
  close(): void {
    assert(this.unclean === 0);
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  /** A frame that a durable write waits for. */
  #seedOfDurable(): number {
    for (const { firstBlock, endBlock, stamp } of this.#host.durable) {
      for (let block = firstBlock; block < endBlock; block++) {
        const frame = this.#frames.find(this.#base + block);
        if (frame !== NONE && this.#canFly(frame) && this.#frames.since[frame]! <= stamp) return frame;
      }
    }
    return NONE;
  }

  #canFly(frame: number): boolean {
    return this.#frames.dirty[frame] !== 0 && this.#frames.flying[frame] === 0;
  }

  /** The frame to begin the next batch with; NONE: nothing is called for. */
  #nextSeed(): number {
    const now = performance.now();
    const { since, dirtyAt } = this.#frames;
    const rests = this.failing !== 0 && now < this.#retryAt;
    let epoch = this.#host.urgentEpoch();
    // Room is made for others, but a device that has just refused would not give any.
    if (!rests && this.#host.isPressed()) epoch = Infinity;
    if (epoch < since[this.#head]!) {
      if (rests) return NONE;
      if (this.unclean >= this.#background) this.#draining = true;
      else if (this.unclean < this.#background / 2) this.#draining = false;
      if (!this.#draining && now - dirtyAt[this.#head]! < this.#deadlineMs) return NONE;
      epoch = Infinity;
    }
    const overdue = now - dirtyAt[this.#head]! > 2 * this.#deadlineMs;
    return this.#sorted && !overdue ? this.#nextOfSweep(epoch) : this.#oldest(epoch);
  }

  /** The frame that has been dirty longest and does not fly. */
  #oldest(epoch: number): number {
    const { since, dirtyAfter } = this.#frames;
    for (let frame = this.#head; frame !== NONE && since[frame]! <= epoch; frame = dirtyAfter[frame]!) {
      if (this.#canFly(frame)) return frame;
    }
    return NONE;
  }

  /** The next block of the sweep that is wanted; a new sweep begins with all that are dirty by then. */
  #nextOfSweep(epoch: number): number {
    for (let begun = false; ; begun = true) {
      while (this.#sweepAt < this.#sweepEnd) {
        const frame = this.#frames.find(this.#base + this.#sweep[this.#sweepAt++]!);
        if (frame !== NONE && this.#canFly(frame) && this.#frames.since[frame]! <= epoch) return frame;
      }
      if (begun) return NONE;
      this.#newSweep(epoch);
    }
  }

  #newSweep(epoch: number): void {
    const { since, dirtyAfter } = this.#frames;
    if (this.#sweep.length < this.unclean) this.#sweep = new Float64Array(2 ** Math.ceil(Math.log2(this.unclean)));
    let count = 0;
    for (let frame = this.#head; frame !== NONE && since[frame]! <= epoch; frame = dirtyAfter[frame]!) {
      if (this.#canFly(frame)) this.#sweep[count++] = this.#frames.keyOf(frame) - this.#base;
    }
    this.#sweep.subarray(0, count).sort();
    this.#sweepAt = 0;
    this.#sweepEnd = count;
  }

  /** Takes the run of dirty blocks that begins with a frame to the device; false: there is no staging memory yet. */
  #begin(seed: number, durable: boolean): boolean {
    const frames = this.#frames;
    const firstBlock = frames.keyOf(seed) - this.#base;
    const run = frames.dirty[seed] === this.#wholeBlock ? this.#runFrom(firstBlock) : 1;
    const staging = this.#staging.acquire(run * BLOCK_BYTES);
    if (staging === null) {
      if (!this.#waiting) this.#staging.onRelease(this.#onRoom);
      this.#waiting = true;
      return false;
    }
    const blocks = Math.min(run, Math.floor(staging.bytes / BLOCK_BYTES));
    const batch = this.#freeBatches.pop() ?? new Batch(this.#onDone);
    batch.firstBlock = firstBlock;
    batch.blocks = blocks;
    batch.staging = staging;
    batch.since = Infinity;
    batch.durable = durable;
    const { io } = batch;
    io.op = Op.write;
    io.flags = durable ? RequestFlag.fua : 0;
    io.offset = firstBlock * BLOCK_BYTES;
    io.length = blocks * BLOCK_BYTES;
    io.buffer = staging.slab;
    io.bufferOffset = staging.at;
    io.aligned = true;
    if (frames.dirty[seed] === this.#wholeBlock) {
      for (let i = 0; i < blocks; i++) this.#load(batch, i, frames.find(this.#base + firstBlock + i), this.#wholeBlock);
    } else {
      // The first run of units that were written; what is left has its turn later.
      const units = frames.dirty[seed]!;
      const from = 31 - Math.clz32(units & -units);
      const to = 31 - Math.clz32(~(units >> from) & -~(units >> from)) + from;
      this.#load(batch, 0, seed, (2 ** to - 1) & ~(2 ** from - 1));
      io.offset += from * this.#unitBytes;
      io.bufferOffset += from * this.#unitBytes;
      io.aligned = from === 0;
      io.length = (to - from) * this.#unitBytes;
    }
    this.#batches.push(batch);
    this.#counters.batches++;
    this.#counters.batchBytes += io.length;
    this.#host.submitBelow(io);
    return true;
  }

  /** How many whole blocks in a row are dirty and don't fly. */
  #runFrom(firstBlock: number): number {
    let run = 1;
    while (run < LARGE_BYTES / BLOCK_BYTES) {
      const frame = this.#frames.find(this.#base + firstBlock + run);
      if (frame === NONE || !this.#canFly(frame) || this.#frames.dirty[frame] !== this.#wholeBlock) break;
      run++;
    }
    return run;
  }

  #load(batch: Batch, index: number, frame: number, units: number): void {
    const frames = this.#frames;
    const { slab, at } = batch.staging!;
    frames.copyOut(frame, 0, BLOCK_BYTES, slab, at + index * BLOCK_BYTES);
    batch.since = Math.min(batch.since, frames.since[frame]!);
    frames.flying[frame] = units;
    frames.dirty[frame]! &= ~units;
    if (frames.dirty[frame] === 0) this.#unlist(frame);
  }

  #ended(batch: Batch): void {
    const { error } = batch.io;
    const frames = this.#frames;
    for (let i = batch.blocks - 1; i >= 0; i--) {
      const frame = frames.find(this.#base + batch.firstBlock + i);
      assert(frame !== NONE && frames.flying[frame] !== 0);
      if (error !== 0) this.#takeBack(frame, batch.since);
      frames.flying[frame] = 0;
      if (frames.dirty[frame] === 0) this.#count(-1);
    }
    this.#staging.release(batch.staging!);
    batch.staging = null;
    batch.error = error;
    this.failing = error;
    if (error !== 0) {
      this.#counters.batchErrors++;
      this.#retryAt = performance.now() + RETRY_MS;
    }
    // In no order; splice would make an array.
    const last = this.#batches.pop()!;
    if (last !== batch) this.#batches[this.#batches.indexOf(batch)] = last;
    this.#host.batchDone(batch);
    batch.io.reset();
    batch.io.owner = batch;
    this.#freeBatches.push(batch);
    this.pump();
    this.#arm();
  }

  /** What could not be written is dirty as it was. */
  #takeBack(frame: number, since: number): void {
    const frames = this.#frames;
    if (frames.dirty[frame] !== 0) this.#unlist(frame);
    frames.dirty[frame]! |= frames.flying[frame]!;
    frames.since[frame] = this.#head === NONE ? since : Math.min(since, frames.since[this.#head]!);
    frames.dirtyAt[frame] = performance.now();
    frames.dirtyBefore[frame] = NONE;
    frames.dirtyAfter[frame] = this.#head;
    if (this.#head === NONE) this.#tail = frame;
    else frames.dirtyBefore[this.#head] = frame;
    this.#head = frame;
  }

  #append(frame: number): void {
    const { dirtyBefore, dirtyAfter } = this.#frames;
    dirtyBefore[frame] = this.#tail;
    dirtyAfter[frame] = NONE;
    if (this.#tail === NONE) this.#head = frame;
    else dirtyAfter[this.#tail] = frame;
    this.#tail = frame;
  }

  #unlist(frame: number): void {
    const { dirtyBefore, dirtyAfter } = this.#frames;
    const before = dirtyBefore[frame]!;
    const after = dirtyAfter[frame]!;
    if (before === NONE) this.#head = after;
    else dirtyAfter[before] = after;
    if (after === NONE) this.#tail = before;
    else dirtyBefore[after] = before;
  }

  /** Sets the timer to when the oldest block is due. It keeps no process alive: whoever closes the device writes everything. */
  #arm(): void {
    // The end of a batch arms it, too.
    if (this.#timer !== null || this.#head === NONE || this.#batches.length > 0) return;
    const due = this.#frames.dirtyAt[this.#head]! + this.#deadlineMs;
    let at = due;
    if (this.failing !== 0) at = this.#host.isPressed() ? this.#retryAt : Math.max(this.#retryAt, due);
    this.#timer = setTimeout(this.#onTimer, Math.max(1, at - performance.now()));
    this.#timer.unref();
  }
}
