/**
 * What is durable when, behind a write-back cache: power cuts, devices that refuse writes, flushes among writes that don't end, and
 * memory while a device stands still.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { BlockCache } from '../../../src/block/cache/block-cache.ts';
import { BLOCK_BYTES } from '../../../src/block/cache/frames.ts';
import type { CachedDevice } from '../../../src/block/cache/cached-device.ts';
import { Errno } from '../../../src/block/errors.ts';
import { FaultyDevice } from '../../../src/block/faulty.ts';
import { MemoryDevice } from '../../../src/block/memory.ts';
import { crashStates, PowerCutDevice, PowerCutJournal } from '../../../src/block/power-cut.ts';
import { Op, RequestFlag } from '../../../src/block/request.ts';
import { Batch, pattern, perform, performOk, readAt } from '../harness.ts';

const SECTOR = 512;
const MIB = 2 ** 20;

/** A sector of one value. */
function stamped(sectors: number, value: number): Buffer {
  const bytes = Buffer.alloc(sectors * SECTOR);
  for (let at = 0; at < bytes.length; at += 4) bytes.writeUInt32LE(value, at);
  return bytes;
}

function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

describe('a power cut behind a write-back cache', () => {
  for (const scheduler of ['none', 'deadline'] as const) {
    test(`leaves what was flushed, and whole sectors (${scheduler})`, async () => {
      for (let seed = 1; seed <= 6; seed++) {
        const sectors = 128;
        const journal = new PowerCutJournal();
        const disk = new PowerCutDevice('disk', Buffer.alloc(sectors * SECTOR), journal);
        const cache = new BlockCache({ sizeBytes: 64 * 1024, policy: 'writeback', scheduler, writeDeadlineMs: 1 });
        const device = cache.attach(disk);
        const random = generator(seed);
        /** By sector: values in order, each with the length of the journal when it was known to be durable. */
        const history = Array.from({ length: sectors }, () => [{ value: 0, durable: 0 }]);
        let value = 1;
        for (let step = 0; step < 60; step++) {
          const what = random(10);
          if (what === 0) {
            await performOk(device, { op: Op.flush });
            const durable = journal.entries.length;
            for (const own of history) for (const one of own) one.durable = Math.min(one.durable, durable);
            continue;
          }
          const sector = random(sectors);
          const count = Math.min(1 + random(20), sectors - sector);
          const isFua = what === 1;
          const mine = Array.from({ length: count }, () => ({ value, durable: Infinity }));
          for (const [i, one] of mine.entries()) history[sector + i]!.push(one);
          const flags = isFua ? RequestFlag.fua : 0;
          await performOk(device, { op: Op.write, offset: sector * SECTOR, buffer: stamped(count, value++), flags });
          if (isFua) for (const one of mine) one.durable = journal.entries.length;
        }
        await device.close();
        for (const state of crashStates(journal, { statesPerMoment: 6, seed })) {
          const image = state.images.get(disk)!;
          for (let sector = 0; sector < sectors; sector++) {
            const found = image.readUInt32LE(sector * SECTOR);
            const bytes = image.subarray(sector * SECTOR, (sector + 1) * SECTOR);
            assert(bytes.equals(stamped(1, found)), `sector ${sector} is torn: ${state.description}`);
            const own = history[sector]!;
            const floor = own.findLastIndex(({ durable }) => durable <= state.moment);
            const at = own.findIndex((one) => one.value === found);
            assert(at >= floor, `sector ${sector} holds ${found}, older than what was flushed: ${state.description}`);
          }
        }
      }
    });
  }
});

interface Stand {
  readonly below: MemoryDevice;
  readonly faulty: FaultyDevice;
  readonly cache: BlockCache;
  readonly device: CachedDevice;
}

function stand(sizeBytes = MIB, deviceBytes = 64 * MIB): Stand {
  const below = new MemoryDevice({ sizeBytes: deviceBytes });
  const faulty = new FaultyDevice(below);
  const cache = new BlockCache({ sizeBytes, policy: 'writeback', scheduler: 'deadline' });
  return { below, faulty, cache, device: cache.attach(faulty) };
}

function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

describe('flushes', () => {
  test('write back what was acknowledged before, then flush the device', async () => {
    const { below, faulty, device } = stand();
    await performOk(device, { op: Op.write, offset: 0, buffer: pattern(8192, 1) });
    assert.deepEqual(faulty.submitted, [0, 0, 0, 0, 0]);
    assert.equal(device.cacheStats.dirtyBytes, 8192);
    await performOk(device, { op: Op.flush });
    assert.deepEqual(faulty.submitted, [0, 1, 1, 0, 0], 'one write of two blocks, one flush');
    assert(pattern(8192, 1).equals(await readAt(below, 0, 8192)));
    await device.close();
  });

  test('are not held up by writes that come later', async () => {
    const { faulty, device } = stand();
    faulty.decide = ({ op }) => ({ kind: op === Op.write ? 'hold' : 'pass' });
    await performOk(device, { op: Op.write, offset: 0, buffer: pattern(4096, 1) });
    const batch = new Batch();
    batch.submit(device, { op: Op.flush });
    await faulty.whenHeld(1);
    // The same block and others are written again while the first bytes are on their way.
    for (let i = 0; i < 20; i++) await performOk(device, { op: Op.write, offset: i * 4096, buffer: pattern(4096, 2) });
    const [first] = faulty.held;
    faulty.release(first!);
    await batch.done();
    assert.equal(batch.completed[0]!.error, 0);
    faulty.decide = () => ({ kind: 'pass' });
    faulty.releaseAll();
    assert.equal(device.cacheStats.dirtyBytes, 20 * 4096, 'what came later is dirty still');
    await device.close();
  });

  test('end while others write without a pause', async () => {
    const { device } = stand();
    const stop = new AbortController();
    const writer = (async () => {
      for (let i = 0; !stop.signal.aborted; i++)
        await performOk(device, { op: Op.write, offset: (i % 64) * 4096, buffer: pattern(4096, i) });
    })();
    for (let i = 0; i < 50; i++) await performOk(device, { op: Op.flush });
    stop.abort();
    await writer;
    await device.close();
  });

  test('FUA writes end when their own blocks are durable, whatever else is dirty', async () => {
    const { below, faulty, device } = stand();
    await performOk(device, { op: Op.write, offset: MIB, buffer: pattern(65_536, 1) });
    await performOk(device, { op: Op.write, offset: 0, buffer: pattern(4096, 2), flags: RequestFlag.fua });
    assert.deepEqual(faulty.submitted, [0, 1, 0, 0, 0], 'one write, with FUA');
    assert(pattern(4096, 2).equals(await readAt(below, 0, 4096)));
    assert.equal(device.cacheStats.dirtyBytes, 65_536);
    await device.close();
  });
});

describe('a device that refuses what is written back', () => {
  test('fails every flush until the bytes are there, and loses none', async () => {
    const { below, faulty, device } = stand();
    faulty.decide = ({ op }) => (op === Op.write ? { kind: 'fail', errno: Errno.EIO } : { kind: 'pass' });
    await performOk(device, { op: Op.write, offset: 4096, buffer: pattern(4096, 1) });
    assert.equal(await perform(device, { op: Op.flush }), Errno.EIO);
    assert.equal(await perform(device, { op: Op.flush }), Errno.EIO);
    assert(pattern(4096, 1).equals(await readAt(device, 4096, 4096)), 'it is in memory as before');
    assert.equal(device.cacheStats.dirtyBytes, 4096);
    assert.equal(device.cacheStats.writeBackErrors, 2);
    faulty.decide = () => ({ kind: 'pass' });
    await performOk(device, { op: Op.flush });
    assert(pattern(4096, 1).equals(await readAt(below, 4096, 4096)));
    await device.close();
  });

  test('fails the FUA write, and writes that wait for room, with its error', async () => {
    const { faulty, device } = stand();
    faulty.decide = ({ op }) => (op === Op.write ? { kind: 'fail', errno: Errno.ENOSPC } : { kind: 'pass' });
    const fua = { op: Op.write, offset: 0, buffer: pattern(4096, 1), flags: RequestFlag.fua };
    assert.equal(await perform(device, fua), Errno.ENOSPC);
    assert.equal(await perform(device, { op: Op.write, offset: 0, buffer: pattern(2 * MIB, 1) }), Errno.ENOSPC);
    await assert.rejects(device.close(), { code: 'IO' });
  });

  test('has what it refused given up when its range is left, which is told to whoever leaves, and to nobody else', async () => {
    const { below, faulty, device } = stand();
    faulty.decide = ({ op }) => (op === Op.write ? { kind: 'fail', errno: Errno.EIO } : { kind: 'pass' });
    await performOk(device, { op: Op.write, offset: 0, buffer: pattern(65_536, 1) });
    assert.equal(await device.leave(0, MIB), Errno.EIO);
    faulty.decide = () => ({ kind: 'pass' });
    await performOk(below, { op: Op.write, offset: 0, buffer: pattern(4096, 2) });
    await performOk(device, { op: Op.flush });
    assert(pattern(4096, 2).equals(await readAt(device, 0, 4096)), 'somebody else owns the range now');
    await device.close();
  });

  test('keeps what a neighbour has written to a block of which a part is left', async () => {
    const { below, faulty, device } = stand();
    await performOk(device, { op: Op.write, offset: 0, buffer: stamped(3, 1) });
    const [theirs, ours] = [stamped(3, 2), stamped(2, 3)];
    await performOk(device, { op: Op.write, offset: 3 * SECTOR, buffer: theirs });
    await performOk(device, { op: Op.write, offset: 8192 - SECTOR, buffer: ours });
    faulty.decide = ({ op }) => (op === Op.write ? { kind: 'fail', errno: Errno.EIO } : { kind: 'pass' });
    const batch = new Batch();
    batch.submit(device, { op: Op.write, offset: 6 * SECTOR, buffer: stamped(1, 4), flags: RequestFlag.fua });
    await batch.done();
    assert.deepEqual(
      batch.completed.map(({ error }) => error),
      [Errno.EIO],
    );
    // From the middle of the first block to the middle of the second, and of these only the middle.
    assert.equal(await device.leave(0, 3 * SECTOR), Errno.EIO);
    assert.equal(await device.leave(8192, SECTOR), Errno.EIO);
    assert.equal(await perform(device, { op: Op.flush }), Errno.EIO, 'some bytes are not there yet');
    faulty.decide = () => ({ kind: 'pass' });
    await performOk(below, { op: Op.write, offset: 0, buffer: stamped(3, 9) });
    await performOk(below, { op: Op.write, offset: 8192, buffer: stamped(1, 9) });
    await performOk(device, { op: Op.flush });
    const expected = Buffer.concat([stamped(3, 9), theirs, stamped(1, 4)]);
    assert(expected.equals(await readAt(below, 0, 7 * SECTOR)));
    assert(ours.subarray(0, SECTOR).equals(await readAt(below, 8192 - SECTOR, SECTOR)));
    assert(stamped(1, 9).equals(await readAt(below, 8192, SECTOR)));
    await device.close();
  });
});

test('bytes that go with a unit of the device which two share fail every flush from then on', async () => {
  const faulty = new FaultyDevice(new MemoryDevice({ sizeBytes: MIB, requestAlignment: 4096 }));
  const lost: number[] = [];
  const inner = Object.assign(faulty, { loseFlushes: (errno: number): void => void lost.push(errno) });
  const device = new BlockCache({ sizeBytes: MIB, policy: 'writeback', scheduler: 'none' }).attach(inner);
  faulty.decide = ({ op }) => (op === Op.write ? { kind: 'fail', errno: Errno.EIO } : { kind: 'pass' });
  for (const [end, told] of [
    [8192, []],
    [8192 - SECTOR, [Errno.EIO]],
  ] as const) {
    await performOk(device, { op: Op.write, offset: 0, buffer: pattern(8192, 1) });
    assert.equal(await device.leave(0, end), Errno.EIO);
    assert.deepEqual(lost, told);
    assert.equal(device.cacheStats.dirtyBytes, 0);
  }
  await device.close();
});

describe('ranges', () => {
  test('that are left are written back and forgotten; neighbours in the same block are not touched', async () => {
    const { below, device } = stand();
    await performOk(below, { op: Op.write, offset: 0, buffer: stamped(16, 7) });
    await performOk(device, { op: Op.write, offset: 0, buffer: stamped(2, 1) });
    // A neighbour of the same block, in another process.
    await performOk(below, { op: Op.write, offset: 2 * SECTOR, buffer: stamped(6, 9) });
    await device.leave(0, 2 * SECTOR);
    assert(Buffer.concat([stamped(2, 1), stamped(6, 9), stamped(8, 7)]).equals(await readAt(below, 0, 8192)));
    await device.close();
  });

  test('that come into use are read anew, where a neighbour in the same block has bytes that are not written yet', async () => {
    const { below, faulty, device } = stand();
    await performOk(device, { op: Op.write, offset: 0, buffer: stamped(2, 1) });
    // The neighbour's bytes came into memory with ours; he writes, and then they are ours, too.
    await performOk(below, { op: Op.write, offset: 2 * SECTOR, buffer: stamped(14, 9) });
    device.enter(2 * SECTOR, 14 * SECTOR);
    const whole = Buffer.concat([stamped(2, 1), stamped(14, 9)]);
    assert(stamped(2, 1).equals(await readAt(device, 0, 2 * SECTOR)));
    assert(stamped(14, 9).equals(await readAt(device, 2 * SECTOR, 14 * SECTOR)));
    assert(whole.equals(await readAt(device, 0, 16 * SECTOR)));
    // The same while the block is on its way to the device.
    await performOk(device, { op: Op.write, offset: 0, buffer: stamped(2, 2) });
    faulty.decide = ({ op }) => ({ kind: op === Op.write ? 'hold' : 'pass' });
    const batch = new Batch();
    batch.submit(device, { op: Op.flush });
    await faulty.whenHeld(1);
    await performOk(below, { op: Op.write, offset: 2 * SECTOR, buffer: stamped(2, 8) });
    device.enter(2 * SECTOR, 2 * SECTOR);
    const read = readAt(device, 0, 16 * SECTOR);
    await turn();
    faulty.decide = () => ({ kind: 'pass' });
    faulty.releaseAll();
    assert(Buffer.concat([stamped(2, 2), stamped(2, 8), stamped(12, 9)]).equals(await read));
    await batch.done();
    await device.close();
  });

  test('with such a neighbour whose bytes the device refuses are not read from memory', async () => {
    const { below, faulty, device } = stand();
    await performOk(device, { op: Op.write, offset: 0, buffer: stamped(2, 1) });
    await performOk(below, { op: Op.write, offset: 2 * SECTOR, buffer: stamped(6, 9) });
    device.enter(2 * SECTOR, 6 * SECTOR);
    faulty.decide = ({ op }) => (op === Op.write ? { kind: 'fail', errno: Errno.ENOSPC } : { kind: 'pass' });
    assert.equal(await perform(device, { op: Op.read, offset: 1024, buffer: Buffer.alloc(512) }), Errno.ENOSPC);
    faulty.decide = () => ({ kind: 'pass' });
    assert(stamped(6, 9).equals(await readAt(device, 2 * SECTOR, 6 * SECTOR)));
    assert(stamped(2, 1).equals(await readAt(device, 0, 2 * SECTOR)));
    await device.close();
  });

  test('that come into use are read anew, what was being read ahead included', async () => {
    const { below, faulty, device } = stand();
    await readAt(device, 0, 4096);
    faulty.decide = ({ offset }) => ({ kind: offset >= 8192 ? 'holdReply' : 'pass' });
    await readAt(device, 4096, 4096);
    await faulty.whenHeld(1);
    assert(faulty.held[0]!.offset > 4096, 'it reads ahead');
    await performOk(below, { op: Op.write, offset: 16_384, buffer: pattern(4096, 1) });
    device.enter(16_384, 4096);
    faulty.decide = () => ({ kind: 'pass' });
    faulty.releaseAll();
    assert(pattern(4096, 1).equals(await readAt(device, 16_384, 4096)));
    await device.close();
  });
});

test('50 MB of writes in flight against a device that stands still take no more memory than the cache', async () => {
  const { faulty, cache, device } = stand(8 * MIB);
  faulty.decide = ({ op }) => ({ kind: op === Op.write ? 'hold' : 'pass' });
  const payload = pattern(MIB, 5);
  const batch = new Batch();
  const before = process.memoryUsage();
  for (let i = 0; i < 50; i++) batch.submit(device, { op: Op.write, offset: i * MIB, buffer: payload });
  await faulty.whenHeld(4);
  for (let i = 0; i < 20; i++) await turn();
  const after = process.memoryUsage();
  const { dirtyBytes } = device.cacheStats;
  assert(dirtyBytes <= 0.4 * 8 * MIB && dirtyBytes > 2 * MIB, `${dirtyBytes} bytes are dirty`);
  assert(batch.outstanding >= 46, 'the others wait');
  assert(cache.frames.takenBytes <= 8 * MIB);
  const grown = after.external - before.external + after.heapUsed - before.heapUsed;
  assert(grown < 24 * MIB, `${grown} bytes more`);
  faulty.decide = () => ({ kind: 'pass' });
  faulty.releaseAll();
  await batch.done();
  await performOk(device, { op: Op.flush });
  for (let i = 0; i < 50; i += 7) assert(payload.equals(await readAt(device, i * MIB, MIB)));
  assert.equal(cache.frames.count * BLOCK_BYTES, 8 * MIB);
  await device.close();
});

test('a device that hangs leaves others room to write', async () => {
  const cache = new BlockCache({ sizeBytes: MIB, policy: 'writeback', scheduler: 'none' });
  const hanging = new FaultyDevice(new MemoryDevice({ sizeBytes: 4 * MIB }));
  hanging.decide = ({ op }) => ({ kind: op === Op.write ? 'hold' : 'pass' });
  const stuck = cache.attach(hanging);
  const other = cache.attach(new MemoryDevice({ sizeBytes: 4 * MIB }));
  const batch = new Batch();
  for (let i = 0; i < 4; i++) batch.submit(stuck, { op: Op.write, offset: i * MIB, buffer: pattern(MIB, i) });
  await hanging.whenHeld(1);
  await performOk(other, { op: Op.write, offset: 0, buffer: pattern(4 * MIB, 3) });
  assert(pattern(4 * MIB, 3).equals(await readAt(other, 0, 4 * MIB)));
  hanging.decide = () => ({ kind: 'pass' });
  hanging.releaseAll();
  await batch.done();
  await stuck.close();
  await other.close();
});
