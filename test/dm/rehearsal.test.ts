/** The rehearsal of an exchange of tables leaves nothing behind. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { rehearse } from '../../src/dm/rehearsal.ts';
import { knownSnapshot } from '../../src/dm/snapshot/registry.ts';

test('a rehearsal ends, beside others too, and nothing of it stays', async () => {
  await rehearse();
  await Promise.all([rehearse(), rehearse()]);
  for (let i = 0; i < 6; i++) assert.equal(knownSnapshot(`rehearsal store ${i}`), undefined);
});
