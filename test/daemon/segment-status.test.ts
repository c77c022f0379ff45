/** `x-orion:segment`: numbers of segments, physical volumes and types, from tables of every shape. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ExtentList } from '../../src/block/extents.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { SegmentStatus, segmentsOf } from '../../src/daemon/worker/segment-status.ts';
import type { Table } from '../../src/dm/table.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';

const DEVICES = ['/a', '/b', '/c'];
const TABLE: Table = [
  { start: 0, length: 100, target: 'linear', params: { device: '/b', offset: 8 } },
  {
    start: 100,
    length: 200,
    target: 'striped',
    params: {
      chunkSize: 4,
      stripes: [
        { device: '/a', offset: 0 },
        { device: '/c', offset: 0 },
      ],
    },
  },
  { start: 300, length: 50, target: 'zero', params: {} },
  { start: 350, length: 50, target: 'error', params: {} },
];

function volumeOf(table: Table): Volume {
  const volume = new Volume('vg/lv', { targets });
  volume.load(table, () => new MemoryDevice({ sizeBytes: 2 ** 20 }));
  volume.resume();
  return volume;
}

/** Extents as [sectors, status]. */
function ask(source: SegmentStatus, first: number, count: number, limit = 16): Promise<number | number[][]> {
  const extents = new ExtentList(limit);
  return new Promise((resolve) => {
    source.blockStatus(first * 512, count * 512, extents, (errno) => {
      const all = Array.from({ length: extents.count }, (_, i) => [extents.lengths[i]! / 512, extents.flags[i]!]);
      resolve(errno === 0 ? all : errno);
    });
  });
}

describe('x-orion:segment', () => {
  test('numbers of segment, PV and type; several PVs are none', async () => {
    const source = new SegmentStatus(volumeOf(TABLE), DEVICES);
    assert.deepEqual(await ask(source, 0, 400), [
      [100, 1_002_001],
      [200, 2_000_002],
      [50, 3_000_003],
      [50, 4_000_004],
    ]);
    assert.deepEqual(await ask(source, 99, 2), [
      [1, 1_002_001],
      [1, 2_000_002],
    ]);
    assert.deepEqual(await ask(source, 399, 1), [[1, 4_000_004]]);
    assert.deepEqual(await ask(source, 0, 400, 1), [[100, 1_002_001]], 'as many as there is room for');
  });

  test('a table that was loaded since counts; past the end is an error', async () => {
    const volume = volumeOf(TABLE);
    const source = new SegmentStatus(volume, DEVICES);
    assert.deepEqual(await ask(source, 0, 1), [[1, 1_002_001]]);
    volume.load([{ start: 0, length: 10, target: 'linear', params: { device: '/x', offset: 0 } }], () => {
      return new MemoryDevice({ sizeBytes: 2 ** 20 });
    });
    await volume.suspend();
    volume.resume();
    assert.deepEqual(await ask(source, 0, 10), [[10, 1_000_001]], 'a device that is no PV of the list');
    assert.equal(await ask(source, 0, 11), 5);
  });

  test('devices are found in layers; missing PVs are nobody; numbers that do not fit are the last', () => {
    const inner: Table = [{ start: 0, length: 8, target: 'linear', params: { device: '/c', offset: 0 } }];
    const mirror = {
      log: { type: 'core', regionSize: 8 },
      mirrors: [{ device: { name: 'i', table: inner }, offset: 0 }],
    };
    const origin = { origin: { name: 'o', table: inner }, originId: 'x', snapshots: [] };
    const table: Table = [
      { start: 0, length: 8, target: 'mirror', params: mirror },
      { start: 8, length: 8, target: 'snapshot-origin', params: origin },
      { start: 16, length: 8, target: 'linear', params: { device: '', offset: 0 } },
      { start: 24, length: 8, target: 'new-type', params: {} },
    ];
    assert.deepEqual(
      segmentsOf(table, DEVICES).map(({ status }) => status),
      [1_003_005, 2_003_007, 3_000_001, 4_000_999],
    );
    const many = Array.from({ length: 5000 }, (_, i) => ({ start: 8 * i, length: 8, target: 'zero', params: {} }));
    assert.equal(segmentsOf(many, [])[4999]?.status, 4_293_000_003);
    assert.ok(4_293_999_999 < 2 ** 32);
  });
});
