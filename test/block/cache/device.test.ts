/** The conformance suite over the block cache, with each policy and scheduler, over devices that reorder, and in caches far too small. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BlockCache, type CacheOptions } from '../../../src/block/cache/block-cache.ts';
import { FaultyDevice } from '../../../src/block/faulty.ts';
import { DeadlineDevice } from '../../../src/block/deadline.ts';
import { MemoryDevice } from '../../../src/block/memory.ts';
import { openBlockDevice } from '../../../src/block/open.ts';
import { blockDeviceSuite } from '../device-suite.ts';
import { temporaryFile } from '../harness.ts';

const nothing = (): Promise<void> => Promise.resolve();

const WAYS: readonly Pick<CacheOptions, 'policy' | 'scheduler'>[] = [
  { policy: 'writethrough', scheduler: 'none' },
  { policy: 'writeback', scheduler: 'none' },
  { policy: 'writeback', scheduler: 'deadline' },
];

for (const way of WAYS) {
  const name = `${way.policy}, ${way.scheduler}`;
  for (const sizeBytes of [64 * 1024, 4 * 2 ** 20]) {
    blockDeviceSuite(`memory behind a cache of ${sizeBytes / 1024} KiB (${name})`, (options) => {
      const cache = new BlockCache({ ...way, sizeBytes });
      return Promise.resolve({ device: cache.attach(new MemoryDevice(options)), dispose: nothing });
    });
  }
  blockDeviceSuite(`a device of 4096-byte units that holds and reorders, behind a cache (${name})`, (options) => {
    const faulty = new FaultyDevice(new MemoryDevice({ ...options, requestAlignment: 4096, logicalBlockSize: 4096 }));
    faulty.decide = () => {
      setImmediate(() => {
        const last = faulty.held.at(-1);
        if (last !== undefined) faulty.release(last);
      });
      return { kind: 'hold' };
    };
    const cache = new BlockCache({ ...way, sizeBytes: 256 * 1024 });
    return Promise.resolve({ device: cache.attach(faulty), dispose: nothing });
  });
  const engine = way.scheduler === 'deadline' ? 'threads' : 'uring';
  blockDeviceSuite(`file past the page cache, behind a cache (${engine}, ${name})`, async ({ sizeBytes, readOnly }) => {
    const file = await temporaryFile(sizeBytes);
    const cache = new BlockCache({ ...way, sizeBytes: 512 * 1024 });
    const device = cache.attach(await openBlockDevice(file.path, { engine, direct: true, readOnly, exclusive: true }));
    return { device, dispose: file.dispose };
  });
}

test('what a device says of its zeroes is said through the scheduler and the cache', async () => {
  const below: MemoryDevice & Partial<Pick<DeadlineDevice, 'zeroesFast'>> = new MemoryDevice({ sizeBytes: 2 ** 20 });
  const cache = new BlockCache({ ...WAYS[1]!, sizeBytes: 64 * 1024 });
  const device = cache.attach(new DeadlineDevice(below));
  assert.equal(device.zeroesFast(0, 4096, 0), false, 'it says nothing');
  const asked: (readonly number[])[] = [];
  below.zeroesFast = (...range) => {
    asked.push(range);
    return true;
  };
  assert.equal(device.zeroesFast(8192, 4096, 1), true);
  assert.deepEqual(asked, [[8192, 4096, 1]]);
  await device.close();
});
