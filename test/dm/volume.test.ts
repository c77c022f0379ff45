/** The verbs of a volume and the promises of its data path that the conformance suite doesn't count out. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import type { BlockDevice } from '../../src/block/device.ts';
import { Errno } from '../../src/block/errors.ts';
import type { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { type IoRequest, Op, RequestFlag } from '../../src/block/request.ts';
import { VolumeError } from '../../src/dm/errors.ts';
import type { Table } from '../../src/dm/table.ts';
import { targetRegistry, type TargetType } from '../../src/dm/target.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { Batch, makeRequest, pattern, perform, performOk, readAt } from '../block/harness.ts';
import { blockDeviceSuite } from '../block/device-suite.ts';
import { assertInLimits } from '../../src/block/device.ts';
import { error, linear, memoryDevices, striped, zero } from './devices.ts';

const MIB = 2 ** 20;

interface Made {
  readonly volume: Volume;
  readonly a: FaultyDevice;
  readonly b: FaultyDevice;
  readonly load: (table: Table, options?: { readOnly?: boolean }) => void;
}

/** An active volume of that table over devices a, b and c. */
function make(table: Table, devices = memoryDevices(3, 2 ** 30)): Made {
  const volume = new Volume('vg/lv', { targets });
  const load = (next: Table, options?: { readOnly?: boolean }): void => {
    volume.load(next, (name) => devices.get(name)!, options);
  };
  load(table);
  volume.resume();
  return { volume, a: devices.get('a')!, b: devices.get('b')!, load };
}

/** What a device was asked for, while `run` runs. */
async function recorded(device: FaultyDevice, run: () => Promise<void>): Promise<IoRequest[]> {
  const seen: IoRequest[] = [];
  device.decide = (request) => {
    seen.push(Object.assign(Object.create(null) as IoRequest, request));
    return { kind: 'pass' };
  };
  await run();
  device.decide = () => ({ kind: 'pass' });
  return seen;
}

/** How many of the first `end` bytes are in even sectors. */
function bytesOfEvenSectors(end: number): number {
  return Math.floor(end / 1024) * 512 + Math.min(end % 1024, 512);
}

describe('verbs', () => {
  test('a volume without a table has no bytes', async () => {
    const volume = new Volume('vg/lv', { targets });
    assert.equal(volume.state, 'empty');
    assert.equal(volume.limits.sizeBytes, 0);
    assert.equal(await perform(volume, { op: Op.read, buffer: Buffer.alloc(512) }), Errno.EIO);
    await performOk(volume, { op: Op.flush });
    assert.throws(() => volume.resume(), { code: 'NO_TABLE' });
    await assert.rejects(volume.suspend(), { code: 'NOT_ACTIVE' });
    await assert.rejects(volume.message(0, ['x']), { code: 'NO_SUCH_SECTOR' });
    assert.equal(volume.table(), null);
    assert.equal(volume.tableText(), '');
    await volume.close();
  });

  test('a table goes live at resume, and replaces another only while suspended', async () => {
    const { volume, load } = make([linear(0, 8, 'a', 0)]);
    load([linear(0, 16, 'b', 0)]);
    assert.equal(volume.limits.sizeBytes, 8 * 512);
    assert.throws(() => volume.resume(), { code: 'NOT_SUSPENDED' });
    await volume.suspend();
    await assert.rejects(volume.suspend(), { code: 'NOT_ACTIVE' });
    assert.equal(volume.limits.sizeBytes, 8 * 512);
    assert.equal(volume.status().hasInactiveTable, true);
    volume.resume();
    volume.resume();
    assert.equal(volume.limits.sizeBytes, 16 * 512);
    assert.equal(volume.status().hasInactiveTable, false);
    await volume.close();
    assert.throws(() => volume.resume(), { code: 'CLOSED' });
    assert.throws(() => load([zero(0, 8)]), VolumeError);
    await volume.close();
  });

  test('suspend waits for what is in flight and flushes; resume lets the rest go', async () => {
    const { volume, a } = make([linear(0, 64, 'a', 0)]);
    a.decide = (request) => (request.op === Op.write ? { kind: 'hold' } : { kind: 'pass' });
    const batch = new Batch();
    batch.submit(volume, { op: Op.write, buffer: pattern(512, 1) });
    let settled = false;
    const suspended = volume.suspend().then(() => {
      settled = true;
    });
    batch.submit(volume, { op: Op.write, offset: 512, buffer: pattern(512, 2) });
    await perform(a, { op: Op.flush });
    assert.equal(settled, false);
    assert.equal(volume.state, 'suspending');
    const { inFlight, waiting } = volume.status();
    assert.deepEqual({ inFlight, waiting }, { inFlight: 1, waiting: 1 });
    const flushes = a.submitted[Op.flush]!;
    a.releaseAll();
    await suspended;
    assert.equal(a.submitted[Op.flush], flushes + 1);
    assert.equal(batch.completed.length, 1);
    a.decide = () => ({ kind: 'pass' });
    volume.resume();
    await batch.done();
    assert(Buffer.concat([pattern(512, 1), pattern(512, 2)]).equals(await readAt(volume, 0, 1024)));
  });

  test('a suspend on a device that hangs can be taken back', async () => {
    const { volume, a } = make([linear(0, 64, 'a', 0)]);
    const batch = new Batch();
    a.decide = () => ({ kind: 'hold' });
    batch.submit(volume, { op: Op.read, buffer: Buffer.alloc(512) });
    const abort = new AbortController();
    const suspended = volume.suspend(abort.signal);
    batch.submit(volume, { op: Op.read, buffer: Buffer.alloc(512) });
    abort.abort(new Error('too long'));
    await assert.rejects(suspended, { code: 'SUSPEND_ABORTED' });
    assert.equal(volume.state, 'active');
    assert.equal(a.held.length, 2, 'the request that had to wait has gone on');
    a.releaseAll();
    await batch.done();
    a.decide = () => ({ kind: 'pass' });
    await assert.rejects(volume.suspend(AbortSignal.abort()), { code: 'SUSPEND_ABORTED' });
    await volume.suspend();
    await volume.close();
  });

  test('a flush that fails in suspend is reported by the next flush, once', async () => {
    const { volume, a } = make([linear(0, 64, 'a', 0)]);
    a.decide = (request) => (request.op === Op.flush ? { kind: 'fail', errno: Errno.ENOSPC } : { kind: 'pass' });
    await volume.suspend();
    a.decide = () => ({ kind: 'pass' });
    volume.resume();
    assert.equal(await perform(volume, { op: Op.flush }), Errno.ENOSPC);
    assert.equal(await perform(volume, { op: Op.flush }), 0);
  });

  test('a suspend that is not to flush leaves that to a flush beside requests, whose error is for the next one of a user', async () => {
    const { volume, a } = make([linear(0, 64, 'a', 0)]);
    await volume.suspend(undefined, false);
    volume.resume();
    assert.equal(a.submitted[Op.flush], 0);
    a.decide = (request) => (request.op === Op.flush ? { kind: 'fail', errno: Errno.ENOSPC } : { kind: 'pass' });
    await volume.flush();
    // The second one is not a user's either: what waits for him is still there.
    a.decide = (request) => (request.op === Op.flush ? { kind: 'hold' } : { kind: 'pass' });
    const flushed = volume.flush();
    a.decide = () => ({ kind: 'pass' });
    assert.equal(await perform(volume, { op: Op.flush }), Errno.ENOSPC, 'told while the other one is on its way');
    for (const request of a.held) a.release(request);
    await flushed;
    assert.equal(await perform(volume, { op: Op.flush }), 0);
  });

  test('a volume that shrank refuses what waited past its end', async () => {
    const { volume, load } = make([linear(0, 64, 'a', 0)]);
    await volume.suspend();
    const batch = new Batch();
    batch.submit(volume, { op: Op.write, offset: 63 * 512, buffer: Buffer.alloc(512) });
    batch.submit(volume, { op: Op.write, offset: 7 * 512, buffer: Buffer.alloc(512) });
    load([linear(0, 8, 'a', 0)]);
    volume.resume();
    await batch.done();
    const outcomes = new Map(batch.completed.map(({ offset, error: errno }) => [offset, errno]));
    assert.deepEqual([outcomes.get(7 * 512), outcomes.get(63 * 512)], [0, Errno.EIO]);
  });

  test('a read-only table takes no writes', async () => {
    const { volume, load } = make([linear(0, 64, 'a', 0)]);
    load([linear(0, 64, 'a', 0)], { readOnly: true });
    await volume.suspend();
    volume.resume();
    assert.equal(volume.limits.readOnly, true);
    assert.equal(await perform(volume, { op: Op.write, buffer: Buffer.alloc(512) }), Errno.EROFS);
    assert.equal(await perform(volume, { op: Op.discard, length: 512 }), Errno.EROFS);
    await readAt(volume, 0, 512);
    await performOk(volume, { op: Op.flush });
  });

  test('close while suspended fails what waits', async () => {
    const { volume } = make([linear(0, 64, 'a', 0)]);
    await volume.suspend();
    const batch = new Batch();
    for (const op of [Op.read, Op.write]) batch.submit(volume, { op, buffer: Buffer.alloc(512) });
    batch.submit(volume, { op: Op.flush });
    await volume.close();
    assert.deepEqual(
      batch.completed.map(({ error: errno }) => errno),
      [Errno.EIO, Errno.EIO, Errno.EIO],
    );
  });

  test('close while suspending waits for the suspend', async () => {
    const { volume, a } = make([linear(0, 64, 'a', 0)]);
    a.decide = (request) => (request.op === Op.read ? { kind: 'hold' } : { kind: 'pass' });
    const batch = new Batch();
    batch.submit(volume, { op: Op.read, buffer: Buffer.alloc(512) });
    const suspended = volume.suspend();
    batch.submit(volume, { op: Op.write, buffer: Buffer.alloc(512) });
    const closed = volume.close();
    a.releaseAll();
    await assert.rejects(suspended, { code: 'CLOSED' });
    await closed;
    assert.deepEqual(
      batch.completed.map(({ op, error: errno }) => [op, errno]),
      [
        [Op.read, 0],
        [Op.write, Errno.EIO],
      ],
    );
  });

  test('what is lost with ranges that are left is told by every flush from then on, also of a layer', async () => {
    const below = new MemoryDevice({ sizeBytes: MIB });
    const device: BlockDevice = {
      name: 'a',
      limits: below.limits,
      submit: (request) => below.submit(request),
      leave: (offset) => Promise.resolve(offset === 65_536 ? Errno.EIO : 0),
      close: () => Promise.resolve(),
    };
    const layer = { name: 'lower', table: [linear(0, 8, 'a', 128)] };
    const lower = { start: 0, length: 8, target: 'linear', params: { device: layer, offset: 0 } };
    for (const line of [linear(0, 8, 'a', 128), lower]) {
      const volume = new Volume('vg/lv', { targets });
      volume.load([line], () => device);
      volume.resume();
      await performOk(volume, { op: Op.flush });
      volume.load([linear(0, 8, 'a', 256)], () => device);
      await volume.suspend();
      volume.resume();
      for (let i = 0; i < 2; i++) assert.equal(await perform(volume, { op: Op.flush }), Errno.EIO);
      await assert.rejects(volume.close(), { code: 'FLUSH_FAILED' });
    }
  });

  test('close leaves what the table maps, once: also after a flush that failed, but not after a suspend', async () => {
    const below = new MemoryDevice({ sizeBytes: MIB });
    let isBroken = false;
    let left: [number, number][] = [];
    const device: BlockDevice = {
      name: 'a',
      limits: below.limits,
      submit: (request) => {
        if (!isBroken || request.op !== Op.flush) {
          below.submit(request);
          return;
        }
        request.error = Errno.EIO;
        setImmediate(() => request.owner.ioDone(request));
      },
      leave: (offset, length) => {
        left.push([offset, length]);
        return Promise.resolve(0);
      },
      close: () => Promise.resolve(),
    };
    const layer = { name: 'lower', table: [linear(0, 8, 'a', 128)] };
    const table: Table = [
      linear(0, 64, 'a', 8),
      { start: 64, length: 8, target: 'linear', params: { device: layer, offset: 0 } },
    ];
    for (const how of ['live', 'broken', 'suspended'] as const) {
      isBroken = how === 'broken';
      left = [];
      const volume = new Volume('vg/lv', { targets });
      volume.load(table, () => device);
      volume.resume();
      if (how === 'suspended') await volume.suspend();
      if (isBroken) await assert.rejects(volume.close(), { code: 'FLUSH_FAILED' });
      else await volume.close();
      assert.deepEqual(
        left,
        [
          [4096, 32_768],
          [65_536, 4096],
        ],
        how,
      );
    }
  });

  test('close says when the last flush failed', async () => {
    const { volume, a } = make([linear(0, 64, 'a', 0)]);
    a.decide = () => ({ kind: 'fail', errno: Errno.EIO });
    await assert.rejects(volume.close(), { code: 'FLUSH_FAILED' });
  });
});

describe('stateful targets', () => {
  test('are resumed, suspended, messaged and closed in order', async () => {
    const calls: string[] = [];
    const noisy: TargetType<string> = {
      name: 'noisy',
      version: '1.0.0',
      parse: (params) => String(params),
      create: (name, context) => ({
        mapping: { kind: 'submit', sink: context.device('a', 'device', 0, context.length), splitBytes: 0 },
        tableText: () => name,
        status: () => ({ text: `is ${name}`, details: { name } }),
        suspend: () => {
          calls.push(`suspend ${name}`);
          return Promise.resolve();
        },
        resume: () => void calls.push(`resume ${name}`),
        close: () => void calls.push(`close ${name}`),
        message: (words) => Promise.resolve(`${name} heard ${words.join(' ')}`),
      }),
    };
    const device = new MemoryDevice({ sizeBytes: MIB });
    const volume = new Volume('vg/lv', { targets: targetRegistry([noisy, ...targets.values()]) });
    const load = (...names: string[]): void => {
      const table = names.map((params, i) => ({ start: i * 8, length: 8, target: 'noisy', params }));
      volume.load([...table, zero(8 * names.length, 1)], () => device);
    };
    load('x', 'y');
    load('x', 'y');
    assert.deepEqual(calls, []);
    volume.resume();
    assert.deepEqual(calls.splice(0), ['resume x', 'resume y']);
    assert.equal(await volume.message(8, ['trim', 'now']), 'y heard trim now');
    await assert.rejects(volume.message(16, ['x']), { code: 'NO_MESSAGES' });
    await assert.rejects(volume.message(17, ['x']), { code: 'NO_SUCH_SECTOR' });
    assert.equal(volume.statusText(), '0 8 noisy is x\n8 8 noisy is y\n16 1 zero \n');
    load('z');
    await volume.suspend();
    assert.deepEqual(calls.splice(0), ['suspend x', 'suspend y']);
    volume.resume();
    assert.deepEqual(calls.splice(0), ['close x', 'close y', 'resume z']);
    await volume.suspend();
    await volume.close();
    assert.deepEqual(calls.splice(0), ['suspend z', 'close z']);
  });

  test('go on when their suspend is taken back', async () => {
    const calls: string[] = [];
    const stuck: TargetType<null> = {
      name: 'stuck',
      version: '1.0.0',
      parse: () => null,
      create: (_, context) => ({
        mapping: { kind: 'submit', sink: context.device('a', 'device', 0, context.length), splitBytes: 0 },
        tableText: () => '',
        status: () => ({ text: '', details: {} }),
        suspend: () => {
          calls.push('suspend');
          return new Promise(() => calls.push('never'));
        },
        resume: () => void calls.push('resume'),
      }),
    };
    const volume = new Volume('vg/lv', { targets: targetRegistry([stuck]) });
    volume.load([{ start: 0, length: 8, target: 'stuck', params: null }], () => new MemoryDevice({ sizeBytes: MIB }));
    volume.resume();
    const abort = new AbortController();
    const suspended = volume.suspend(abort.signal);
    await turn();
    abort.abort();
    await assert.rejects(suspended, { code: 'SUSPEND_ABORTED' });
    assert.deepEqual(calls, ['resume', 'suspend', 'never', 'resume']);
    await readAt(volume, 0, 4096);
  });
});

describe('data path', () => {
  test('a request inside one run is one request of the device, payload in place', async () => {
    const { volume, a } = make([linear(0, 64, 'a', 10), linear(64, 64, 'a', 74)]);
    const buffer = pattern(100_000, 1);
    const seen = await recorded(a, () =>
      performOk(volume, {
        op: Op.write,
        offset: 30_000,
        length: 20_000,
        buffer,
        bufferOffset: 77,
        flags: RequestFlag.fua,
      }),
    );
    assert.equal(seen.length, 1, 'two lines that continue each other are one');
    const [{ offset, length, bufferOffset, flags, buffer: payload }] = seen as [IoRequest];
    assert.deepEqual(
      { offset, length, bufferOffset, flags },
      { offset: 35_120, length: 20_000, bufferOffset: 77, flags: 1 },
    );
    assert.equal(payload, buffer);
  });

  test('pieces carry the flags and their part of the payload', async () => {
    const { volume, a, b } = make([
      striped(0, 64, 4, [
        ['a', 0],
        ['b', 0],
      ]),
    ]);
    const buffer = pattern(8192, 1);
    const flags = RequestFlag.fua | RequestFlag.noUnmap;
    const onB: IoRequest[] = [];
    b.decide = (request) => {
      onB.push(Object.assign(Object.create(null) as IoRequest, request));
      return { kind: 'pass' };
    };
    const onA = await recorded(a, () =>
      performOk(volume, { op: Op.write, offset: 1024, length: 4096, buffer, bufferOffset: 5, flags }),
    );
    const pieces = [...onA, ...onB].map((piece) => [piece.offset, piece.length, piece.bufferOffset, piece.flags]);
    assert.deepEqual(pieces, [
      [1024, 1024, 5, 3],
      [2048, 1024, 5 + 3072, 3],
      [0, 2048, 5 + 1024, 3],
    ]);
    assert(onA.every((piece) => piece.buffer === buffer));
  });

  test('long discards and zeroes of stripes are few and large', async () => {
    const sectors = 2 ** 24;
    const { volume, a } = make([
      striped(0, sectors, 1, [
        ['a', 0],
        ['b', 0],
        ['a', 2 ** 23],
        ['c', 0],
      ]),
    ]);
    for (const op of [Op.discard, Op.writeZeroes]) {
      let most = 0;
      const seen = await recorded(a, async () => {
        const batch = new Batch();
        batch.submit(volume, { op, offset: 300, length: 2 ** 32 - 1000 });
        most = volume.outstanding;
        await batch.done();
        assert.equal(batch.completed[0]?.error, 0);
      });
      assert(most <= 140, `${most} requests at once`);
      assert(seen.length <= 34, `${seen.length} requests`);
      const bytes = seen.reduce((sum, request) => sum + request.length, 0);
      assert.equal(bytes, bytesOfEvenSectors(2 ** 32 - 700) - bytesOfEvenSectors(300));
      assert(seen.every((request) => request.length <= 64 * MIB + 512));
    }
    assert.equal(volume.outstanding, 0);
  });

  test('long ranges are cut where whole blocks end, however they begin', async () => {
    for (const table of [
      [linear(0, 2 ** 22, 'a', 8)],
      [striped(0, 24 * 2 ** 18, 24, [['a', 8]])],
      [
        striped(0, 72 * 2 ** 16, 24, [
          ['a', 8],
          ['a', 2 ** 23],
          ['a', 2 ** 24],
        ]),
      ],
    ]) {
      const { volume, a } = make(table);
      const seen = await recorded(a, () => performOk(volume, { op: Op.discard, offset: 1000, length: 2 ** 31 - 1500 }));
      const bytes = seen.reduce((sum, request) => sum + request.length, 0);
      assert.equal(bytes, 2 ** 31 - 1500);
      assert(seen.length < 100);
      const starts = new Set(seen.map(({ offset }) => offset));
      const cuts = seen.map(({ offset, length }) => offset + length).filter((end) => starts.has(end));
      assert(cuts.length > 20);
      for (const cut of cuts) assert.equal(cut % 4096, 0);
    }
  });

  test('no request has more than a bounded number of pieces out', async () => {
    const { volume, a, b } = make([
      striped(0, 2 ** 14, 1, [
        ['a', 0],
        ['b', 0],
      ]),
    ]);
    let most = 0;
    for (const device of [a, b]) {
      device.decide = () => {
        most = Math.max(most, volume.outstanding);
        return { kind: 'pass' };
      };
    }
    const buffer = pattern(8 * MIB, 3);
    await performOk(volume, { op: Op.write, buffer });
    assert(most <= 130, `${most} requests at once`);
    assert(buffer.equals(await readAt(volume, 0, 8 * MIB)));
    assert.equal(volume.outstanding, 0);
  });

  test('a suspend does not wait for the rest of a long request, which goes on in the next table', async () => {
    const { volume, a, b, load } = make([linear(0, 2 ** 26, 'a', 0)]);
    const batch = new Batch();
    a.decide = (request) => (request.op === Op.flush ? { kind: 'pass' } : { kind: 'hold' });
    batch.submit(volume, { op: Op.writeZeroes, offset: 0, length: 2 ** 33 + 100 });
    // 128 pieces of 64 MiB are all of it but the last 100 bytes.
    assert.equal(a.held.length, 128);
    const suspended = volume.suspend();
    a.releaseAll();
    await suspended;
    assert.equal(batch.completed.length, 0);
    load([linear(0, 2 ** 24, 'a', 0), linear(2 ** 24, 8, 'b', 0)]);
    const seen = await recorded(b, async () => {
      volume.resume();
      await batch.done();
    });
    assert.equal(batch.completed[0]?.error, 0);
    assert.deepEqual(
      seen.map(({ offset, length }) => [offset, length]),
      [[0, 100]],
    );
  });

  test('the rest of a long request fails when the volume has shrunk under it', async () => {
    const { volume, a, load } = make([linear(0, 2 ** 26, 'a', 0)]);
    const batch = new Batch();
    a.decide = (request) => (request.op === Op.flush ? { kind: 'pass' } : { kind: 'hold' });
    batch.submit(volume, { op: Op.discard, offset: 0, length: 2 ** 33 + 100 });
    const suspended = volume.suspend();
    a.releaseAll();
    await suspended;
    load([linear(0, 2 ** 24, 'a', 0)]);
    const seen = await recorded(a, async () => {
      volume.resume();
      await batch.done();
    });
    assert.equal(batch.completed[0]?.error, Errno.EIO);
    assert.deepEqual(seen, []);
    assert.equal(volume.outstanding, 0);
  });

  test('one stripe has no borders', async () => {
    const { volume, a } = make([striped(0, 64, 1, [['a', 0]])]);
    const seen = await recorded(a, () => performOk(volume, { op: Op.write, offset: 7, buffer: pattern(9000, 1) }));
    assert.equal(seen.length, 1);
  });

  test('an owner that submits again from each completion leaves others their turn', async () => {
    const { volume } = make([zero(0, 64)]);
    const request = makeRequest({ op: Op.read, buffer: Buffer.alloc(512) });
    let rounds = 0;
    let stop = false;
    const ended = new Promise<void>((resolve) => {
      request.owner = {
        ioDone: () => {
          rounds++;
          assert(rounds < 100_000, 'the event loop is starved');
          if (stop) resolve();
          else volume.submit(request);
        },
      };
    });
    volume.submit(request);
    for (let i = 0; i < 10; i++) await turn();
    stop = true;
    await ended;
    assert(rounds >= 5);
  });

  test('the first error ends a request when all its pieces have ended, and is counted for its stripe', async () => {
    const { volume, a, b } = make([
      striped(0, 32, 4, [
        ['a', 0],
        ['b', 0],
      ]),
    ]);
    a.decide = () => ({ kind: 'hold' });
    b.decide = () => ({ kind: 'fail', errno: Errno.ENOSPC });
    const batch = new Batch();
    batch.submit(volume, { op: Op.write, buffer: pattern(4096, 1) });
    while (volume.outstanding > 2) await turn();
    assert.equal(batch.completed.length, 0);
    a.releaseAll(Errno.EIO);
    await batch.done();
    assert.equal(batch.completed[0]?.error, Errno.ENOSPC);
    assert.equal(volume.statusText(), '0 32 striped 2 a b 1 DD\n');
    assert.deepEqual(volume.status().lines[0]?.details, {
      chunkSize: 4,
      stripes: [
        { device: 'a', errors: 1 },
        { device: 'b', errors: 1 },
      ],
    });
  });

  test('flush fails with any of its devices', async () => {
    const { volume, a, b } = make([linear(0, 8, 'a', 0), error(8, 8), linear(16, 8, 'b', 0)]);
    b.decide = () => ({ kind: 'fail', errno: Errno.EIO });
    assert.equal(await perform(volume, { op: Op.flush }), Errno.EIO);
    assert.equal(a.submitted[Op.flush], 1);
    assert.equal(volume.status().lines[2]?.details['errors'], 0, 'a failed flush is no error of a leg');
  });

  test('ranges past 2^53 and negative ones are the caller’s faults or errors, never wrong bytes', async () => {
    const { volume } = make([linear(0, 8, 'a', 0)]);
    const batch = new Batch();
    assert.throws(() => batch.submit(volume, { op: Op.read, offset: -1, buffer: Buffer.alloc(8) }));
    assert.throws(() => batch.submit(volume, { op: Op.read, offset: Number.NaN, buffer: Buffer.alloc(8) }));
    assert.throws(() => batch.submit(volume, { op: Op.read, length: 0 }));
    assert.equal(await perform(volume, { op: Op.read, offset: 4096 - 511, buffer: Buffer.alloc(512) }), Errno.EIO);
    assert.equal(await perform(volume, { op: Op.read, offset: 2 ** 60, buffer: Buffer.alloc(512) }), Errno.EIO);
  });
});

/** The conformance suite of block devices asserts what a volume answers with EIO: ranges past the end. */
class StrictVolume implements BlockDevice {
  readonly #volume: Volume;

  constructor(volume: Volume) {
    this.#volume = volume;
  }

  get name(): string {
    return this.#volume.name;
  }

  get limits(): BlockDevice['limits'] {
    return this.#volume.limits;
  }

  submit(request: IoRequest): void {
    assertInLimits(this.limits, request);
    this.#volume.submit(request);
  }

  close(): Promise<void> {
    return this.#volume.close();
  }
}

for (const { name, tableOf, options } of [
  {
    name: 'linear volume, 4096-byte blocks',
    tableOf: (sectors: number) => [linear(0, 8, 'a', 7), linear(8, sectors - 8, 'a', 100)],
    options: { logicalBlockSize: 4096, requestAlignment: 4096 },
  },
  {
    name: 'striped volume, any range',
    tableOf: (sectors: number) => [
      striped(0, sectors, 128, [
        ['a', 0],
        ['b', 0],
      ]),
    ],
    options: {},
  },
]) {
  blockDeviceSuite(name, async ({ sizeBytes, readOnly }) => {
    const { volume, load } = make([zero(0, 1)], memoryDevices(2, sizeBytes / 512 + 128, options));
    load(tableOf(sizeBytes / 512), { readOnly });
    await volume.suspend();
    volume.resume();
    return { device: new StrictVolume(volume), dispose: async () => {} };
  });
}

test('a volume on volumes passes requests through', async () => {
  const { volume: lower } = make([
    striped(0, 96, 3, [
      ['a', 0],
      ['b', 0],
    ]),
  ]);
  const upper = new Volume('vg/upper', { targets });
  upper.load([linear(0, 40, 'lower', 20), linear(40, 20, 'lower', 0)], () => lower);
  upper.resume();
  const buffer = pattern(60 * 512, 9);
  await performOk(upper, { op: Op.write, buffer });
  assert(buffer.subarray(0, 40 * 512).equals(await readAt(lower, 20 * 512, 40 * 512)));
  await lower.suspend();
  const batch = new Batch();
  const read = Buffer.alloc(60 * 512);
  batch.submit(upper, { op: Op.read, buffer: read });
  lower.resume();
  await batch.done();
  assert(buffer.equals(read));
  await upper.close();
  await lower.close();
});
