/** Merges whose devices fail at a bad moment, or whose volumes are suspended at one: nothing acknowledged is lost, nothing is stuck. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { Errno } from '../../src/block/errors.ts';
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { Op, RequestFlag } from '../../src/block/request.ts';
import { Batch, pattern, perform, performOk, readAt } from '../block/harness.ts';
import { contentOf, Family, isMerged, same } from './snapshot-harness.ts';

const KIB = 1024;
const SIZE = 64 * KIB;

function device(name: string, sizeBytes: number): FaultyDevice {
  return new FaultyDevice(new MemoryDevice({ name, sizeBytes }));
}

/** An origin of which a snapshot has every chunk. */
async function makeFamily(): Promise<{ family: Family; real: FaultyDevice; cow: FaultyDevice; content: Buffer }> {
  const real = device('real', SIZE);
  const cow = device('cow', 4 * SIZE);
  const family = new Family(real);
  const content = pattern(SIZE, 1);
  await performOk(family.origin, { op: Op.write, buffer: content });
  await family.snapshot({ name: 's', cow, chunkSize: 8 });
  await performOk(family.origin, { op: Op.write, buffer: Buffer.alloc(SIZE, 7) });
  return { family, real, cow, content };
}

async function until(condition: () => boolean): Promise<void> {
  for (let turns = 0; !condition(); turns++) {
    assert(turns < 10_000, 'it never comes to that');
    await turn();
  }
}

async function reloadMerge(family: Family, cow: FaultyDevice): Promise<void> {
  family.origin.load(family.mergeTable({ name: 's', cow, chunkSize: 8 }), family.resolver(cow));
  await family.origin.suspend();
  family.origin.resume();
}

test('a store that cannot be read is not given up, nor is what was merged taken for everything', async () => {
  const { family, real, cow, content } = await makeFamily();
  await family.close();
  cow.decide = ({ op, offset }) =>
    op === Op.read && offset > 0 ? { kind: 'fail', errno: Errno.EIO } : { kind: 'pass' };
  const later = new Family(real);
  await reloadMerge(later, cow);
  assert.equal(await contentOf(later.origin), null, 'what the origin has is known to nobody');
  assert.equal(await perform(later.origin, { op: Op.write, buffer: Buffer.alloc(512, 3) }), Errno.EIO);
  assert.equal(later.statusOf('origin'), 'Invalid');
  assert.match(later.problemOf('origin'), /cow/);
  cow.decide = () => ({ kind: 'pass' });
  await reloadMerge(later, cow);
  same(await contentOf(later.origin), content, 'the origin');
  await until(() => isMerged(later.statusOf('origin')));
  same(await contentOf(later.origin), content, 'the origin, merged');
  await later.close();
});

test('chunks whose records may be gone take no writes any more', async () => {
  const { family, real, cow, content } = await makeFamily();
  // The records are cleared, and the device says that they were not.
  cow.decide = ({ op, flags, length }) =>
    op === Op.write && (flags & RequestFlag.fua) !== 0
      ? { kind: 'torn', bytes: length, errno: Errno.EIO }
      : { kind: 'pass' };
  await family.merge('s');
  await until(() => family.statusOf('origin') === 'Merge failed');
  same(await contentOf(family.origin), content, 'the origin');
  const expected = Buffer.from(content);
  if ((await perform(family.origin, { op: Op.write, offset: 8192, buffer: Buffer.alloc(4096, 3) })) === 0) {
    expected.fill(3, 8192, 12_288);
  }
  await performOk(family.origin, { op: Op.flush });
  await family.close();
  cow.decide = () => ({ kind: 'pass' });
  const later = new Family(real);
  await reloadMerge(later, cow);
  same(await contentOf(later.origin), expected, 'the origin after a restart');
  await later.close();
});

test('an origin that merges is suspended together with its other snapshot, whatever is under way', async () => {
  const { family, cow, content } = await makeFamily();
  const other = await family.snapshot({ name: 'other', cow: device('c2', 4 * SIZE), chunkSize: 8 });
  const seen = await contentOf(other);
  cow.decide = ({ op }) => (op === Op.read ? { kind: 'hold' } : { kind: 'pass' });
  await family.merge('s');
  await cow.whenHeld(1);
  const batch = new Batch();
  batch.submit(family.origin, { op: Op.write, offset: 60 * KIB, buffer: Buffer.alloc(100, 1) });
  content.fill(1, 60 * KIB, 60 * KIB + 100);
  const both = [family.origin.suspend(AbortSignal.timeout(5000)), other.suspend(AbortSignal.timeout(5000))];
  for (let i = 0; i < 20; i++) await turn();
  // From now on the other snapshot admits no writes of the origin.
  cow.decide = () => ({ kind: 'pass' });
  cow.releaseAll();
  await Promise.all(both);
  family.origin.resume();
  other.resume();
  await batch.done();
  await until(() => isMerged(family.statusOf('origin')));
  same(await readAt(family.origin, 0, SIZE), content, 'the origin');
  same(await contentOf(other), seen!, 'the other snapshot');
  await family.close();
});

test('a suspend that is taken back lets the merge go on', async () => {
  const { family, cow, content } = await makeFamily();
  const other = await family.snapshot({ name: 'other', cow: device('c2', 4 * SIZE), chunkSize: 8 });
  await other.suspend();
  await family.merge('s');
  for (let i = 0; i < 20; i++) await turn();
  cow.decide = ({ op }) => (op === Op.read ? { kind: 'hold' } : { kind: 'pass' });
  const batch = new Batch();
  const read = batch.submit(family.origin, { op: Op.read, offset: 0, buffer: Buffer.alloc(512) });
  const stop = new AbortController();
  const suspending = family.origin.suspend(stop.signal);
  for (let i = 0; i < 20; i++) await turn();
  stop.abort();
  await assert.rejects(suspending);
  cow.decide = () => ({ kind: 'pass' });
  cow.releaseAll();
  await batch.done();
  assert.equal(read.error, 0);
  other.resume();
  await until(() => isMerged(family.statusOf('origin')));
  same(await contentOf(family.origin), content, 'the origin');
  await family.close();
});
