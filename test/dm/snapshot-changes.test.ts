/**
 * What origins and snapshots say they changed since a snapshot, and what snapshots say their ranges hold: against plain buffers, after
 * random writes, merges and with requests in flight.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import * as fc from 'fast-check';
import { ExtentList } from '../../src/block/extents.ts';
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { Op } from '../../src/block/request.ts';
import { addChanges } from '../../src/dm/snapshot/changes.ts';
import { ExceptionTable } from '../../src/dm/snapshot/exception-table.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { constants } from 'node:os';
import { Batch, pattern, performOk } from '../block/harness.ts';
import { contentOf, Family, isMerged, linearTable } from './snapshot-harness.ts';

const { EIO, ENOENT, ENOTSUP } = constants.errno;
const SIZE = 64 * 4096 + 3 * 512;
const HOLE = 3;

/** The whole answer, asked for piece by piece; an errno instead if it fails. */
async function ask(
  question: (offset: number, length: number, extents: ExtentList, done: (errno: number) => void) => void,
  capacity = 3,
): Promise<Uint8Array | number> {
  const flags = new Uint8Array(SIZE);
  const extents = new ExtentList(capacity);
  for (let at = 0; at < SIZE;) {
    extents.clear(capacity);
    const { promise, resolve } = Promise.withResolvers<number>();
    question(at, SIZE - at, extents, resolve);
    const errno = await promise;
    if (errno !== 0) return errno;
    assert(extents.count > 0 && at + extents.bytes <= SIZE);
    for (let i = 0; i < extents.count; i++) {
      flags.fill(extents.flags[i]!, at, at + extents.lengths[i]!);
      at += extents.lengths[i]!;
    }
  }
  return flags;
}

function changedSince(volume: Volume, since: string, capacity?: number): Promise<Uint8Array | number> {
  return ask((offset, length, extents, done) => volume.changedSince(since, offset, length, extents, done), capacity);
}

/** Fails if bytes differ that are not named. */
function covers(changed: Uint8Array | number, before: Buffer | null, now: Buffer | null): void {
  assert(typeof changed !== 'number' && before !== null && now !== null);
  for (let i = 0; i < now.length; i++) assert(before[i] === now[i] || changed[i] === 1, `byte ${i} is not named`);
}

function count(flags: Uint8Array | number): number {
  assert(typeof flags !== 'number');
  return flags.reduce((sum, flag) => sum + flag, 0);
}

/** The whole, with 1 in these ranges. */
function only(...ranges: readonly [number, number][]): Uint8Array {
  const flags = new Uint8Array(SIZE);
  for (const [from, to] of ranges) flags.fill(1, from, to);
  return flags;
}

function cowDevice(name: string, sectors = 2000): FaultyDevice {
  return new FaultyDevice(new MemoryDevice({ name, sizeBytes: sectors * 512 }));
}

async function makeFamily(): Promise<{ family: Family; real: FaultyDevice }> {
  const real = new FaultyDevice(new MemoryDevice({ name: 'real', sizeBytes: SIZE, canDiscard: false }));
  const family = new Family(real);
  await performOk(family.origin, { op: Op.write, buffer: pattern(SIZE, 1) });
  return { family, real };
}

const write = fc.record({
  on: fc.nat({ max: 3 }),
  offset: fc.nat({ max: SIZE - 1 }),
  length: fc.oneof(
    fc.integer({ min: 1, max: 3000 }),
    fc.integer({ min: 1, max: 8 }).map((n) => n * 4096),
  ),
  seed: fc.integer({ min: 2, max: 250 }),
});

describe('changes since a snapshot', () => {
  test('name everything that was written, on the origin and between snapshots, whatever their chunk sizes', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(write, { maxLength: 6 }), { minLength: 3, maxLength: 3 }),
        fc.constantFrom(1, 3, 64),
        async (rounds, capacity) => {
          const { family } = await makeFamily();
          const names: string[] = [];
          for (const [round, writes] of rounds.entries()) {
            const name = `s${round}`;
            names.push(name);
            await family.snapshot({ name, cow: cowDevice(`cow-${name}`), chunkSize: [8, 1, 32][round]!, id: name });
            const targetsNow = [family.origin, ...names.map((each) => family.volume(each))];
            for (const { on, offset, length, seed } of writes) {
              const buffer = Buffer.alloc(Math.min(length, SIZE - offset), seed);
              await performOk(targetsNow[on % targetsNow.length]!, { op: Op.write, offset, buffer });
            }
          }
          const contents = new Map<string, Buffer | null>();
          for (const name of [...names, 'origin']) contents.set(name, await contentOf(family.volume(name)));
          for (const since of names) {
            for (const now of [...names, 'origin']) {
              const changed = await changedSince(family.volume(now), since, capacity);
              covers(changed, contents.get(since)!, contents.get(now)!);
              if (now === since) assert.equal(count(changed), 0);
            }
          }
          await family.close();
        },
      ),
      { numRuns: 40 },
    );
  });

  test('are whole chunks, and exact where the copies tell', async () => {
    const { family } = await makeFamily();
    await family.snapshot({ name: 'a', cow: cowDevice('cow-a'), chunkSize: 8, id: 'a' });
    await performOk(family.origin, { op: Op.write, offset: 5000, buffer: Buffer.alloc(10, 7) });
    await family.snapshot({ name: 'b', cow: cowDevice('cow-b'), chunkSize: 16, id: 'b' });
    await performOk(family.origin, { op: Op.write, offset: 40_960, buffer: Buffer.alloc(10, 7) });
    assert.deepEqual(await changedSince(family.origin, 'b'), only([40_960, 49_152]));
    assert.deepEqual(await changedSince(family.origin, 'a'), only([4096, 8192], [40_960, 45_056]));
    assert.deepEqual(await changedSince(family.volume('b'), 'a'), only([4096, 8192], [40_960, 49_152]));
    assert.deepEqual(await changedSince(family.volume('a'), 'a'), only());
    await family.close();
  });

  test('hold for every write that was acknowledged, while others are in flight', async () => {
    const { family, real } = await makeFamily();
    const cow = cowDevice('cow-a');
    const volume = await family.snapshot({ name: 'a', cow, chunkSize: 8, id: 'a' });
    const before = await contentOf(volume);
    // One request of each device at a time, in the order in which they came.
    cow.decide = () => ({ kind: 'hold' });
    real.decide = () => ({ kind: 'hold' });
    const batch = new Batch();
    for (let i = 0; i < 20; i++) {
      const offset = i * 3 * 4096 + 100;
      batch.submit(family.origin, { op: Op.write, offset, buffer: Buffer.alloc(50, 9) });
    }
    while (batch.outstanding > 0) {
      for (const device of [cow, real]) if (device.held.length > 0) device.release(device.held[0]!);
      await turn();
      const acknowledged = batch.completed.map((request) => request.offset);
      const changed = await changedSince(family.origin, 'a');
      assert(typeof changed !== 'number');
      for (const offset of acknowledged) assert.equal(changed[offset], 1, `byte ${offset} was written`);
    }
    cow.decide = () => ({ kind: 'pass' });
    real.decide = () => ({ kind: 'pass' });
    covers(await changedSince(family.origin, 'a'), before, await contentOf(family.origin));
    await family.close();
  });

  test('include what a snapshot that is merging has, before, while and after it is merged', async () => {
    const { family } = await makeFamily();
    await family.snapshot({ name: 'kept', cow: cowDevice('cow-kept'), chunkSize: 8, id: 'kept' });
    await performOk(family.origin, { op: Op.write, offset: 8192, buffer: Buffer.alloc(4096, 5) });
    await family.snapshot({ name: 'm', cow: cowDevice('cow-m'), chunkSize: 8, id: 'm' });
    await performOk(family.volume('m'), { op: Op.write, offset: 81_920, buffer: Buffer.alloc(40_960, 6) });
    const before = await contentOf(family.volume('kept'));
    await family.merge('m');
    assert.equal(await changedSince(family.origin, 'm'), ENOENT);
    for (;;) {
      const changed = await changedSince(family.origin, 'kept');
      covers(changed, before, await contentOf(family.origin));
      assert.equal(count(changed), 4096 + 40_960);
      if (isMerged(family.statusOf('origin'))) break;
      await turn();
    }
    covers(await changedSince(family.origin, 'kept'), before, await contentOf(family.origin));
    await family.close();
  });

  test('are asked of nobody who does not know: no such snapshot, another origin, an invalid one, no snapshots at all', async () => {
    const { family } = await makeFamily();
    const other = await makeFamily();
    await other.family.snapshot({ name: 'x', cow: cowDevice('cow-x'), chunkSize: 8, id: 'x' });
    await family.snapshot({ name: 'a', cow: cowDevice('cow-a', 64), chunkSize: 8, id: 'a' });
    await family.snapshot({ name: 'b', cow: cowDevice('cow-b'), chunkSize: 8, id: 'b' });
    assert.equal(await changedSince(family.origin, 'nobody'), ENOENT);
    assert.equal(await changedSince(family.origin, 'x'), ENOENT);
    await performOk(family.origin, { op: Op.write, offset: 0, buffer: Buffer.alloc(SIZE, 3) });
    assert.equal(family.statusOf('a'), 'Invalid');
    assert.equal(await changedSince(family.origin, 'a'), EIO);
    assert.equal(await changedSince(family.volume('b'), 'a'), EIO);
    assert.equal(await changedSince(family.volume('a'), 'b'), EIO);
    const plain = new Volume('vg/plain', { targets });
    plain.load(linearTable(SIZE / 512, 'plain'), () => new MemoryDevice({ name: 'plain', sizeBytes: SIZE }));
    plain.resume();
    assert.equal(await changedSince(plain, 'a'), ENOTSUP);
    await plain.close();
    await family.close();
    await other.family.close();
  });

  test('wait while the volume is suspended', async () => {
    const { family } = await makeFamily();
    await family.snapshot({ name: 'a', cow: cowDevice('cow-a'), chunkSize: 8, id: 'a' });
    await family.origin.suspend();
    let answered = false;
    const asking = changedSince(family.origin, 'a').then((changed) => {
      answered = true;
      return changed;
    });
    await turn();
    assert.equal(answered, false);
    family.origin.resume();
    assert.equal(count(await asking), 0);
    await family.close();
  });

  test('need bounded work: what is left is asked for again', () => {
    const table = new ExceptionTable();
    // Scattered on the COW device, so that every chunk is an entry.
    for (let i = 0; i < 50_000; i++) table.add(i, i % 2 === 0 ? 100_000 - i : 200_000 + i);
    const extents = new ExtentList(16);
    const end = 50_000 * 4096;
    let at = 0;
    let answers = 0;
    while (at < end) {
      extents.clear(16);
      addChanges([{ table, chunkBytes: 4096 }], { offset: at, end, commonBytes: end + 4096 }, extents);
      assert.deepEqual([extents.count, extents.flags[0]], [1, 1]);
      at += extents.bytes;
      answers++;
    }
    assert(answers > 1 && answers < 20, `${answers} answers`);
    extents.clear(16);
    addChanges([{ table, chunkBytes: 4096 }], { offset: end, end: end + 8192, commonBytes: end + 4096 }, extents);
    assert.deepEqual([...extents.lengths.subarray(0, extents.count)], [4096, 4096]);
    assert.deepEqual([...extents.flags.subarray(0, extents.count)], [0, 1]);
  });
});

describe('what a snapshot holds', () => {
  test('is what its COW device and the origin say; nothing is called a hole that is none', async () => {
    const bitmap = { real: new Uint8Array(SIZE / 512), cow: new Uint8Array(2000) };
    /** A device that knows which of its sectors were ever written. */
    const sparse = (name: 'real' | 'cow', sizeBytes: number): FaultyDevice => {
      const device = new FaultyDevice(new MemoryDevice({ name, sizeBytes, canDiscard: false }));
      const written = bitmap[name];
      return Object.assign(device, {
        decide: (request: { op: Op; offset: number; length: number }) => {
          if (request.op === Op.write) {
            written.fill(1, Math.floor(request.offset / 512), Math.ceil((request.offset + request.length) / 512));
          }
          return { kind: 'pass' } as const;
        },
        blockStatus: (offset: number, length: number, extents: ExtentList, done: (errno: number) => void) => {
          for (let at = offset; at < offset + length;) {
            const next = Math.min((Math.floor(at / 512) + 1) * 512, offset + length);
            if (!extents.add(next - at, written[Math.floor(at / 512)] === 1 ? 0 : HOLE)) break;
            at = next;
          }
          setImmediate(done, 0);
        },
      });
    };
    const family = new Family(sparse('real', SIZE));
    await performOk(family.origin, { op: Op.write, offset: 8192, buffer: pattern(20_000, 1) });
    const volume = await family.snapshot({ name: 's', cow: sparse('cow', 2000 * 512), chunkSize: 8, id: 's' });
    await performOk(family.origin, { op: Op.write, offset: 10_000, buffer: Buffer.alloc(2000, 7) });
    await performOk(family.origin, { op: Op.write, offset: 100_000, buffer: Buffer.alloc(2000, 7) });
    await performOk(volume, { op: Op.write, offset: 200_000, buffer: Buffer.alloc(10, 8) });
    for (const each of [volume, family.origin]) {
      const content = await contentOf(each);
      const flags = await ask((offset, length, extents, done) => each.blockStatus(offset, length, extents, done));
      assert(content !== null && typeof flags !== 'number');
      for (let i = 0; i < SIZE; i++) assert(flags[i] === 0 || content[i] === 0, `byte ${i} is no hole`);
      assert.equal(flags[SIZE - 1], HOLE);
      assert.equal(flags[8192], 0);
    }
    await family.close();
  });
});
