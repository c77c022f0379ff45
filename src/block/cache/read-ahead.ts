/**
 * Who reads in sequence, and how far ahead of him to read.
 *
 * A stream is known by where its next read would begin. From its second read in sequence on, bytes are wanted ahead of it: at first
 * FIRST_BYTES, doubled with each step up to `maxBytes`, and again whenever the reader is within half a step of the end of them.
 *
 * Invariants
 *  - At most STREAMS streams are known; one that nobody goes on with is forgotten for a new one.
 *  - A read that continues no stream asks for nothing.
 *  - Nothing is allocated per read: the answer is in `from` and `to`.
 */
const STREAMS = 8;
const FIRST_BYTES = 128 * 1024;

export class ReadAhead {
  /** What to read now, bytes; equal: nothing. */
  from = 0;
  to = 0;
  readonly #maxBytes: number;
  /** By stream: where it goes on; up to where bytes were asked for; the bytes of its next step (0: it was read once); last use. */
  readonly #next: Float64Array = new Float64Array(STREAMS).fill(-1);
  readonly #end: Float64Array = new Float64Array(STREAMS);
  readonly #step: Float64Array = new Float64Array(STREAMS);
  readonly #used: Float64Array = new Float64Array(STREAMS);
  #clock = 0;

  /** `maxBytes` 0: nothing is ever read ahead. */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** A read of [offset, end) was asked for, of a device that ends at `limit`. */
  saw(offset: number, end: number, limit: number): void {
    this.from = 0;
    this.to = 0;
    if (this.#maxBytes === 0) return;
    // indexOf would be a call out of compiled code.
    let stream = 0;
    while (stream < STREAMS && this.#next[stream] !== offset) stream++;
    const used = ++this.#clock;
    if (stream === STREAMS) {
      let oldest = 0;
      for (let i = 1; i < STREAMS; i++) if (this.#used[i]! < this.#used[oldest]!) oldest = i;
      this.#next[oldest] = end;
      this.#end[oldest] = end;
      this.#step[oldest] = 0;
      this.#used[oldest] = used;
      return;
    }
    this.#used[stream] = used;
    this.#next[stream] = end;
    const step = this.#step[stream]!;
    if (step === 0) this.#step[stream] = Math.min(FIRST_BYTES, this.#maxBytes);
    else if (this.#end[stream]! - end >= step / 2) return;
    const wanted = this.#step[stream]!;
    this.from = Math.min(Math.max(this.#end[stream]!, end), limit);
    this.to = Math.min(this.from + wanted, limit);
    this.#end[stream] = this.to;
    this.#step[stream] = Math.min(wanted * 2, this.#maxBytes);
  }
}
