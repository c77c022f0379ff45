/** Which merges wait: until their origin goes, over a restart while the kernel has the volumes attached, and no longer. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { DeferredMerges } from '../../src/daemon/deferred-merges.ts';
import { createLog } from '../../src/daemon/log.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';

const log = createLog({ level: 'silent', format: 'json' });
const ONE = { origin: 'V o', cow: 'V s' };
const TWO = { origin: 'V p', cow: 'V t' };

test('a merge waits as long as its origin is served', () => {
  const served = new Set([ONE.origin]);
  const merges = new DeferredMerges({ path: null, isServed: (id) => served.has(id), log });
  merges.add([ONE]);
  assert.ok(merges.waits(ONE.origin));
  assert.equal(merges.find(ONE.origin)?.cow, ONE.cow);
  assert.ok(!merges.waits(TWO.origin));
  served.clear();
  assert.ok(!merges.waits(ONE.origin), 'its next activation is the one');
  served.add(ONE.origin);
  assert.ok(!merges.waits(ONE.origin));
  merges.add([ONE]);
  merges.end([ONE.origin]);
  assert.ok(!merges.waits(ONE.origin));
});

test('what is attached when a daemon starts waits on', async () => {
  await withTemporaryFolder((folder) => {
    const path = join(folder, 'control.sock.merges');
    const options = { path, isServed: () => false, log };
    const before = new DeferredMerges(options);
    before.add([ONE, TWO]);
    const after = new DeferredMerges(options);
    after.restore((id) => id === TWO.cow);
    assert.ok(!after.waits(ONE.origin));
    assert.ok(after.waits(TWO.origin), 'before it is served again');
    const notes: unknown = JSON.parse(readFileSync(path, 'utf8'));
    assert.deepEqual(notes, [TWO]);
    new DeferredMerges(options).restore(() => false);
    assert.ok(!existsSync(path));
    writeFileSync(path, 'not JSON');
    const damaged = new DeferredMerges(options);
    damaged.restore(() => true);
    assert.ok(!damaged.waits(ONE.origin));
    return Promise.resolve();
  });
});

test('a merge begins only when its note has gone, and waits only when it is there', async () => {
  await withTemporaryFolder((folder) => {
    const path = join(folder, 'control.sock.merges');
    const served = new Set([ONE.origin]);
    const merges = new DeferredMerges({ path, isServed: (id) => served.has(id), log });
    merges.add([ONE, TWO]);
    assert.ok(merges.waits(ONE.origin));
    served.clear();
    // Nothing can be written there.
    mkdirSync(`${path}.new`);
    assert.ok(merges.waits(ONE.origin), 'a restart would take it for one that waits');
    assert.throws(() => merges.end([ONE.origin]));
    assert.ok(merges.waits(ONE.origin));
    assert.throws(() => merges.add([{ origin: 'V q', cow: 'V u' }]));
    assert.ok(!merges.waits('V q'));
    rmdirSync(`${path}.new`);
    assert.ok(!merges.waits(ONE.origin));
    assert.deepEqual(JSON.parse(readFileSync(path, 'utf8')), [TWO]);
    return Promise.resolve();
  });
});
