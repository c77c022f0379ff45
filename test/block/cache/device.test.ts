/** The conformance suite over the block cache, with each policy and scheduler, over devices that reorder, and in caches far too small. */
import { BlockCache, type CacheOptions } from '../../../src/block/cache/block-cache.ts';
import { FaultyDevice } from '../../../src/block/faulty.ts';
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
