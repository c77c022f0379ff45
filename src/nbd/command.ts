/**
 * One command of the transmission phase, from its header to its reply, and the pool of them.
 *
 *     compact request    0 magic u32  4 flags u16  6 type u16  8 cookie u64  16 offset u64  24 length u32   (28 bytes)
 *     extended request   the same                                                          24 length u64   (32 bytes)
 *
 * Invariants
 *  - The cookie is opaque: two u32 that are given back as they came; so is, in extended replies, the offset.
 *  - An offset is a number: exact below 2^53, and any larger one still compares as larger than every volume.
 *  - A command has at most one of: a slot for the reply of a READ, a payload of a WRITE, memory that a CACHE reads into. It is nobody
 *    else's as long as the command lasts.
 */
import assert from 'node:assert/strict';
import {
  CACHE_PIECE_BYTES,
  CommandFlag,
  CommandType,
  EXTENDED_REQUEST_BYTES,
  EXTENDED_REQUEST_MAGIC,
  EXTENT_LIST_BYTES,
  NbdErrno,
  REQUEST_BYTES,
  REQUEST_MAGIC,
} from './constants.ts';
import type { ExtentList } from '../dm/io.ts';
import type { Segment } from './buffer-pool.ts';
import type { SelectedContext } from './features.ts';

const NO_BYTES: Buffer = Buffer.alloc(0);
const NO_CONTEXTS: readonly SelectedContext[] = [];

/** Byte by byte: Buffer's own call costs several times as much. */
function uint32(bytes: Buffer, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}

export class Command {
  /** Its number in its pool: the `tag` of the requests made for it. */
  readonly index: number;
  flags = 0;
  type = 0;
  cookieHigh = 0;
  cookieLow = 0;
  /** Bytes; and as it came, for an extended reply, and for who goes on with the connection. */
  offset = 0;
  offsetHigh = 0;
  offsetLow = 0;
  /** Bytes of the export that it is about. */
  length = 0;
  /** What its header says: the same, or the bytes of its payload. */
  lengthHigh = 0;
  lengthLow = 0;
  /** Bytes that follow its header. */
  payload = 0;
  /** What it is answered with instead of being carried out; 0 if it is good. */
  refusal: NbdErrno = NbdErrno.ok;
  /** READ: the segment of the whole reply (header and data); null otherwise. */
  segment: Segment | null = null;
  /** READ: where the reply starts in the segment. */
  slot = 0;
  /** READ: the segment's buffer; WRITE: where the payload is; CACHE: what is read into. */
  buffer: Buffer = NO_BYTES;
  /** Where the data starts in `buffer`. */
  bufferOffset = 0;
  /** WRITE, CACHE: whether `buffer` came from the pool, and goes back there. */
  pooled = false;
  /** WRITE: the segment that `buffer` is a part of, if it is where it was received. */
  received: Segment | null = null;
  /** READ: it found nothing but zeroes, and is answered by saying so. */
  hole = false;
  /** READ with holes: where in the segment's buffer the pieces of the reply begin and end, in turn. */
  parts: number[] | null = null;
  /** BLOCK_STATUS: the contexts that it asks about, and what is told of each. */
  contexts: readonly SelectedContext[] = NO_CONTEXTS;
  readonly statuses: ExtentList[] = [];
  /** Bytes before the first one that failed, as far as that is known. */
  failedAt = 0;
  /** Bytes done, of a command that is performed in pieces. */
  progress = 0;

  constructor(index: number) {
    this.index = index;
  }

  /** Takes the fields of the request at `at`; false if it is not one, after which nothing on this connection makes sense. */
  decode(bytes: Buffer, at: number): boolean {
    assert(at + REQUEST_BYTES <= bytes.length);
    if (uint32(bytes, at) !== REQUEST_MAGIC) return false;
    this.flags = (bytes[at + 4]! << 8) | bytes[at + 5]!;
    this.type = (bytes[at + 6]! << 8) | bytes[at + 7]!;
    this.cookieHigh = uint32(bytes, at + 8);
    this.cookieLow = uint32(bytes, at + 12);
    this.offsetHigh = uint32(bytes, at + 16);
    this.offsetLow = uint32(bytes, at + 20);
    this.offset = this.offsetHigh * 2 ** 32 + this.offsetLow;
    this.lengthHigh = 0;
    this.lengthLow = uint32(bytes, at + 24);
    this.length = this.lengthLow;
    this.payload = this.type === CommandType.write ? this.length : 0;
    return true;
  }

  /**
   * The same for an extended request. The length of one with a payload is that of the payload; only a WRITE's is also its own. A WRITE has
   * its payload whether the flag says so or not: QEMU's client, up to 10.0 at least, does not set it.
   */
  decodeExtended(bytes: Buffer, at: number): boolean {
    assert(at + EXTENDED_REQUEST_BYTES <= bytes.length);
    if (uint32(bytes, at) !== EXTENDED_REQUEST_MAGIC) return false;
    this.flags = (bytes[at + 4]! << 8) | bytes[at + 5]!;
    this.type = (bytes[at + 6]! << 8) | bytes[at + 7]!;
    this.cookieHigh = uint32(bytes, at + 8);
    this.cookieLow = uint32(bytes, at + 12);
    this.offsetHigh = uint32(bytes, at + 16);
    this.offsetLow = uint32(bytes, at + 20);
    this.offset = this.offsetHigh * 2 ** 32 + this.offsetLow;
    this.lengthHigh = uint32(bytes, at + 24);
    this.lengthLow = uint32(bytes, at + 28);
    const length = this.lengthHigh * 2 ** 32 + this.lengthLow;
    const writes = this.type === CommandType.write;
    const hasPayload = (this.flags & CommandFlag.payloadLength) !== 0;
    this.payload = hasPayload || writes ? length : 0;
    this.length = hasPayload && !writes ? 0 : length;
    return true;
  }

  /** The request as it came, bit by bit: what `decode` or `decodeExtended` took. */
  encode(extended: boolean): Buffer {
    const bytes = Buffer.alloc(extended ? EXTENDED_REQUEST_BYTES : REQUEST_BYTES);
    bytes.writeUInt32BE(extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC, 0);
    bytes.writeUInt16BE(this.flags, 4);
    bytes.writeUInt16BE(this.type, 6);
    bytes.writeUInt32BE(this.cookieHigh, 8);
    bytes.writeUInt32BE(this.cookieLow, 12);
    bytes.writeUInt32BE(this.offsetHigh, 16);
    bytes.writeUInt32BE(this.offsetLow, 20);
    if (extended) bytes.writeUInt32BE(this.lengthHigh, 24);
    bytes.writeUInt32BE(this.lengthLow, extended ? 28 : 24);
    return bytes;
  }

  /** Bytes of memory that it needs if it is carried out: what it carries, in either direction, or reads at once, or lists of extents. */
  get payloadBytes(): number {
    if (this.type === CommandType.blockStatus) return this.contexts.length * EXTENT_LIST_BYTES;
    if (this.type === CommandType.cache) return Math.min(this.length, CACHE_PIECE_BYTES);
    return this.type === CommandType.read || this.type === CommandType.write ? this.length : 0;
  }

  /** Forgets what memory it refers to. */
  reset(): void {
    this.refusal = NbdErrno.ok;
    this.segment = null;
    this.buffer = NO_BYTES;
    this.bufferOffset = 0;
    this.pooled = false;
    this.received = null;
    this.hole = false;
    this.parts = null;
    if (this.contexts !== NO_CONTEXTS) {
      this.contexts = NO_CONTEXTS;
      this.statuses.length = 0;
    }
    this.failedAt = 0;
    this.progress = 0;
  }
}

/** Commands of one connection, with indices from 0 without gaps. Grows up to what the connection may have in flight. */
export class CommandPool {
  #made = 0;
  readonly #free: Command[] = [];

  acquire(): Command {
    return this.#free.pop() ?? new Command(this.#made++);
  }

  release(command: Command): void {
    command.reset();
    this.#free.push(command);
  }
}
