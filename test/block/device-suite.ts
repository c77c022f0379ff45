/**
 * The conformance suite of block devices: what every device must do, whatever it is made of, as a function over a factory.
 *
 * Invariants
 *  - Contents are compared with a plain Buffer as model. Discarded bytes are undefined until they are written again.
 *  - Requests of one batch are in flight together, so they never overlap, unless they only read.
 *  - The device's own `requestAlignment` is kept to, and requests that break it must be refused.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import * as fc from 'fast-check';
import type { BlockDevice } from '../../src/block/device.ts';
import { Errno } from '../../src/block/errors.ts';
import { Op, RequestFlag, RequestPool, type IoRequest, type RequestOwner } from '../../src/block/request.ts';
import { Batch, pattern, perform, performOk, readAt } from './harness.ts';

export interface MakeOptions {
  /** Bytes; a multiple of 1 MiB. */
  readonly sizeBytes: number;
  readonly readOnly: boolean;
}

export interface MadeDevice {
  readonly device: BlockDevice;
  /** Called after the device was closed. */
  readonly dispose: () => Promise<void>;
}

/** Makes a device that reads as zeroes. */
export type MakeDevice = (options: MakeOptions) => Promise<MadeDevice>;

const MIB = 2 ** 20;

interface Command {
  readonly op: Op;
  readonly offset: number;
  readonly length: number;
  readonly flags: number;
  readonly seed: number;
}

/** The model: the bytes, and which of them are defined. */
interface Model {
  readonly bytes: Buffer;
  readonly defined: Buffer;
}

/** Registers the suite for the devices that `make` makes. */
export function blockDeviceSuite(name: string, make: MakeDevice): void {
  describe(`block device: ${name}`, () => {
    let made: MadeDevice;
    let device: BlockDevice;
    before(async () => {
      made = await make({ sizeBytes: MIB, readOnly: false });
      device = made.device;
    });
    after(async () => {
      await device.close();
      await made.dispose();
    });

    test('tells its limits', () => {
      checkLimits(device);
    });

    test('reads as zeroes when nothing was written', async () => {
      assert(Buffer.alloc(MIB).equals(await readAt(device, 0, MIB)));
    });

    test('agrees with a buffer over any sequence of batches', async () => {
      await fc.assert(
        fc.asyncProperty(batches(device), (sequence) => runAgainstModel(device, sequence)),
        { numRuns: 40 },
      );
    });

    test('touches only the named part of the payload buffer', async () => {
      const unit = Math.max(device.limits.requestAlignment, 16);
      const outgoing = pattern(3 * unit, 7);
      await performOk(device, { op: Op.write, offset: 4 * unit, length: unit, buffer: outgoing, bufferOffset: unit });
      const incoming = Buffer.alloc(3 * unit, 0x5a);
      await performOk(device, { op: Op.read, offset: 4 * unit, length: unit, buffer: incoming, bufferOffset: unit });
      assert(incoming.subarray(0, unit).equals(Buffer.alloc(unit, 0x5a)));
      assert(incoming.subarray(unit, 2 * unit).equals(outgoing.subarray(unit, 2 * unit)));
      assert(incoming.subarray(2 * unit).equals(Buffer.alloc(unit, 0x5a)));
    });

    test('completes a large burst, each request once', () => burst(device));

    test('takes new requests from a completion', () => chain(device, 2000));

    test('completes flushes beside writes, and a flush on its own', async () => {
      await performOk(device, { op: Op.flush });
      const batch = new Batch();
      const unit = Math.max(device.limits.requestAlignment, 512);
      for (let i = 0; i < 64; i++) {
        const flags = i % 4 === 0 ? RequestFlag.fua : 0;
        batch.submit(device, { op: Op.write, offset: i * unit, buffer: pattern(unit, i), flags });
        batch.submit(device, { op: Op.flush });
      }
      await batch.done();
      assert.equal(batch.completed.length, 128);
      assert(batch.completed.every(({ error }) => error === 0));
    });

    test('honours FUA on every writing operation', async () => {
      const buffer = pattern(4096, 3);
      await performOk(device, { op: Op.write, offset: 8192, buffer, flags: RequestFlag.fua });
      await performOk(device, { op: Op.discard, offset: 16_384, length: 4096, flags: RequestFlag.fua });
      await performOk(device, { op: Op.writeZeroes, offset: 12_288, length: 4096, flags: RequestFlag.fua });
      assert(Buffer.concat([buffer, Buffer.alloc(4096)]).equals(await readAt(device, 8192, 8192)));
    });

    test('zeroes with and without unmapping', async () => {
      for (const flags of [0, RequestFlag.noUnmap, RequestFlag.noUnmap | RequestFlag.fua]) {
        await performOk(device, { op: Op.write, offset: 0, buffer: pattern(MIB, 11) });
        await performOk(device, { op: Op.writeZeroes, offset: 4096, length: 262_144, flags });
        const expected = pattern(MIB, 11).fill(0, 4096, 4096 + 262_144);
        assert(expected.equals(await readAt(device, 0, MIB)));
      }
    });

    test('asserts that requests keep to its limits', () => {
      const batch = new Batch();
      const refuse = (offset: number, length: number): void => {
        for (const op of [Op.read, Op.write, Op.discard, Op.writeZeroes]) {
          const buffer = Buffer.alloc(Number.isSafeInteger(length) && length > 0 ? Math.min(length, MIB) : 0);
          assert.throws(() => batch.submit(device, { op, offset, length, buffer }), { code: 'ERR_ASSERTION' });
        }
      };
      const unit = device.limits.requestAlignment;
      refuse(0, MIB + unit);
      refuse(MIB, unit);
      refuse(-unit, unit);
      refuse(0, 0);
      refuse(Number.NaN, unit);
      if (unit > 1) {
        refuse(1, unit);
        refuse(0, unit + 1);
      }
      assert.equal(batch.completed.length, 0);
    });
  });

  describe(`block device: ${name}, opened for one test`, () => {
    test('drains when it is closed, and takes nothing more', async () => {
      const { device, dispose } = await make({ sizeBytes: MIB, readOnly: false });
      const batch = new Batch();
      for (let i = 0; i < 100; i++) {
        batch.submit(device, { op: Op.write, offset: i * 4096, buffer: pattern(4096, i), flags: RequestFlag.fua });
        batch.submit(device, { op: Op.flush });
      }
      const closing = device.close();
      assert.throws(() => batch.submit(device, { op: Op.flush }), { code: 'ERR_ASSERTION' });
      await closing;
      assert.equal(batch.outstanding, 0);
      assert(batch.completed.every(({ error }) => error === 0));
      await device.close();
      await dispose();
    });

    test('refuses writes when it is read-only', async () => {
      const { device, dispose } = await make({ sizeBytes: MIB, readOnly: true });
      checkLimits(device);
      assert.equal(device.limits.readOnly, true);
      assert.equal(device.limits.canDiscard, false);
      assert.equal(await perform(device, { op: Op.write, buffer: Buffer.alloc(4096, 1) }), Errno.EROFS);
      assert.equal(await perform(device, { op: Op.discard, length: 4096 }), Errno.EROFS);
      assert.equal(await perform(device, { op: Op.writeZeroes, length: 4096 }), Errno.EROFS);
      await performOk(device, { op: Op.flush });
      assert(Buffer.alloc(4096).equals(await readAt(device, 0, 4096)));
      await device.close();
      await dispose();
    });

    test('moves 64 MiB in one request', async () => {
      const { device, dispose } = await make({ sizeBytes: 65 * MIB, readOnly: false });
      const buffer = pattern(64 * MIB, 5);
      await performOk(device, { op: Op.write, offset: MIB / 2, buffer });
      assert(buffer.equals(await readAt(device, MIB / 2, 64 * MIB)));
      await performOk(device, { op: Op.writeZeroes, offset: MIB, length: 63 * MIB, flags: RequestFlag.noUnmap });
      assert(Buffer.alloc(63 * MIB).equals(await readAt(device, MIB, 63 * MIB)));
      await performOk(device, { op: Op.discard, offset: 0, length: 65 * MIB });
      await device.close();
      await dispose();
    });

    test('reaches offsets past 4 GiB and 1 TiB', async () => {
      const { device, dispose } = await make({ sizeBytes: 2 ** 40 + MIB, readOnly: false });
      for (const offset of [2 ** 31 - 4096, 2 ** 32 - 4096, 2 ** 32 + 4096, 2 ** 40 - 4096, 2 ** 40 + MIB - 8192]) {
        const buffer = pattern(8192, offset / 4096);
        await performOk(device, { op: Op.write, offset, buffer });
        assert(buffer.equals(await readAt(device, offset, 8192)));
      }
      assert(pattern(8192, (2 ** 32 - 4096) / 4096).equals(await readAt(device, 2 ** 32 - 4096, 8192)));
      await performOk(device, { op: Op.writeZeroes, offset: 2 ** 40 - 4096, length: 4096 });
      assert(Buffer.alloc(4096).equals(await readAt(device, 2 ** 40 - 4096, 4096)));
      await performOk(device, { op: Op.discard, offset: 2 ** 20, length: 2 ** 40 });
      await device.close();
      await dispose();
    });
  });
}

function checkLimits(device: BlockDevice): void {
  const { limits } = device;
  const powers = [limits.logicalBlockSize, limits.physicalBlockSize, limits.requestAlignment];
  assert(powers.every((size) => Number.isInteger(Math.log2(size))));
  assert(limits.logicalBlockSize >= 512 && limits.physicalBlockSize >= limits.logicalBlockSize);
  assert.equal(limits.sizeBytes, MIB);
  assert.equal(limits.discardGranularity > 0, limits.canDiscard);
}

/** Sequences of batches of commands, in the device's units, often touching one another's ends. */
function batches(device: BlockDevice): fc.Arbitrary<Command[][]> {
  const unit = device.limits.requestAlignment;
  const position = fc.oneof(
    fc.nat({ max: MIB / unit }),
    // Near borders of blocks, pages and chunks.
    fc.tuple(fc.nat({ max: 16 }), fc.integer({ min: -1, max: 1 })).map(([n, off]) => (n * 65_536) / unit + off),
    fc
      .tuple(fc.nat({ max: 40 }), fc.integer({ min: -1, max: 1 }))
      .map(([n, off]) => Math.floor((n * 512) / unit) + off),
  );
  const command = fc
    .record({
      op: fc.constantFrom(Op.read, Op.read, Op.write, Op.write, Op.write, Op.flush, Op.discard, Op.writeZeroes),
      from: position,
      to: position,
      flags: fc.constantFrom(0, 0, 0, RequestFlag.fua, RequestFlag.noUnmap),
      seed: fc.nat({ max: 1000 }),
    })
    .map(({ op, from, to, flags, seed }): Command => {
      const clamp = (value: number): number => Math.min(Math.max(value, 0), MIB / unit);
      const start = Math.min(clamp(Math.min(from, to)), MIB / unit - 1);
      const end = Math.max(clamp(Math.max(from, to)), start + 1);
      return { op, offset: start * unit, length: (end - start) * unit, flags, seed };
    });
  return fc.array(fc.array(command, { minLength: 1, maxLength: 12 }), { minLength: 1, maxLength: 6 });
}

async function runAgainstModel(device: BlockDevice, sequence: readonly Command[][]): Promise<void> {
  const model: Model = { bytes: Buffer.alloc(MIB), defined: Buffer.alloc(MIB, 1) };
  await performOk(device, { op: Op.writeZeroes, length: MIB });
  for (const commands of sequence) await runBatch(device, model, withoutOverlaps(commands));
  const all: Command = { op: Op.read, offset: 0, length: MIB, flags: 0, seed: 0 };
  compare(model, all, await readAt(device, 0, MIB));
}

/** Leaves out commands that would race with an earlier one of the batch. */
function withoutOverlaps(commands: readonly Command[]): Command[] {
  const kept: Command[] = [];
  for (const command of commands) {
    const races = kept.some(
      (other) =>
        !(command.op === Op.read && other.op === Op.read) &&
        command.op !== Op.flush &&
        other.op !== Op.flush &&
        command.offset < other.offset + other.length &&
        other.offset < command.offset + command.length,
    );
    if (!races) kept.push(command);
  }
  return kept;
}

async function runBatch(device: BlockDevice, model: Model, commands: readonly Command[]): Promise<void> {
  const batch = new Batch();
  const reads: { command: Command; buffer: Buffer }[] = [];
  for (const command of commands) {
    const { op, offset, length, flags, seed } = command;
    const end = offset + length;
    if (op === Op.read) {
      const buffer = Buffer.alloc(length, 0xee);
      reads.push({ command, buffer });
      batch.submit(device, { op, offset, buffer });
    } else if (op === Op.write) {
      const buffer = pattern(length, seed);
      buffer.copy(model.bytes, offset);
      model.defined.fill(1, offset, end);
      batch.submit(device, { op, offset, buffer, flags });
    } else if (op === Op.flush) {
      batch.submit(device, { op });
    } else {
      model.bytes.fill(0, offset, end);
      model.defined.fill(op === Op.writeZeroes ? 1 : 0, offset, end);
      batch.submit(device, { op, offset, length, flags });
    }
  }
  await batch.done();
  for (const { op, offset, length, error } of batch.completed)
    assert.equal(error, 0, `op ${op} at ${offset}+${length}`);
  for (const { command, buffer } of reads) compare(model, command, buffer);
}

function compare(model: Model, { offset, length }: Command, actual: Buffer): void {
  const expected = model.bytes.subarray(offset, offset + length);
  if (expected.equals(actual)) return;
  for (let i = 0; i < length; i++) {
    if (model.defined[offset + i] === 1) assert.equal(actual[i], expected[i], `byte ${offset + i}`);
  }
}

/** Ten thousand requests in one turn. */
async function burst(device: BlockDevice): Promise<void> {
  const unit = Math.max(device.limits.requestAlignment, 512);
  const count = 10_000;
  const slots = MIB / unit;
  const batch = new Batch();
  const buffer = Buffer.alloc(unit);
  for (let i = 0; i < count; i++) {
    batch.submit(device, {
      op: i % 16 === 0 ? Op.write : Op.read,
      offset: (i % slots) * unit,
      buffer: i % 16 === 0 ? Buffer.alloc(unit, i) : buffer,
    });
  }
  await batch.done();
  assert.equal(batch.completed.length, count);
  assert(batch.completed.every(({ error }) => error === 0));
}

/** Each completion submits the next request, on a pooled request, so that a device that recursed would overflow the stack. */
async function chain(device: BlockDevice, count: number): Promise<void> {
  const pool = new RequestPool();
  const buffer = Buffer.alloc(4096);
  let left = count;
  await new Promise<void>((resolve, reject) => {
    const owner: RequestOwner = {
      ioDone(request: IoRequest): void {
        const { error } = request;
        pool.release(request);
        if (error !== 0) reject(new Error(`errno ${error}`));
        else if (--left === 0) resolve();
        else next();
      },
    };
    const next = (): void => {
      const request = pool.acquire(owner);
      request.op = left % 2 === 0 ? Op.read : Op.write;
      request.offset = (left % 256) * 4096;
      request.length = 4096;
      request.buffer = buffer;
      device.submit(request);
    };
    next();
  });
  assert.equal(pool.outstanding, 0);
}
