/**
 * Work that is done every so often, where that may be weeks.
 *
 * Invariants
 *  - A time that is longer than one timer can be is waited for in parts: Node takes such a timer for one of 1 ms.
 *  - It keeps no process alive, and nothing begins after `stop`.
 */

/** Milliseconds: 2^31 - 1, about 25 days. */
const LONGEST_TIMER_MS: number = 2 ** 31 - 1;

export class Interval {
  readonly #everyMs: number;
  readonly #work: () => void;
  #timer: NodeJS.Timeout | null = null;

  constructor(everyMs: number, work: () => void) {
    this.#everyMs = everyMs;
    this.#work = work;
    this.#wait(everyMs);
  }

  #wait(leftMs: number): void {
    const part = Math.min(leftMs, LONGEST_TIMER_MS);
    this.#timer = setTimeout(() => this.#waited(leftMs - part), part).unref();
  }

  #waited(leftMs: number): void {
    this.#wait(leftMs > 0 ? leftMs : this.#everyMs);
    if (leftMs <= 0) this.#work();
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
