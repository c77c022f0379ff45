/** Snapshots: what the kernel's targets say and do, case by case; random sequences are in snapshot-model.test.ts. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { Errno } from '../../src/block/errors.ts';
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { Op, RequestFlag } from '../../src/block/request.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { Batch, pattern, perform, performOk, readAt } from '../block/harness.ts';
import { memoryDevices } from './devices.ts';
import { contentOf, Family, isMerged, linearTable, same } from './snapshot-harness.ts';
import { targetSuite } from './target-suite.ts';

const KIB = 1024;

function device(name: string, sizeBytes: number): FaultyDevice {
  return new FaultyDevice(new MemoryDevice({ name, sizeBytes }));
}

async function makeFamily(sizeBytes: number): Promise<{ family: Family; real: FaultyDevice; content: Buffer }> {
  const real = device('real', sizeBytes);
  const family = new Family(real);
  const content = pattern(sizeBytes, 1);
  await performOk(family.origin, { op: Op.write, buffer: content });
  return { family, real, content };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await turn();
}

describe('a snapshot', () => {
  test('keeps what the origin was, whatever is written to either', async () => {
    const { family, content } = await makeFamily(256 * KIB);
    const cow = device('cow', 512 * KIB);
    const volume = await family.snapshot({ name: 's', cow, chunkSize: 8 });
    await performOk(family.origin, { op: Op.write, offset: 5000, buffer: Buffer.alloc(10_000, 7) });
    same(await contentOf(volume), content, 'the snapshot');
    await performOk(volume, { op: Op.write, offset: 100_000, buffer: Buffer.alloc(3, 9) });
    await performOk(volume, { op: Op.write, offset: 8192, buffer: Buffer.alloc(20_000, 5) });
    const own = Buffer.from(content);
    own.fill(9, 100_000, 100_003);
    own.fill(5, 8192, 28_192);
    same(await contentOf(volume), own, 'the snapshot after its writes');
    const origin = Buffer.from(content);
    origin.fill(7, 5000, 15_000);
    same(await contentOf(family.origin), origin, 'the origin');
    await family.close();
  });

  test('says its usage as the kernel does', async () => {
    const { family } = await makeFamily(256 * KIB);
    const volume = await family.snapshot({ name: 's', cow: device('cow', 512 * KIB), chunkSize: 8 });
    assert.equal(family.statusOf('s'), 'Unknown');
    await contentOf(volume);
    assert.equal(family.statusOf('s'), '16/1024 16');
    await performOk(family.origin, { op: Op.write, offset: 0, buffer: Buffer.alloc(8192) });
    assert.equal(family.statusOf('s'), '32/1024 16');
    assert.equal(volume.tableText(), '0 512 snapshot real cow P 8\n');
    assert.equal(family.origin.tableText(), '0 512 snapshot-origin real\n');
    assert.equal(family.statusOf('origin'), '');
    await family.close();
  });

  test('is copied in few requests: one read, one write, one flush, one area for many chunks', async () => {
    const { family, real } = await makeFamily(256 * KIB);
    const cow = device('cow', 512 * KIB);
    await contentOf(await family.snapshot({ name: 's', cow, chunkSize: 8 }));
    real.submitted.fill(0);
    cow.submitted.fill(0);
    await performOk(family.origin, { op: Op.write, offset: 0, buffer: Buffer.alloc(128 * KIB) });
    assert.deepEqual(real.submitted, [1, 1, 0, 0, 0]);
    assert.deepEqual(cow.submitted, [0, 2, 1, 0, 0]);
    // Copied chunks cost nothing more.
    await performOk(family.origin, { op: Op.write, offset: 3, buffer: Buffer.alloc(127 * KIB) });
    assert.deepEqual(cow.submitted, [0, 2, 1, 0, 0]);
    await family.close();
  });

  test('orders its writes: chunk, flush, record with FUA, then the origin', async () => {
    const { family, real } = await makeFamily(64 * KIB);
    const cow = device('cow', 128 * KIB);
    await contentOf(await family.snapshot({ name: 's', cow, chunkSize: 8 }));
    const log: string[] = [];
    const note = (name: string) => (request: { op: Op; offset: number; flags: number }) => {
      log.push(`${name} ${request.op} ${request.offset} ${request.flags & RequestFlag.fua}`);
      return { kind: 'pass' } as const;
    };
    real.decide = note('real');
    cow.decide = note('cow');
    await performOk(family.origin, { op: Op.write, offset: 4096, buffer: Buffer.alloc(512) });
    assert.deepEqual(log, [
      `real ${Op.read} 4096 0`,
      `cow ${Op.write} 8192 0`,
      `cow ${Op.flush} 0 0`,
      `cow ${Op.write} 4096 1`,
      `real ${Op.write} 4096 0`,
    ]);
    await family.close();
  });

  test('a write of whole chunks is not copied first', async () => {
    const { family, real } = await makeFamily(64 * KIB);
    const cow = device('cow', 128 * KIB);
    const volume = await family.snapshot({ name: 's', cow, chunkSize: 8 });
    await contentOf(volume);
    real.submitted.fill(0);
    cow.submitted.fill(0);
    await performOk(volume, { op: Op.write, offset: 8192, buffer: Buffer.alloc(16 * KIB, 1) });
    await performOk(volume, { op: Op.writeZeroes, offset: 32 * KIB, length: 8192 });
    assert.deepEqual(real.submitted, [0, 0, 0, 0, 0]);
    assert.deepEqual(cow.submitted, [0, 3, 2, 0, 1]);
    await family.close();
  });

  test('offers no discards, and does nothing with those that come', async () => {
    const { family, content } = await makeFamily(64 * KIB);
    const volume = await family.snapshot({ name: 's', cow: device('cow', 128 * KIB), chunkSize: 8 });
    for (const one of [volume, family.origin]) {
      assert.equal(one.limits.canDiscard, false);
      await performOk(one, { op: Op.discard, offset: 0, length: 64 * KIB });
      same(await contentOf(one), content, one.name);
    }
    await family.close();
  });

  test('a read of the origin for it delays the write of the origin', async () => {
    const { family, real, content } = await makeFamily(64 * KIB);
    const volume = await family.snapshot({ name: 's', cow: device('cow', 128 * KIB), chunkSize: 8 });
    await contentOf(volume);
    const batch = new Batch();
    const buffer = Buffer.alloc(8192);
    let first = true;
    real.decide = ({ op }) => {
      const hold = op === Op.read && first;
      if (hold) first = false;
      return hold ? { kind: 'hold' } : { kind: 'pass' };
    };
    batch.submit(volume, { op: Op.read, offset: 2048, buffer });
    await real.whenHeld(1);
    batch.submit(family.origin, { op: Op.write, offset: 4096, buffer: Buffer.alloc(100, 3) });
    // The exception counts already.
    await until(() => family.statusOf('s') === '24/256 16' && real.submitted[Op.read]! >= 3);
    for (let i = 0; i < 20; i++) await turn();
    assert.equal(batch.outstanding, 2);
    same(await readAt(volume, 4096, 4096), content.subarray(4096, 8192), 'a second read');
    real.releaseAll();
    await batch.done();
    same(buffer, content.subarray(2048, 2048 + 8192), 'the delayed read');
    await family.close();
  });

  test('a store on the device counts, whatever chunk size a table says', async () => {
    const { family, content } = await makeFamily(64 * KIB);
    const cow = device('cow', 256 * KIB);
    await family.snapshot({ name: 's', cow, chunkSize: 16 });
    await performOk(family.origin, { op: Op.write, offset: 0, buffer: Buffer.alloc(64 * KIB, 1) });
    await family.close();
    const again = new Family(new MemoryDevice({ name: 'real', sizeBytes: 64 * KIB }));
    const volume = await again.snapshot({ name: 's', cow, chunkSize: 8 });
    same(await contentOf(volume), content, 'the snapshot');
    assert.equal(volume.tableText(), '0 128 snapshot real cow P 16\n');
    await again.close();
  });
});

describe('a full store', () => {
  test('makes the snapshot invalid and never fails the origin', async () => {
    const { family } = await makeFamily(256 * KIB);
    const memory = new MemoryDevice({ name: 'cow', sizeBytes: 32 * KIB });
    const cow = new FaultyDevice(memory);
    const volume = await family.snapshot({ name: 's', cow, chunkSize: 8 });
    for (let at = 0; at < 256 * KIB; at += 8192) {
      await performOk(family.origin, { op: Op.write, offset: at, buffer: Buffer.alloc(8192, at / 8192 + 1) });
    }
    assert.equal(family.statusOf('s'), 'Invalid');
    assert.equal(await perform(volume, { op: Op.read, buffer: Buffer.alloc(10) }), Errno.EIO);
    assert.equal(await perform(volume, { op: Op.write, buffer: Buffer.alloc(10) }), Errno.EIO);
    assert.deepEqual([...memory.peek(0, 16)], [...Buffer.from('536e4170000000000100000008000000', 'hex')]);
    const status = volume.status().lines[0]?.details;
    assert.match(String(status?.['problem']), /full/);
    await family.close();
    // And stays so.
    const again = await new Family(new MemoryDevice({ name: 'real', sizeBytes: 256 * KIB })).snapshot({
      name: 's',
      cow,
      chunkSize: 8,
    });
    assert.equal(await perform(again, { op: Op.read, buffer: Buffer.alloc(10) }), Errno.EIO);
    assert.equal(again.status().lines[0]?.text, 'Invalid');
    await again.close();
  });

  for (const persistent of ['P', 'PO'] as const) {
    test(`met by a write of the snapshot's own, ${persistent}`, async () => {
      const { family, content } = await makeFamily(256 * KIB);
      const cow = device('cow', 32 * KIB);
      const volume = await family.snapshot({ name: 's', cow, chunkSize: 8, persistent });
      const errors: number[] = [];
      for (let at = 0; at < 64 * KIB; at += 4096) {
        errors.push(await perform(volume, { op: Op.write, offset: at, buffer: Buffer.alloc(4096, 1) }));
      }
      // 8 chunks: the header, an area, 6 of data.
      assert.deepEqual(errors, [...Array<number>(6).fill(0), ...Array<number>(10).fill(Errno.EIO)]);
      assert.equal(family.statusOf('s'), persistent === 'P' ? 'Invalid' : 'Overflow');
      const own = Buffer.from(content);
      own.fill(1, 0, 6 * 4096);
      if (persistent === 'P') assert.equal(await contentOf(volume), null);
      else same(await contentOf(volume), own, 'the snapshot');
      await performOk(family.origin, { op: Op.write, offset: 200 * KIB, buffer: Buffer.alloc(4096) });
      assert.equal(family.statusOf('s'), 'Invalid');
      await family.close();
    });
  }

  test('of one snapshot is nothing to the others', async () => {
    const { family, content } = await makeFamily(256 * KIB);
    const small = await family.snapshot({ name: 'small', cow: device('c1', 32 * KIB), chunkSize: 8 });
    const large = await family.snapshot({ name: 'large', cow: device('c2', 2048 * KIB), chunkSize: 32 });
    await performOk(family.origin, { op: Op.write, buffer: Buffer.alloc(256 * KIB, 2) });
    assert.equal(await contentOf(small), null);
    same(await contentOf(large), content, 'the large one');
    await family.close();
  });
});

describe('tables', () => {
  test('a store goes over to the next table of its volume, its exceptions in memory', async () => {
    const { family, content } = await makeFamily(64 * KIB);
    const cow = device('cow', 256 * KIB);
    const volume = await family.snapshot({ name: 's', cow, chunkSize: 8 });
    await performOk(family.origin, { op: Op.write, offset: 0, buffer: Buffer.alloc(32 * KIB, 1) });
    const { spec } = family.snapshots.get('s')!;
    volume.load(family.snapshotTable({ ...spec, persistent: 'PO' }), family.resolver(cow));
    await volume.suspend();
    cow.submitted.fill(0);
    volume.resume();
    await turn();
    await turn();
    assert.deepEqual(cow.submitted, [0, 0, 0, 0, 0]);
    assert.equal(family.statusOf('s'), '80/512 16');
    same(await contentOf(volume), content, 'the snapshot');
    await performOk(family.origin, { op: Op.write, offset: 32 * KIB, buffer: Buffer.alloc(32 * KIB, 1) });
    same(await contentOf(volume), content, 'the snapshot');
    await family.close();
  });

  test('an origin waits for the snapshots that its table names', async () => {
    const real = device('real', 64 * KIB);
    const cow = device('cow', 128 * KIB);
    const resolve = (name: string): FaultyDevice => (name === 'real' ? real : cow);
    const origin = new Volume('vg/origin', { targets });
    const layer = { name: 'vg/origin-real', table: linearTable(128, 'real') };
    const originParams = { origin: layer, originId: 'o', snapshots: ['c'] };
    origin.load([{ start: 0, length: 128, target: 'snapshot-origin', params: originParams }], resolve);
    origin.resume();
    const batch = new Batch();
    const write = batch.submit(origin, { op: Op.write, offset: 0, buffer: Buffer.alloc(4096, 1) });
    const before = await readAt(origin, 0, 4096);
    for (let i = 0; i < 10; i++) await turn();
    assert.equal(batch.outstanding, 1);
    // A suspend does not wait for what can't go on.
    await origin.suspend();
    origin.resume();
    assert.equal(batch.outstanding, 1);
    const cowLayer = { name: 'vg/s-cow', table: linearTable(256, 'cow') };
    const params = { origin: layer, originId: 'o', cow: cowLayer, cowId: 'c', persistent: 'P', chunkSize: 8 };
    const table = [{ start: 0, length: 128, target: 'snapshot', params }];
    const volume = new Volume('vg/s', { targets });
    volume.load(table, resolve);
    volume.resume();
    await batch.done();
    assert.equal(write.error, 0);
    same(await readAt(volume, 0, 4096), before, 'the snapshot');
    // The next table has layers of its own; the store is the same.
    volume.load(table, resolve);
    await volume.suspend();
    volume.resume();
    same(await readAt(volume, 0, 4096), before, 'the snapshot with its next table');
    assert.equal(volume.tableText(), '0 128 snapshot vg/origin-real vg/s-cow P 8\n');
    await origin.close();
    await volume.close();
  });

  test('the origin of a suspended snapshot waits, and can itself be suspended', async () => {
    const { family, content } = await makeFamily(64 * KIB);
    const volume = await family.snapshot({ name: 's', cow: device('cow', 128 * KIB), chunkSize: 8 });
    await volume.suspend();
    const batch = new Batch();
    batch.submit(family.origin, { op: Op.write, offset: 0, buffer: Buffer.alloc(4096, 1) });
    for (let i = 0; i < 10; i++) await turn();
    assert.equal(batch.outstanding, 1);
    await family.origin.suspend();
    family.origin.resume();
    volume.resume();
    await batch.done();
    same(await contentOf(volume), content, 'the snapshot');
    await family.close();
  });

  const bad: readonly (readonly [string, object, RegExp])[] = [
    ['chunk size', { chunkSize: 24 }, /chunkSize: expected a power of two of sectors, at most 32768, found 24/],
    ['persistence', { persistent: 'X' }, /persistent: expected one of P, PO, N, found "X"/],
    ['unknown', { more: 1 }, /more: expected origin, originId, cow, cowId, persistent, chunkSize/],
    ['no device', { cow: 'none' }, /no device none/],
    ['a layer without an id', { cow: { name: 'l', table: linearTable(64, 'cow') } }, /cowId: expected an id/],
  ];
  for (const [name, change, message] of bad) {
    test(`parameters are refused: ${name}`, () => {
      const devices = new Map([
        ['real', device('real', 64 * KIB)],
        ['cow', device('cow', 64 * KIB)],
      ]);
      const resolve = (wanted: string): FaultyDevice => {
        const found = devices.get(wanted);
        if (found === undefined) throw new Error('there is none');
        return found;
      };
      const params = { origin: 'real', cow: 'cow', persistent: 'P', chunkSize: 8, ...change };
      const volume = new Volume('vg/s', { targets });
      assert.throws(() => volume.load([{ start: 0, length: 128, target: 'snapshot', params }], resolve), { message });
    });
  }
});

describe('a damaged store', () => {
  const damages: readonly (readonly [string, (bytes: Buffer) => void, RegExp])[] = [
    ['no store at all', (bytes) => bytes.fill('x', 0, 16), /wrong magic/],
    [
      'an exception outside',
      (bytes) => bytes.writeUInt32LE(500, 4096 + 8),
      /at byte 4096: exception, new chunk: out of range/,
    ],
    ['an exception on an area', (bytes) => bytes.writeUInt32LE(1, 4096 + 8), /new chunk: bad value/],
    ['a chunk twice', (bytes) => bytes.copy(bytes, 4096 + 16, 4096, 4096 + 8), /a second exception for a chunk/],
  ];
  for (const [name, damage, message] of damages) {
    test(`is no snapshot, and nothing to the origin: ${name}`, async () => {
      const { family } = await makeFamily(64 * KIB);
      const memory = new MemoryDevice({ name: 'cow', sizeBytes: 128 * KIB });
      await family.snapshot({ name: 's', cow: memory, chunkSize: 8 });
      await performOk(family.origin, { op: Op.write, buffer: Buffer.alloc(8192) });
      await family.close();
      const bytes = memory.peek(0, 128 * KIB);
      damage(bytes);
      memory.poke(0, bytes);
      const again = new Family(device('real', 64 * KIB));
      const volume = await again.snapshot({ name: 's', cow: memory, chunkSize: 8 });
      await performOk(again.origin, { op: Op.write, offset: 8192, buffer: Buffer.alloc(8192) });
      assert.equal(await contentOf(volume), null);
      assert.equal(again.statusOf('s'), 'Invalid');
      assert.match(String(volume.status().lines[0]?.details['problem']), message);
      same(memory.peek(0, 128 * KIB), bytes, 'the store is left as it was');
      await again.close();
    });
  }

  test('records that a torn write left behind the end are erased before they can count', async () => {
    const { family } = await makeFamily(64 * KIB);
    const memory = new MemoryDevice({ name: 'cow', sizeBytes: 128 * KIB });
    await family.snapshot({ name: 's', cow: memory, chunkSize: 8 });
    await performOk(family.origin, { op: Op.write, buffer: Buffer.alloc(8192) });
    await family.close();
    const stale = Buffer.alloc(16);
    stale.writeUInt32LE(9, 0);
    stale.writeUInt32LE(7, 8);
    memory.poke(4096 + 32 * 16, stale);
    const again = new Family(device('real', 64 * KIB));
    await contentOf(await again.snapshot({ name: 's', cow: memory, chunkSize: 8 }));
    assert.equal(again.statusOf('s'), '32/256 16');
    assert(memory.peek(4096 + 32, 4096 - 32).every((byte) => byte === 0));
    await again.close();
  });
});

describe('merging', () => {
  test('gives the origin what the snapshot was, from the first moment', async () => {
    const { family, content } = await makeFamily(256 * KIB);
    const other = await family.snapshot({ name: 'other', cow: device('c2', 1024 * KIB), chunkSize: 16 });
    const volume = await family.snapshot({ name: 's', cow: device('c1', 1024 * KIB), chunkSize: 8 });
    await performOk(volume, { op: Op.write, offset: 100_000, buffer: Buffer.alloc(5000, 9) });
    await performOk(family.origin, { op: Op.write, offset: 10, buffer: Buffer.alloc(150_000, 7) });
    const merged = Buffer.from(content);
    merged.fill(9, 100_000, 105_000);
    const spec = await family.merge('s');
    same(await contentOf(family.origin), merged, 'the origin at once');
    await performOk(family.origin, { op: Op.write, offset: 4000, buffer: Buffer.alloc(9000, 3) });
    merged.fill(3, 4000, 13_000);
    await until(() => isMerged(family.statusOf('origin')));
    assert.match(family.statusOf('origin'), /^16\/2048 16$/);
    same(await contentOf(family.origin), merged, 'the origin afterwards');
    same(await contentOf(other), content, 'the other snapshot');
    assert.equal(family.origin.tableText(), '0 512 snapshot-merge real c1 P 8\n');
    family.loadOrigin('snapshot-origin');
    await family.origin.suspend();
    family.origin.resume();
    same(await contentOf(family.origin), merged, 'the origin without the store');
    same(await contentOf(other), content, 'the other snapshot');
    assert.equal(spec.name, 's');
    await family.close();
  });

  test('merges nothing on devices that take no writes', async () => {
    const { family, content } = await makeFamily(64 * KIB);
    const cow = device('c1', 256 * KIB);
    const volume = await family.snapshot({ name: 's', cow, chunkSize: 8 });
    await performOk(family.origin, { op: Op.write, buffer: Buffer.alloc(20 * KIB, 7) });
    await performOk(volume, { op: Op.write, offset: 9000, buffer: Buffer.alloc(5000, 9) });
    const expected = Buffer.from(content);
    expected.fill(9, 9000, 14_000);
    const images = [await contentOf(family.origin), await readAt(cow, 0, 256 * KIB)];
    await family.close();
    const [real, store] = images.map((image, i) => {
      const made = new MemoryDevice({ name: `ro${i}`, sizeBytes: image!.length, readOnly: true });
      made.poke(0, image!);
      return made;
    });
    const later = new Family(real!);
    later.origin.load(later.mergeTable({ name: 's', cow: store!, chunkSize: 8 }), later.resolver(store!));
    await later.origin.suspend();
    later.origin.resume();
    same(await contentOf(later.origin), expected, 'the origin');
    for (let i = 0; i < 20; i++) await turn();
    assert(!isMerged(later.statusOf('origin')));
    assert.match(later.statusOf('origin'), /^\d+\/512 /, 'nor has it failed');
    await later.close();
  });

  test('waits for writes of its chunks that are in flight, and lets later ones wait', async () => {
    const { family, content } = await makeFamily(64 * KIB);
    const cow = device('c1', 256 * KIB);
    await family.snapshot({ name: 's', cow, chunkSize: 8 });
    await performOk(family.origin, { op: Op.write, buffer: Buffer.alloc(64 * KIB, 7) });
    const batch = new Batch();
    const { volume, spec } = family.snapshots.get('s')!;
    family.origin.load(family.mergeTable(spec), family.resolver(cow));
    await family.origin.suspend();
    await volume.suspend();
    let held = 0;
    cow.decide = ({ op }) => (op === Op.write && held++ === 0 ? { kind: 'hold' } : { kind: 'pass' });
    family.origin.resume();
    batch.submit(family.origin, { op: Op.write, offset: 60 * KIB, buffer: Buffer.alloc(100, 1) });
    await cow.whenHeld(1);
    for (let i = 0; i < 20; i++) await turn();
    assert(!isMerged(family.statusOf('origin')));
    batch.submit(family.origin, { op: Op.write, offset: 60 * KIB + 50, buffer: Buffer.alloc(100, 2) });
    for (let i = 0; i < 20; i++) await turn();
    assert.equal(batch.outstanding, 2);
    cow.releaseAll();
    await batch.done();
    await until(() => isMerged(family.statusOf('origin')));
    content.fill(1, 60 * KIB, 60 * KIB + 50);
    content.fill(2, 60 * KIB + 50, 60 * KIB + 150);
    same(await contentOf(family.origin), content, 'the origin');
    await family.close();
  });

  test('that fails says so; what is left stays where it is', async () => {
    const { family, real, content } = await makeFamily(256 * KIB);
    await family.snapshot({ name: 's', cow: device('c1', 1024 * KIB), chunkSize: 8 });
    await performOk(family.origin, { op: Op.write, buffer: Buffer.alloc(256 * KIB, 7) });
    real.decide = ({ op }) => (op === Op.write ? { kind: 'fail', errno: Errno.EIO } : { kind: 'pass' });
    const spec = await family.merge('s');
    await until(() => family.statusOf('origin') === 'Merge failed');
    same(await contentOf(family.origin), content, 'the origin');
    await performOk(family.origin, { op: Op.write, offset: 5000, buffer: Buffer.alloc(9, 1) });
    content.fill(1, 5000, 5009);
    same(await contentOf(family.origin), content, 'the origin, written');
    // As `lvchange --refresh` does it.
    real.decide = () => ({ kind: 'pass' });
    family.origin.load(family.mergeTable(spec), family.resolver(spec.cow));
    await family.origin.suspend();
    family.origin.resume();
    await until(() => isMerged(family.statusOf('origin')));
    same(await contentOf(family.origin), content, 'the origin, merged');
    await family.close();
  });
});

test('255 snapshots of one origin', async () => {
  const { family, content } = await makeFamily(64 * KIB);
  for (let i = 0; i < 255; i++) {
    await family.snapshot({ name: `s${i}`, cow: device(`c${i}`, 256 * KIB), chunkSize: [8, 16, 1, 64][i % 4]! });
  }
  await performOk(family.origin, { op: Op.write, offset: 3000, buffer: Buffer.alloc(20_000, 7) });
  await performOk(family.origin, { op: Op.write, offset: 0, buffer: Buffer.alloc(64 * KIB, 8) });
  for (let i = 0; i < 255; i++) same(await contentOf(family.volume(`s${i}`)), content, `snapshot ${i}`);
  await family.close();
});

test('a transient snapshot keeps nothing and needs no metadata', async () => {
  const { family, content } = await makeFamily(64 * KIB);
  const cow = device('cow', 32 * KIB);
  const volume = await family.snapshot({ name: 's', cow, chunkSize: 8, persistent: 'N' });
  await performOk(family.origin, { op: Op.write, buffer: Buffer.alloc(32 * KIB) });
  assert.equal(family.statusOf('s'), '64/64 0');
  same(await contentOf(volume), content, 'the snapshot');
  await performOk(family.origin, { op: Op.write, offset: 32 * KIB, buffer: Buffer.alloc(1) });
  assert.equal(family.statusOf('s'), 'Invalid');
  await family.close();
});

test('devices that take only blocks of 4096 bytes, and chunks that are smaller', async () => {
  const blocks = { logicalBlockSize: 4096, requestAlignment: 4096 };
  const real = new MemoryDevice({ name: 'real', sizeBytes: 64 * KIB, ...blocks });
  const cow = new MemoryDevice({ name: 'cow', sizeBytes: 256 * KIB, ...blocks });
  const family = new Family(real);
  const content = pattern(64 * KIB, 4);
  await performOk(family.origin, { op: Op.write, buffer: content });
  const volume = await family.snapshot({ name: 's', cow, chunkSize: 1 });
  await performOk(family.origin, { op: Op.write, offset: 100, buffer: Buffer.alloc(30_000, 7) });
  await performOk(volume, { op: Op.write, offset: 50_000, buffer: Buffer.alloc(700, 8) });
  content.fill(8, 50_000, 50_700);
  same(await contentOf(volume), content, 'the snapshot');
  await family.close();
});

function originLine(length: number): { start: number; length: number; target: string; params: object } {
  return { start: 0, length, target: 'snapshot-origin', params: { origin: 'a' } };
}

targetSuite('snapshot-origin', () => ({
  table: [originLine(64)],
  grown: [originLine(100)],
  devices: memoryDevices(1, 256),
  border: 4096,
}));
