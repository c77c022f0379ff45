/** The order of requests that `io_scheduler = "deadline"` makes, and the conformance suite through it. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { DeadlineDevice } from '../../src/block/deadline.ts';
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { Op, type IoRequest } from '../../src/block/request.ts';
import { blockDeviceSuite } from './device-suite.ts';
import { Batch, pattern } from './harness.ts';

const MIB = 2 ** 20;

blockDeviceSuite('memory behind the deadline scheduler', (options) =>
  Promise.resolve({ device: new DeadlineDevice(new MemoryDevice(options)), dispose: () => Promise.resolve() }),
);

interface Stand {
  readonly faulty: FaultyDevice;
  readonly device: DeadlineDevice;
  /** What reached the device: "read 4096", "write 0", in order. */
  readonly seen: string[];
}

function stand(): Stand {
  const faulty = new FaultyDevice(new MemoryDevice({ sizeBytes: 16 * MIB }));
  const seen: string[] = [];
  faulty.decide = ({ op, offset }: IoRequest) => {
    if (op !== Op.flush) seen.push(`${op === Op.read ? 'read' : 'write'} ${offset / 4096}`);
    return { kind: 'hold' };
  };
  return { faulty, device: new DeadlineDevice(faulty), seen };
}

function read(batch: Batch, device: DeadlineDevice, block: number): void {
  batch.submit(device, { op: Op.read, offset: block * 4096, buffer: Buffer.alloc(4096) });
}

function write(batch: Batch, device: DeadlineDevice, block: number): void {
  batch.submit(device, { op: Op.write, offset: block * 4096, buffer: pattern(4096, block) });
}

async function finish({ faulty, device }: Stand, batch: Batch): Promise<void> {
  faulty.decide = () => ({ kind: 'pass' });
  faulty.releaseAll();
  await batch.done();
  await device.close();
}

describe('the deadline scheduler', () => {
  test('sorts what a turn brings, and takes reads first', async () => {
    const made = stand();
    const batch = new Batch();
    for (const block of [9, 3, 7]) write(batch, made.device, block);
    for (const block of [8, 2, 5]) read(batch, made.device, block);
    await made.faulty.whenHeld(6);
    assert.deepEqual(made.seen, ['read 2', 'read 5', 'read 8', 'write 3', 'write 7', 'write 9']);
    await finish(made, batch);
  });

  test('lets writes have their turn after two batches of reads', async () => {
    const made = stand();
    const batch = new Batch();
    for (let block = 0; block < 60; block++) read(batch, made.device, block);
    for (let block = 100; block < 120; block++) write(batch, made.device, block);
    await made.faulty.whenHeld(64);
    assert.equal(
      made.seen.findIndex((one) => one.startsWith('write')),
      32,
    );
    await finish(made, batch);
  });

  test('keeps room for reads however many writes there are', async () => {
    const made = stand();
    const batch = new Batch();
    for (let block = 0; block < 200; block++) write(batch, made.device, block);
    await made.faulty.whenHeld(48);
    read(batch, made.device, 1000);
    await made.faulty.whenHeld(49);
    assert.equal(made.seen.at(-1), 'read 1000');
    await finish(made, batch);
  });

  test('does not hold flushes back', async () => {
    const made = stand();
    const batch = new Batch();
    for (let block = 0; block < 200; block++) write(batch, made.device, block);
    await made.faulty.whenHeld(48);
    batch.submit(made.device, { op: Op.flush });
    await made.faulty.whenHeld(49);
    assert.equal(made.faulty.submitted[Op.flush], 1);
    await finish(made, batch);
  });

  test('takes the one that waits longest when it is overdue', async (context) => {
    let now = 1000;
    context.mock.method(performance, 'now', () => now);
    const made = stand();
    const batch = new Batch();
    for (let block = 1000; block < 1064; block++) read(batch, made.device, block);
    await made.faulty.whenHeld(64);
    // Behind the last one, so that a sweep would come to it last.
    read(batch, made.device, 5);
    now += 600;
    for (let block = 2000; block < 2010; block++) read(batch, made.device, block);
    for (const held of made.faulty.held.slice(0, 20)) made.faulty.release(held);
    await made.faulty.whenHeld(55);
    assert.equal(made.seen[64], 'read 5');
    await finish(made, batch);
  });
});
