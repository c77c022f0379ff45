/**
 * The time, read at most once per phase of an event-loop turn: reading the clock costs as much as the rest of what the data path
 * does to count a request, and requests come and end in batches.
 *
 * Invariants
 *  - What `now` gives is at most as old as the callbacks that have run since the last end of a turn (block/turn.ts): a few
 *    milliseconds under load, nothing when idle. It never outlives an event-loop turn.
 *  - Times are whole microseconds modulo 2^31, which engines keep unboxed: a difference is right up to 35 minutes, and wraps there.
 *  - Between `beginBatch` and `endBatch` it is the time when the batch first asked for it: never, where nobody asks. No timer or
 *    immediate is made for it.
 */
import { atTurnEnd } from '../block/turn.ts';

const WRAP = 0x7fffffff;

function readClock(): number {
  return (performance.now() * 1000) & WRAP;
}

export class TurnClock {
  #now = 0;
  #fresh = false;
  #inBatch = false;
  readonly #expire = (): void => {
    this.#fresh = false;
  };

  /** To be given to `since`. */
  now(): number {
    if (!this.#fresh) {
      this.#now = readClock();
      this.#fresh = true;
      if (!this.#inBatch) atTurnEnd(this.#expire);
    }
    return this.#now;
  }

  /** Microseconds from what `now` gave then until now. */
  since(then: number): number {
    return (this.now() - then) & WRAP;
  }

  /** A batch begins that ends with `endBatch`, in the same callback. */
  beginBatch(): void {
    this.#fresh = false;
    this.#inBatch = true;
  }

  endBatch(): void {
    this.#fresh = false;
    this.#inBatch = false;
  }
}

/** The event loop's: there is one in a thread. */
export const turnClock: TurnClock = new TurnClock();
