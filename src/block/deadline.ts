/**
 * An order of requests for a device (`io_scheduler = "deadline"`), after Linux's scheduler of that name.
 *
 *     reads, writes ── each sorted by offset, and in order of arrival ── batches of one direction ──> device
 *
 * Requests of an event-loop turn are gathered, and go on in batches of BATCH in ascending order: what lies side by side reaches an engine that
 * merges side by side. Reads come first; writes wait for READ_BATCHES batches of them at most. A batch begins where the last one of its
 * direction ended, or with the request that waits longest if that is overdue.
 *
 * Invariants
 *  - At most DEPTH requests are at the device, at most WRITE_DEPTH of them change it, so that a read always finds room.
 *  - Every request gets there: no batch passes over an overdue one of its direction.
 *  - Flushes don't wait: they cover what has ended, and nothing here has.
 *  - A request of another keeps its owner; entries are pooled, and nothing is made per request.
 */
import assert from 'node:assert/strict';
import type { BlockDevice, DeviceLimits, OpenedDevice } from './device.ts';
import { assertInLimits } from './device.ts';
import { blockStatusOf, type ExtentList, type StatusDone } from './extents.ts';
import { IoRequest, Op, type RequestOwner } from './request.ts';

const DEPTH = 64;
const WRITE_DEPTH = 48;
const BATCH = 16;
const READ_BATCHES = 2;
const READ_DEADLINE_MS = 500;
const WRITE_DEADLINE_MS = 5000;

class Entry implements RequestOwner {
  readonly io: IoRequest = new IoRequest();
  request: IoRequest | null = null;
  /** When it came, in milliseconds. */
  arrivedAt = 0;
  older: Entry | null = null;
  newer: Entry | null = null;
  readonly #device: DeadlineDevice;

  constructor(device: DeadlineDevice) {
    this.#device = device;
    this.io.owner = this;
  }

  ioDone(): void {
    this.#device.entryDone(this);
  }
}

/** What waits in one direction: by offset, and in order of arrival. */
class Direction {
  readonly deadlineMs: number;
  oldest: Entry | null = null;
  #newest: Entry | null = null;
  readonly #sorted: Entry[] = [];
  /** Where the last batch ended, bytes. */
  position = 0;

  constructor(deadlineMs: number) {
    this.deadlineMs = deadlineMs;
  }

  get size(): number {
    return this.#sorted.length;
  }

  isOverdue(now: number): boolean {
    return this.oldest !== null && now - this.oldest.arrivedAt >= this.deadlineMs;
  }

  add(entry: Entry): void {
    entry.older = this.#newest;
    entry.newer = null;
    if (this.#newest === null) this.oldest = entry;
    else this.#newest.newer = entry;
    this.#newest = entry;
    const sorted = this.#sorted;
    let at = sorted.length;
    sorted.push(entry);
    for (const { offset } = entry.io; at > 0 && sorted[at - 1]!.io.offset > offset; at--) sorted[at] = sorted[at - 1]!;
    sorted[at] = entry;
  }

  /** Takes the first entry at or after the position, else the first of all. */
  next(): Entry {
    const sorted = this.#sorted;
    let low = 0;
    let high = sorted.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[middle]!.io.offset < this.position) low = middle + 1;
      else high = middle;
    }
    return this.#takeAt(low === sorted.length ? 0 : low);
  }

  #takeAt(index: number): Entry {
    const sorted = this.#sorted;
    const entry = sorted[index]!;
    sorted.copyWithin(index, index + 1);
    sorted.pop();
    const { older, newer } = entry;
    if (older === null) this.oldest = newer;
    else older.newer = newer;
    if (newer === null) this.#newest = older;
    else newer.older = older;
    this.position = entry.io.offset + entry.io.length;
    return entry;
  }
}

export class DeadlineDevice implements OpenedDevice {
  readonly name: string;
  readonly kind: 'file' | 'block';
  readonly identity: string;
  readonly remeasure?: () => Promise<void>;
  readonly #inner: BlockDevice & Partial<OpenedDevice>;
  readonly #reads = new Direction(READ_DEADLINE_MS);
  readonly #writes = new Direction(WRITE_DEADLINE_MS);
  readonly #free: Entry[] = [];
  #inFlight = 0;
  #writesInFlight = 0;
  /** The batch under way: its direction, and how many it may still send. */
  #current: Direction = this.#reads;
  #left = 0;
  /** Batches of reads since a write had its turn. */
  #readBatches = 0;
  #scheduled = false;
  #closed = false;
  #drained: (() => void) | null = null;
  readonly #onTurn = (): void => {
    this.#scheduled = false;
    this.#dispatch();
  };

  constructor(inner: BlockDevice & Partial<OpenedDevice>) {
    this.#inner = inner;
    this.name = inner.name;
    this.kind = inner.kind ?? 'file';
    this.identity = inner.identity ?? inner.name;
    if (inner.remeasure !== undefined) this.remeasure = () => inner.remeasure!();
  }

  get limits(): DeviceLimits {
    return this.#inner.limits;
  }

  submit(request: IoRequest): void {
    assert(!this.#closed, 'submitted to a closed device');
    assertInLimits(this.limits, request);
    request.error = 0;
    const entry = this.#entryOf(request);
    if (request.op === Op.flush) {
      this.#send(entry);
      return;
    }
    entry.arrivedAt = performance.now();
    (request.op === Op.read ? this.#reads : this.#writes).add(entry);
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#onTurn);
  }

  zeroesFast(offset: number, length: number, flags: number): boolean {
    return this.#inner.zeroesFast?.(offset, length, flags) ?? false;
  }

  blockStatus(offset: number, length: number, extents: ExtentList, done: StatusDone): void {
    blockStatusOf(this.#inner, offset, length, extents, done);
  }

  async close(): Promise<void> {
    this.#closed = true;
    if (this.#inFlight + this.#reads.size + this.#writes.size > 0) {
      await new Promise<void>((resolve) => {
        this.#drained = resolve;
      });
    }
    await this.#inner.close();
  }

  /** An entry's request has ended. */
  entryDone(entry: Entry): void {
    const request = entry.request!;
    const { error, op } = entry.io;
    this.#inFlight--;
    if (op !== Op.read && op !== Op.flush) this.#writesInFlight--;
    entry.request = null;
    entry.io.reset();
    entry.io.owner = entry;
    this.#free.push(entry);
    request.error = error;
    request.owner.ioDone(request);
    this.#dispatch();
    if (this.#inFlight === 0 && this.#reads.size + this.#writes.size === 0) this.#drained?.();
  }

  #entryOf(request: IoRequest): Entry {
    const entry = this.#free.pop() ?? new Entry(this);
    const { io } = entry;
    entry.request = request;
    io.op = request.op;
    io.flags = request.flags;
    io.offset = request.offset;
    io.length = request.length;
    io.buffer = request.buffer;
    io.bufferOffset = request.bufferOffset;
    io.aligned = request.aligned;
    return entry;
  }

  #dispatch(): void {
    while (this.#inFlight < DEPTH) {
      if (this.#left === 0 || !this.#maySend(this.#current)) {
        if (!this.#newBatch()) return;
      }
      this.#left--;
      this.#send(this.#current.next());
    }
  }

  #maySend(direction: Direction): boolean {
    return direction.size > 0 && (direction === this.#reads || this.#writesInFlight < WRITE_DEPTH);
  }

  /** Chooses what comes next; false: nothing may. */
  #newBatch(): boolean {
    const reads = this.#maySend(this.#reads);
    const writes = this.#maySend(this.#writes);
    if (!reads && !writes) return false;
    const now = performance.now();
    const starved = writes && (this.#readBatches >= READ_BATCHES || this.#writes.isOverdue(now));
    const direction = reads && !starved ? this.#reads : writes ? this.#writes : this.#reads;
    if (direction === this.#writes) this.#readBatches = 0;
    else if (this.#writes.size > 0) this.#readBatches++;
    if (direction.isOverdue(now)) direction.position = direction.oldest!.io.offset;
    this.#current = direction;
    this.#left = BATCH;
    return true;
  }

  #send(entry: Entry): void {
    const { op } = entry.io;
    this.#inFlight++;
    if (op !== Op.read && op !== Op.flush) this.#writesInFlight++;
    this.#inner.submit(entry.io);
  }
}
