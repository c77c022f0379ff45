/**
 * Replies of one connection on their way out: gathered while an event-loop turn lasts, handed over as few pieces of
 * memory, and kept until the system has taken them.
 *
 *     simple reply   0 magic u32  4 error u32  8 cookie u64   (16 bytes), then the data of a READ that went well
 *
 * Invariants
 *  - A READ's reply is a slot with room for header and data, reserved when the command is accepted; all others are headers
 *    side by side. Replies of neighbouring slots leave as one piece.
 *  - A piece is sent once and released once, in the order of sending.
 *  - A header is written only when its data is known to be good: a simple reply can't be taken back.
 */
import assert from 'node:assert/strict';
import { type BufferPool, type Segment, SegmentArena } from './buffer-pool.ts';
import type { Command } from './command.ts';
import { SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC } from './constants.ts';

/** Bytes: room for the replies of about 31 READs of 4 KiB. */
const DATA_SEGMENT_BYTES = 128 * 1024;
const HEADER_SEGMENT_BYTES = 4096;

/** Pieces that leave together, as parallel arrays of which the first `count` entries hold. */
class Batch {
  count = 0;
  readonly segments: Segment[] = [];
  readonly starts: number[] = [];
  readonly ends: number[] = [];
  /** Slots of each piece. */
  readonly slots: number[] = [];
  bytes = 0;
  next: Batch | null = null;

  /** Adds a slot, as part of the last piece if it follows it. */
  add(segment: Segment, start: number, end: number): void {
    const last = this.count - 1;
    this.bytes += end - start;
    if (last >= 0 && this.segments[last] === segment && this.ends[last] === start) {
      this.ends[last] = end;
      this.slots[last]!++;
      return;
    }
    this.segments[this.count] = segment;
    this.starts[this.count] = start;
    this.ends[this.count] = end;
    this.slots[this.count] = 1;
    this.count++;
  }

  /** Keeps the arrays, which would have to grow again in each turn; they refer to pooled segments only. */
  clear(): void {
    this.count = 0;
    this.bytes = 0;
  }
}

function bySlot(a: Command, b: Command): number {
  const orderA = a.segment === null ? 0 : a.segment.order;
  const orderB = b.segment === null ? 0 : b.segment.order;
  return orderA === orderB ? a.slot - b.slot : orderA - orderB;
}

/** Byte by byte: a call for each field costs more than all of this. */
function writeUint32(buffer: Buffer, at: number, value: number): void {
  buffer[at] = value >>> 24;
  buffer[at + 1] = value >>> 16;
  buffer[at + 2] = value >>> 8;
  buffer[at + 3] = value;
}

function writeHeader(buffer: Buffer, at: number, command: Command, error: number): void {
  assert(at + SIMPLE_REPLY_BYTES <= buffer.length);
  writeUint32(buffer, at, SIMPLE_REPLY_MAGIC);
  writeUint32(buffer, at + 4, error);
  writeUint32(buffer, at + 8, command.cookieHigh);
  writeUint32(buffer, at + 12, command.cookieLow);
}

export class ReplyQueue {
  readonly #data: SegmentArena;
  readonly #headers: SegmentArena;
  /** READs that went well since the last `collect`. */
  readonly #reads: Command[] = [];
  #readsInOrder = true;
  #open: Batch = new Batch();
  /** Batches handed over and not yet taken by the system: a queue. */
  #oldest: Batch | null = null;
  #newest: Batch | null = null;
  #spare: Batch | null = null;

  constructor(pool: BufferPool) {
    this.#data = new SegmentArena(pool, DATA_SEGMENT_BYTES);
    this.#headers = new SegmentArena(pool, HEADER_SEGMENT_BYTES);
  }

  /** Whether nothing waits to be collected or to be taken by the system. */
  get empty(): boolean {
    return !this.collectable && this.#oldest === null;
  }

  /** Whether there is something to collect. */
  get collectable(): boolean {
    return this.#reads.length > 0 || this.#open.bytes > 0;
  }

  /** Gives a READ the place where its reply will be. */
  reserve(command: Command): void {
    const bytes = SIMPLE_REPLY_BYTES + command.length;
    const segment = this.#data.reserve(bytes);
    command.segment = segment;
    command.slot = segment.used - bytes;
    command.buffer = segment.buffer;
    command.bufferOffset = command.slot + SIMPLE_REPLY_BYTES;
  }

  /** Gives back the place of a READ that won't be answered with data. */
  unreserve(command: Command): void {
    assert(command.segment !== null);
    command.segment.release(1);
    command.segment = null;
  }

  /** The reply of a READ whose slot has been filled. The command stays in use until `collect` returned it. */
  addRead(command: Command): void {
    const { segment, slot } = command;
    assert(segment !== null);
    writeHeader(segment.buffer, slot, command, 0);
    const last = this.#reads.at(-1);
    if (last !== undefined && bySlot(last, command) > 0) this.#readsInOrder = false;
    this.#reads.push(command);
  }

  /** A reply without data. */
  addHeader(command: Command, error: number): void {
    const segment = this.#headers.reserve(SIMPLE_REPLY_BYTES);
    const start = segment.used - SIMPLE_REPLY_BYTES;
    writeHeader(segment.buffer, start, command, error);
    this.#open.add(segment, start, segment.used);
  }

  /**
   * Appends the pieces of all replies so far to `pieces`, to be sent in this order and confirmed by one `sent`, and calls
   * `free` with each READ among them. Does nothing if there are none.
   */
  collect(pieces: Buffer[], free: (command: Command) => void): void {
    const batch = this.#open;
    if (!this.#readsInOrder) this.#reads.sort(bySlot);
    for (const command of this.#reads) {
      batch.add(command.segment!, command.slot, command.slot + SIMPLE_REPLY_BYTES + command.length);
      free(command);
    }
    this.#reads.length = 0;
    this.#readsInOrder = true;
    if (batch.bytes === 0) return;
    for (let i = 0; i < batch.count; i++) {
      pieces.push(batch.segments[i]!.buffer.subarray(batch.starts[i], batch.ends[i]));
    }
    if (this.#newest === null) this.#oldest = batch;
    else this.#newest.next = batch;
    this.#newest = batch;
    this.#open = this.#spare ?? new Batch();
    this.#spare = this.#open.next;
    this.#open.next = null;
  }

  /** The system has taken the oldest batch. Returns its bytes. */
  sent(): number {
    const batch = this.#oldest;
    assert(batch !== null, 'more batches confirmed than were sent');
    this.#oldest = batch.next;
    if (this.#oldest === null) this.#newest = null;
    const { bytes } = batch;
    this.#release(batch, true);
    batch.next = this.#spare;
    this.#spare = batch;
    return bytes;
  }

  /** Drops everything, as nobody is there any more. What was handed over may still be looked at, and is not reused. */
  abandon(free: (command: Command) => void): void {
    for (const command of this.#reads) {
      this.unreserve(command);
      free(command);
    }
    this.#reads.length = 0;
    this.#release(this.#open, true);
    for (let batch = this.#oldest; batch !== null; batch = batch.next) this.#release(batch, false);
    this.#oldest = null;
    this.#newest = null;
  }

  #release(batch: Batch, reusable: boolean): void {
    for (let i = 0; i < batch.count; i++) {
      const segment = batch.segments[i]!;
      if (!reusable) segment.lost = true;
      segment.release(batch.slots[i]!);
    }
    batch.clear();
  }
}
