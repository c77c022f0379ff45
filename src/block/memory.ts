/**
 * A device in memory, for tests: sparse (only touched chunks take memory), of any size, with any limits.
 *
 * Invariants
 *  - Requests of one event-loop turn are carried out in order of submission in the next check phase, then completed.
 *  - Misaligned and out-of-range requests are the caller's faults and assert; so limits that a real device imposes
 *    (4096-byte blocks, O_DIRECT) are imposed on whoever is tested against this one.
 *  - Bytes that were written and then discarded read as `discardPattern`, so that a caller who counts on zeroes is caught.
 */
import assert from 'node:assert/strict';
import { assertInLimits, type BlockDevice, type DeviceLimits } from './device.ts';
import { Errno } from './errors.ts';
import { Op, RequestQueue, type IoRequest } from './request.ts';

export interface MemoryDeviceOptions {
  /** Bytes. */
  readonly sizeBytes: number;
  readonly name?: string;
  /** Bytes; default 512. */
  readonly logicalBlockSize?: number;
  /** Bytes; default `logicalBlockSize`. */
  readonly physicalBlockSize?: number;
  /** Bytes; default 1. */
  readonly requestAlignment?: number;
  readonly readOnly?: boolean;
  /** Default true. */
  readonly canDiscard?: boolean;
  /** What discarded bytes read as; default 0. */
  readonly discardPattern?: number;
}

const CHUNK_BYTES = 65_536;

export class MemoryDevice implements BlockDevice {
  readonly name: string;
  readonly limits: DeviceLimits;
  readonly #discardPattern: number;
  readonly #chunks = new Map<number, Buffer>();
  readonly #queue = new RequestQueue();
  #scheduled = false;
  #closed: Promise<void> | null = null;
  #drained: (() => void) | null = null;
  readonly #onTurn = (): void => {
    this.#turn();
  };

  constructor(options: MemoryDeviceOptions) {
    const logicalBlockSize = options.logicalBlockSize ?? 512;
    const readOnly = options.readOnly ?? false;
    const canDiscard = !readOnly && (options.canDiscard ?? true);
    this.name = options.name ?? 'memory';
    this.#discardPattern = options.discardPattern ?? 0;
    this.limits = {
      sizeBytes: options.sizeBytes,
      logicalBlockSize,
      physicalBlockSize: options.physicalBlockSize ?? logicalBlockSize,
      requestAlignment: options.requestAlignment ?? 1,
      readOnly,
      canDiscard,
      discardGranularity: canDiscard ? logicalBlockSize : 0,
    };
    assert(Number.isSafeInteger(options.sizeBytes) && options.sizeBytes >= 0);
    assert(options.sizeBytes % this.limits.requestAlignment === 0);
  }

  submit(request: IoRequest): void {
    assert(this.#closed === null, 'submitted to a closed device');
    assertInLimits(this.limits, request);
    request.error = 0;
    this.#queue.push(request);
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#onTurn);
  }

  close(): Promise<void> {
    this.#closed ??= new Promise((resolve) => {
      if (this.#queue.size === 0) resolve();
      else this.#drained = resolve;
    });
    return this.#closed;
  }

  /** A copy of the bytes at `offset`, past the request path. */
  peek(offset: number, length: number): Buffer {
    const bytes = Buffer.alloc(length);
    this.#read(offset, bytes);
    return bytes;
  }

  /** Puts bytes in place, past the request path (and past `readOnly`). */
  poke(offset: number, bytes: Uint8Array): void {
    assert(offset >= 0 && offset + bytes.length <= this.limits.sizeBytes);
    this.#write(offset, bytes);
  }

  #turn(): void {
    this.#scheduled = false;
    // Only what was there when the turn began: completions may submit more.
    for (let count = this.#queue.size; count > 0; count--) {
      const request = this.#queue.shift()!;
      request.error = this.#perform(request);
      request.owner.ioDone(request);
    }
    if (this.#queue.size === 0) this.#drained?.();
  }

  #perform(request: IoRequest): number {
    const { op, offset, length, buffer, bufferOffset } = request;
    if (op !== Op.read && op !== Op.flush && this.limits.readOnly) return Errno.EROFS;
    switch (op) {
      case Op.read:
        this.#read(offset, buffer.subarray(bufferOffset, bufferOffset + length));
        break;
      case Op.write:
        this.#write(offset, buffer.subarray(bufferOffset, bufferOffset + length));
        break;
      case Op.writeZeroes:
        this.#fill(offset, length, 0);
        break;
      case Op.discard:
        if (this.limits.canDiscard) this.#fill(offset, length, this.#discardPattern);
        break;
      case Op.flush:
        break;
    }
    return 0;
  }

  #read(offset: number, into: Uint8Array): void {
    for (let done = 0; done < into.length;) {
      const at = offset + done;
      const within = at % CHUNK_BYTES;
      const count = Math.min(CHUNK_BYTES - within, into.length - done);
      const chunk = this.#chunks.get((at - within) / CHUNK_BYTES);
      if (chunk === undefined) into.fill(0, done, done + count);
      else into.set(chunk.subarray(within, within + count), done);
      done += count;
    }
  }

  #write(offset: number, from: Uint8Array): void {
    for (let done = 0; done < from.length;) {
      const at = offset + done;
      const within = at % CHUNK_BYTES;
      const count = Math.min(CHUNK_BYTES - within, from.length - done);
      this.#chunk((at - within) / CHUNK_BYTES).set(from.subarray(done, done + count), within);
      done += count;
    }
  }

  /** Fills what was ever written of a range: the rest takes no memory and stays zeroes, also when discarded. */
  #fill(offset: number, length: number, value: number): void {
    const end = offset + length;
    if (length > CHUNK_BYTES * this.#chunks.size) {
      for (const index of this.#chunks.keys()) this.#fillChunk(index, offset, end, value);
      return;
    }
    for (let index = Math.floor(offset / CHUNK_BYTES); index * CHUNK_BYTES < end; index++) {
      if (this.#chunks.has(index)) this.#fillChunk(index, offset, end, value);
    }
  }

  /** Fills what of [offset, end) lies in a chunk. */
  #fillChunk(index: number, offset: number, end: number, value: number): void {
    const start = index * CHUNK_BYTES;
    const from = Math.max(offset - start, 0);
    const to = Math.min(end - start, CHUNK_BYTES);
    if (from >= to) return;
    if (value === 0 && to - from === CHUNK_BYTES) this.#chunks.delete(index);
    else this.#chunk(index).fill(value, from, to);
  }

  #chunk(index: number): Buffer {
    let chunk = this.#chunks.get(index);
    if (chunk === undefined) {
      chunk = Buffer.alloc(CHUNK_BYTES);
      this.#chunks.set(index, chunk);
    }
    return chunk;
  }
}
