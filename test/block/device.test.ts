/** The conformance suite on every device that block/ has. Loop devices need root. */
import assert from 'node:assert/strict';
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { openBlockDevice, type OpenOptions } from '../../src/block/open.ts';
import { blockDeviceSuite, type MadeDevice, type MakeDevice } from './device-suite.ts';
import { temporaryFile, temporaryLoop, type TemporaryFile } from './harness.ts';

const nothing = (): Promise<void> => Promise.resolve();

function memory(options: {
  requestAlignment?: number;
  logicalBlockSize?: number;
  discardPattern?: number;
}): MakeDevice {
  return (made) => Promise.resolve({ device: new MemoryDevice({ ...made, ...options }), dispose: nothing });
}

blockDeviceSuite('memory', memory({}));
blockDeviceSuite(
  'memory, 4096-byte requests, discards leave rubbish',
  memory({ requestAlignment: 4096, logicalBlockSize: 4096, discardPattern: 0xdb }),
);

blockDeviceSuite('faulty without faults', (options) =>
  Promise.resolve({ device: new FaultyDevice(new MemoryDevice(options)), dispose: nothing }),
);

blockDeviceSuite('faulty that holds and reorders', (options) => {
  const device = new FaultyDevice(new MemoryDevice(options));
  device.decide = () => {
    setImmediate(() => {
      const { held } = device;
      const last = held.at(-1);
      if (last !== undefined) device.release(last);
    });
    return { kind: 'hold' };
  };
  return Promise.resolve({ device, dispose: nothing });
});

/** Every engine, through the page cache and past it. */
const WAYS: readonly OpenOptions[] = [
  { engine: 'threads' },
  { engine: 'uring' },
  { engine: 'threads', direct: true },
  { engine: 'uring', direct: true },
];

for (const way of WAYS) {
  const how = `${way.engine ?? ''}${way.direct === true ? ', direct' : ''}`;
  const openAs = async (made: TemporaryFile, readOnly: boolean): Promise<MadeDevice> => {
    const device = await openBlockDevice(made.path, { ...way, readOnly, exclusive: true });
    assert.equal(device.limits.requestAlignment > 1, way.direct ?? false);
    return { device, dispose: made.dispose };
  };
  blockDeviceSuite(`file (${how})`, async ({ sizeBytes, readOnly }) =>
    openAs(await temporaryFile(sizeBytes), readOnly),
  );
  // Not past the page cache, of which there is no other side.
  if (way.direct !== true) {
    blockDeviceSuite(`file in memory (${how})`, async ({ sizeBytes, readOnly }) =>
      openAs(await temporaryFile(sizeBytes, '/dev/shm'), readOnly),
    );
  }
  blockDeviceSuite(`loop device (${how})`, async ({ sizeBytes, readOnly }) =>
    openAs(await temporaryLoop(sizeBytes), readOnly),
  );
  blockDeviceSuite(`loop device with 4096-byte blocks (${how})`, async ({ sizeBytes, readOnly }) =>
    openAs(await temporaryLoop(sizeBytes, ['--sector-size', '4096']), readOnly),
  );
}

for (const engine of ['threads', 'uring'] as const) {
  blockDeviceSuite(`file on tmpfs (${engine})`, async ({ sizeBytes, readOnly }) => {
    const file = await temporaryFile(sizeBytes, '/dev/shm');
    return { device: await openBlockDevice(file.path, { engine, readOnly, exclusive: true }), dispose: file.dispose };
  });
}
