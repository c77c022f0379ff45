/**
 * Replies of one connection on their way out: gathered while an event-loop turn lasts, handed over as few pieces of
 * memory, and kept until the system has taken them.
 *
 *     a simple reply's header, then the data of a READ that went well; or a chunk's header (chunks.ts), then its payload
 *       DATA             0 offset u64  8 data
 *       HOLE             0 offset u64  8 bytes u32
 *       BLOCK_STATUS     0 context u32  4 extents: bytes u32, status u32 each
 *       the same, ext.   0 context u32  4 count u32  8 extents: bytes u64, status u64 each
 *       ERROR            0 error u32  4 text length u16  6 text,  then offset u64 if it is an ERROR_OFFSET
 *
 * With structured replies a READ, and whatever fails, is answered by chunks; the rest by simple replies, as is allowed. With extended
 * headers all are chunks.
 *
 * Invariants
 *  - A READ's reply is a slot with room for header and data, reserved when the command is accepted; all others are headers
 *    side by side. Replies of neighbouring slots leave as one piece.
 *  - A piece is sent once and released once, in the order of sending.
 *  - A header is written only when its data is known to be good: a reply can't be taken back.
 */
import assert from 'node:assert/strict';
import type { ExtentList } from '../dm/io.ts';
import { type BufferPool, type Segment, SegmentArena } from './buffer-pool.ts';
import { writeExtendedHeader, writeSimpleHeader, writeStructuredHeader, writeUint32, writeUint64 } from './chunks.ts';
import type { Command } from './command.ts';
import {
  CHUNK_HEADER_BYTES,
  ChunkType,
  CommandType,
  EXTENDED_CHUNK_HEADER_BYTES,
  SIMPLE_REPLY_BYTES,
} from './constants.ts';
import type { Features } from './features.ts';
import { type ChunkWriter, layOutSparse } from './sparse-read.ts';

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

  /** Adds a slot, as part of the last piece if it follows it; or, of no slots, one more part of the slot that was added last. */
  add(segment: Segment, start: number, end: number, slots: number): void {
    const last = this.count - 1;
    this.bytes += end - start;
    if (last >= 0 && this.segments[last] === segment && this.ends[last] === start) {
      this.ends[last] = end;
      this.slots[last]! += slots;
      return;
    }
    this.segments[this.count] = segment;
    this.starts[this.count] = start;
    this.ends[this.count] = end;
    this.slots[this.count] = slots;
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

/** Bytes of the offset before a chunk's data, and of an OFFSET_HOLE's payload. */
const OFFSET_BYTES = 8;
const HOLE_BYTES = 12;
/** Bytes of an error chunk's payload before its text. */
const ERROR_BYTES = 6;

export class ReplyQueue implements ChunkWriter {
  /** Bytes before the data of a READ; what a reply is taken for before it is known. */
  readonly overhead: number;
  readonly holeBytes: number;
  readonly #structured: boolean;
  readonly #extended: boolean;
  readonly #chunkHeaderBytes: number;
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

  constructor(pool: BufferPool, { structuredReplies, extendedHeaders }: Features) {
    this.#structured = structuredReplies;
    this.#extended = extendedHeaders;
    this.#chunkHeaderBytes = extendedHeaders ? EXTENDED_CHUNK_HEADER_BYTES : CHUNK_HEADER_BYTES;
    this.overhead = structuredReplies ? this.#chunkHeaderBytes + OFFSET_BYTES : SIMPLE_REPLY_BYTES;
    this.holeBytes = this.#chunkHeaderBytes + HOLE_BYTES;
    this.#data = new SegmentArena(pool, DATA_SEGMENT_BYTES);
    this.#headers = new SegmentArena(pool, HEADER_SEGMENT_BYTES);
  }

  get dataHeaderBytes(): number {
    return this.overhead;
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
    const bytes = this.overhead + command.length;
    const segment = this.#data.reserve(bytes);
    command.segment = segment;
    command.slot = segment.used - bytes;
    command.buffer = segment.buffer;
    command.bufferOffset = command.slot + this.overhead;
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
    if (this.#structured) this.writeData(command, slot, command, true);
    else writeSimpleHeader(segment.buffer, slot, command, 0);
    this.#pushRead(command);
  }

  /**
   * The same in chunks, without the ranges that `zeroRun` knows to be zeroes. Gives the bytes that are to be sent; 0: it is better sent whole,
   * and was not added.
   */
  addSparseRead(command: Command, zeroRun: (offset: number, length: number) => number): number {
    const bytes = layOutSparse(command, zeroRun, this);
    if (bytes > 0) this.#pushRead(command);
    return bytes;
  }

  #pushRead(command: Command): void {
    const last = this.#reads.at(-1);
    if (last !== undefined && bySlot(last, command) > 0) this.#readsInOrder = false;
    this.#reads.push(command);
  }

  /** The header of a chunk of a READ's data, in its slot. */
  writeData(
    command: Command,
    at: number,
    { offset, length }: { readonly offset: number; readonly length: number },
    last: boolean,
  ): void {
    const { buffer } = command.segment!;
    this.#writeHeader(buffer, at, command, ChunkType.offsetData, OFFSET_BYTES + length, last);
    writeUint64(buffer, at + this.#chunkHeaderBytes, offset);
  }

  writeHole(
    command: Command,
    at: number,
    { offset, length }: { readonly offset: number; readonly length: number },
    last: boolean,
  ): void {
    const { buffer } = command.segment!;
    this.#writeHeader(buffer, at, command, ChunkType.offsetHole, HOLE_BYTES, last);
    writeUint64(buffer, at + this.#chunkHeaderBytes, offset);
    writeUint32(buffer, at + this.#chunkHeaderBytes + OFFSET_BYTES, length);
  }

  #writeHeader(buffer: Buffer, at: number, command: Command, type: number, payloadBytes: number, last: boolean): void {
    if (this.#extended) writeExtendedHeader(buffer, at, command, type, payloadBytes, last);
    else writeStructuredHeader(buffer, at, command, type, payloadBytes, last);
  }

  /** A reply without data and without a text; gives its bytes. */
  addHeader(command: Command, error: number): number {
    // A READ without data still is a READ.
    const isChunk = this.#extended || (this.#structured && command.type === CommandType.read);
    if (isChunk) return this.#addChunk(command, ChunkType.none, 0).bytes;
    const segment = this.#headers.reserve(SIMPLE_REPLY_BYTES);
    const start = segment.used - SIMPLE_REPLY_BYTES;
    writeSimpleHeader(segment.buffer, start, command, error);
    this.#open.add(segment, start, segment.used, 1);
    return SIMPLE_REPLY_BYTES;
  }

  /** The reply of a READ that found nothing but zeroes; gives its bytes. */
  addHole(command: Command): number {
    const { buffer, at, bytes } = this.#addChunk(command, ChunkType.offsetHole, HOLE_BYTES);
    writeUint64(buffer, at, command.offset);
    writeUint32(buffer, at + OFFSET_BYTES, command.length);
    return bytes;
  }

  /** What a range holds in each context, as far as it is known; gives the reply's bytes. */
  addStatuses(command: Command): number {
    const { contexts, statuses } = command;
    let bytes = 0;
    for (const [i, { id }] of contexts.entries()) {
      bytes += this.#addStatus(command, id, statuses[i]!, i === contexts.length - 1);
    }
    return bytes;
  }

  #addStatus(
    command: Command,
    id: number,
    { count, bytes: covered, lengths, flags }: ExtentList,
    last: boolean,
  ): number {
    assert(count > 0 && covered <= command.length);
    if (this.#extended) {
      const { buffer, at, bytes } = this.#addChunk(command, ChunkType.blockStatusExt, 8 + 16 * count, last);
      writeUint32(buffer, at, id);
      writeUint32(buffer, at + 4, count);
      for (let i = 0; i < count; i++) {
        writeUint64(buffer, at + 8 + 16 * i, lengths[i]!);
        writeUint64(buffer, at + 16 + 16 * i, flags[i]!);
      }
      return bytes;
    }
    const { buffer, at, bytes } = this.#addChunk(command, ChunkType.blockStatus, 4 + 8 * count, last);
    writeUint32(buffer, at, id);
    for (let i = 0; i < count; i++) {
      writeUint32(buffer, at + 4 + 8 * i, lengths[i]!);
      writeUint32(buffer, at + 8 + 8 * i, flags[i]!);
    }
    return bytes;
  }

  /** A failure, and why; `offset` is where, null if that means nothing. Gives its bytes. Only for structured replies. */
  addError(command: Command, error: number, text: string, offset: number | null): number {
    const textBytes = Buffer.byteLength(text);
    const type = offset === null ? ChunkType.error : ChunkType.errorOffset;
    const payload = ERROR_BYTES + textBytes + (offset === null ? 0 : 8);
    const { buffer, at, bytes } = this.#addChunk(command, type, payload);
    writeUint32(buffer, at, error);
    buffer.writeUInt16BE(textBytes, at + 4);
    buffer.write(text, at + ERROR_BYTES, 'utf8');
    if (offset !== null) writeUint64(buffer, at + ERROR_BYTES + textBytes, offset);
    return bytes;
  }

  /** Gives where the payload is to be put, all of it, and the bytes of the chunk. */
  #addChunk(
    command: Command,
    type: number,
    payloadBytes: number,
    last = true,
  ): { buffer: Buffer; at: number; bytes: number } {
    assert(this.#structured);
    const bytes = this.#chunkHeaderBytes + payloadBytes;
    const segment = this.#headers.reserve(bytes);
    const start = segment.used - bytes;
    this.#writeHeader(segment.buffer, start, command, type, payloadBytes, last);
    this.#open.add(segment, start, segment.used, 1);
    return { buffer: segment.buffer, at: start + this.#chunkHeaderBytes, bytes };
  }

  /**
   * Appends the pieces of all replies so far to `pieces`, to be sent in this order and confirmed by one `sent`, and calls
   * `free` with each READ among them. Does nothing if there are none.
   */
  collect(pieces: Buffer[], free: (command: Command) => void): void {
    const batch = this.#open;
    if (!this.#readsInOrder) this.#reads.sort(bySlot);
    for (const command of this.#reads) {
      const { parts } = command;
      const segment = command.segment!;
      if (parts === null) batch.add(segment, command.slot, command.slot + this.overhead + command.length, 1);
      else for (let i = 0; i < parts.length; i += 2) batch.add(segment, parts[i]!, parts[i + 1]!, i === 0 ? 1 : 0);
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
      // Further parts of a slot that was counted with its first.
      if (batch.slots[i] === 0) continue;
      if (!reusable) segment.lost = true;
      segment.release(batch.slots[i]!);
    }
    batch.clear();
  }
}
