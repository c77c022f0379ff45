/** Counters: what volumes and devices are said to have done is what was asked of them. */
import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { IoRequest, Op } from '../../src/block/request.ts';
import { flush, readBytes, writeBytes } from '../../src/block/sync-io.ts';
import { IoStats, LATENCY_BUCKETS } from '../../src/dm/io-stats.ts';
import { deviceStats, measured } from '../../src/dm/measured-device.ts';
import { targets } from '../../src/dm/targets.ts';
import { turnClock } from '../../src/dm/turn-clock.ts';
import { Volume } from '../../src/dm/volume.ts';

const MIB = 2 ** 20;

function active(devices: Record<string, MemoryDevice | FaultyDevice>, table: Parameters<Volume['load']>[0]): Volume {
  const volume = new Volume('vg0/data', { targets });
  volume.load(table, (name) => devices[name]!);
  volume.resume();
  return volume;
}

function linear(device: string): Parameters<Volume['load']>[0] {
  return [{ start: 0, length: 2048, target: 'linear', params: { device, offset: 0 } }];
}

/** Reads of 512 bytes so far; nothing is in flight. */
function reads(of: Volume | MemoryDevice): number | undefined {
  const { ops, inFlight } = (of instanceof Volume ? of.stats : deviceStats(of))!.snapshot();
  assert.equal(inFlight, 0);
  assert.equal(ops.read.bytes, ops.read.ended * 512);
  const counted = ops.read.latency.reduce((sum, count) => sum + count, 0);
  assert.equal(counted, ops.read.ended);
  return ops.read.ended;
}

describe('counters', () => {
  test('latencies fall into powers of two of a microsecond', () => {
    const stats = new IoStats();
    for (const microseconds of [0, 0.5, 1, 3, 4, 1000, 1e12]) {
      stats.started();
      stats.ended(Op.read, 512, microseconds, 0);
    }
    const { latency } = stats.snapshot().ops.read;
    const expected = Array.from({ length: LATENCY_BUCKETS }, () => 0);
    // [0, 1): 0 and 0.5; [1, 2): 1; [2, 4): 3; [4, 8): 4; [512, 1024): 1000; the rest: 1e12.
    for (const [bucket, count] of [
      [0, 2],
      [1, 1],
      [2, 1],
      [3, 1],
      [10, 1],
      [26, 1],
    ] as const)
      expected[bucket] = count;
    assert.deepEqual(latency, expected);
  });

  test('a time that went back (the clock of a batch) counts as none', () => {
    const stats = new IoStats();
    stats.started();
    stats.ended(Op.write, 512, -0.4, 0);
    assert.equal(stats.snapshot().ops.write.latency[0], 1);
  });

  test('a volume and its devices count operations, bytes and pieces', async () => {
    const devices = { a: new MemoryDevice({ sizeBytes: 4 * MIB }), b: new MemoryDevice({ sizeBytes: 4 * MIB }) };
    const legs = [
      { device: 'a', offset: 0 },
      { device: 'b', offset: 0 },
    ];
    const volume = active(devices, [
      { start: 0, length: 8192, target: 'striped', params: { chunkSize: 128, stripes: legs } },
    ]);
    await writeBytes(volume, 0, Buffer.alloc(MIB, 1));
    await readBytes(volume, 4096, 512);
    await flush(volume);
    const { ops, inFlight } = volume.stats.snapshot();
    assert.deepEqual(
      [ops.write.ended, ops.write.bytes, ops.read.ended, ops.read.bytes, ops.flush.ended, inFlight],
      [1, MIB, 1, 512, 1, 0],
    );
    for (const device of [devices.a, devices.b]) {
      const own = deviceStats(device)?.snapshot();
      assert.equal(own?.ops.write.bytes, MIB / 2);
      assert.equal(own?.ops.write.ended, 8);
      assert.equal(own?.ops.flush.ended, 1);
    }
    await volume.close();
  });

  test('what a volume and a device share stays counted in both when tables change and volumes close', async () => {
    const [a, b] = [new MemoryDevice({ sizeBytes: MIB }), new MemoryDevice({ sizeBytes: MIB })];
    const volume = active({ a, b }, linear('a'));
    const other = active({ a, b }, linear('a'));
    await readBytes(volume, 0, 512);
    await readBytes(volume, 4096, 512);
    await readBytes(other, 0, 512);
    assert.deepEqual([volume, other, a].map(reads), [2, 1, 3]);
    await volume.suspend();
    // Held: its time on the device is shorter than its time in the volume, so it is counted by each of them.
    const held = readBytes(volume, 0, 512);
    volume.resume();
    await held;
    assert.deepEqual([volume, other, a].map(reads), [3, 1, 4]);
    await volume.suspend();
    volume.load(linear('b'), () => b);
    volume.resume();
    await readBytes(volume, 0, 512);
    assert.deepEqual([volume, other, a, b].map(reads), [4, 1, 4, 1]);
    await Promise.all([volume.close(), other.close()]);
    assert.deepEqual([volume, other, a, b].map(reads), [4, 1, 4, 1]);
  });

  test('errors are counted on the device that failed and on the volume', async () => {
    const good = new MemoryDevice({ sizeBytes: MIB });
    const bad = new FaultyDevice(new MemoryDevice({ sizeBytes: MIB }));
    const volume = active({ good, bad }, [
      { start: 0, length: 1024, target: 'linear', params: { device: 'good', offset: 0 } },
      { start: 1024, length: 1024, target: 'linear', params: { device: 'bad', offset: 0 } },
    ]);
    bad.decide = () => ({ kind: 'fail', errno: constants.errno.EIO });
    await assert.rejects(readBytes(volume, 0, MIB));
    assert.equal(volume.stats.snapshot().ops.read.failed, 1);
    assert.equal(volume.stats.snapshot().ops.read.bytes, 0);
    assert.equal(deviceStats(bad)?.snapshot().ops.read.failed, 1);
    assert.equal(deviceStats(good)?.snapshot().ops.read.failed, 0);
    bad.decide = () => ({ kind: 'pass' });
    await volume.close();
  });

  test('what waits for a suspended volume is in flight and takes time', async () => {
    const volume = active({ a: new MemoryDevice({ sizeBytes: MIB }) }, [
      { start: 0, length: 2048, target: 'linear', params: { device: 'a', offset: 0 } },
    ]);
    await volume.suspend();
    const reading = readBytes(volume, 0, 512);
    assert.equal(volume.stats.inFlight, 1);
    const before = performance.now();
    while (performance.now() < before + 3) await new Promise((resolve) => setImmediate(resolve));
    volume.resume();
    await reading;
    const { read } = volume.stats.snapshot().ops;
    assert.ok(read.milliseconds >= 2, `${read.milliseconds} ms`);
    assert.equal(volume.stats.inFlight, 0);
    await volume.close();
  });

  test('I/O that a target does by itself is counted through the measured device', async () => {
    const device = new MemoryDevice({ sizeBytes: MIB });
    assert.equal(measured(device), measured(device));
    await writeBytes(measured(device), 512, Buffer.alloc(1024, 7));
    assert.deepEqual(await readBytes(device, 512, 1024), Buffer.alloc(1024, 7));
    const { write } = deviceStats(device)!.snapshot().ops;
    assert.deepEqual([write.ended, write.bytes], [1, 1024]);
    assert.equal(measured(measured(device)), measured(device));
  });

  test('the clock is read again in the next turn', async () => {
    const first = turnClock.now();
    for (const begun = performance.now(); performance.now() - begun < 5;) await turn();
    const passed = turnClock.since(first);
    assert.ok(passed >= 4000 && passed < 5_000_000, `${passed} us`);
    // The clock wraps; a difference across the wrap is right.
    const now = turnClock.now();
    assert.equal(turnClock.since((now - 7000) & 0x7fffffff), 7000);
    assert.ok(new IoRequest().startedAt === 0);
  });
});
