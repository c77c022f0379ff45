/**
 * What a reviewer suspected of the block cache: a device that refuses what is written back while another one's writes wait for room, a device
 * that grows by a part of a block while that part is being changed, changes behind the last whole block, and who waits for bytes that
 * are given up, parts of blocks of which others can't be read.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { BlockCache } from '../../../src/block/cache/block-cache.ts';
import { Errno } from '../../../src/block/errors.ts';
import type { BlockDevice, DeviceLimits } from '../../../src/block/device.ts';
import { FaultyDevice } from '../../../src/block/faulty.ts';
import { MemoryDevice } from '../../../src/block/memory.ts';
import { type IoRequest, Op, RequestFlag } from '../../../src/block/request.ts';
import { Batch, pattern, performOk, readAt } from '../harness.ts';

const MIB = 2 ** 20;
const TURNS = 50;

test("a device that refuses is not asked again and again while another one's writes wait", async () => {
  const cache = new BlockCache({ sizeBytes: MIB, policy: 'writeback', scheduler: 'none' });
  const [refusing, hanging] = [4, 4].map((mib) => new FaultyDevice(new MemoryDevice({ sizeBytes: mib * MIB })));
  assert(refusing !== undefined && hanging !== undefined);
  const broken = cache.attach(refusing);
  const stuck = cache.attach(hanging);
  await performOk(broken, { op: Op.write, offset: 0, buffer: pattern(16 * 4096, 1) });
  refusing.decide = ({ op }) => (op === Op.write ? { kind: 'fail', errno: Errno.EIO } : { kind: 'pass' });
  hanging.decide = ({ op }) => ({ kind: op === Op.write ? 'hold' : 'pass' });
  const batch = new Batch();
  batch.submit(stuck, { op: Op.write, offset: 0, buffer: pattern(2 * MIB, 2) });
  await hanging.whenHeld(1);
  const before = refusing.submitted[Op.write]!;
  for (let i = 0; i < TURNS; i++) await turn();
  const tries = refusing.submitted[Op.write]! - before;
  assert(tries <= 4, `${tries} tries in ${TURNS} turns`);
  refusing.decide = () => ({ kind: 'pass' });
  hanging.decide = () => ({ kind: 'pass' });
  hanging.releaseAll();
  await batch.done();
  await performOk(broken, { op: Op.flush });
  await broken.close();
  await stuck.close();
});

/** As large as it is told. */
class GrowingDevice implements BlockDevice {
  readonly name = 'growing';
  readonly #inner: BlockDevice;
  limits: DeviceLimits;

  constructor(inner: BlockDevice, sizeBytes: number) {
    this.#inner = inner;
    this.limits = { ...inner.limits, sizeBytes };
  }

  grow(sizeBytes: number): void {
    this.limits = { ...this.limits, sizeBytes };
  }

  submit(request: IoRequest): void {
    this.#inner.submit(request);
  }

  close(): Promise<void> {
    return this.#inner.close();
  }
}

describe('a device that grows', () => {
  for (const policy of ['writethrough', 'writeback'] as const) {
    for (const op of [Op.write, Op.writeZeroes] as const) {
      const what = op === Op.write ? 'written' : 'zeroed';
      test(`while the part of a block at its end is being ${what} has the new bytes there (${policy})`, async () => {
        const faulty = new FaultyDevice(new MemoryDevice({ sizeBytes: 64 * 1024 }));
        const below = new GrowingDevice(faulty, 32 * 1024 + 2048);
        const device = new BlockCache({ sizeBytes: MIB, policy, scheduler: 'none' }).attach(below);
        await performOk(device, { op: Op.write, offset: 32 * 1024, buffer: pattern(2048, 1) });
        faulty.decide = (request) => ({ kind: request.op === op ? 'hold' : 'pass' });
        const batch = new Batch();
        const offset = 32 * 1024;
        batch.submit(device, op === Op.write ? { op, offset, buffer: pattern(2048, 2) } : { op, offset, length: 2048 });
        await faulty.whenHeld(1);
        below.grow(64 * 1024);
        await readAt(device, offset, 4096);
        faulty.decide = () => ({ kind: 'pass' });
        faulty.releaseAll();
        await batch.done();
        const expected = op === Op.write ? pattern(2048, 2) : Buffer.alloc(2048);
        assert(expected.equals(await readAt(device, offset, 2048)));
        // From now on it is a block like others.
        await performOk(device, { op: Op.write, offset, buffer: pattern(4096, 3) });
        assert(pattern(4096, 3).equals(await readAt(device, offset, 4096)));
        await device.close();
      });
    }
  }
});

test('what is behind the last whole block waits for no write of long runs', async () => {
  const cache = new BlockCache({ sizeBytes: MIB, policy: 'writethrough', scheduler: 'none' });
  const slow = new FaultyDevice(new MemoryDevice({ sizeBytes: 2 * MIB + 1024, requestAlignment: 512 }));
  const device = cache.attach(slow);
  slow.decide = () => ({ kind: 'hold' });
  const [long, tail] = [new Batch(), new Batch()];
  long.submit(device, { op: Op.write, offset: 0, buffer: pattern(MIB, 1) });
  tail.submit(device, { op: Op.writeZeroes, offset: 2 * MIB, length: 1024 });
  await slow.whenHeld(2);
  slow.releaseAll();
  await long.done();
  await tail.done();
  slow.decide = () => ({ kind: 'pass' });
  await device.close();
});

test('flushes and durable writes end when the bytes that they wait for are given up', async () => {
  const cache = new BlockCache({ sizeBytes: MIB, policy: 'writeback', scheduler: 'none' });
  const slow = new FaultyDevice(new MemoryDevice({ sizeBytes: MIB, requestAlignment: 512 }));
  const device = cache.attach(slow);
  const block = pattern(4096, 1);
  await performOk(device, { op: Op.write, offset: 0, buffer: block });
  await performOk(device, { op: Op.write, offset: 8192, buffer: block });
  slow.decide = ({ op }) => ({ kind: op === Op.write ? 'hold' : 'pass' });
  const early = new Batch();
  early.submit(device, { op: Op.flush });
  await slow.whenHeld(2);
  // Changed while it is being written: these bytes fly when the others are back.
  await performOk(device, { op: Op.write, offset: 8192, buffer: block });
  const late = new Batch();
  late.submit(device, { op: Op.write, offset: 8192 + 512, buffer: pattern(512, 2), flags: RequestFlag.fua });
  const left = device.leave(0, 8192 + 4096);
  const heldAt = (offset: number): IoRequest => {
    const held = slow.held.find((request) => request.offset === offset);
    assert(held !== undefined);
    return held;
  };
  slow.release(heldAt(0), Errno.EIO);
  await early.done();
  late.submit(device, { op: Op.flush });
  await slow.whenHeld(2);
  slow.release(heldAt(0));
  slow.release(heldAt(8192));
  await left;
  await late.done();
  assert.deepEqual(
    late.completed.map(({ op, error }) => [op, error]),
    [
      [Op.write, Errno.EIO],
      // Whoever left was told; there is nothing else that it has to wait for.
      [Op.flush, 0],
    ],
  );
  slow.decide = () => ({ kind: 'pass' });
  assert.equal(device.cacheStats.dirtyBytes, 0);
  await device.close();
});

for (const policy of ['writethrough', 'writeback'] as const) {
  test(`a part of a block is read where another can't be (${policy})`, async () => {
    const cache = new BlockCache({ sizeBytes: MIB, policy, scheduler: 'none' });
    const memory = new MemoryDevice({ sizeBytes: MIB, requestAlignment: 512 });
    const bytes = pattern(16_384, 3);
    memory.poke(0, bytes);
    const slow = new FaultyDevice(memory);
    const device = cache.attach(slow);
    const bad = 8192 + 7 * 512;
    slow.decide = ({ op, offset, length }) =>
      op === Op.read && offset <= bad && bad < offset + length ? { kind: 'fail', errno: Errno.EIO } : { kind: 'pass' };
    for (const [offset, length] of [
      [8192, 3584],
      [4096 + 512, 4096],
      [8192 + 1024, 512],
    ] as const) {
      assert((await readAt(device, offset, length)).equals(bytes.subarray(offset, offset + length)), `at ${offset}`);
    }
    const batch = new Batch();
    batch.submit(device, { op: Op.read, offset: bad, buffer: Buffer.alloc(512) });
    batch.submit(device, { op: Op.read, offset: bad - 512, buffer: Buffer.alloc(512) });
    batch.submit(device, { op: Op.read, offset: bad - 512, buffer: Buffer.alloc(8192) });
    await batch.done();
    const outcome = batch.completed.map(({ offset, length, error }) => `${offset - bad}+${length} ${error}`);
    assert.deepEqual(outcome.toSorted(), [`-512+512 0`, `-512+8192 ${Errno.EIO}`, `0+512 ${Errno.EIO}`]);
    await device.close();
  });
}
