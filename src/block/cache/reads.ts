/**
 * Reads of a cached device: from memory what is there, the rest from the device, which fills the cache on its way.
 *
 *     request ── all there ──> ends on this turn
 *        └── operation: copies what is there, waits for fills of others, begins fills of its own
 *
 * Invariants
 *  - A fill reserves frames (`filling`) before its read begins and installs its bytes only into those that are still reserved by
 *    it: whoever writes to a block, or gives it up, takes the reservation away, so old bytes never come in behind new ones.
 *  - A read ends with bytes that the device or the cache had at some moment between its submission and its end.
 *  - Whole blocks are read straight into the caller's buffer and copied; parts of a block, and what is read ahead, go through
 *    staging memory. Without room for either the bytes are read and not kept. So are parts of a block that can't be read as a whole.
 */
import { Op, type IoRequest } from '../request.ts';
import type { DeviceFrames } from './device-frames.ts';
import { BLOCK_BYTES, FILLING, VALID } from './frames.ts';
import { Fill, type Operation } from './operation.ts';
import { ReadAhead } from './read-ahead.ts';
import { LARGE_BYTES, type Staging } from './staging.ts';

const NONE = -1;

export interface ReadsHost {
  /** An operation for a request, at its first byte. */
  begin(request: IoRequest): Operation;
  finish(operation: Operation, errno: number): void;
  /** Ends a request from a later callback. */
  endLater(request: IoRequest, errno: number): void;
  /** Goes on with an operation that waited. */
  resume(operation: Operation): void;
  /** Has what is dirty of a block written, and the block forgotten; `done` is told of the errno, later. */
  handOn(block: number, done: (errno: number) => void): void;
  /** Whether blocks [first, end) may come into the cache now. */
  mayInstall(first: number, end: number): boolean;
  /** Frames may have become free. */
  roomChanged(): void;
  submitBelow(request: IoRequest): void;
}

export class Reads {
  readonly #host: ReadsHost;
  readonly #own: DeviceFrames;
  readonly #staging: Staging;
  readonly #ahead: ReadAhead;
  readonly #maxBlocks: number;
  readonly #fills: Fill[] = [];
  readonly #free: Fill[] = [];
  /** Fills under way. */
  active = 0;
  readonly #onDone = (fill: Fill): void => this.#done(fill);

  /** `maxBlocks`: longer runs are not kept. `aheadBytes`: how far at most to read ahead. */
  constructor(
    host: ReadsHost,
    own: DeviceFrames,
    options: { readonly staging: Staging; readonly maxBlocks: number; readonly aheadBytes: number },
  ) {
    this.#host = host;
    this.#own = own;
    this.#staging = options.staging;
    this.#maxBlocks = options.maxBlocks;
    this.#ahead = new ReadAhead(Math.min(options.aheadBytes, LARGE_BYTES));
  }

  read(request: IoRequest): void {
    const { counters, blocks } = this.#own;
    const end = request.offset + request.length;
    const position = this.#own.copyHits(request, request.offset, end);
    this.#ahead.saw(request.offset, end, blocks * BLOCK_BYTES);
    const { from, to } = this.#ahead;
    if (position === end) {
      counters.hits++;
      this.#host.endLater(request, 0);
    } else {
      counters.misses++;
      const operation = this.#host.begin(request);
      operation.position = position;
      // One more than there are fills, until all are begun.
      operation.pending = 1;
      this.goOn(operation);
    }
    if (to > from) this.#readAhead(Math.floor(from / BLOCK_BYTES), Math.floor(to / BLOCK_BYTES));
  }

  /** Goes on with a read that is not all under way yet. */
  goOn(operation: Operation): void {
    const request = operation.request!;
    const end = request.offset + request.length;
    const { frames } = this.#own;
    while (operation.position < end) {
      operation.position = this.#own.copyHits(request, operation.position, end);
      if (operation.position === end) break;
      const frame = this.#own.find(Math.floor(operation.position / BLOCK_BYTES));
      if (frame !== NONE && frames.state[frame] === FILLING) {
        this.#fills[frames.fill[frame]!]!.waiters.push(operation);
        return;
      }
      if (frame !== NONE && frames.mixed[frame] !== 0) {
        this.#goOnWithout(frame, operation);
        return;
      }
      this.#begin(operation, end);
    }
    this.#step(operation);
  }

  /** Has a read go on when a block is gone that holds new bytes and old ones. */
  #goOnWithout(frame: number, operation: Operation): void {
    const block = this.#own.frames.keyOf(frame) - this.#own.base;
    this.#host.handOn(block, (errno) => {
      if (errno === 0) {
        this.goOn(operation);
        return;
      }
      operation.error = errno;
      this.#step(operation);
    });
  }

  /** Has an operation go on when the fill of a frame has ended. */
  waitFor(frame: number, operation: Operation): void {
    this.#fills[this.#own.frames.fill[frame]!]!.waiters.push(operation);
  }

  /** Brings a block in for a write that changes a part of it; false: there is no room now. */
  fetch(block: number, writer: Operation): boolean {
    const staging = this.#staging.acquire(BLOCK_BYTES);
    if (staging === null) return false;
    const fill = this.#take();
    fill.staging = staging;
    if (!this.#reserve(fill, block)) {
      this.#recycle(fill);
      return false;
    }
    fill.firstBlock = block;
    fill.blocks = 1;
    fill.writer = writer;
    fill.waiters.push(writer);
    this.#submit(fill, block * BLOCK_BYTES, BLOCK_BYTES, staging.slab, staging.at);
    return true;
  }

  #step(operation: Operation): void {
    operation.pending--;
    if (operation.pending === 0) this.#host.finish(operation, operation.error);
  }

  /** Begins the read of what is missing at the operation's position, as much as one read can bring. */
  #begin(operation: Operation, end: number): void {
    const request = operation.request!;
    const { position } = operation;
    const block = Math.floor(position / BLOCK_BYTES);
    const fill = this.#take();
    fill.reader = operation;
    operation.pending++;
    const isPart = position % BLOCK_BYTES !== 0 || end - position < BLOCK_BYTES;
    if (isPart && block < this.#own.blocks && this.#host.mayInstall(block, block + 1)) {
      fill.staging = this.#staging.acquire(BLOCK_BYTES);
      if (fill.staging !== null && this.#reserve(fill, block)) {
        fill.firstBlock = block;
        fill.blocks = 1;
        operation.position = Math.min(end, (block + 1) * BLOCK_BYTES);
        this.#submit(fill, block * BLOCK_BYTES, BLOCK_BYTES, fill.staging.slab, fill.staging.at);
        return;
      }
      if (fill.staging !== null) this.#staging.release(fill.staging);
      fill.staging = null;
    }
    const count = isPart ? 0 : this.#missingFrom(block, Math.floor(end / BLOCK_BYTES));
    fill.firstBlock = block;
    fill.blocks = count;
    // What lies behind the last whole block of the device is never kept.
    const tail = block >= this.#own.blocks;
    let stop = Math.min(end, (block + 1) * BLOCK_BYTES);
    if (tail) stop = end;
    else if (!isPart) stop = (block + count) * BLOCK_BYTES;
    if (count <= this.#maxBlocks && !isPart && this.#host.mayInstall(block, block + count)) {
      for (let i = 0; i < count; i++) this.#reserve(fill, block + i);
    }
    operation.position = stop;
    const at = request.bufferOffset + position - request.offset;
    this.#submit(fill, position, stop - position, request.buffer, at);
  }

  /** Reads a part of a block without the rest, instead of a fill that failed. It is not kept. */
  #beginPart(operation: Operation, block: number): void {
    const { offset, length, buffer, bufferOffset } = operation.request!;
    const from = Math.max(offset, block * BLOCK_BYTES);
    const to = Math.min(offset + length, (block + 1) * BLOCK_BYTES);
    const fill = this.#take();
    fill.reader = operation;
    fill.firstBlock = block;
    fill.blocks = 0;
    this.#submit(fill, from, to - from, buffer, bufferOffset + from - offset);
  }

  /** How many blocks from this one on are neither there nor on their way. */
  #missingFrom(block: number, end: number): number {
    const stop = Math.min(end, this.#own.blocks);
    let next = block + 1;
    for (; next < stop; next++) {
      const frame = this.#own.find(next);
      if (frame !== NONE && (this.#own.frames.poisoned[frame] === 0 || this.#own.frames.state[frame] === FILLING))
        break;
    }
    return next - block;
  }

  #readAhead(first: number, end: number): void {
    if (!this.#host.mayInstall(first, end)) return;
    for (let block = first; block < end;) {
      if (this.#own.find(block) !== NONE) {
        block++;
        continue;
      }
      const count = Math.min(this.#missingFrom(block, end), LARGE_BYTES / BLOCK_BYTES);
      const staging = this.#staging.acquire(count * BLOCK_BYTES);
      if (staging === null) return;
      const fill = this.#take();
      fill.staging = staging;
      fill.ahead = true;
      fill.firstBlock = block;
      let reserved = 0;
      const most = Math.min(count, Math.floor(staging.bytes / BLOCK_BYTES));
      while (reserved < most && this.#reserve(fill, block + reserved)) reserved++;
      fill.blocks = reserved;
      if (reserved === 0) {
        this.#recycle(fill);
        return;
      }
      this.#submit(fill, block * BLOCK_BYTES, reserved * BLOCK_BYTES, staging.slab, staging.at);
      block += reserved;
    }
  }

  /** Makes the block's frame wait for the fill; false: it has one that does not, or there is no frame. */
  #reserve(fill: Fill, block: number): boolean {
    if (this.#own.find(block) !== NONE) return false;
    const frame = this.#own.take(block);
    if (frame === NONE) return false;
    this.#own.frames.fill[frame] = fill.slot;
    return true;
  }

  #take(): Fill {
    this.active++;
    const free = this.#free.pop();
    if (free !== undefined) return free;
    const fill = new Fill(this.#fills.length, this.#onDone);
    this.#fills.push(fill);
    return fill;
  }

  #submit(fill: Fill, offset: number, length: number, buffer: Buffer, bufferOffset: number): void {
    const { io } = fill;
    io.op = Op.read;
    io.offset = offset;
    io.length = length;
    io.buffer = buffer;
    io.bufferOffset = bufferOffset;
    io.aligned = fill.staging !== null;
    this.#host.submitBelow(io);
  }

  #done(fill: Fill): void {
    const { reader, io } = fill;
    const { error } = io;
    this.#install(fill, error);
    // A block of which it needs a part: what is wrong may be another part of it.
    const readsPart = reader !== null && fill.staging !== null && error !== 0;
    if (readsPart) this.#beginPart(reader, fill.firstBlock);
    else if (reader !== null && fill.staging !== null) this.#deliver(fill, reader);
    else if (reader !== null && reader.error === 0) reader.error = error;
    for (let waiter = fill.waiters.shift(); waiter !== null; waiter = fill.waiters.shift()) {
      if (error !== 0 && waiter === fill.writer) this.#host.finish(waiter, error);
      else this.#host.resume(waiter);
    }
    this.#recycle(fill);
    if (reader !== null && !readsPart) this.#step(reader);
    this.#host.roomChanged();
  }

  /** Puts what was read into the frames that still wait for it. */
  #install(fill: Fill, error: number): void {
    const { frames } = this.#own;
    const { buffer, bufferOffset } = fill.io;
    for (let i = 0; i < fill.blocks; i++) {
      const frame = this.#own.find(fill.firstBlock + i);
      if (frame === NONE || frames.state[frame] !== FILLING || frames.fill[frame] !== fill.slot) continue;
      if (error !== 0) {
        this.#own.drop(frame);
        continue;
      }
      frames.copyIn(frame, 0, BLOCK_BYTES, buffer, bufferOffset + i * BLOCK_BYTES);
      frames.state[frame] = VALID;
      if (fill.ahead) frames.ahead[frame] = 1;
    }
  }

  /** Gives the reader his part of a block that was read whole. */
  #deliver(fill: Fill, { request }: Operation): void {
    const { offset, length, buffer, bufferOffset } = request!;
    const { slab, at } = fill.staging!;
    const start = fill.firstBlock * BLOCK_BYTES;
    const from = Math.max(offset, start);
    const to = Math.min(offset + length, start + BLOCK_BYTES);
    slab.copy(buffer, bufferOffset + from - offset, at + from - start, at + to - start);
  }

  #recycle(fill: Fill): void {
    if (fill.staging !== null) this.#staging.release(fill.staging);
    fill.reset();
    this.active--;
    this.#free.push(fill);
  }
}
