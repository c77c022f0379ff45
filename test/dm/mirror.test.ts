/** The mirror target: what it says, copying, failures of legs, seals, and random requests over devices that delay, reorder and fail. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import * as fc from 'fast-check';
import { Errno } from '../../src/block/errors.ts';
import type { FaultyDevice } from '../../src/block/faulty.ts';
import type { BlockDevice } from '../../src/block/device.ts';
import { type ExtentList, HOLE_STATUS, type StatusDone } from '../../src/block/extents.ts';
import { Op } from '../../src/block/request.ts';
import { mirrorStates } from '../../src/dm/mirror/control.ts';
import { isMirrorDetails, type MirrorDetails } from '../../src/dm/mirror/mirror.ts';
import { SyncMap } from '../../src/dm/mirror/sync-map.ts';
import { TableError } from '../../src/dm/errors.ts';
import type { MirrorParams, Table } from '../../src/dm/table.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { Batch, pattern, perform, performOk, readAt } from '../block/harness.ts';
import { linear, memoryDevices, mirror, striped } from './devices.ts';

const SECTORS = 64;
const SIZE = SECTORS * 512;
const REGION = 8;
const LEGS = [
  ['a', 4],
  ['b', 20],
] as const;
const TABLE = [mirror(0, SECTORS, REGION, LEGS)];

class Stand {
  readonly devices: ReadonlyMap<string, FaultyDevice>;
  readonly volume: Volume = new Volume('vg/lv', { targets });

  /** `fill`: what is on each leg before the table goes live. */
  static async open(table: Table = TABLE, fill?: readonly [Buffer, Buffer]): Promise<Stand> {
    const stand = new Stand();
    for (const [i, [name, sector]] of LEGS.entries()) {
      const buffer = fill?.[i] ?? pattern(SIZE, i + 1);
      await performOk(stand.device(name), { op: Op.write, offset: sector * 512, buffer });
      stand.device(name).submitted.fill(0);
    }
    stand.load(table);
    stand.volume.resume();
    return stand;
  }

  constructor() {
    this.devices = memoryDevices(3, 256);
  }

  load(table: Table): void {
    this.volume.load(table, (name) => this.device(name));
  }

  device(name: string): FaultyDevice {
    return this.devices.get(name)!;
  }

  /** What a leg holds. */
  leg(index: 0 | 1): Promise<Buffer> {
    const [name, sector] = LEGS[index];
    return readAt(this.device(name), sector * 512, SIZE);
  }

  get status(): MirrorDetails {
    const [line] = this.volume.status().lines;
    assert(line !== undefined && isMirrorDetails(line.details));
    return line.details;
  }

  get letters(): string {
    return this.status.mirrors.map(({ state }) => state).join('');
  }

  async inSync(): Promise<void> {
    for (let turns = 0; this.status.regionsInSync < this.status.regions; turns++) {
      assert(turns < 1000, this.volume.statusText());
      await turn();
    }
  }

  fail(name: string, op: number, errno = Errno.EIO): void {
    this.device(name).decide = (request) => (request.op === op ? { kind: 'fail', errno } : { kind: 'pass' });
  }

  pass(): void {
    for (const device of this.devices.values()) device.decide = () => ({ kind: 'pass' });
  }
}

async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await turn();
}

describe('holes of the primary', () => {
  test('are zeroes of the other leg, which is not written otherwise; what only is called a hole is copied', async () => {
    const data = Buffer.concat([pattern(SIZE / 2, 1), Buffer.alloc(SIZE / 2)]);
    // Its file system was not told of these yet.
    data.write('not a hole', SIZE - 10);
    const stand = new Stand();
    await performOk(stand.device('a'), { op: Op.write, offset: 4 * 512, buffer: data });
    await performOk(stand.device('b'), { op: Op.write, offset: 20 * 512, buffer: pattern(SIZE, 2) });
    stand.device('b').submitted.fill(0);
    // As an image file: the second half of the leg is a hole.
    const hole = 4 * 512 + SIZE / 2;
    const full = stand.device('a');
    const sparse: BlockDevice = {
      name: full.name,
      limits: full.limits,
      submit: (request) => full.submit(request),
      close: () => full.close(),
      blockStatus(offset: number, length: number, extents: ExtentList, done: StatusDone): void {
        const known = Math.max(0, Math.min(length, hole - offset));
        extents.add(known, 0);
        extents.add(length - known, HOLE_STATUS);
        setImmediate(done, 0);
      },
    };
    stand.volume.load(TABLE, (name) => (name === 'a' ? sparse : stand.device(name)));
    stand.volume.resume();
    await stand.inSync();
    assert.ok((await stand.leg(1)).equals(data));
    const { submitted } = stand.device('b');
    assert.deepEqual([submitted[Op.write], submitted[Op.writeZeroes]], [5, 3]);
    await stand.volume.close();
  });
});

describe('what a mirror says', () => {
  test('table and status as dmsetup prints them', async () => {
    const { volume, ...stand } = await Stand.open();
    assert.equal(volume.tableText(), '0 64 mirror core 1 8 2 a 4 b 20\n');
    assert.equal(volume.statusText(), '0 64 mirror 2 a b 0/8 1 AA 1 core\n');
    assert.equal(stand.devices.size, 3);
    const options = { sync: 'nosync', features: ['handle_errors'] } as const;
    const other = await Stand.open([mirror(0, SECTORS, 16, LEGS, options)]);
    assert.equal(other.volume.tableText(), '0 64 mirror core 2 16 nosync 2 a 4 b 20 1 handle_errors\n');
    assert.equal(other.volume.statusText(), '0 64 mirror 2 a b 4/4 1 AA 1 core\n');
  });

  test('parameters that are not a mirror', () => {
    const good: MirrorParams = {
      log: { type: 'core', regionSize: 8 },
      mirrors: LEGS.map(([device, offset]) => ({ device, offset })),
    };
    const cases: readonly (readonly [unknown, RegExp])[] = [
      [{ ...good, mirrors: good.mirrors.slice(1) }, /mirrors: expected a list of 2 to 9 mirrors/],
      [{ ...good, log: { type: 'disk', regionSize: 8 } }, /log\.type: expected "core"/],
      [{ ...good, log: { type: 'core', regionSize: 12 } }, /log\.regionSize: expected a power of two/],
      [{ ...good, log: { type: 'core', regionSize: 128 } }, /log\.regionSize: a region of 128 sectors is larger/],
      [{ ...good, log: { type: 'core', regionSize: 8, sync: 'no' } }, /log\.sync: expected "sync" or "nosync"/],
      [{ ...good, features: ['keep_log'] }, /features\[0\]: expected "handle_errors"/],
      [{ ...good, other: 1 }, /other: expected log, mirrors, features/],
    ];
    const stand = new Stand();
    for (const [params, message] of cases) {
      assert.throws(
        () => stand.load([{ start: 0, length: SECTORS, target: 'mirror', params }]),
        (error) => error instanceof TableError && message.test(error.message),
      );
    }
  });

  test('messages', async () => {
    const { volume } = await Stand.open();
    await assert.rejects(volume.message(0, ['jump']), /takes seal, unseal and restart, not "jump"/);
  });
});

describe('copying', () => {
  test('the primary is copied, and only where it is not in sync', async () => {
    const stand = await Stand.open();
    const content = await stand.leg(0);
    await stand.inSync();
    assert.deepEqual(await stand.leg(1), content);
    const nosync = await Stand.open([mirror(0, SECTORS, REGION, LEGS, { sync: 'nosync' })]);
    await turns(10);
    assert.deepEqual(await nosync.leg(1), pattern(SIZE, 2));
  });

  test('a write waits for the copy of its chunk, and no other', async () => {
    const stand = await Stand.open();
    stand.device('b').decide = ({ op }) => (op === Op.write ? { kind: 'hold' } : { kind: 'pass' });
    await stand.device('b').whenHeld(1);
    const batch = new Batch();
    const inside = batch.submit(stand.volume, { op: Op.write, offset: 600, buffer: pattern(100, 7) });
    const outside = batch.submit(stand.volume, { op: Op.write, offset: SIZE - 512, buffer: pattern(512, 8) });
    await turns(5);
    assert.deepEqual(batch.completed, [outside]);
    stand.pass();
    stand.device('b').releaseAll();
    await batch.done();
    assert.equal(inside.error, 0);
    await stand.inSync();
    assert.deepEqual(await stand.leg(1), await stand.leg(0));
    assert.deepEqual((await stand.leg(1)).subarray(600, 700), pattern(100, 7));
  });

  test('one chunk at a time while clients have requests in flight', async () => {
    const stand = new Stand();
    stand.load(TABLE);
    stand.device('a').decide = ({ length }) => (length < 100 ? { kind: 'hold' } : { kind: 'pass' });
    stand.volume.resume();
    const copying: number[] = [];
    stand.device('b').decide = ({ op }) => (op === Op.write ? { kind: 'hold' } : { kind: 'pass' });
    await stand.device('b').whenHeld(4);
    // Four were begun while nobody was there.
    const batch = new Batch();
    batch.submit(stand.volume, { op: Op.read, offset: 0, buffer: Buffer.alloc(50) });
    for (let round = 0; round < 8; round++) {
      const [first] = stand.device('b').held;
      if (first === undefined) break;
      stand.device('b').release(first);
      await turns(6);
      copying.push(stand.device('b').held.length);
    }
    assert.deepEqual(copying, [3, 2, 1, 1, 1, 1, 1, 0]);
    stand.device('a').releaseAll();
    await batch.done();
    await stand.inSync();
  });

  test('a suspend stops it, a resume goes on where it was', async () => {
    const stand = await Stand.open();
    let copied = 0;
    stand.device('b').decide = ({ op }) => (op === Op.write && ++copied > 3 ? { kind: 'hold' } : { kind: 'pass' });
    await stand.device('b').whenHeld(1);
    const suspended = stand.volume.suspend();
    await turns(5);
    assert.equal(stand.volume.state, 'suspending', 'what is under way is waited for');
    stand.pass();
    stand.device('b').releaseAll();
    await suspended;
    const before = stand.device('a').submitted.slice();
    await turns(10);
    assert.deepEqual(stand.device('a').submitted, before, 'nothing is done while it is suspended');
    const half = stand.status.regionsInSync;
    assert(half > 0 && half < 8);
    stand.volume.resume();
    await stand.inSync();
    assert.equal(stand.device('a').submitted[Op.read], 8, 'nothing was copied twice');
    assert.deepEqual(await stand.leg(1), await stand.leg(0));
  });

  test('a suspend that is given up lets it go on', async () => {
    const stand = await Stand.open();
    stand.device('b').decide = ({ op }) => (op === Op.write ? { kind: 'hold' } : { kind: 'pass' });
    await stand.device('b').whenHeld(1);
    const abort = new AbortController();
    const suspended = stand.volume.suspend(abort.signal);
    await turns(3);
    abort.abort();
    await assert.rejects(suspended, /was aborted/);
    stand.pass();
    stand.device('b').releaseAll();
    await stand.inSync();
  });
});

describe('failures of legs', () => {
  test('a copy that fails on the destination ends copying until it is told to begin again', async () => {
    const stand = await Stand.open();
    stand.fail('b', Op.write);
    await turns(20);
    assert.deepEqual([stand.letters, stand.status.broken], ['AS', true]);
    const [, writes = 0] = stand.device('b').submitted;
    await performOk(stand.volume, { op: Op.write, offset: 0, buffer: pattern(512, 5) });
    assert.equal(stand.device('b').submitted[Op.write], writes, 'out of sync: the primary alone');
    stand.pass();
    await stand.volume.message(0, ['restart']);
    await stand.inSync();
    assert.equal(stand.letters, 'AA');
    assert.deepEqual(await stand.leg(1), await stand.leg(0));
  });

  test('a copy that fails on the source', async () => {
    const stand = new Stand();
    stand.load(TABLE);
    stand.fail('a', Op.read);
    stand.volume.resume();
    await turns(20);
    assert.deepEqual([stand.letters, stand.status.regionsInSync], ['SA', 0]);
  });

  test('a write that the destination fails is acknowledged, and its region out of sync', async () => {
    const stand = await Stand.open();
    await stand.inSync();
    stand.fail('b', Op.write);
    await performOk(stand.volume, { op: Op.write, offset: 4096 + 100, buffer: pattern(300, 9) });
    assert.equal(stand.volume.statusText(), '0 64 mirror 2 a b 7/8 1 AD 1 core\n');
    assert.deepEqual(await readAt(stand.volume, 4096 + 100, 300), pattern(300, 9));
  });

  test('a write that the primary fails, fails', async () => {
    const stand = await Stand.open();
    await stand.inSync();
    stand.fail('a', Op.write, Errno.ENOSPC);
    const errno = await perform(stand.volume, { op: Op.write, offset: 0, buffer: pattern(300, 9) });
    assert.deepEqual([errno, stand.letters, stand.status.regionsInSync], [Errno.ENOSPC, 'DA', 7]);
  });

  test('a read that the primary fails is done by another leg, where it is in sync', async () => {
    const stand = await Stand.open();
    await stand.inSync();
    const content = await stand.leg(0);
    stand.fail('a', Op.read);
    assert.deepEqual(await readAt(stand.volume, 5000, 3000), content.subarray(5000, 8000));
    assert.equal(stand.letters, 'RA');
    stand.fail('b', Op.read);
    assert.equal(await perform(stand.volume, { op: Op.read, buffer: Buffer.alloc(100) }), Errno.EIO);
    const fresh = new Stand();
    fresh.load(TABLE);
    fresh.fail('a', Op.read);
    fresh.volume.resume();
    assert.equal(await perform(fresh.volume, { op: Op.read, buffer: Buffer.alloc(100) }), Errno.EIO);
  });

  test('a flush that the destination fails puts everything out of sync; one that the primary fails, fails', async () => {
    const stand = await Stand.open();
    await stand.inSync();
    stand.fail('b', Op.flush);
    await performOk(stand.volume, { op: Op.flush });
    assert.deepEqual([stand.letters, stand.status.regionsInSync], ['AF', 0]);
    stand.pass();
    stand.fail('a', Op.flush);
    assert.equal(await perform(stand.volume, { op: Op.flush }), Errno.EIO);
    stand.pass();
    await stand.volume.message(0, ['restart']);
    await stand.inSync();
  });

  test('a copy that was under way when a flush failed is worth nothing', async () => {
    const stand = await Stand.open();
    let copied = 0;
    stand.device('b').decide = ({ op }) => {
      if (op === Op.flush) return { kind: 'fail', errno: Errno.EIO };
      return op === Op.write && ++copied === 8 ? { kind: 'holdReply' } : { kind: 'pass' };
    };
    await stand.device('b').whenHeld(1);
    await performOk(stand.volume, { op: Op.flush });
    await stand.volume.message(0, ['restart']);
    stand.pass();
    stand.device('b').releaseAll();
    await stand.inSync();
    assert.equal(stand.device('a').submitted[Op.read], 16, 'everything was copied again');
  });

  test('a discard may fail anywhere but on the primary', async () => {
    const stand = await Stand.open();
    await stand.inSync();
    stand.fail('b', Op.discard);
    await performOk(stand.volume, { op: Op.discard, offset: 0, length: SIZE });
    assert.deepEqual([stand.letters, stand.status.regionsInSync], ['AA', 8]);
    stand.fail('a', Op.discard);
    assert.equal(await perform(stand.volume, { op: Op.discard, offset: 0, length: 4096 }), Errno.EIO);
  });
});

describe('seals', () => {
  test('only what is in sync can be sealed, and its flush comes first', async () => {
    const stand = await Stand.open();
    await assert.rejects(stand.volume.message(0, ['seal']), /not in sync/);
    await stand.inSync();
    stand.fail('b', Op.flush);
    await assert.rejects(stand.volume.message(0, ['seal']), /not in sync/);
    stand.pass();
    await stand.volume.message(0, ['restart']);
    await stand.inSync();
    await stand.volume.message(0, ['seal']);
    assert(stand.status.sealed);
  });

  test('a write that any leg fails, fails; over a suspend too', async () => {
    const stand = await Stand.open();
    await stand.inSync();
    await stand.volume.message(0, ['seal']);
    await stand.volume.suspend();
    stand.volume.resume();
    assert(stand.status.sealed);
    stand.fail('b', Op.write);
    assert.equal(await perform(stand.volume, { op: Op.write, buffer: pattern(10, 1) }), Errno.EIO);
    stand.fail('b', Op.flush);
    assert.equal(await perform(stand.volume, { op: Op.flush }), Errno.EIO);
    await stand.volume.message(0, ['unseal']);
    await performOk(stand.volume, { op: Op.flush });
  });

  test('in layers, at any depth', async () => {
    const layer = { name: 'vg/pvmove0', table: TABLE };
    const stand = await Stand.open([
      linear(0, 32, layer, 8),
      striped(32, 64, 8, [
        ['c', 0],
        [
          {
            name: 'vg/pvmove0',
            table: [
              linear(
                0,
                32,
                {
                  ...layer,
                  table: [
                    mirror(0, 32, 8, [
                      ['b', 100],
                      ['c', 100],
                    ]),
                  ],
                },
                0,
              ),
            ],
          },
          0,
        ],
      ]),
    ]);
    const states = (): ReturnType<typeof mirrorStates> => mirrorStates(stand.volume.status(), 'vg/pvmove0');
    assert.deepEqual(
      states().map(({ sector, sizeBytes }) => [sector, sizeBytes]),
      [
        [0, SIZE],
        [32, SIZE / 2],
      ],
    );
    for (let i = 0; i < 100 && states().some(({ bytesInSync, sizeBytes }) => bytesInSync < sizeBytes); i++)
      await turn();
    for (const { sector } of states()) await stand.volume.message(sector, ['seal']);
    assert(states().every(({ sealed }) => sealed));
    assert.deepEqual(mirrorStates(stand.volume.status(), 'vg/other'), []);
    stand.load([linear(0, 64, 'a', 4)]);
    await stand.volume.suspend();
    stand.volume.resume();
    assert.deepEqual(mirrorStates(stand.volume.status(), 'vg/pvmove0'), []);
    await assert.rejects(stand.volume.message(0, ['seal']), /take no messages/);
  });
});

const HANDLING: Table = [mirror(0, SECTORS, REGION, LEGS, { features: ['handle_errors'] })];

describe('handle_errors', () => {
  for (const [name, table] of [
    ['at the top', HANDLING],
    ['in a layer', [linear(0, SECTORS, { name: 'vg/lv_mimage', table: HANDLING }, 0)]],
  ] as const) {
    test(`a write that a leg failed waits until somebody reacts, ${name}`, async () => {
      const stand = await Stand.open(table, [Buffer.alloc(SIZE, 1), Buffer.alloc(SIZE, 1)]);
      await turns(40);
      for (const failing of ['a', 'b']) {
        stand.fail(failing, Op.write);
        const batch = new Batch();
        const fill = failing.charCodeAt(0);
        batch.submit(stand.volume, { op: Op.write, offset: 1000, buffer: Buffer.alloc(9000, fill) });
        await turns(20);
        assert.equal(batch.completed.length, 0);
        const suspended = stand.volume.suspend();
        batch.submit(stand.volume, { op: Op.write, offset: 20_000, buffer: Buffer.alloc(10, fill) });
        await suspended;
        assert.equal(stand.volume.status().waiting, 2);
        stand.pass();
        // What lvconvert --repair would load: the leg that is left.
        stand.load([linear(0, SECTORS, failing === 'a' ? 'b' : 'a', failing === 'a' ? 20 : 4)]);
        stand.volume.resume();
        await batch.done();
        assert.deepEqual(
          batch.completed.map(({ error }) => error),
          [0, 0],
        );
        assert.deepEqual(await readAt(stand.volume, 1000, 9000), Buffer.alloc(9000, fill));
        stand.load(table);
        await stand.volume.suspend();
        stand.volume.resume();
        await turns(40);
      }
      await stand.volume.close();
    });
  }

  test('a primary that fails while all is in sync is replaced; closing fails what waits', async () => {
    const stand = await Stand.open(HANDLING);
    await stand.inSync();
    stand.fail('a', Op.write);
    const batch = new Batch();
    const waiting = batch.submit(stand.volume, { op: Op.write, offset: 0, buffer: pattern(512, 3) });
    await turns(10);
    assert.deepEqual(await readAt(stand.volume, 0, 512), pattern(512, 3), 'the leg that took it is the truth');
    const closing = stand.volume.close();
    await batch.done();
    assert.equal(waiting.error, Errno.EIO);
    await closing;
  });
});

test('a sync map counts regions of several chunks, the last one short', () => {
  const mib = 2 ** 20;
  const map = new SyncMap(9 * mib + 512, 4 * mib, false);
  assert.deepEqual([map.chunks, map.regions, map.bytesInSync], [10, 3, 0]);
  for (const chunk of [0, 1, 2, 9]) map.set(chunk, true);
  assert.deepEqual([map.regionsInSync, map.bytesInSync], [0, 3 * mib + 512]);
  map.set(3, true);
  assert.equal(map.regionsInSync, 1);
  map.set(8, true);
  assert.deepEqual([map.regionsInSync, map.nextOutOfSync(0), map.complete], [2, 4, false]);
  for (let chunk = 4; chunk < 8; chunk++) map.set(chunk, true);
  assert(map.complete && map.bytesInSync === 9 * mib + 512);
  assert.equal(map.lose(8 * mib - 1, 8 * mib + 1), 7);
  assert.deepEqual([map.regionsInSync, map.allInSync(0, mib), map.anyInSync(7 * mib, 8 * mib + 5)], [1, true, false]);
});

/** Requests that overlap and race as they like, on devices that hold, reorder and fail. */
interface Play {
  readonly requests: readonly {
    readonly op: Op;
    readonly start: number;
    readonly length: number;
    readonly fill: number;
  }[];
  readonly dice: readonly number[];
  readonly failures: number;
}

const plays: fc.Arbitrary<Play> = fc.record({
  requests: fc.array(
    fc.record({
      op: fc.constantFrom(Op.write, Op.write, Op.write, Op.writeZeroes, Op.read, Op.flush),
      start: fc.nat(SIZE - 1),
      length: fc.integer({ min: 1, max: 6000 }),
      fill: fc.integer({ min: 1, max: 255 }),
    }),
    { minLength: 1, maxLength: 40 },
  ),
  dice: fc.array(fc.nat(99), { minLength: 50, maxLength: 200 }),
  failures: fc.constantFrom(0, 0, 3, 15),
});

test('legs are the same wherever they are in sync, whatever races, fails and is reordered', async () => {
  await fc.assert(
    fc.asyncProperty(plays, async ({ requests, dice, failures }) => {
      const stand = await Stand.open();
      let at = 0;
      const roll = (): number => dice[at++ % dice.length]!;
      for (const device of stand.devices.values()) {
        device.decide = () => {
          const chance = roll();
          if (chance < failures) return { kind: 'fail', errno: Errno.EIO };
          return chance < 60 ? { kind: 'hold' } : { kind: 'pass' };
        };
      }
      const batch = new Batch();
      const acknowledged: { start: number; end: number; fill: number }[] = [];
      const release = (): void => {
        const held = [...stand.devices.values()].flatMap((device) =>
          device.held.map((request) => ({ device, request })),
        );
        const chosen = held[roll() % Math.max(held.length, 1)];
        if (chosen !== undefined) chosen.device.release(chosen.request);
      };
      const sent = requests.map(({ op, start, length, fill }) => {
        const bounded = Math.min(length, SIZE - start);
        const buffer = Buffer.alloc(bounded, fill);
        const request = batch.submit(stand.volume, op === Op.flush ? { op } : { op, offset: start, buffer });
        for (let count = roll() % 3; count > 0; count--) release();
        return { request, op, start, end: start + bounded, fill: op === Op.write ? fill : 0 };
      });
      while (batch.outstanding > 0) {
        release();
        if (roll() < 40) await turn();
      }
      stand.pass();
      for (let i = 0; i < 4; i++) {
        for (const device of stand.devices.values()) device.releaseAll();
        await turn();
      }
      for (const { request, op, start, end, fill } of sent) {
        if (request.error === 0 && (op === Op.write || op === Op.writeZeroes)) acknowledged.push({ start, end, fill });
      }
      await stand.volume.message(0, ['restart']);
      await stand.inSync();
      const [primary, other] = [await stand.leg(0), await stand.leg(1)];
      assert(primary.equals(other), 'the legs differ');
      // A byte is what one of the changes that reached it wrote; where all of them were acknowledged, not what was there before.
      const old = pattern(SIZE, 1);
      for (let byte = 0; byte < SIZE; byte += 13) {
        const touching = sent.filter(
          ({ op, start, end }) => op !== Op.read && op !== Op.flush && byte >= start && byte < end,
        );
        const possible = new Set(touching.map(({ fill }) => fill));
        if (!acknowledged.some(({ start, end }) => byte >= start && byte < end)) possible.add(old[byte]!);
        assert(possible.has(primary[byte]!), `byte ${byte}`);
      }
      await stand.volume.close();
    }),
    { numRuns: 250 },
  );
});
