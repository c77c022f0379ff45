/**
 * Runs what became due during an event-loop turn once, at its end: completions only mark their session, and all its
 * replies then leave together.
 *
 * Invariants: whoever is scheduled gets one `turn`, however often it was scheduled before that; all turns of a run see one
 * reading of the clock.
 */
import { atTurnEnd } from '../dm/io.ts';
import { turnClock } from '../dm/turn-clock.ts';

export interface TurnTaker {
  /** Set while it waits for its turn; belongs to the queue. */
  scheduled: boolean;
  turn(): void;
}

export class TurnQueue {
  #due: TurnTaker[] = [];
  #running: TurnTaker[] = [];
  readonly #run = (): void => {
    const due = this.#due;
    this.#due = this.#running;
    this.#running = due;
    turnClock.beginBatch();
    for (const taker of due) {
      taker.scheduled = false;
      taker.turn();
    }
    turnClock.endBatch();
    // Setting the length would give up the array's memory in each turn.
    while (due.length > 0) due.pop();
  };

  schedule(taker: TurnTaker): void {
    if (taker.scheduled) return;
    taker.scheduled = true;
    if (this.#due.push(taker) === 1) atTurnEnd(this.#run);
  }
}
