/** Which merges wait: until their origin goes, over a restart while the kernel has the volumes attached, and no longer. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { DeferredMerges } from '../../src/daemon/deferred-merges.ts';
import { createLog } from '../../src/daemon/log.ts';
import type { VolumeGroup } from '../../src/lvm/model.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { groupOf, linear, vgText } from '../lvm/images.ts';

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

/** A VG whose metadata knows of no merge, and a merge of it that waits. */
async function withoutMerges(): Promise<{ readonly group: VolumeGroup; readonly merge: typeof ONE }> {
  const group = await groupOf(vgText([{ name: 'o', segments: [linear(0, 4, 'pv0', 0)] }]));
  return { group, merge: { origin: `${group.vg.id} o`, cow: `${group.vg.id} s` } };
}

function waitingFor(merge: typeof ONE): DeferredMerges {
  const merges = new DeferredMerges({ path: null, isServed: () => true, log });
  merges.add([merge]);
  return merges;
}

test('a merge that its VG does not know is forgotten, and no other VG makes it forgotten', async () => {
  const { group, merge } = await withoutMerges();
  const merges = waitingFor(merge);
  merges.add([ONE]);
  merges.forget([group], new Set());
  assert.ok(!merges.waits(merge.origin));
  assert.ok(merges.waits(ONE.origin));
});

test('a merge waits on while PVs are missing: the metadata that knows it may be on them', async () => {
  const { group, merge } = await withoutMerges();
  const merges = waitingFor(merge);
  merges.forget([{ ...group, partial: true }], new Set());
  assert.ok(merges.waits(merge.origin));
});

test('a merge that is about to be in the metadata waits', async () => {
  const { group, merge } = await withoutMerges();
  const merges = waitingFor(merge);
  merges.forget([group], new Set([merge.origin]));
  assert.ok(merges.waits(merge.origin));
  merges.forget([group], new Set([ONE.origin]));
  assert.ok(!merges.waits(merge.origin));
});
