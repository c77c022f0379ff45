/** The conformance suite on every device that block/ has. Loop devices need root. */
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { openBlockDevice } from '../../src/block/open.ts';
import { blockDeviceSuite, type MakeDevice } from './device-suite.ts';
import { temporaryFile, temporaryLoop } from './harness.ts';

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

blockDeviceSuite('file', async ({ sizeBytes, readOnly }) => {
  const file = await temporaryFile(sizeBytes);
  return { device: await openBlockDevice(file.path, { readOnly, exclusive: true }), dispose: file.dispose };
});

blockDeviceSuite('loop device', async ({ sizeBytes, readOnly }) => {
  const loop = await temporaryLoop(sizeBytes);
  return { device: await openBlockDevice(loop.path, { readOnly, exclusive: true }), dispose: loop.dispose };
});

blockDeviceSuite('loop device with 4096-byte blocks', async ({ sizeBytes, readOnly }) => {
  const loop = await temporaryLoop(sizeBytes, ['--sector-size', '4096']);
  return { device: await openBlockDevice(loop.path, { readOnly, exclusive: true }), dispose: loop.dispose };
});
