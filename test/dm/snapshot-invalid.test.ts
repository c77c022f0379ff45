/**
 * A COW device that takes no writes when its snapshot becomes invalid: the origin goes on, so the device has to be told later, before
 * anybody takes the store for one of a valid snapshot.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { Errno } from '../../src/block/errors.ts';
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { type IoRequest, Op } from '../../src/block/request.ts';
import { decodeSnapshotHeader } from '../../src/ondisk/snapshot-store.ts';
import { perform, performOk } from '../block/harness.ts';
import { Family } from './snapshot-harness.ts';

const KIB = 1024;
const SECOND_MS = 1000;

interface Stand {
  readonly family: Family;
  readonly memory: MemoryDevice;
  readonly cow: FaultyDevice;
  readonly isValid: () => boolean;
}

const fails = ({ op }: IoRequest): ReturnType<FaultyDevice['decide']> =>
  op === Op.write || op === Op.writeZeroes ? { kind: 'fail', errno: Errno.EIO } : { kind: 'pass' };
const passes = (): ReturnType<FaultyDevice['decide']> => ({ kind: 'pass' });

/** A snapshot that became invalid while its COW device took no writes. */
async function unmarked(): Promise<Stand> {
  const family = new Family(new MemoryDevice({ name: 'real', sizeBytes: 64 * KIB }));
  const memory = new MemoryDevice({ name: 'cow', sizeBytes: 256 * KIB });
  const cow = new FaultyDevice(memory);
  await family.snapshot({ name: 's', cow, chunkSize: 8 });
  await performOk(family.origin, { op: Op.write, offset: 0, buffer: Buffer.alloc(4096, 1) });
  cow.decide = fails;
  await performOk(family.origin, { op: Op.write, offset: 8192, buffer: Buffer.alloc(4096, 2) });
  assert.equal(family.statusOf('s'), 'Invalid');
  assert.match(family.problemOf('s'), /copying a chunk failed.*nor could it be marked invalid/);
  const where = { device: 'cow', offset: 0 };
  const isValid = (): boolean => decodeSnapshotHeader(memory.peek(0, 512), where)?.valid === true;
  assert.ok(isValid());
  return { family, memory, cow, isValid };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await turn();
}

/** What has ended by now is seen by those who wait for it. */
async function settled(): Promise<void> {
  for (let turns = 0; turns < 10; turns++) await turn();
}

describe('a COW device that could not be marked invalid', () => {
  test('is told when it takes writes again, and not asked all the time', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const { family, cow, isValid } = await unmarked();
    const writes = (): number => cow.submitted[Op.write] ?? 0;
    for (const pause of [1, 2, 4, 8, 16, 32, 60, 60]) {
      const before = writes();
      t.mock.timers.tick(pause * SECOND_MS - 1);
      assert.equal(writes(), before, `asked before ${pause} s`);
      t.mock.timers.tick(1);
      await until(() => writes() > before);
      await settled();
    }
    cow.decide = passes;
    t.mock.timers.tick(60 * SECOND_MS);
    await until(() => !isValid() && !family.problemOf('s').includes('marked'));
    assert.match(family.problemOf('s'), /^copying a chunk failed: EIO[^;]*$/);
    const before = writes();
    t.mock.timers.tick(3600 * SECOND_MS);
    assert.equal(writes(), before);
    await family.close();
  });

  test('is told when its volume is closed, and never afterwards', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    for (const heals of [true, false]) {
      const { family, cow, isValid } = await unmarked();
      if (heals) cow.decide = passes;
      await family.remove('s');
      assert.equal(isValid(), !heals);
      const before = cow.submitted[Op.write];
      t.mock.timers.tick(3600 * SECOND_MS);
      assert.equal(cow.submitted[Op.write], before, 'its extents are somebody else by now');
      await family.close();
    }
  });

  test('is never told after its volume was closed during an attempt', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const { family, cow } = await unmarked();
    cow.decide = ({ op }) => ({ kind: op === Op.write ? 'hold' : 'pass' });
    t.mock.timers.tick(SECOND_MS);
    await cow.whenHeld(1);
    const removed = family.remove('s');
    await settled();
    cow.decide = fails;
    cow.releaseAll(Errno.EIO);
    await removed;
    const before = cow.submitted[Op.write];
    t.mock.timers.tick(3600 * SECOND_MS);
    await settled();
    assert.equal(cow.submitted[Op.write], before);
    await family.close();
  });

  test('is told after its table was exchanged', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const { family, cow, isValid } = await unmarked();
    const volume = family.volume('s');
    const { spec } = family.snapshots.get('s')!;
    await family.origin.suspend();
    await volume.suspend();
    volume.load(family.snapshotTable(spec), family.resolver(cow));
    volume.resume();
    family.origin.resume();
    assert.equal(await perform(volume, { op: Op.read, buffer: Buffer.alloc(10) }), Errno.EIO);
    cow.decide = passes;
    t.mock.timers.tick(SECOND_MS);
    await until(() => !isValid());
    await family.close();
  });

  test('because it could not be read either is told, too', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const { family, memory, cow, isValid } = await unmarked();
    await family.close();
    const again = new Family(new MemoryDevice({ name: 'real', sizeBytes: 64 * KIB }));
    const other = new FaultyDevice(memory);
    other.decide = () => ({ kind: 'fail', errno: Errno.EIO });
    await again.snapshot({ name: 's', cow: other, chunkSize: 8 });
    await performOk(again.origin, { op: Op.write, offset: 0, buffer: Buffer.alloc(4096, 3) });
    assert.equal(again.statusOf('s'), 'Invalid');
    other.decide = passes;
    t.mock.timers.tick(SECOND_MS);
    await until(() => !isValid());
    await again.close();
    await cow.close();
  });
});
