/** The rehearsal of an exchange of tables leaves nothing behind. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { rehearse } from '../../src/dm/rehearsal.ts';
import { type Borrower, copyBuffers, MAX_COPY_BYTES } from '../../src/dm/snapshot/copy-buffers.ts';
import { knownSnapshot } from '../../src/dm/snapshot/registry.ts';

test('a rehearsal ends, beside others too, and nothing of it stays', async () => {
  await rehearse();
  await Promise.all([rehearse(), rehearse()]);
  for (let i = 0; i < 6; i++) assert.equal(knownSnapshot(`rehearsal store ${i}`), undefined);
});

test('a rehearsal does not wait for memory that copies keep while a device hangs', async () => {
  const lent: Buffer[] = [];
  const borrower: Borrower = { wants: MAX_COPY_BYTES, nextBorrower: null, lend: (buffer) => lent.push(buffer) };
  for (let before = -1; lent.length > before;) {
    before = lent.length;
    copyBuffers.borrow({ ...borrower });
  }
  await rehearse();
  for (const buffer of lent) copyBuffers.giveBack(buffer);
});
