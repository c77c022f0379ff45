/** Writes that are durable when they end: what a flush that failed within one of them means for everybody else. */
import assert from 'node:assert/strict';
import { open } from 'node:fs/promises';
import { test } from 'node:test';
import { type EngineCalls, Slot, type SlotOwner } from '../../src/block/engine-calls.ts';
import { Errno } from '../../src/block/errors.ts';
import { Op, RequestFlag } from '../../src/block/request.ts';
import { SystemDevice } from '../../src/block/system-device.ts';
import { Batch, perform, performOk } from './harness.ts';

const LIMITS = {
  sizeBytes: 2 ** 20,
  logicalBlockSize: 512,
  physicalBlockSize: 512,
  requestAlignment: 1,
  readOnly: false,
  canDiscard: false,
  discardGranularity: 0,
};
const FUA = { op: Op.write, buffer: Buffer.alloc(512), flags: RequestFlag.fua };

interface Call {
  readonly what: 'write' | 'durable' | 'sync';
  readonly end: (errno: number) => void;
}

/** Calls that end when the test says so. */
class Calls implements EngineCalls<Slot> {
  readonly slots = 4;
  readonly gathers = true;
  readonly durableWrites = true;
  readonly made: Call[] = [];
  readonly newSlot = (owner: SlotOwner): Slot => new Slot(owner);
  readonly hasRoom = (): boolean => true;
  readonly readAtOnce = (): number => 0;
  readonly read = (): void => assert.fail();
  readonly fallocate = (): void => assert.fail();
  readonly blockDiscard = (): void => assert.fail();
  readonly close = (): void => undefined;

  write(slot: Slot, _buffer: Buffer, _at: number, bytes: number, _position: number, durable: boolean): void {
    const end = (errno: number): void => slot.owner.moved(slot, errno, errno === 0 ? bytes : 0);
    this.made.push({ what: durable ? 'durable' : 'write', end });
  }

  fdatasync(done: (errno: number) => void): void {
    this.made.push({ what: 'sync', end: done });
  }

  /** Ends the oldest call, which must be this one. */
  async end(what: Call['what'], errno = 0): Promise<void> {
    for (let turn = 0; this.made.length === 0 && turn < 10; turn++) await new Promise(setImmediate);
    const call = this.made.shift();
    assert.equal(call?.what, what);
    call?.end(errno);
  }
}

async function withDevice(
  run: (device: SystemDevice<Slot>, calls: Calls, lost: number[]) => Promise<void>,
): Promise<void> {
  const calls = new Calls();
  const handle = await open('/dev/null', 'r+');
  const options = { name: 'disk', kind: 'block', identity: 'disk', limits: LIMITS, handle } as const;
  const device = new SystemDevice(options, calls);
  const lost: number[] = [];
  device.onFlushLost = (errno) => void lost.push(errno);
  await run(device, calls, lost);
  assert.deepEqual(calls.made, []);
  await device.close();
}

test('a flush that failed within a durable write is lost for all, and told', async () => {
  await withDevice(async (device, calls, lost) => {
    const write = perform(device, FUA);
    await calls.end('durable', Errno.EIO);
    await calls.end('write');
    assert.equal(await write, Errno.EIO);
    assert.deepEqual(lost, [Errno.EIO]);
    assert.equal(await perform(device, { op: Op.flush }), Errno.EIO);
    const next = perform(device, FUA);
    await calls.end('write');
    assert.equal(await next, Errno.EIO);
  });
});

test('bytes that the device refuses are only their own request', async () => {
  await withDevice(async (device, calls, lost) => {
    const write = perform(device, FUA);
    await calls.end('durable', Errno.ENOSPC);
    await calls.end('write', Errno.EIO);
    assert.equal(await write, Errno.ENOSPC);
    assert.deepEqual(lost, []);
    const flush = performOk(device, { op: Op.flush });
    await calls.end('sync');
    await flush;
  });
});

test('nothing is called durable while it is not known what failed', async () => {
  await withDevice(async (device, calls) => {
    const batch = new Batch();
    batch.submit(device, { op: Op.flush });
    await new Promise(setImmediate);
    for (let i = 0; i < 2; i++) batch.submit(device, { ...FUA, offset: 512 * i });
    const [sync, first, second] = calls.made.splice(0);
    first?.end(Errno.EIO);
    // Both have ended well behind a flush that may have dropped what they cover.
    second?.end(0);
    sync?.end(0);
    batch.submit(device, { op: Op.flush });
    await new Promise(setImmediate);
    assert.equal(batch.completed.length, 0);
    await calls.end('write');
    await batch.done();
    assert.deepEqual(
      batch.completed.map(({ error }) => error),
      [Errno.EIO, Errno.EIO, Errno.EIO, Errno.EIO],
    );
  });
});

test('what waited for that is made durable when it was not the flush', async () => {
  await withDevice(async (device, calls) => {
    const batch = new Batch();
    for (let i = 0; i < 2; i++) batch.submit(device, { ...FUA, offset: 512 * i });
    const [first, second] = calls.made.splice(0);
    first?.end(Errno.EIO);
    second?.end(0);
    batch.submit(device, { op: Op.flush });
    await calls.end('write', Errno.EIO);
    await calls.end('sync');
    await batch.done();
    assert.deepEqual(
      batch.completed.map(({ error }) => error),
      [Errno.EIO, 0, 0],
    );
  });
});

test('flushes do not wait for writes that go on failing', async () => {
  await withDevice(async (device, calls) => {
    const batch = new Batch();
    batch.submit(device, FUA);
    await calls.end('durable', Errno.ENOSPC);
    const flush = performOk(device, { op: Op.flush });
    const good = performOk(device, { ...FUA, offset: 512 });
    // It comes again before it is known of the last one what failed.
    batch.submit(device, FUA);
    const [inDoubt, write, again] = calls.made.splice(0);
    assert.deepEqual([inDoubt?.what, write?.what, again?.what], ['write', 'write', 'write']);
    write?.end(0);
    inDoubt?.end(Errno.EIO);
    await calls.end('sync');
    await Promise.all([flush, good]);
    again?.end(Errno.ENOSPC);
    await batch.done();
    // From here on writes are durable by themselves again.
    const next = performOk(device, FUA);
    await calls.end('durable');
    await next;
  });
});
