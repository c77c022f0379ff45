/** Intervals that are longer than a timer can be, and short ones. */
import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import { Interval } from '../../src/daemon/interval.ts';

/** Of one timer. */
const LONGEST = 2 ** 31 - 1;

function roundsOf(
  t: TestContext,
  everyMs: number,
): { readonly interval: Interval; readonly after: (ms: number) => number } {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  let rounds = 0;
  const interval = new Interval(everyMs, () => void rounds++);
  let passed = 0;
  const after = (ms: number): number => {
    // The mocked clock jumps to the end of a tick before anything is called: so each timer has a tick of its own.
    for (const end = passed + ms; passed < end;) {
      const step = Math.min(end - passed, LONGEST - ((passed % everyMs) % LONGEST), everyMs - (passed % everyMs));
      t.mock.timers.tick(step);
      passed += step;
    }
    return rounds;
  };
  return { interval, after };
}

for (const [what, everyMs] of [
  ['a second', 1000],
  ['what a timer can be at most', LONGEST],
  ['one more', LONGEST + 1],
  ['a year', 31_536_000_000],
] as const) {
  test(`every ${what}`, (t) => {
    const { interval, after } = roundsOf(t, everyMs);
    assert.equal(after(everyMs - 1), 0);
    assert.equal(after(1), 1);
    assert.equal(after(everyMs - 1), 1);
    assert.equal(after(1), 2);
    interval.stop();
    assert.equal(after(2 * everyMs), 2);
  });
}
