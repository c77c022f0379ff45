/** Where in a request that failed the first byte is that is known to have failed. */
import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { describe, test } from 'node:test';
import type { BlockDevice } from '../../src/block/device.ts';
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { Op } from '../../src/block/request.ts';
import type { Table } from '../../src/dm/table.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { Batch } from '../block/harness.ts';

const { EIO } = constants.errno;
const SECTOR = 512;
const SIZE = 2 ** 20;

/** Fails requests that touch a byte from `from` on. */
function failing(from: number): FaultyDevice {
  const device = new FaultyDevice(new MemoryDevice({ sizeBytes: SIZE }));
  device.decide = ({ offset, length }) => (offset + length > from ? { kind: 'fail', errno: EIO } : { kind: 'pass' });
  return device;
}

function volumeOf(table: Table, devices: Readonly<Record<string, BlockDevice>>): Volume {
  const volume = new Volume('vg/lv', { targets });
  volume.load(table, (name) => devices[name] ?? assert.fail(name));
  volume.resume();
  return volume;
}

function linear(start: number, length: number, device: string, offset = 0): Table[number] {
  return { start, length, target: 'linear', params: { device, offset } };
}

async function failedAt(volume: Volume, op: Op, first: number, sectors: number): Promise<number | null> {
  const batch = new Batch();
  const command = { op, offset: first * SECTOR, length: sectors * SECTOR };
  const payload = op === Op.read || op === Op.write ? { buffer: Buffer.alloc(command.length) } : {};
  const request = batch.submit(volume, { ...command, ...payload });
  await batch.done();
  return request.error === 0 ? null : request.failedAt / SECTOR;
}

describe('where a request failed', () => {
  test('at a segment of errors, behind what can be read', async () => {
    const good = new MemoryDevice({ sizeBytes: SIZE });
    const error = { start: 8, length: 8, target: 'error', params: {} };
    const volume = volumeOf([linear(0, 8, 'a'), error, linear(16, 8, 'a', 16)], { a: good });
    for (const op of [Op.read, Op.write, Op.writeZeroes]) {
      assert.equal(await failedAt(volume, op, 0, 24), 8);
      assert.equal(await failedAt(volume, op, 3, 10), 5);
      assert.equal(await failedAt(volume, op, 9, 15), 0);
      assert.equal(await failedAt(volume, op, 0, 8), null);
    }
    await volume.close();
  });

  test('at the piece on the device that failed; the first of several', async () => {
    const devices = { a: new MemoryDevice({ sizeBytes: SIZE }), b: failing(0), c: failing(0) };
    const volume = volumeOf([linear(0, 8, 'a'), linear(8, 8, 'b'), linear(16, 8, 'c')], devices);
    assert.equal(await failedAt(volume, Op.read, 2, 20), 6);
    assert.equal(await failedAt(volume, Op.write, 18, 4), 0, 'one piece');
    const striped = {
      start: 0,
      length: 64,
      target: 'striped',
      params: {
        chunkSize: 8,
        stripes: [
          { device: 'a', offset: 0 },
          { device: 'b', offset: 0 },
        ],
      },
    };
    assert.equal(await failedAt(volumeOf([striped], devices), Op.read, 1, 20), 7);
    await volume.close();
  });

  test('inside a layer', async () => {
    const layer = {
      name: 'vg/layer',
      table: [linear(0, 8, 'a'), { start: 8, length: 8, target: 'error', params: {} }],
    };
    const good = new MemoryDevice({ sizeBytes: SIZE });
    const top = { start: 4, length: 16, target: 'linear', params: { device: layer, offset: 0 } };
    const volume = volumeOf([linear(0, 4, 'a', 100), top], { a: good });
    assert.equal(await failedAt(volume, Op.read, 0, 20), 12);
    assert.equal(await failedAt(volume, Op.read, 6, 8), 6);
    await volume.close();
  });
});
