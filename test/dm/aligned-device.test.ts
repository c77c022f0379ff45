/** Any byte range over whole blocks: nothing of concurrent changes of one block is lost, whatever the order of completions. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import * as fc from 'fast-check';
import type { BlockDevice } from '../../src/block/device.ts';
import { Errno } from '../../src/block/errors.ts';
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { Op, RequestFlag } from '../../src/block/request.ts';
import { AlignedDevice, anyRange } from '../../src/dm/aligned-device.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { blockDeviceSuite } from '../block/device-suite.ts';
import { Batch, pattern, perform, performOk, readAt } from '../block/harness.ts';
import { linear } from './devices.ts';

const BLOCK = 4096;

function make(blocks = 16): { memory: MemoryDevice; slow: FaultyDevice; device: AlignedDevice } {
  const memory = new MemoryDevice({
    sizeBytes: blocks * BLOCK,
    logicalBlockSize: BLOCK,
    requestAlignment: BLOCK,
    discardPattern: 0xdb,
  });
  const slow = new FaultyDevice(memory);
  return { memory, slow, device: new AlignedDevice(slow) };
}

/** Releases what is held in an order drawn from `order`, until the batch has ended; looks at each choice first. */
async function releaseAll(slow: FaultyDevice, batch: Batch, order: () => number, look = (): void => {}): Promise<void> {
  while (batch.outstanding > 0) {
    look();
    const { held } = slow;
    const request = held[Math.floor(order() * held.length)];
    if (request !== undefined) slow.release(request);
    if (request === undefined || order() < 0.3) await turn();
  }
}

blockDeviceSuite('aligned device', ({ sizeBytes, readOnly }) => {
  const memory = new MemoryDevice({ sizeBytes, readOnly, logicalBlockSize: BLOCK, requestAlignment: BLOCK });
  return Promise.resolve({ device: new AlignedDevice(memory), dispose: async () => {} });
});

describe('aligned device', () => {
  test('concurrent changes of distinct bytes of the same blocks are all kept', async () => {
    const change = fc.record({
      op: fc.constantFrom(Op.write, Op.write, Op.write, Op.writeZeroes, Op.read, Op.discard),
      from: fc.oneof(
        fc.nat({ max: 4 * BLOCK }),
        fc.nat({ max: 40 }).map((n) => n * 512),
      ),
      length: fc.oneof(fc.integer({ min: 1, max: 700 }), fc.integer({ min: 1, max: 3 * BLOCK })),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(change, { minLength: 2, maxLength: 40 }),
        fc.infiniteStream(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })),
        async (changes, stream) => {
          const { memory, slow, device } = make(5);
          const order = (): number => stream.next().value as number;
          slow.decide = () => ({ kind: order() < 0.5 ? 'hold' : 'holdReply' });
          const model = pattern(5 * BLOCK, 1);
          memory.poke(0, model);
          const taken = Buffer.alloc(5 * BLOCK);
          const discarded = Buffer.alloc(5 * BLOCK);
          const reads: { offset: number; buffer: Buffer }[] = [];
          const batch = new Batch();
          changes.forEach(({ op, from: offset, length }, i) => {
            const end = Math.min(offset + length, 5 * BLOCK);
            if (offset >= end || taken.subarray(offset, end).includes(1)) return;
            taken.fill(1, offset, end);
            const buffer = op === Op.write ? pattern(end - offset, i + 2) : Buffer.alloc(end - offset);
            batch.submit(device, { op, offset, length: end - offset, buffer });
            if (op === Op.write) buffer.copy(model, offset);
            else if (op === Op.writeZeroes) model.fill(0, offset, end);
            else if (op === Op.read) reads.push({ offset, buffer });
            else discarded.fill(1, offset, end);
          });
          await releaseAll(slow, batch, order);
          assert(batch.completed.every(({ error }) => error === 0));
          for (const { offset, buffer } of reads) assert(buffer.equals(model.subarray(offset, offset + buffer.length)));
          const now = memory.peek(0, 5 * BLOCK);
          for (let i = 0; i < now.length; i++) if (discarded[i] === 0) assert.equal(now[i], model[i], `byte ${i}`);
          assert.equal(device.outstanding, 0);
        },
      ),
      { numRuns: 200 },
    );
  });

  test('overlapping partial writes are done in order of arrival', async () => {
    const { memory, slow, device } = make(2);
    slow.decide = () => ({ kind: 'hold' });
    let state = 7;
    const order = (): number => (state = (state * 48_271) % 2_147_483_647) / 2_147_483_647;
    const batch = new Batch();
    for (let i = 0; i < 50; i++) batch.submit(device, { op: Op.write, offset: i, buffer: Buffer.alloc(100, i + 1) });
    await releaseAll(slow, batch, order, () => assert(slow.held.length <= 1, 'one change of a block at a time'));
    assert.deepEqual(
      batch.completed.map(({ offset }) => offset),
      Array.from({ length: 50 }, (_, i) => i),
    );
    const expected = Buffer.alloc(BLOCK);
    for (let i = 0; i < 50; i++) expected.fill(i + 1, i, i + 100);
    assert(expected.equals(memory.peek(0, BLOCK)));
  });

  test('a whole-block write waits for the read-modify-write before it, and holds up the one behind it', async () => {
    const { memory, slow, device } = make(2);
    slow.decide = () => ({ kind: 'hold' });
    const batch = new Batch();
    batch.submit(device, { op: Op.write, offset: 10, buffer: Buffer.alloc(10, 1) });
    batch.submit(device, { op: Op.write, offset: 0, buffer: Buffer.alloc(BLOCK, 2) });
    batch.submit(device, { op: Op.write, offset: 20, buffer: Buffer.alloc(10, 3) });
    batch.submit(device, { op: Op.write, offset: BLOCK, buffer: Buffer.alloc(BLOCK, 4) });
    const steps: string[] = [];
    while (batch.outstanding > 0) {
      for (const request of slow.held) steps.push(`${request.op} ${request.offset} ${request.length}`);
      slow.releaseAll();
      await turn();
    }
    assert.deepEqual(steps, ['0 0 4096', '1 4096 4096', '1 0 4096', '1 0 4096', '0 0 4096', '1 0 4096']);
    const expected = Buffer.alloc(2 * BLOCK, 2)
      .fill(3, 20, 30)
      .fill(4, BLOCK);
    assert(expected.equals(memory.peek(0, 2 * BLOCK)));
  });

  test('bytes outside a read-modify-write are never put back over a longer write', async () => {
    for (const longFirst of [false, true]) {
      const { memory, slow, device } = make(4);
      slow.decide = () => ({ kind: 'hold' });
      const batch = new Batch();
      const long = (): unknown =>
        batch.submit(device, { op: Op.write, offset: BLOCK, buffer: Buffer.alloc(3 * BLOCK, 2) });
      if (longFirst) long();
      batch.submit(device, { op: Op.write, offset: 2 * BLOCK + 7, buffer: Buffer.alloc(10, 1) });
      if (!longFirst) long();
      // The newest first: the order in which a lost change would show.
      while (batch.outstanding > 0) {
        const newest = slow.held.at(-1);
        if (newest === undefined) await turn();
        else slow.release(newest);
      }
      const bytes = memory.peek(BLOCK, 3 * BLOCK);
      bytes.fill(2, BLOCK + 7, BLOCK + 17);
      assert(Buffer.alloc(3 * BLOCK, 2).equals(bytes));
    }
  });

  test('two volumes that share a block share its lock', async () => {
    const memory = new MemoryDevice({ sizeBytes: 4 * BLOCK, logicalBlockSize: BLOCK, requestAlignment: BLOCK });
    const slow = new FaultyDevice(memory);
    slow.decide = () => ({ kind: 'holdReply' });
    const volumes = [0, 3].map((offset) => {
      const volume = new Volume(`vg/${offset}`, { targets });
      volume.load([linear(0, 3, 'pv', offset)], () => slow);
      volume.resume();
      return volume;
    });
    const batch = new Batch();
    volumes.forEach((volume, i) => batch.submit(volume, { op: Op.write, buffer: Buffer.alloc(3 * 512, i + 1) }));
    let state = 3;
    await releaseAll(slow, batch, () => (state = (state * 48_271) % 2_147_483_647) / 2_147_483_647);
    assert(
      Buffer.alloc(6 * 512, 1)
        .fill(2, 3 * 512)
        .equals(memory.peek(0, 6 * 512)),
    );
  });

  test('there is one decorator for a device, and none where none is needed', () => {
    const memory = new MemoryDevice({ sizeBytes: 1 << 20 });
    assert.equal(anyRange(memory), memory);
    const { slow } = make();
    assert.equal(anyRange(slow), anyRange(slow));
    assert.equal(anyRange(anyRange(slow)), anyRange(slow));
  });

  test('bounce blocks are bounded: more changes than blocks wait their turn', async () => {
    const blocks = 1000;
    const { slow, device } = make(blocks);
    slow.decide = () => ({ kind: 'hold' });
    const batch = new Batch();
    for (let i = 0; i < blocks; i++)
      batch.submit(device, { op: Op.write, offset: i * BLOCK + 1, buffer: Buffer.alloc(9, 1) });
    const buffers = new Set<Buffer>();
    let most = 0;
    while (batch.outstanding > 0) {
      const { held } = slow;
      most = Math.max(most, held.length);
      for (const { buffer } of held) buffers.add(buffer);
      slow.releaseAll();
      await turn();
    }
    assert.equal(most, 256);
    assert.equal(buffers.size, 256);
    assert.equal(device.outstanding, 0);
  });

  test('a discard shrinks to whole blocks; one without any does nothing', async () => {
    const { memory, slow, device } = make(4);
    memory.poke(0, Buffer.alloc(4 * BLOCK, 1));
    await performOk(device, { op: Op.discard, offset: 100, length: 3 * BLOCK });
    assert(
      Buffer.alloc(4 * BLOCK, 1)
        .fill(0xdb, BLOCK, 3 * BLOCK)
        .equals(memory.peek(0, 4 * BLOCK)),
    );
    assert.equal(slow.submitted[Op.discard], 1);
    await performOk(device, { op: Op.discard, offset: 100, length: BLOCK });
    await performOk(device, { op: Op.discard, offset: 5, length: 6 });
    assert.equal(slow.submitted[Op.discard], 1);
  });

  test('the write half carries FUA, the read half does not', async () => {
    const { slow, device } = make(4);
    const seen: [Op, number][] = [];
    slow.decide = ({ op, flags }) => {
      seen.push([op, flags]);
      return { kind: 'pass' };
    };
    const flags = RequestFlag.fua | RequestFlag.noUnmap;
    await performOk(device, { op: Op.writeZeroes, offset: 1, length: 2 * BLOCK, flags });
    assert.deepEqual(seen.map(([op, bits]) => `${op} ${bits}`).sort(), [
      `${Op.read} 0`,
      `${Op.read} 0`,
      `${Op.write} ${RequestFlag.fua}`,
      `${Op.write} ${RequestFlag.fua}`,
      `${Op.writeZeroes} ${flags}`,
    ]);
  });

  test('an error in either half ends the request and frees the block', async () => {
    for (const op of [Op.read, Op.write]) {
      const { memory, slow, device } = make(4);
      slow.decide = (request) => (request.op === op ? { kind: 'fail', errno: Errno.EIO } : { kind: 'pass' });
      const batch = new Batch();
      for (let i = 0; i < 5; i++) batch.submit(device, { op: Op.write, offset: i * 50, buffer: Buffer.alloc(100, 1) });
      await batch.done();
      assert(batch.completed.every(({ error }) => error === Errno.EIO));
      assert.equal(device.outstanding, 0);
      slow.decide = () => ({ kind: 'pass' });
      await performOk(device, { op: Op.write, offset: 50, buffer: Buffer.alloc(100, 2) });
      assert.equal(memory.peek(50, 1)[0], 2);
    }
  });

  test('reads of any range, and errors of them', async () => {
    const { memory, slow, device } = make(4);
    const bytes = pattern(4 * BLOCK, 6);
    memory.poke(0, bytes);
    for (const [offset, length] of [
      [1, 1],
      [4095, 2],
      [100, 9000],
      [4096, 100],
      [4000, 96],
      [1, 4 * BLOCK - 1],
    ] as const) {
      assert(
        bytes.subarray(offset, offset + length).equals(await readAt(device, offset, length)),
        `${offset}+${length}`,
      );
    }
    slow.decide = ({ offset }) => (offset === 2 * BLOCK ? { kind: 'fail', errno: Errno.EIO } : { kind: 'pass' });
    assert.equal(await perform(device, { op: Op.read, offset: 4000, buffer: Buffer.alloc(2 * BLOCK) }), Errno.EIO);
    assert.equal(device.outstanding, 0);
  });

  test('close waits for what is in flight', async () => {
    const { memory, slow, device } = make(4);
    slow.decide = () => ({ kind: 'hold' });
    const batch = new Batch();
    batch.submit(device, { op: Op.write, offset: 1, buffer: Buffer.alloc(1, 1) });
    batch.submit(device, { op: Op.discard, offset: 1, length: 1 });
    const closed = device.close();
    while (batch.outstanding > 0) {
      slow.releaseAll();
      await turn();
    }
    await closed;
    assert.equal(memory.peek(1, 1)[0], 1);
  });

  test('a device that has grown is used up to its new end', async () => {
    const memory = new MemoryDevice({ sizeBytes: 4 * BLOCK, requestAlignment: BLOCK });
    const growing: BlockDevice & { sizeBytes: number } = {
      name: memory.name,
      sizeBytes: 2 * BLOCK,
      get limits() {
        return { ...memory.limits, sizeBytes: this.sizeBytes };
      },
      submit: (request) => memory.submit(request),
      close: () => memory.close(),
    };
    const before = new Volume('vg/small', { targets });
    before.load([linear(0, (2 * BLOCK) / 512, 'growing', 0)], () => growing);
    before.resume();
    await performOk(before, { op: Op.write, offset: 2 * BLOCK - 7, buffer: pattern(7, 1) });
    growing.sizeBytes = 4 * BLOCK;
    const after = new Volume('vg/large', { targets });
    after.load([linear(0, (4 * BLOCK) / 512, 'growing', 0)], () => growing);
    after.resume();
    await performOk(after, { op: Op.write, offset: 2 * BLOCK - 3, buffer: pattern(2 * BLOCK + 3, 2) });
    assert(memory.peek(2 * BLOCK - 3, 2 * BLOCK + 3).equals(pattern(2 * BLOCK + 3, 2)));
    assert(memory.peek(2 * BLOCK - 7, 4).equals(pattern(7, 1).subarray(0, 4)));
  });

  test('a thousand changes of one block end in reasonable time', async () => {
    const { device } = make(1);
    const batch = new Batch();
    for (let i = 0; i < 1000; i++) batch.submit(device, { op: Op.write, offset: i, buffer: Buffer.alloc(1, i) });
    await batch.done();
    assert.equal(batch.completed.length, 1000);
  });
});
