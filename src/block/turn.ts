/**
 * The end of an event-loop turn, for those who gather what a turn brings and deal with it once.
 *
 * Invariants
 *  - A callback runs once, after everything that is completing now has been told, and never inside `atTurnEnd`.
 *  - What ends without the ring is told together, too, from a callback of its own (`tellSoon`); the end of the turn follows at once, and
 *    not a turn later.
 */
import { currentRing } from './ring.ts';

let due: (() => void)[] = [];
let told: (() => void)[] = [];
let telling = false;
const atEnd: (() => void)[] = [];

/** Has `callback` run when the completions that are being handed out have been, else after this turn's events. */
export function atTurnEnd(callback: () => void): void {
  const ring = currentRing();
  // The loop is about to sleep then: setImmediate would take it round once more.
  if (ring?.draining === true) ring.afterDrain(callback);
  else if (telling) atEnd.push(callback);
  else setImmediate(callback);
}

/** Has `tell` run once, after this turn's events, to tell owners of requests that have ended. */
export function tellSoon(tell: () => void): void {
  if (due.push(tell) === 1) setImmediate(tellAll);
}

function tellAll(): void {
  const tells = due;
  // What is due from here on has its turn later.
  due = told;
  told = tells;
  telling = true;
  try {
    for (const tell of tells) tell();
  } finally {
    telling = false;
    // Setting the length would give up the array's memory in each turn.
    while (tells.length > 0) tells.pop();
  }
  const count = atEnd.length;
  for (let i = 0; i < count; i++) atEnd[i]!();
  while (atEnd.length > 0) atEnd.pop();
}
