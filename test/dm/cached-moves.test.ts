/**
 * Two volumes on one device, through everything that a device may have before it: whole blocks, a block cache, an order of requests. While one
 * of them is suspended, with requests waiting, somebody else moves its extents and leaves rubbish behind, and it goes on with a table over
 * the new ones, maybe over fewer: what clients read is theirs all the time, and at the end it is on the device.
 *
 * Extents end in the middle of the cache's blocks, so both volumes have bytes in some.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { BlockCache, type CacheOptions } from '../../src/block/cache/block-cache.ts';
import { DeadlineDevice } from '../../src/block/deadline.ts';
import { Errno } from '../../src/block/errors.ts';
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { type IoRequest, Op, RequestFlag, type RequestOwner } from '../../src/block/request.ts';
import type { Table } from '../../src/dm/table.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { type IoCommand, makeRequest } from '../block/harness.ts';
import { linear } from './devices.ts';

const EXTENTS = 90;
const MOVING_EXTENTS = 40;
const STAYING_EXTENTS = 25;
const MOVES = 10;
const ROUNDS = 4;
const MAX_TURNS = 50_000;
const LENGTHS = [30, 600, 5000, 40_000];
const OPS = [Op.read, Op.read, Op.read, Op.read, Op.write, Op.write, Op.write, Op.writeZeroes, Op.discard, Op.flush];

/** xorshift32: from 0 to below `limit`. */
type Random = (limit: number) => number;
function randomFrom(seed: number): Random {
  let state = seed >>> 0 || 1;
  return (limit) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % limit;
  };
}

interface Flight {
  readonly at: number;
  readonly length: number;
  /** The smallest and largest size that the volume has had meanwhile. */
  least: number;
  most: number;
}

/** Who uses a volume, with requests in flight that don't touch each other, and knows what it holds. */
class User implements RequestOwner {
  readonly #volume: Volume;
  readonly #random: Random;
  readonly #bytes: Buffer;
  /** 0 where nobody knows: after a discard, or a change that failed. */
  readonly #known: Buffer;
  readonly #inFlight = new Map<IoRequest, Flight>();
  #size: number;

  constructor(volume: Volume, random: Random) {
    this.#volume = volume;
    this.#random = random;
    this.#size = volume.limits.sizeBytes;
    this.#bytes = Buffer.alloc(this.#size);
    this.#known = Buffer.alloc(this.#size, 1);
  }

  get outstanding(): number {
    return this.#inFlight.size;
  }

  resized(): void {
    this.#size = this.#volume.limits.sizeBytes;
    for (const flight of this.#inFlight.values()) {
      flight.least = Math.min(flight.least, this.#size);
      flight.most = Math.max(flight.most, this.#size);
    }
  }

  step(depth: number): void {
    const random = this.#random;
    if (this.outstanding >= depth) return;
    const op = OPS[random(OPS.length)]!;
    if (op === Op.flush) {
      this.#submit({ op }, 0, 0);
      return;
    }
    const length = 1 + random(LENGTHS[random(LENGTHS.length)]!);
    const at = random(this.#bytes.length - length);
    for (const other of this.#inFlight.values()) if (other.at < at + length && at < other.at + other.length) return;
    const flags = op !== Op.read && random(6) === 0 ? RequestFlag.fua : 0;
    if (op === Op.write) for (let i = at; i < at + length; i++) this.#bytes[i] = random(256);
    else if (op === Op.writeZeroes) this.#bytes.fill(0, at, at + length);
    if (op !== Op.read) this.#known.fill(op === Op.discard ? 0 : 1, at, at + length);
    const buffer = Buffer.alloc(length, 0xee);
    if (op === Op.write) this.#bytes.copy(buffer, 0, at);
    this.#submit(
      { op, offset: at, length, flags, ...(op === Op.read || op === Op.write ? { buffer } : {}) },
      at,
      length,
    );
  }

  readAll(): void {
    this.#submit({ op: Op.read, offset: 0, buffer: Buffer.alloc(this.#bytes.length) }, 0, this.#bytes.length);
  }

  #submit(command: IoCommand, at: number, length: number): void {
    const request = makeRequest(command);
    request.owner = this;
    this.#inFlight.set(request, { at, length, least: this.#size, most: this.#size });
    this.#volume.submit(request);
  }

  ioDone(request: IoRequest): void {
    const flight = this.#inFlight.get(request);
    assert(flight !== undefined, 'a request was completed twice');
    this.#inFlight.delete(request);
    const end = flight.at + flight.length;
    assert(request.error === 0 || (request.error === Errno.EIO && end > flight.least), `errno ${request.error}`);
    assert(request.error !== 0 || end <= flight.most, 'done past the end');
    if (request.error !== 0) this.#known.fill(0, flight.at, end);
    else if (request.op === Op.read) this.compare(request.buffer, flight.at);
  }

  compare(bytes: Buffer, at: number): void {
    for (let i = 0; i < bytes.length; i++) {
      if (this.#known[at + i] === 1)
        assert.equal(bytes[i], this.#bytes[at + i], `byte ${at + i} of ${this.#volume.name}`);
    }
  }
}

interface How {
  /** Bytes that the device takes at least. */
  readonly unit: number;
  readonly extentSectors: number;
  readonly ordered: boolean;
  readonly cache: CacheOptions | null;
}

async function run(how: How, seed: number): Promise<void> {
  const random = randomFrom(seed);
  const { unit, extentSectors } = how;
  const extentBytes = extentSectors * 512;
  const sizeBytes = Math.ceil((EXTENTS * extentBytes + 1024) / unit) * unit;
  const memory = new MemoryDevice({ sizeBytes, requestAlignment: unit, discardPattern: 0xdb });
  const slow = new FaultyDevice(memory);
  slow.decide = () => ({ kind: random(10) < 3 ? 'pass' : random(2) === 0 ? 'hold' : 'holdReply' });
  const ordered = how.ordered ? new DeadlineDevice(slow) : slow;
  const device = how.cache === null ? ordered : new BlockCache(how.cache).attach(ordered);

  const all = Array.from({ length: EXTENTS }, (_, i) => i);
  const others = all.filter((extent) => extent % 3 === 1).slice(0, STAYING_EXTENTS);
  const rest = all.filter((extent) => !others.includes(extent));
  const own = rest.slice(0, MOVING_EXTENTS);
  const free = rest.slice(MOVING_EXTENTS);
  const tableOf = (extents: readonly number[]): Table =>
    extents.map((extent, i) => linear(i * extentSectors, extentSectors, 'device', extent * extentSectors));
  const live = (name: string, extents: readonly number[]): Volume => {
    const volume = new Volume(name, { targets });
    volume.load(tableOf(extents), () => device);
    volume.resume();
    return volume;
  };
  const [moving, staying] = [live('vg/moving', own), live('vg/staying', others)];
  const [mover, stayer] = [new User(moving, random), new User(staying, random)];

  const pass = async (): Promise<void> => {
    const { held } = slow;
    if (held.length > 0) slow.release(held[random(held.length)]!);
    await turn();
  };
  const until = async (done: () => boolean, meanwhile: () => void = () => {}): Promise<void> => {
    for (let left = MAX_TURNS; !done(); left--) {
      assert(left > 0, 'it does not end');
      meanwhile();
      await pass();
    }
  };
  const both = (): void => {
    mover.step(20);
    stayer.step(8);
  };
  const suspend = async (): Promise<void> => {
    let suspended = false;
    const suspending = moving.suspend().then(() => (suspended = true));
    await until(() => suspended, both);
    await suspending;
  };
  const goOnWith = (extents: readonly number[]): void => {
    moving.load(tableOf(extents), () => device);
    moving.resume();
    mover.resized();
  };

  for (let round = 0; round < ROUNDS; round++) {
    for (let i = 0; i < 60; i++) {
      both();
      if (random(3) === 0) await pass();
    }
    await suspend();
    for (let move = 0; move < MOVES; move++) {
      const [i, j] = [random(own.length), random(free.length)];
      const [from, to] = [own[i]!, free[j]!];
      memory.poke(to * extentBytes, memory.peek(from * extentBytes, extentBytes));
      memory.poke(from * extentBytes, Buffer.alloc(extentBytes, 0x66));
      [own[i], free[j]] = [to, from];
    }
    for (let i = 0; i < 10; i++) {
      both();
      await pass();
    }
    goOnWith(random(2) === 0 ? own : own.slice(0, 5 + random(own.length - 5)));
  }
  await until(() => mover.outstanding === 0);
  await suspend();
  goOnWith(own);
  await until(() => mover.outstanding + stayer.outstanding === 0);
  for (const user of [mover, stayer]) user.readAll();
  await until(() => mover.outstanding + stayer.outstanding === 0);

  slow.decide = () => ({ kind: 'pass' });
  slow.releaseAll();
  await Promise.all([moving.close(), staying.close()]);
  await device.close();
  const onDevice = (extents: readonly number[]): Buffer =>
    Buffer.concat(extents.map((extent) => memory.peek(extent * extentBytes, extentBytes)));
  mover.compare(onDevice(own), 0);
  stayer.compare(onDevice(others), 0);
}

function cached(policy: 'writethrough' | 'writeback', sizeBytes: number, ordered: boolean): CacheOptions {
  return {
    policy,
    sizeBytes,
    scheduler: ordered ? 'deadline' : 'none',
    writeDeadlineMs: 5,
  };
}

describe('extents that others move while a volume is suspended', () => {
  for (const ordered of [false, true]) {
    const caches = [
      null,
      ...(['writethrough', 'writeback'] as const).flatMap((policy) =>
        [2 ** 16, 2 ** 20].map((sizeBytes) => cached(policy, sizeBytes, ordered)),
      ),
    ];
    for (const cache of caches) {
      const name = cache === null ? 'no cache' : `${cache.policy}, ${cache.sizeBytes / 1024} KiB of cache`;
      test(`${name}${ordered ? ', in order' : ''}`, async () => {
        for (const [unit, extentSectors] of [
          [512, 5],
          [4096, 8],
        ] as const) {
          const seed = Math.floor(Math.random() * 2 ** 31);
          try {
            await run({ unit, extentSectors, ordered, cache }, seed);
          } catch (error) {
            throw new Error(`with seed ${seed}, units of ${unit} bytes`, { cause: error });
          }
        }
      });
    }
  }
});
