/**
 * Extents that two live tables map: a snapshot reads its origin, which alone says whether what was written there is flushed, or given up.
 * And tables that keep their extents: a suspend that flushes nothing gives nothing up.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { BlockCache } from '../../src/block/cache/block-cache.ts';
import type { CachedDevice } from '../../src/block/cache/cached-device.ts';
import { Errno } from '../../src/block/errors.ts';
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { Op } from '../../src/block/request.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { pattern, perform, performOk, readAt } from '../block/harness.ts';
import { linear } from './devices.ts';

const MIB = 2 ** 20;
const SECTORS = 128;
const BYTES = pattern(32 * 1024, 3);

/** An origin with one snapshot: the origin on a device behind a write-back cache, the store on another. */
class Pair {
  readonly below = new MemoryDevice({ name: 'a', sizeBytes: 4 * MIB });
  readonly faulty = new FaultyDevice(this.below);
  readonly store = new MemoryDevice({ name: 'b', sizeBytes: 4 * MIB });
  readonly cached: CachedDevice;
  readonly origin = new Volume('vg/o', { targets });
  readonly snapshot = new Volume('vg/s', { targets });
  readonly #ids: object;
  readonly #cowId: string;

  constructor(name: string) {
    this.cached = new BlockCache({ sizeBytes: MIB, policy: 'writeback', scheduler: 'none' }).attach(this.faulty);
    this.#ids = { originId: `origin: ${name}`, origin: { name: 'vg/o', table: [linear(0, SECTORS, 'a', 0)] } };
    this.#cowId = `store: ${name}`;
  }

  readonly resolve = (name: string): CachedDevice | MemoryDevice => (name === 'a' ? this.cached : this.store);

  /** The origin is live, without the snapshot or with it. */
  async open(snapshots: boolean): Promise<void> {
    const params = { ...this.#ids, snapshots: [this.#cowId] };
    const origin = { start: 0, length: SECTORS, target: 'snapshot-origin', params };
    this.origin.load([snapshots ? origin : linear(0, SECTORS, 'a', 0)], this.resolve);
    if (snapshots) await this.prepare();
    this.origin.resume();
    if (snapshots) this.snapshot.resume();
  }

  async prepare(): Promise<void> {
    const cow = { name: 'vg/s-cow', table: [linear(0, 2 * SECTORS, 'b', 0)] };
    const params = { ...this.#ids, cow, cowId: this.#cowId, persistent: 'P', chunkSize: 8 };
    this.snapshot.load([{ start: 0, length: SECTORS, target: 'snapshot', params }], this.resolve);
    await this.snapshot.prepare();
  }

  /** Something is written to the origin, and while `work` is done its device takes none of it. */
  async refusing(work: () => Promise<unknown>): Promise<void> {
    await performOk(this.origin, { op: Op.write, offset: 0, buffer: BYTES });
    this.faulty.decide = ({ op }) => (op === Op.write ? { kind: 'fail', errno: Errno.EIO } : { kind: 'pass' });
    await work();
    this.faulty.decide = () => ({ kind: 'pass' });
  }

  async assertKept(): Promise<void> {
    await performOk(this.origin, { op: Op.flush });
    assert.ok(BYTES.equals(await readAt(this.below, 0, BYTES.length)), 'acknowledged bytes are gone');
  }
}

describe('a snapshot whose origin has unwritten bytes on a device that refuses for a moment', () => {
  for (const end of ['clear', 'close'] as const) {
    test(`a new one that is dropped (${end}) gives up none of them`, async () => {
      const pair = new Pair(`dropped by ${end}`);
      await pair.open(false);
      await pair.prepare();
      await pair.refusing(() => pair.snapshot[end]());
      await pair.assertKept();
    });
  }

  test('nor does one that is closed', async () => {
    const pair = new Pair('closed');
    await pair.open(true);
    await pair.refusing(() => pair.snapshot.close());
    await pair.assertKept();
  });

  test('nor one that is suspended', async () => {
    const pair = new Pair('suspended');
    await pair.open(true);
    await pair.refusing(async () => {
      await pair.snapshot.suspend();
      pair.snapshot.resume();
    });
    await pair.assertKept();
  });

  test('nor does one whose origin is a device by name', async () => {
    const pair = new Pair('by name');
    await pair.open(false);
    const params = {
      origin: 'a',
      cow: 'b',
      cowId: 'store: named',
      originId: 'origin: named',
      persistent: 'P',
      chunkSize: 8,
    };
    pair.snapshot.load([{ start: 0, length: SECTORS, target: 'snapshot', params }], pair.resolve);
    pair.snapshot.resume();
    await pair.refusing(() => pair.snapshot.close());
    await pair.assertKept();
  });
});

test("a snapshot that is dropped does not wait for its origin's device", async () => {
  const pair = new Pair('hangs');
  await pair.prepare();
  pair.faulty.decide = () => ({ kind: 'hold' });
  await pair.snapshot.clear();
  assert.equal(pair.snapshot.table('inactive'), null);
});

describe('a suspend without a flush', () => {
  for (const kind of ['linear', 'snapshot-origin'] as const) {
    test(`writes nothing back, and gives nothing up (${kind})`, async () => {
      const pair = new Pair(`unflushed ${kind}`);
      await pair.open(kind === 'snapshot-origin');
      await pair.refusing(async () => {
        const before = pair.faulty.submitted[Op.write];
        await pair.origin.suspend(undefined, false);
        assert.equal(pair.faulty.submitted[Op.write], before);
        pair.origin.resume();
      });
      await pair.assertKept();
    });

    for (const end of ['a second suspend', 'close'] as const) {
      test(`${end} hands on what it has left (${kind})`, async () => {
        const pair = new Pair(`${end} ${kind}`);
        await pair.open(kind === 'snapshot-origin');
        await performOk(pair.origin, { op: Op.write, offset: 0, buffer: BYTES });
        await pair.origin.suspend(undefined, false);
        if (end === 'close') await pair.origin.close();
        else await pair.origin.suspend();
        assert.ok(BYTES.equals(await readAt(pair.below, 0, BYTES.length)));
        // The extents may be another's now.
        await performOk(pair.below, { op: Op.write, offset: 0, buffer: pattern(4096, 9) });
        await perform(pair.cached, { op: Op.flush });
        assert.ok(pattern(4096, 9).equals(await readAt(pair.below, 0, 4096)));
        if (end === 'close') return;
        pair.origin.resume();
        assert.ok(pattern(4096, 9).equals(await readAt(pair.origin, 0, 4096)), 'what was in memory is of before');
      });
    }
  }
});
