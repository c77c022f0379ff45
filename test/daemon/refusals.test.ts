/** Refusals that come again and again. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Refusals, type Untold } from '../../src/daemon/refusals.ts';

describe('refusals', () => {
  test('ten of one asker are told, the others counted; other askers are not affected', () => {
    const untold: Untold<string>[] = [];
    const refusals = new Refusals<string>((each) => untold.push(each));
    const told = Array.from({ length: 1000 }, (_, i) => refusals.isTold('1001', `pid ${i}`, `reason ${i}`));
    assert.equal(told.filter(Boolean).length, 10);
    assert.equal(refusals.isTold('1002', 'another', 'no'), true);
    assert.deepEqual(untold, []);
    refusals.close();
    assert.deepEqual(untold, [{ asker: 'pid 999', count: 990, reason: 'reason 999' }]);
    refusals.close();
    assert.equal(untold.length, 1);
  });

  test('when the period is over the count is told, and the next ones one by one again', async () => {
    const { promise, resolve } = Promise.withResolvers<Untold<null>>();
    const refusals = new Refusals<null>(resolve, 5);
    for (let i = 0; i < 12; i++) refusals.isTold('x', null, 'no');
    // Its timer keeps no process alive.
    const alive = setInterval(() => undefined, 1000);
    assert.deepEqual(await promise, { asker: null, count: 2, reason: 'no' });
    clearInterval(alive);
    assert.equal(refusals.isTold('x', null, 'no'), true);
    refusals.close();
  });

  test('askers without end are one in the end', () => {
    let count = 0;
    const refusals = new Refusals<number>((each) => (count += each.count));
    let told = 0;
    for (let i = 0; i < 5000; i++) if (refusals.isTold(`10.0.${i >> 8}.${i & 255}`, i, 'no')) told++;
    assert.equal(told, 1010);
    refusals.close();
    assert.equal(told + count, 5000);
  });
});
