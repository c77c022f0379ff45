/**
 * Payload memory: buffers by size class, reused, and segments of them shared by many replies.
 *
 * Invariants
 *  - Every acquired buffer is given back exactly once: to be reused, or discarded when the system may still look at it.
 *  - A class holds 2^k bytes and HEADER_ROOM more, so that a payload of a power of two and its reply header fit in its class.
 *  - Memory is not cleared: whoever sends a buffer's bytes has filled every one of them. With `poison` (tests) a released
 *    buffer is overwritten, so that a use after release, or a reply that was not filled, shows.
 *  - At most `maxIdleBytes` are kept unused; what is in use is bounded by the connections' own limits.
 */
import assert from 'node:assert/strict';

const HEADER_ROOM = 64;
const SMALLEST_CLASS = 12;
const LARGEST_CLASS = 26;
const POISON = 0xdb;

export interface BufferPoolOptions {
  /** Bytes kept for reuse; default 64 MiB. */
  readonly maxIdleBytes?: number;
  /** Overwrite what is released. */
  readonly poison?: boolean;
}

function classOf(bytes: number): number {
  return bytes <= 2 ** SMALLEST_CLASS + HEADER_ROOM ? SMALLEST_CLASS : 32 - Math.clz32(bytes - HEADER_ROOM - 1);
}

export class BufferPool {
  readonly #maxIdleBytes: number;
  readonly #poison: boolean;
  /** Indexed by class. */
  readonly #idle: Buffer[][] = Array.from({ length: LARGEST_CLASS + 1 }, () => []);
  #idleBytes = 0;
  #outstanding = 0;

  constructor(options: BufferPoolOptions = {}) {
    this.#maxIdleBytes = options.maxIdleBytes ?? 64 * 2 ** 20;
    this.#poison = options.poison ?? false;
  }

  /** Buffers acquired and not yet given back. */
  get outstanding(): number {
    return this.#outstanding;
  }

  /** Bytes held for reuse. */
  get idleBytes(): number {
    return this.#idleBytes;
  }

  /** A buffer of at least `bytes` (at most 64 MiB and a header), with arbitrary contents. */
  acquire(bytes: number): Buffer {
    const sizeClass = classOf(bytes);
    assert(sizeClass <= LARGEST_CLASS);
    this.#outstanding++;
    const idle = this.#idle[sizeClass]!.pop();
    if (idle === undefined) return Buffer.allocUnsafeSlow(2 ** sizeClass + HEADER_ROOM);
    this.#idleBytes -= idle.length;
    return idle;
  }

  /** Takes a buffer back for reuse. */
  release(buffer: Buffer): void {
    assert(this.#outstanding > 0);
    this.#outstanding--;
    if (this.#poison) buffer.fill(POISON);
    if (this.#idleBytes + buffer.length > this.#maxIdleBytes) return;
    this.#idleBytes += buffer.length;
    this.#idle[classOf(buffer.length)]!.push(buffer);
  }

  /** Takes a buffer back that must not be reused: a write that failed may not have let go of it. */
  discard(): void {
    assert(this.#outstanding > 0);
    this.#outstanding--;
  }
}

/** Who is told when the last slot of a segment was let go. */
export interface SegmentHome {
  close(segment: Segment): void;
}

/** A pooled buffer that is handed out in slots, one after the other, and goes back when the last slot was let go. */
export class Segment {
  readonly #home: SegmentHome;
  buffer: Buffer;
  /** Position in the order of creation: slots sort by (order, start). */
  order = 0;
  /** Bytes handed out. */
  used = 0;
  /** Slots handed out and not let go. */
  live = 0;
  /** Whether the system may still look at some of it after its slots were let go. */
  lost = false;

  constructor(home: SegmentHome, buffer: Buffer) {
    this.#home = home;
    this.buffer = buffer;
  }

  /** Lets go of `slots` slots. */
  release(slots: number): void {
    assert(this.live >= slots);
    this.live -= slots;
    if (this.live === 0) this.#home.close(this);
  }
}

/**
 * Hands out slots. Consecutive slots lie side by side, so that replies of requests that arrived together leave as one
 * piece of memory. A slow request keeps its whole segment: at most one segment for each request in flight.
 */
export class SegmentArena implements SegmentHome {
  readonly #pool: BufferPool;
  readonly #segmentBytes: number;
  readonly #spare: Segment[] = [];
  #current: Segment | null = null;
  #order = 0;

  constructor(pool: BufferPool, segmentBytes: number) {
    this.#pool = pool;
    this.#segmentBytes = segmentBytes;
  }

  /** A segment whose last `bytes` before `used` are the new slot. */
  reserve(bytes: number): Segment {
    let segment = this.#current;
    if (segment === null || segment.used + bytes > segment.buffer.length) {
      segment = this.#open(Math.max(bytes, this.#segmentBytes));
      // A slot that takes most of a segment leaves the shared one open.
      if (bytes <= this.#segmentBytes / 2) this.#current = segment;
    }
    segment.used += bytes;
    segment.live++;
    return segment;
  }

  #open(bytes: number): Segment {
    const buffer = this.#pool.acquire(bytes);
    const segment = this.#spare.pop() ?? new Segment(this, buffer);
    segment.buffer = buffer;
    segment.order = this.#order++;
    segment.used = 0;
    return segment;
  }

  /** Called by a segment whose last slot was let go. */
  close(segment: Segment): void {
    if (segment === this.#current) this.#current = null;
    if (segment.lost) {
      this.#pool.discard();
    } else {
      this.#pool.release(segment.buffer);
      this.#spare.push(segment);
    }
  }
}
