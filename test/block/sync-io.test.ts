/** The promise helpers: any range on any alignment, and errors that name device, operation and place. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import type { DeviceError } from '../../src/block/errors.ts';
import { Errno } from '../../src/block/errors.ts';
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { Op, RequestFlag } from '../../src/block/request.ts';
import { discard, flush, readBytes, writeBytes, writeZeroes } from '../../src/block/sync-io.ts';
import { pattern } from './harness.ts';

const SIZE = 32_768;

describe('promise helpers', () => {
  for (const requestAlignment of [1, 512, 4096]) {
    test(`serve any range where requests are aligned to ${requestAlignment}`, async () => {
      const range = fc.tuple(fc.nat({ max: SIZE }), fc.nat({ max: SIZE }), fc.nat({ max: 99 }));
      await fc.assert(
        fc.asyncProperty(fc.array(range, { maxLength: 6 }), async (writes) => {
          const model = Buffer.alloc(SIZE);
          const device = new MemoryDevice({ sizeBytes: SIZE, requestAlignment });
          for (const [a, b, seed] of writes) {
            const [start, end] = [Math.min(a, b), Math.max(a, b)];
            const bytes = pattern(end - start, seed);
            bytes.copy(model, start);
            await writeBytes(device, start, bytes, { fua: seed % 2 === 0 });
            assert(bytes.equals(await readBytes(device, start, end - start)));
          }
          assert(model.equals(await readBytes(device, 0, SIZE)));
          await device.close();
        }),
        { numRuns: 50 },
      );
    });
  }

  test('pass FUA, flush, discard and zeroes on', async () => {
    const seen: [number, number][] = [];
    const device = new FaultyDevice(new MemoryDevice({ sizeBytes: SIZE }));
    device.decide = ({ op, flags }) => {
      seen.push([op, flags]);
      return { kind: 'pass' };
    };
    await writeBytes(device, 0, Buffer.alloc(512, 1), { fua: true });
    await writeBytes(device, 0, Buffer.alloc(0), { fua: true });
    await flush(device);
    await discard(device, 0, 512);
    await discard(device, 0, 0);
    await writeZeroes(device, 0, 512, { fua: true });
    assert.deepEqual(seen, [
      [Op.write, RequestFlag.fua],
      [Op.flush, 0],
      [Op.flush, 0],
      [Op.discard, 0],
      [Op.writeZeroes, RequestFlag.fua],
    ]);
    await device.close();
  });

  test('zero and give back any range of a device that takes whole blocks', async () => {
    const device = new MemoryDevice({ sizeBytes: SIZE, requestAlignment: 4096 });
    const model = Buffer.alloc(SIZE, 7);
    await writeBytes(device, 0, model);
    for (const [offset, length] of [
      [100, 200],
      [4000, 200],
      [4096, 8192],
      [12_300, 4086],
      [20_000, 12_000],
      [SIZE - 1, 1],
    ] as const) {
      await writeZeroes(device, offset, length);
      model.fill(0, offset, offset + length);
      await discard(device, offset, 1);
      assert(model.equals(await readBytes(device, 0, SIZE)), `${length} bytes at ${offset}`);
    }
    await device.close();
  });

  test('name the place that failed', async () => {
    const device = new FaultyDevice(new MemoryDevice({ sizeBytes: SIZE, name: '/dev/sdx' }));
    device.decide = () => ({ kind: 'fail', errno: Errno.EIO });
    await assert.rejects(readBytes(device, 1024, 512), (error: DeviceError) => {
      assert.equal(error.code, 'IO');
      assert.equal(error.errno, Errno.EIO);
      assert.equal(error.message, '/dev/sdx: read of 512 bytes at offset 1024 failed: EIO (i/o error)');
      return true;
    });
    await assert.rejects(flush(device), /^DeviceError: \/dev\/sdx: flush failed: EIO/);
    await device.close();
  });

  test('refuse ranges outside the device', async () => {
    const device = new MemoryDevice({ sizeBytes: SIZE, name: 'disk' });
    for (const [offset, length] of [
      [SIZE - 1, 2],
      [SIZE + 1, 0],
      [-1, 1],
      [0, Number.NaN],
      [2 ** 60, 1],
      [0, 2 ** 52],
    ] as const) {
      await assert.rejects(readBytes(device, offset, length), { code: 'OUT_OF_RANGE', device: 'disk' });
    }
    await assert.rejects(writeBytes(device, SIZE - 1, Buffer.alloc(2)), { code: 'OUT_OF_RANGE' });
    await assert.rejects(async () => discard(device, SIZE, 1), { code: 'OUT_OF_RANGE' });
    await device.close();
  });
});
