/**
 * The end of an event-loop turn, for those who gather what a turn brings and deal with it once.
 *
 * Invariant: a callback runs once, after everything that is completing now has been told, and never inside `atTurnEnd`.
 */
import { currentRing } from './ring.ts';

/** Has `callback` run when the completions that are being handed out have been, else after this turn's events. */
export function atTurnEnd(callback: () => void): void {
  const ring = currentRing();
  // The loop is about to sleep then: setImmediate would take it round once more.
  if (ring?.draining === true) ring.afterDrain(callback);
  else setImmediate(callback);
}
