/**
 * Writes that end in memory (write-back): what they wait for, and what waits for them to reach the device.
 *
 *     write ── frames at hand ──> copied, dirty, ends on this turn
 *        └── operation: waits for room | a fill | a range ── then goes on where it stopped
 *     FUA ── copied as above ── its blocks are written with FUA ──> ends
 *     flush ── everything dirty by then is written ── the device flushes ──> ends
 *
 * Invariants
 *  - A write takes room block by block and holds none while it waits, so writes of any length get through a cache of any size.
 *  - Writes that wait for room get it in order; new ones get none before them.
 *  - The dirty blocks of a device stay below its share, those of all devices below the cache's bound.
 *  - When writing back fails, writes that wait for room fail with it, and so do flushes and durable writes whose bytes it were.
 */
import { type IoRequest, RequestFlag } from '../request.ts';
import type { BlockCache } from './block-cache.ts';
import type { DeviceFrames } from './device-frames.ts';
import { BLOCK_BYTES, VALID } from './frames.ts';
import { type Operation, OperationList } from './operation.ts';
import type { Ranges } from './ranges.ts';
import type { Reads } from './reads.ts';
import { type Batch, WriteBack, type WriteBackHost } from './write-back.ts';

const NONE = -1;

/** What keeps a write from going on. */
const Obstacle = { none: 0, room: 1, fill: 2, range: 3, missing: 4, tail: 5 } as const;
type Obstacle = (typeof Obstacle)[keyof typeof Obstacle];

export interface BufferedHost {
  begin(request: IoRequest): Operation;
  finish(operation: Operation, errno: number): void;
  finishLater(operation: Operation, errno: number): void;
  endLater(request: IoRequest, errno: number): void;
  writeTail(operation: Operation): void;
  flushThrough(operation: Operation): void;
  submitBelow(request: IoRequest): void;
  /** Blocks have been written back, or could not be. */
  wrote(first: number, end: number, errno: number): void;
}

export interface BufferedOptions {
  readonly own: DeviceFrames;
  readonly cache: BlockCache;
  readonly unitBytes: number;
  readonly reads: Reads;
  readonly ranges: Ranges;
}

export class BufferedWrites implements WriteBackHost {
  /** FUA writes whose blocks are not all on the device. */
  readonly durable: Operation[] = [];
  readonly #host: BufferedHost;
  readonly #own: DeviceFrames;
  readonly #cache: BlockCache;
  readonly #reads: Reads;
  readonly #ranges: Ranges;
  readonly #back: WriteBack;
  readonly #waiting = new OperationList();
  /** In order of their epochs. */
  readonly #flushes = new OperationList();
  /** A waiting write has its turn. */
  #serving = false;
  /** A write is being taken that has not waited for anything yet. */
  #isNew = false;
  /** What the last `#absorb` met: the frame that fills, or the range. */
  #obstacle: Obstacle = Obstacle.none;
  #obstacleFrame = NONE;
  #obstacleRange: Operation | null = null;

  constructor(host: BufferedHost, options: BufferedOptions) {
    this.#host = host;
    this.#own = options.own;
    this.#cache = options.cache;
    this.#reads = options.reads;
    this.#ranges = options.ranges;
    const { cache, own, unitBytes } = options;
    this.#back = new WriteBack(this, {
      frames: own.frames,
      base: own.base,
      unitBytes,
      staging: cache.writeStaging,
      scheduler: cache.scheduler,
      writeDeadlineMs: cache.writeDeadlineMs,
      backgroundBlocks: cache.backgroundBlocks,
      counters: own.counters,
      total: cache.total,
    });
  }

  /** Blocks that the device does not have yet. */
  get unclean(): number {
    return this.#back.unclean;
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  write(request: IoRequest): void {
    this.#isNew = true;
    const position = this.#absorb(request, request.offset);
    this.#isNew = false;
    if (this.#obstacle === Obstacle.none && (request.flags & RequestFlag.fua) === 0) {
      this.#host.endLater(request, 0);
      this.#pumpIfDue();
      return;
    }
    const operation = this.#host.begin(request);
    operation.position = position;
    this.#wait(operation);
  }

  /** Goes on with a write that waited. */
  goOn(operation: Operation): void {
    operation.position = this.#absorb(operation.request!, operation.position);
    this.#wait(operation);
  }

  /** The operation ends when everything acknowledged before it is durable. */
  flush(operation: Operation): void {
    operation.stamp = this.#back.mark();
    this.#flushes.push(operation);
    this.#back.pump();
  }

  pump(): void {
    this.#back.pump();
  }

  /** There may be room. */
  serveWaiting(): void {
    if (this.#serving) return;
    this.#serving = true;
    for (let left = this.#waiting.size; left > 0; left--) {
      const operation = this.#waiting.shift()!;
      const before = this.#waiting.size;
      this.goOn(operation);
      // It is the first again: nobody else would get further.
      if (this.#waiting.size > before) break;
    }
    this.#serving = false;
  }

  /** Forgets what of a range can't be written, for `errno`; false: some of it is on its way still. What is beside it in its blocks stays. */
  giveUp({ firstBlock, endBlock, position, end }: Operation, errno: number): boolean {
    const { frames, base } = this.#own;
    let flying = 0;
    this.#own.each(firstBlock, endBlock, (frame) => {
      if (frames.flying[frame] !== 0) flying++;
    });
    if (flying > 0) return false;
    this.#own.each(firstBlock, endBlock, (frame) => {
      const at = (frames.keyOf(frame) - base) * BLOCK_BYTES;
      const units = this.#back.unitsOf(Math.max(position - at, 0), Math.min(end - at, BLOCK_BYTES));
      if (this.#back.discard(frame, units)) this.#own.drop(frame);
    });
    // Who waits for these bytes is told by no batch any more.
    this.#failDurable(position, end, errno);
    this.#tellFlushes(0, 0);
    return true;
  }

  close(): void {
    this.#back.close();
  }

  // For write-back.

  urgentEpoch(): number {
    if (this.#waiting.size > 0 || this.#ranges.wantsWriteBack) return Infinity;
    return this.#flushes.last?.stamp ?? -1;
  }

  isPressed(): boolean {
    return this.#cache.isPressed;
  }

  submitBelow(request: IoRequest): void {
    this.#host.submitBelow(request);
  }

  batchDone(batch: Batch): void {
    const { firstBlock, blocks, error, since } = batch;
    this.#tellFlushes(error, since);
    this.#tellDurable(batch);
    this.#host.wrote(firstBlock, firstBlock + blocks, error);
    if (error === 0) {
      this.#cache.roomChanged();
      return;
    }
    for (let operation = this.#waiting.shift(); operation !== null; operation = this.#waiting.shift()) {
      this.#host.finishLater(operation, error);
    }
  }

  /** Some blocks are clean now or, from the epoch `since` on, could not be written. */
  #tellFlushes(error: number, since: number): void {
    for (let left = this.#flushes.size; left > 0; left--) {
      const flush = this.#flushes.shift()!;
      if (error !== 0 && since <= flush.stamp) this.#host.finishLater(flush, error);
      else if (this.#back.isClean(flush.stamp)) this.#host.flushThrough(flush);
      else this.#flushes.push(flush);
    }
  }

  #tellDurable({ firstBlock, blocks, error, durable }: Batch): void {
    if (error !== 0) {
      this.#failDurable(firstBlock * BLOCK_BYTES, (firstBlock + blocks) * BLOCK_BYTES, error);
      return;
    }
    for (let i = this.durable.length - 1; i >= 0; i--) {
      const write = this.durable[i]!;
      if (write.firstBlock >= firstBlock + blocks || firstBlock >= write.endBlock) continue;
      if (!durable) write.needsFlush = true;
      if (this.#isWritten(write)) {
        this.durable.splice(i, 1);
        this.#endDurable(write);
      }
    }
  }

  /** Ends those of the bytes [from, to) with `errno`. */
  #failDurable(from: number, to: number, errno: number): void {
    for (let i = this.durable.length - 1; i >= 0; i--) {
      const write = this.durable[i]!;
      const { offset, length } = write.request!;
      if (offset >= to || from >= offset + length) continue;
      this.durable.splice(i, 1);
      this.#host.finishLater(write, errno);
    }
  }

  #isWritten(write: Operation): boolean {
    for (let block = write.firstBlock; block < write.endBlock; block++) {
      const frame = this.#own.find(block);
      if (frame !== NONE && !this.#back.isFrameClean(frame, write.stamp)) return false;
    }
    return true;
  }

  #endDurable(write: Operation): void {
    if (write.needsFlush) this.#host.flushThrough(write);
    else this.#host.finishLater(write, 0);
  }

  /** All of a FUA write is in memory: now its blocks have to become durable. */
  #makeDurable(write: Operation): void {
    const { frames } = this.#own;
    write.stamp = this.#back.mark();
    for (let block = write.firstBlock; block < write.endBlock; block++) {
      const frame = this.#own.find(block);
      // What is not wholly ahead of us has been, or is being, written without FUA.
      if (frame === NONE || frames.dirty[frame] === 0 || frames.flying[frame] !== 0) write.needsFlush = true;
    }
    if (this.#isWritten(write)) {
      this.#endDurable(write);
      return;
    }
    this.durable.push(write);
    this.#back.pump();
  }

  #pumpIfDue(): void {
    if (this.#back.unclean >= this.#cache.backgroundBlocks) this.#back.pump();
  }

  /** Has an operation wait for what stopped it; or it has come to its end. */
  #wait(operation: Operation): void {
    switch (this.#obstacle) {
      case Obstacle.none:
        if ((operation.request!.flags & RequestFlag.fua) !== 0 && operation.endBlock > operation.firstBlock) {
          this.#makeDurable(operation);
        } else {
          this.#host.finishLater(operation, 0);
          this.#pumpIfDue();
        }
        break;
      case Obstacle.room:
        this.#waitForRoom(operation);
        break;
      case Obstacle.fill:
        this.#reads.waitFor(this.#obstacleFrame, operation);
        break;
      case Obstacle.range:
        this.#obstacleRange!.waiters.push(operation);
        break;
      case Obstacle.missing:
        if (!this.#reads.fetch(Math.floor(operation.position / BLOCK_BYTES), operation)) this.#waitForRoom(operation);
        break;
      case Obstacle.tail:
        this.#host.writeTail(operation);
        break;
    }
  }

  #waitForRoom(operation: Operation): void {
    if (this.#serving) this.#waiting.unshift(operation);
    else this.#waiting.push(operation);
    this.#cache.pressure();
  }

  /** Copies a write into frames from byte `position` on, as far as it goes without waiting; gives how far, and sets the obstacle. */
  #absorb(request: IoRequest, position: number): number {
    const end = request.offset + request.length;
    const { frames, blocks } = this.#own;
    this.#obstacle = Obstacle.none;
    while (position < end && this.#obstacle === Obstacle.none) {
      const block = Math.floor(position / BLOCK_BYTES);
      if (block >= blocks) {
        this.#obstacle = Obstacle.tail;
        break;
      }
      const stop = Math.min(end, (block + 1) * BLOCK_BYTES);
      const frame = this.#frameFor(block, stop - position === BLOCK_BYTES);
      if (frame === NONE) break;
      const from = position - block * BLOCK_BYTES;
      const bytes = stop - position;
      frames.copyIn(frame, from, bytes, request.buffer, request.bufferOffset + position - request.offset);
      this.#back.markDirty(frame, this.#back.unitsOf(from, from + bytes));
      position = stop;
    }
    return position;
  }

  /** The frame to write a block's bytes to; -1: the obstacle says why not now. */
  #frameFor(block: number, isWhole: boolean): number {
    const { frames } = this.#own;
    const range = this.#ranges.over(block, block + 1);
    if (range !== null) {
      this.#obstacleRange = range;
      return this.#stop(Obstacle.range);
    }
    let frame = this.#own.find(block);
    if (frame !== NONE && frames.state[frame] === VALID) {
      const isUnclean = frames.dirty[frame] !== 0 || frames.flying[frame] !== 0;
      if (!isUnclean && !this.#hasRoom()) return this.#stop(Obstacle.room);
      this.#own.used(frame);
      if (isWhole) frames.mixed[frame] = 0;
      return frame;
    }
    if (frame !== NONE && !isWhole) {
      this.#obstacleFrame = frame;
      return this.#stop(Obstacle.fill);
    }
    if (!this.#hasRoom()) return this.#stop(Obstacle.room);
    if (frame === NONE && !isWhole) return this.#stop(Obstacle.missing);
    if (frame === NONE) frame = this.#own.take(block);
    if (frame === NONE) return this.#stop(Obstacle.room);
    // Whatever a read under way brings is of before.
    frames.state[frame] = VALID;
    return frame;
  }

  #hasRoom(): boolean {
    if (this.#isNew && this.#waiting.size > 0) return false;
    return this.#cache.mayDirty(this.#back.unclean);
  }

  #stop(obstacle: Obstacle): number {
    this.#obstacle = obstacle;
    return NONE;
  }
}
