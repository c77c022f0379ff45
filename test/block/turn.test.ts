/** The end of a turn without the ring: what is told together, and what waits for it. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { atTurnEnd, tellSoon } from '../../src/block/turn.ts';

function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

describe('the end of a turn', () => {
  test('comes once all are told, in the same callback', async () => {
    const seen: string[] = [];
    const end = (): void => {
      seen.push('end');
    };
    tellSoon(() => {
      seen.push('first');
      atTurnEnd(end);
      // Before any other callback of the loop.
      queueMicrotask(() => seen.push('callback over'));
    });
    tellSoon(() => {
      seen.push('second');
      atTurnEnd(end);
    });
    assert.deepEqual(seen, []);
    await nextTurn();
    assert.deepEqual(seen, ['first', 'second', 'end', 'end', 'callback over']);
  });

  test('is of its own turn: what is due from a tell, or wanted at the end by an end, is later', async () => {
    const seen: string[] = [];
    tellSoon(() => {
      seen.push('first');
      tellSoon(() => seen.push('later'));
      atTurnEnd(() => {
        seen.push('end');
        atTurnEnd(() => seen.push('later end'));
      });
    });
    await nextTurn();
    assert.deepEqual(seen, ['first', 'end']);
    await nextTurn();
    assert.deepEqual(seen.toSorted(), ['end', 'first', 'later', 'later end']);
  });

  test('without anything told is after the events of the turn', async () => {
    let ended = 0;
    atTurnEnd(() => ended++);
    assert.equal(ended, 0);
    await nextTurn();
    assert.equal(ended, 1);
  });
});
