/**
 * What a client has sent and is not parsed yet: pooled segments that the socket reads into, so that the payload of a WRITE
 * can stay where it arrived until it is on the device.
 *
 *     segment   | payloads in use ... | at: to be parsed ... | end: room for the next read ... |
 *
 * Invariants
 *  - What was handed out by `space` stays room until the next `space`: nothing else is put there, and its segment is not reused.
 *  - A segment is reused when the last payload in it was let go and everything in it is parsed.
 *  - Segments grow while reads fill them and shrink when they don't, so that idle clients hold little memory.
 */
import { type BufferPool, Segment, type SegmentHome } from './buffer-pool.ts';

const SMALL_BYTES = 16 * 1024;
const LARGE_BYTES = 256 * 1024;
/** A read gets no less room than this. */
const MIN_ROOM = 4096;
/** Reads in a row that would have done with a small segment, before there is one. */
const SMALL_READS = 64;

export class Inlet implements SegmentHome {
  readonly #pool: BufferPool;
  readonly #spare: Segment[] = [];
  #segment: Segment;
  /** Bytes of the segments that are opened now. */
  #bytes = SMALL_BYTES;
  #smallReads = 0;
  #offered = 0;
  #closed = false;
  /** Where parsing goes on in `buffer`, and where what has arrived ends. */
  at = 0;
  end = 0;

  constructor(pool: BufferPool) {
    this.#pool = pool;
    this.#segment = this.#open(SMALL_BYTES);
  }

  get buffer(): Buffer {
    return this.#segment.buffer;
  }

  get available(): number {
    return this.end - this.at;
  }

  /** Room for the next read: at least `missing` bytes, at most `most`. */
  space(missing: number, most: number): Buffer {
    if (this.at === this.end && this.#segment.live === 0) this.#rewind();
    if (this.buffer.length - this.end < missing) this.#move(missing);
    this.#offered = Math.min(this.buffer.length - this.end, most);
    return this.buffer.subarray(this.end, this.end + this.#offered);
  }

  /** Room for at least `missing` bytes and some more, so that reads don't become small. */
  roomySpace(missing: number): Buffer {
    return this.space(Math.max(missing, MIN_ROOM), Number.POSITIVE_INFINITY);
  }

  /** So many bytes have been read into what `space` gave. */
  received(bytes: number): void {
    this.end += bytes;
    if (bytes === this.#offered && this.#bytes < LARGE_BYTES && bytes > MIN_ROOM) this.#bytes = LARGE_BYTES;
    this.#smallReads = bytes < SMALL_BYTES / 2 ? this.#smallReads + 1 : 0;
    if (this.#smallReads === SMALL_READS) this.#bytes = SMALL_BYTES;
  }

  /** Keeps the segment of the bytes at `at` until it is released. */
  retain(): Segment {
    this.#segment.live++;
    return this.#segment;
  }

  /** Forgets what is not parsed. */
  clear(): void {
    this.at = this.end;
  }

  /** Nothing will be read any more. */
  dispose(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#segment.live === 0) this.#pool.release(this.#segment.buffer);
  }

  close(segment: Segment): void {
    if (segment === this.#segment && !this.#closed) return;
    this.#pool.release(segment.buffer);
    this.#spare.push(segment);
  }

  #rewind(): void {
    this.at = 0;
    this.end = 0;
    if (this.#bytes > LARGE_BYTES / 2 === this.buffer.length > LARGE_BYTES / 2) return;
    this.#pool.release(this.#segment.buffer);
    this.#spare.push(this.#segment);
    this.#segment = this.#open(this.#bytes);
  }

  /** Goes on in another segment, which gets what is not parsed yet. */
  #move(missing: number): void {
    const last = this.#segment;
    const { at, available } = this;
    this.#segment = this.#open(Math.max(this.#bytes, available + missing));
    last.buffer.copy(this.buffer, 0, at, this.end);
    this.at = 0;
    this.end = available;
    if (last.live === 0) this.close(last);
  }

  #open(bytes: number): Segment {
    const buffer = this.#pool.acquire(bytes);
    const segment = this.#spare.pop() ?? new Segment(this, buffer);
    segment.buffer = buffer;
    return segment;
  }
}
