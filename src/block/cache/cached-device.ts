/**
 * A device behind the block cache of its process (block-cache.ts).
 *
 * What is cached must be what the device holds, though others write to it: commands, which open it themselves, and workers that
 * have other volumes on it. The rule that makes this right:
 *
 *     A range of the device is written by nobody else while a table that is live here maps it. Everything else may change at any
 *     moment, and nothing of it is served from memory.
 *
 * So whoever uses a device tells it of the borders of that time (dm/volume.ts does, for every table):
 *  - `enter` when a table comes in (it is loaded, and again when it goes live): what is in memory of its ranges may be of before;
 *  - `leave` when a table stops (suspended, closed): what it wrote goes to the device, then nothing of its ranges is kept.
 * Between extents of different owners there need be no border of a block: only the units that were written here are written to the
 * device, and what a block holds of a neighbour is served to nobody until he becomes ours, which begins with `enter`.
 *
 * Invariants
 *  - A read gives what the last write that ended before it wrote, or what is newer; read-ahead and reads in flight never put old bytes behind
 *    new ones (reads.ts, write-through.ts).
 *  - At most one write of a block is in flight whose bytes are in memory and may still change there.
 *  - A flush ends well only if every write acknowledged before it is on the device, and it flushed since. Writes that come later don't
 *    hold it up. Bytes that can't be written back stay dirty; each flush tries them again, and fails if they fail again. Only `leave` and
 *    `close` give such bytes up, no others than those of their range, and whoever left is told: nobody else has lost anything.
 *  - Discards and zeroes have their range for themselves: changes that overlap wait for them, and they for changes under way.
 *  - Dirty blocks stay within the cache's bound: writes wait for room; when the device refuses what is written back, they fail.
 */
import assert from 'node:assert/strict';
import { assertInLimits, type BlockDevice, type DeviceLimits, type OpenedDevice } from '../device.ts';
import { DeviceError, errnoText } from '../errors.ts';
import { blockStatusOf, type ExtentList, type StatusDone } from '../extents.ts';
import { type IoRequest, Op } from '../request.ts';
import type { BlockCache } from './block-cache.ts';
import { BufferedWrites } from './buffered-writes.ts';
import { DeviceFrames, limitsOver } from './device-frames.ts';
import { BLOCK_BYTES } from './frames.ts';
import { LaterEnds } from './later-ends.ts';
import { Operation, type OperationHost, Stage } from './operation.ts';
import { Ranges } from './ranges.ts';
import { Reads, type ReadsHost } from './reads.ts';
import type { CacheSnapshot } from './stats.ts';
import { ThroughWrites } from './write-through.ts';

export class CachedDevice implements OpenedDevice, OperationHost, ReadsHost {
  readonly name: string;
  readonly kind: 'file' | 'block';
  readonly identity: string;
  readonly remeasure?: () => Promise<void>;
  readonly #inner: BlockDevice & Partial<OpenedDevice>;
  readonly #cache: BlockCache;
  readonly #own: DeviceFrames;
  readonly #reads: Reads;
  readonly #through: ThroughWrites;
  /** Null: every write goes through. */
  readonly #buffered: BufferedWrites | null;
  readonly #ranges: Ranges;
  #innerLimits: DeviceLimits;
  #limits: DeviceLimits;
  readonly #operations: Operation[] = [];
  readonly #onRangeChanged = (range: Operation): void => this.#rangeSettled(range);
  readonly #ended = new LaterEnds((request, errno) => this.#complete(request, errno));
  /** Requests submitted and not ended; changes among them that reach behind the last whole block, which is where that is. */
  #outstanding = 0;
  #beyond = 0;
  #wholeEnd = 0;
  #closed: Promise<void> | null = null;
  #idle: (() => void) | null = null;

  constructor(inner: BlockDevice & Partial<OpenedDevice>, cache: BlockCache) {
    assert(inner.limits.requestAlignment <= BLOCK_BYTES, 'a unit larger than a block of the cache');
    this.#inner = inner;
    this.#cache = cache;
    this.name = inner.name;
    this.kind = inner.kind ?? 'file';
    this.identity = inner.identity ?? inner.name;
    if (inner.remeasure !== undefined) this.remeasure = () => inner.remeasure!();
    this.#innerLimits = inner.limits;
    this.#limits = limitsOver(inner.limits);
    this.#own = new DeviceFrames(cache.frames);
    this.#measureBlocks();
    const { aheadBytes, maxBlocks } = cache;
    this.#reads = new Reads(this, this.#own, { staging: cache.readStaging, maxBlocks, aheadBytes });
    this.#through = new ThroughWrites(this.#own, maxBlocks);
    this.#ranges = new Ranges(this.#own);
    const buffers = cache.policy === 'writeback' && !inner.limits.readOnly;
    this.#buffered = buffers
      ? new BufferedWrites(this, {
          own: this.#own,
          cache,
          unitBytes: this.#limits.requestAlignment,
          reads: this.#reads,
          ranges: this.#ranges,
        })
      : null;
  }

  get limits(): DeviceLimits {
    if (this.#inner.limits !== this.#innerLimits) this.#measure();
    return this.#limits;
  }

  /** What the cache counted so far. */
  get cacheStats(): CacheSnapshot {
    return this.#own.counters.snapshot(this.#buffered?.unclean ?? 0, this.#own.cached);
  }

  submit(request: IoRequest): void {
    assert(this.#closed === null, 'submitted to a closed device');
    assertInLimits(this.limits, request);
    request.error = 0;
    this.#outstanding++;
    if (this.#reachesBeyond(request)) this.#beyond++;
    if (request.op === Op.read) this.#reads.read(request);
    else if (request.op === Op.flush) this.#flush(request);
    else if (this.#limits.readOnly) this.#forward(this.begin(request), Stage.plain);
    else if (request.op !== Op.write) this.#startRange(this.begin(request));
    else if (this.#buffered === null) this.#startThrough(this.begin(request));
    else this.#buffered.write(request);
  }

  /** What the device itself says, once it has what is dirty. */
  blockStatus(offset: number, length: number, extents: ExtentList, done: StatusDone): void {
    if (this.#buffered === null || this.#buffered.unclean === 0) {
      blockStatusOf(this.#inner, offset, length, extents, done);
      return;
    }
    this.#settle(offset, length, false, (errno) => {
      if (errno === 0) {
        blockStatusOf(this.#inner, offset, length, extents, done);
        return;
      }
      // What the device would say is of before.
      extents.add(length, 0);
      done(0);
    });
  }

  zeroesFast(offset: number, length: number, flags: number): boolean {
    return this.#inner.zeroesFast?.(offset, length, flags) ?? false;
  }

  enter(offset: number, length: number): void {
    this.#own.distrust(Math.floor(offset / BLOCK_BYTES), Math.ceil((offset + length) / BLOCK_BYTES));
  }

  leave(offset: number, length: number): Promise<number> {
    if (this.#closed !== null) return Promise.resolve(0);
    return new Promise((resolve) => {
      this.#settle(offset, length, true, resolve);
    });
  }

  /** Writes back what is dirty, flushes it, and closes the device. Throws DeviceError IO if something was lost. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    while (this.#outstanding > 0) await this.#untilIdle();
    const { promise, resolve } = Promise.withResolvers<number>();
    const wrote = this.#buffered !== null && this.#own.counters.batches > 0;
    this.#settle(0, this.#limits.sizeBytes, true, resolve);
    let errno = await promise;
    while (this.#reads.active > 0) await this.#untilIdle();
    if (wrote && errno === 0) errno = await this.#flushBelow();
    this.enter(0, this.#limits.sizeBytes);
    this.#buffered?.close();
    this.#own.frames.detach(this.#own.base);
    this.#cache.detach(this);
    await this.#inner.close();
    if (errno !== 0)
      throw new DeviceError('IO', this.name, `what was written could not be made durable: ${errnoText(errno)}`, {
        errno,
      });
  }

  #untilIdle(): Promise<void> {
    return new Promise((resolve) => {
      this.#idle = resolve;
    });
  }

  #flushBelow(): Promise<number> {
    return new Promise((resolve) => {
      const operation = new Operation({ operationDone: ({ io }) => resolve(io.error) });
      operation.io.op = Op.flush;
      this.#inner.submit(operation.io);
    });
  }

  // For the parts of the device (reads.ts, buffered-writes.ts).

  begin(request: IoRequest): Operation {
    const operation = this.#operations.pop() ?? new Operation(this);
    operation.request = request;
    operation.position = request.offset;
    if (request.op === Op.flush) return operation;
    operation.firstBlock = Math.floor(request.offset / BLOCK_BYTES);
    operation.endBlock = Math.min(Math.ceil((request.offset + request.length) / BLOCK_BYTES), this.#own.blocks);
    operation.firstBlock = Math.min(operation.firstBlock, operation.endBlock);
    return operation;
  }

  finish(operation: Operation, errno: number): void {
    const request = operation.request!;
    operation.reset();
    this.#operations.push(operation);
    this.#complete(request, errno);
  }

  finishLater(operation: Operation, errno: number): void {
    const request = operation.request!;
    operation.reset();
    this.#operations.push(operation);
    this.endLater(request, errno);
  }

  endLater(request: IoRequest, errno: number): void {
    this.#ended.push(request, errno);
  }

  resume(operation: Operation): void {
    const { op } = operation.request ?? { op: Op.discard };
    if (op === Op.read) this.#reads.goOn(operation);
    else if (op !== Op.write) this.#startRange(operation);
    else if (this.#buffered === null) this.#startThrough(operation);
    else this.#buffered.goOn(operation);
  }

  handOn(block: number, done: (errno: number) => void): void {
    this.#settle(block * BLOCK_BYTES, BLOCK_BYTES, false, done);
  }

  mayInstall(first: number, end: number): boolean {
    return end <= this.#own.blocks && this.#through.blind === 0 && this.#ranges.over(first, end) === null;
  }

  roomChanged(): void {
    this.#cache.roomChanged();
    if (this.#reads.active === 0) this.#notifyIdle();
  }

  /** Room in the cache, which some of this device's writes may wait for. */
  serveWaiting(): void {
    this.#buffered?.serveWaiting();
  }

  submitBelow(request: IoRequest): void {
    this.#inner.submit(request);
  }

  /** Sends the part of a write that lies behind the last whole block; the operation's position is at its begin. */
  writeTail(operation: Operation): void {
    const { offset, length, buffer, bufferOffset, flags } = operation.request!;
    const { io, position } = operation;
    io.op = Op.write;
    io.flags = flags;
    io.offset = position;
    io.length = offset + length - position;
    io.buffer = buffer;
    io.bufferOffset = bufferOffset + position - offset;
    operation.stage = Stage.tail;
    operation.position = offset + length;
    this.#inner.submit(io);
  }

  /** Sends a flush to the device; the operation ends with it. */
  flushThrough(operation: Operation): void {
    operation.stage = Stage.flush;
    operation.io.op = Op.flush;
    this.#inner.submit(operation.io);
  }

  /** Blocks [first, end) are on the device, or could not be written. */
  wrote(first: number, end: number, errno: number): void {
    this.#ranges.changed(first, end, errno, this.#onRangeChanged);
  }

  /** Writes that wait for room. */
  get waiting(): number {
    return this.#buffered?.waiting ?? 0;
  }

  /** Writes back what is called for. */
  writeBack(): void {
    this.#buffered?.pump();
  }

  operationDone(operation: Operation): void {
    const { error } = operation.io;
    switch (operation.stage) {
      case Stage.through:
        this.#through.end(operation, error);
        if (operation.blind) this.wrote(0, Infinity, 0);
        else this.wrote(operation.firstBlock, operation.endBlock, 0);
        this.finish(operation, error);
        this.roomChanged();
        break;
      case Stage.tail:
        if (error === 0) this.#buffered!.goOn(operation);
        else this.finish(operation, error);
        break;
      case Stage.range:
        this.#endRange(operation, error);
        break;
      case Stage.flush:
      case Stage.plain:
        this.finish(operation, error);
        break;
      case Stage.none:
        assert.fail('an operation without a request of its own has ended');
    }
  }

  #flush(request: IoRequest): void {
    const operation = this.begin(request);
    if (this.#buffered === null || this.#buffered.unclean === 0) this.flushThrough(operation);
    else this.#buffered.flush(operation);
  }

  #startThrough(operation: Operation): void {
    const range = this.#ranges.over(operation.firstBlock, operation.endBlock);
    if (range !== null) {
      range.waiters.push(operation);
      return;
    }
    // Ranges wait until no blind write is left, so there are no new ones while they do.
    const ahead = this.#ranges.firstUnsettled;
    if (this.#through.begin(operation, ahead === null)) this.#forward(operation, Stage.through);
    else ahead!.waiters.push(operation);
  }

  /** Sends the operation's request to the device as it is. */
  #forward(operation: Operation, stage: Stage): void {
    const { io } = operation;
    const request = operation.request!;
    io.op = request.op;
    io.flags = request.flags;
    io.offset = request.offset;
    io.length = request.length;
    io.buffer = request.buffer;
    io.bufferOffset = request.bufferOffset;
    operation.stage = stage;
    this.#inner.submit(io);
  }

  // Ranges: discards, zeroes, and what is given up.

  #settle(offset: number, length: number, force: boolean, resolve: (errno: number) => void): void {
    const operation = this.#operations.pop() ?? new Operation(this);
    operation.firstBlock = Math.floor(offset / BLOCK_BYTES);
    operation.endBlock = Math.ceil((offset + length) / BLOCK_BYTES);
    operation.position = offset;
    operation.end = offset + length;
    operation.force = force;
    operation.resolve = resolve;
    this.#startRange(operation);
  }

  #startRange(operation: Operation): void {
    const before = this.#ranges.over(operation.firstBlock, operation.endBlock);
    if (before !== null) {
      before.waiters.push(operation);
      return;
    }
    this.#ranges.add(operation);
    if (this.#isClear(operation)) this.#rangeSettled(operation);
    else this.#buffered?.pump();
  }

  /** A range without a block, behind the last whole one, has nothing to wait for. */
  #isClear(range: Operation): boolean {
    return this.#ranges.settle(range) && (this.#through.blind === 0 || range.firstBlock === range.endBlock);
  }

  /** A range may have nothing on its way to the device any more, or something of it could not be written. */
  #rangeSettled(operation: Operation): void {
    if (operation.settled) return;
    if (operation.error !== 0) {
      this.#rangeFailed(operation);
      return;
    }
    if (!this.#isClear(operation)) return;
    operation.settled = true;
    if (operation.request === null) this.#endRange(operation, 0);
    else this.#forward(operation, Stage.range);
  }

  #rangeFailed(operation: Operation): void {
    if (operation.force) {
      // What flies comes back first.
      const { position, end, error } = operation;
      if (!this.#buffered!.giveUp(operation, error)) return;
      // With a unit that it shares, bytes of somebody else have gone, of whom nothing is known.
      const unit = this.#limits.requestAlignment;
      if (position % unit !== 0 || end % unit !== 0) this.#inner.loseFlushes?.(error);
    }
    operation.settled = true;
    this.#endRange(operation, operation.error);
  }

  #endRange(operation: Operation, errno: number): void {
    this.#ranges.remove(operation);
    const { request, resolve, waiters } = operation;
    for (let waiter = waiters.shift(); waiter !== null; waiter = waiters.shift()) this.resume(waiter);
    operation.reset();
    this.#operations.push(operation);
    if (request === null) setImmediate(resolve!, errno);
    else this.endLater(request, errno);
    this.roomChanged();
  }

  #measure(): void {
    this.#innerLimits = this.#inner.limits;
    this.#limits = limitsOver(this.#innerLimits);
    // While bytes behind the last whole block are being changed, they must not become a block that is cached.
    if (this.#beyond === 0) this.#measureBlocks();
  }

  #measureBlocks(): void {
    this.#own.blocks = Math.floor(this.#limits.sizeBytes / BLOCK_BYTES);
    this.#wholeEnd = this.#own.blocks * BLOCK_BYTES;
  }

  #reachesBeyond({ op, offset, length }: IoRequest): boolean {
    return offset + length > this.#wholeEnd && op !== Op.read;
  }

  #complete(request: IoRequest, errno: number): void {
    request.error = errno;
    this.#outstanding--;
    if (this.#reachesBeyond(request)) {
      this.#beyond--;
      if (this.#beyond === 0) this.#measureBlocks();
    }
    request.owner.ioDone(request);
    if (this.#outstanding === 0) this.#notifyIdle();
  }

  #notifyIdle(): void {
    const idle = this.#idle;
    this.#idle = null;
    idle?.();
  }
}
