/**
 * What volumes say their ranges hold: against a model, over devices whose holes are known; and over image files with real holes.
 */
import assert from 'node:assert/strict';
import { mkdtemp, open, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import type { BlockDevice } from '../../src/block/device.ts';
import { ExtentList, type StatusDone } from '../../src/block/extents.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { openBlockDevice } from '../../src/block/open.ts';
import { Op } from '../../src/block/request.ts';
import type { Table } from '../../src/dm/table.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { performOk, readAt } from '../block/harness.ts';

const SECTOR = 512;
const DEVICE_SECTORS = 2048;
const HOLE = 3;

/** A device that says of every sector what `map` says. */
function mapped(name: string, map: Uint8Array): BlockDevice {
  const device = new MemoryDevice({ sizeBytes: map.length * SECTOR });
  return {
    name,
    limits: device.limits,
    submit: (request) => device.submit(request),
    close: () => device.close(),
    blockStatus: (offset, length, extents, done) => {
      for (let at = offset; at < offset + length;) {
        const next = Math.min((Math.floor(at / SECTOR) + 1) * SECTOR, offset + length);
        if (!extents.add(next - at, map[Math.floor(at / SECTOR)]!)) break;
        at = next;
      }
      setImmediate(done, 0);
    },
  };
}

function volumeOf(table: Table, resolve: (name: string) => BlockDevice): Volume {
  const volume = new Volume('vg/lv', { targets });
  volume.load(table, resolve);
  volume.resume();
  return volume;
}

function ask(
  source: Volume | BlockDevice,
  offset: number,
  length: number,
  capacity = 512,
): Promise<[number, number][]> {
  const extents = new ExtentList(capacity);
  return new Promise((resolve, reject) => {
    let inside = true;
    const done: StatusDone = (errno) => {
      assert.equal(inside, false);
      if (errno === 0)
        resolve(Array.from({ length: extents.count }, (_, i) => [extents.lengths[i]!, extents.flags[i]!]));
      else reject(new Error(`errno ${errno}`));
    };
    source.blockStatus!(offset, length, extents, done);
    inside = false;
  });
}

type Line =
  | { readonly kind: 'zero'; readonly sectors: number }
  | { readonly kind: 'error'; readonly sectors: number }
  | { readonly kind: 'linear'; readonly sectors: number; readonly device: number; readonly offset: number }
  | { readonly kind: 'striped'; readonly rows: number; readonly chunk: number; readonly legs: readonly number[] };

/** The table, and what each of its sectors holds. */
function build(
  lines: readonly Line[],
  maps: readonly Uint8Array[],
): { readonly table: Table; readonly model: number[] } {
  const table: Table[number][] = [];
  const model: number[] = [];
  for (const line of lines) {
    const start = model.length;
    if (line.kind === 'zero' || line.kind === 'error') {
      for (let i = 0; i < line.sectors; i++) model.push(line.kind === 'zero' ? HOLE : 0);
      table.push({ start, length: line.sectors, target: line.kind, params: {} });
    } else if (line.kind === 'linear') {
      model.push(...maps[line.device]!.subarray(line.offset, line.offset + line.sectors));
      const params = { device: `d${line.device}`, offset: line.offset };
      table.push({ start, length: line.sectors, target: 'linear', params });
    } else {
      const { rows, chunk, legs } = line;
      for (let row = 0; row < rows; row++) {
        for (const leg of legs) model.push(...maps[leg]!.subarray(row * chunk, (row + 1) * chunk));
      }
      const stripes = legs.map((leg) => ({ device: `d${leg}`, offset: 0 }));
      table.push({
        start,
        length: rows * chunk * legs.length,
        target: 'striped',
        params: { chunkSize: chunk, stripes },
      });
    }
  }
  return { table, model };
}

const anyMap = fc
  .array(fc.record({ sectors: fc.integer({ min: 1, max: 300 }), flags: fc.constantFrom(0, HOLE, 2) }), { minLength: 1 })
  .map((runs) => {
    const map = new Uint8Array(DEVICE_SECTORS);
    let at = 0;
    for (let i = 0; at < DEVICE_SECTORS; i++) {
      const { sectors, flags } = runs[i % runs.length]!;
      map.fill(flags, at, at + sectors);
      at += sectors;
    }
    return map;
  });
const anyLine: fc.Arbitrary<Line> = fc.oneof(
  fc.record({ kind: fc.constant('zero' as const), sectors: fc.integer({ min: 1, max: 300 }) }),
  fc.record({ kind: fc.constant('error' as const), sectors: fc.integer({ min: 1, max: 300 }) }),
  fc.record({
    kind: fc.constant('linear' as const),
    sectors: fc.integer({ min: 1, max: 1000 }),
    device: fc.nat(3),
    offset: fc.nat(1000),
  }),
  fc.record({
    kind: fc.constant('striped' as const),
    rows: fc.integer({ min: 1, max: 30 }),
    chunk: fc.constantFrom(8, 16, 64),
    legs: fc.uniqueArray(fc.nat(3), { minLength: 1, maxLength: 4 }),
  }),
);

describe('a volume', () => {
  test('says what its table and devices hold, never more than was asked, and always something', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(anyLine, { minLength: 1, maxLength: 6 }),
        fc.array(anyMap, { minLength: 4, maxLength: 4 }),
        fc.array(fc.tuple(fc.nat(), fc.nat(), fc.constantFrom(1, 2, 7, 512)), { minLength: 1, maxLength: 6 }),
        async (lines, maps, questions) => {
          const { table, model } = build(lines, maps);
          // Only three of the four know.
          const devices = maps.map((map, i) => mapped(`d${i}`, map));
          const volume = volumeOf(table, (name) => devices[Number(name.slice(1))]!);
          const size = model.length * SECTOR;
          for (const [a, b, capacity] of questions) {
            const offset = a % size;
            const length = 1 + (b % (size - offset));
            const extents = await ask(volume, offset, length, capacity);
            assert.ok(extents.length > 0 && extents.length <= capacity);
            let at = offset;
            extents.forEach(([bytes, flags], i) => {
              assert.ok(bytes > 0 && at + bytes <= offset + length);
              if (i > 0) assert.notEqual(flags, extents[i - 1]![1], 'neighbours are one');
              for (let sector = Math.floor(at / SECTOR); sector * SECTOR < at + bytes; sector++) {
                assert.equal(flags, model[sector], `sector ${sector}`);
              }
              at += bytes;
            });
          }
          await volume.close();
        },
      ),
      { numRuns: 60 },
    );
  });

  test('is all data where a device does not know, and a hole through layers', async () => {
    const plain = new MemoryDevice({ sizeBytes: 2 ** 20 });
    const blocks = new MemoryDevice({ sizeBytes: 2 ** 20, logicalBlockSize: 4096, requestAlignment: 4096 });
    const volume = volumeOf(
      [
        { start: 0, length: 64, target: 'linear', params: { device: 'plain', offset: 0 } },
        { start: 64, length: 64, target: 'linear', params: { device: 'blocks', offset: 0 } },
        {
          start: 128,
          length: 64,
          target: 'linear',
          params: { device: { name: 'l', table: [{ start: 0, length: 64, target: 'zero', params: {} }] }, offset: 0 },
        },
      ],
      (name) => (name === 'plain' ? plain : blocks),
    );
    assert.deepEqual(await ask(volume, 100, 192 * SECTOR - 100), [
      [128 * SECTOR - 100, 0],
      [64 * SECTOR, HOLE],
    ]);
    assert.deepEqual(
      [volume.zeroRun(128 * SECTOR, 64 * SECTOR), volume.zeroRun(100 * SECTOR, 92 * SECTOR)],
      [64 * SECTOR, -28 * SECTOR],
    );
    await volume.close();
  });

  test('knows the zeroes of its own table without asking', async () => {
    const volume = volumeOf(
      [
        { start: 0, length: 8, target: 'linear', params: { device: 'd', offset: 0 } },
        { start: 8, length: 8, target: 'zero', params: {} },
        { start: 16, length: 8, target: 'zero', params: {} },
        { start: 24, length: 8, target: 'error', params: {} },
      ],
      () => new MemoryDevice({ sizeBytes: 2 ** 20 }),
    );
    const zeroes = (from: number, to: number): number => volume.zeroRun(from * SECTOR, (to - from) * SECTOR) / SECTOR;
    assert.deepEqual(
      [zeroes(8, 24), zeroes(9, 10), zeroes(7, 9), zeroes(23, 25), zeroes(24, 25), zeroes(31, 40)],
      [16, 1, -1, 1, -1, -9],
    );
    await volume.close();
  });

  test('knows where zeroing is faster than writing: where all that hold the range do', async () => {
    const fast = (name: string, least: number): BlockDevice & { readonly asked: number[][] } => {
      const device = new MemoryDevice({ sizeBytes: 2 ** 20 });
      const asked: number[][] = [];
      return {
        name,
        asked,
        limits: device.limits,
        submit: (request) => device.submit(request),
        close: () => device.close(),
        zeroesFast: (offset, length) => {
          asked.push([offset / SECTOR, length / SECTOR]);
          return length >= least;
        },
      };
    };
    const [a, b, slow] = [fast('a', 0), fast('b', 8 * SECTOR), new MemoryDevice({ sizeBytes: 2 ** 20 })];
    const stripes = ['a', 'b'].map((device) => ({ device, offset: 100 }));
    const volume = volumeOf(
      [
        { start: 0, length: 8, target: 'linear', params: { device: 'a', offset: 4 } },
        { start: 8, length: 8, target: 'zero', params: {} },
        { start: 16, length: 64, target: 'striped', params: { chunkSize: 8, stripes } },
        { start: 80, length: 8, target: 'linear', params: { device: 'slow', offset: 0 } },
        { start: 88, length: 8, target: 'error', params: {} },
      ],
      (name) => (name === 'a' ? a : name === 'b' ? b : slow),
    );
    const knows = (from: number, to: number): boolean => volume.zeroesFast(from * SECTOR, (to - from) * SECTOR, 0);
    assert.equal(knows(2, 80), true);
    assert.deepEqual(a.asked, [
      [6, 6],
      [100, 32],
    ]);
    assert.deepEqual(b.asked, [[100, 32]]);
    assert.deepEqual(
      [knows(8, 16), knows(16, 28), knows(16, 24), knows(79, 81), knows(84, 85), knows(88, 89), knows(90, 97)],
      [true, false, true, false, false, false, false],
    );
    await volume.close();
  });

  test('knows the zeroes of a sparse snapshot, chunk by chunk', async () => {
    const zeroes = { name: 'vg/lv_vorigin', table: [{ start: 0, length: 64, target: 'zero', params: {} }] };
    const params = { origin: zeroes, originId: 'sparse-o', cow: 'cow', persistent: 'P', chunkSize: 8 };
    const cow = new MemoryDevice({ sizeBytes: 2 ** 20 });
    const volume = volumeOf([{ start: 0, length: 64, target: 'snapshot', params }], () => cow);
    await readAt(volume, 0, SECTOR);
    assert.equal(volume.zeroRun(5, 60 * SECTOR), 60 * SECTOR);
    await performOk(volume, { op: Op.write, offset: 20 * SECTOR, buffer: Buffer.alloc(SECTOR, 1) });
    assert.deepEqual(
      [0, 16 * SECTOR, 23 * SECTOR, 24 * SECTOR].map((at) => volume.zeroRun(at, 64 * SECTOR - at)),
      [16 * SECTOR, -8 * SECTOR, -SECTOR, 40 * SECTOR],
    );
    await volume.close();
  });

  test('keeps questions while it is suspended, and answers by the table that is live then', async () => {
    const device = new MemoryDevice({ sizeBytes: 2 ** 20 });
    const volume = volumeOf(
      [{ start: 0, length: 8, target: 'linear', params: { device: 'd', offset: 0 } }],
      () => device,
    );
    const before = ask(volume, 0, 4096);
    await volume.suspend();
    assert.deepEqual(await before, [[4096, 0]]);
    const [during, past] = [ask(volume, 0, 4096), ask(volume, 2048, 4096)];
    assert.equal(volume.status().waiting, 2);
    volume.load([{ start: 0, length: 8, target: 'zero', params: {} }], () => device);
    volume.resume();
    assert.deepEqual(await during, [[4096, HOLE]]);
    await assert.rejects(past, /errno 5/);
    await volume.suspend();
    const never = assert.rejects(ask(volume, 0, 4096), /errno 5/);
    await volume.close();
    await never;
  });
});

for (const engine of ['threads', 'uring', 'direct'] as const) {
  test(`an image file's holes, ${engine}`, async () => {
    const folder = await mkdtemp(join(tmpdir(), 'orion-status-'));
    try {
      const path = join(folder, 'image');
      const file = await open(path, 'w');
      await file.truncate(64 << 20);
      await file.write(Buffer.alloc(1 << 20, 1), 0, 1 << 20, 8 << 20);
      await file.write(Buffer.alloc(1 << 20, 1), 0, 1 << 20, 63 << 20);
      await file.sync();
      await file.close();
      assert.ok((await stat(path)).blocks * SECTOR < 32 << 20, 'this file system has holes');
      const device = await openBlockDevice(path, engine === 'direct' ? { direct: true } : { engine });
      assert.deepEqual(await ask(device, 0, 64 << 20), [
        [8 << 20, HOLE],
        [1 << 20, 0],
        [54 << 20, HOLE],
        [1 << 20, 0],
      ]);
      const volume = volumeOf(
        [{ start: 0, length: 40 << 11, target: 'linear', params: { device: 'd', offset: 4 << 11 } }],
        () => device,
      );
      assert.deepEqual(await ask(volume, (4 << 20) + 100, 10 << 20), [
        [(1 << 20) - 100, 0],
        [(9 << 20) + 100, HOLE],
      ]);
      await volume.close();
      const asked = Array.from({ length: 20 }, (_, i) => ask(device, i << 20, 1 << 20));
      const closed = device.close();
      assert.deepEqual(
        (await Promise.all(asked)).flat().filter(([, flags]) => flags === 0),
        [[1 << 20, 0]],
      );
      await closed;
    } finally {
      await rm(folder, { recursive: true });
    }
  });
}
