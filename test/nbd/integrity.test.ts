/**
 * A data-integrity load through the whole path, on every engine, buffered, direct, and behind the block cache, on files and loop devices: four
 * connections with up to 16 commands each in flight, of mixed sizes, unaligned, with trims, zeroes, CACHE, FUA and flushes between;
 * everything that is read, and at the end what is on the devices, is compared with a model.
 *
 * It runs for less than a second each; ORION_LVM_INTEGRITY_SECONDS=300 makes it a soak. Loop devices need root.
 */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { BlockCache, type CacheOptions } from '../../src/block/cache/block-cache.ts';
import type { OpenedDevice } from '../../src/block/device.ts';
import { openBlockDevice, type OpenOptions } from '../../src/block/open.ts';
import type { Table } from '../../src/dm/table.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { BufferPool } from '../../src/nbd/buffer-pool.ts';
import { readAt, temporaryFile, temporaryLoop, type TemporaryFile } from '../block/harness.ts';
import { makeExport, TestDirectory } from './exports.ts';
import { LocalServer } from './local-server.ts';
import { CMD, request, WireClient } from './wire.ts';

const MIB = 2 ** 20;
const SECONDS = Number(process.env['ORION_LVM_INTEGRITY_SECONDS'] ?? 0.4);
const CLIENTS = 4;
const MIN_COMMANDS = 50;
const DEPTH = 16;
const { read, write, trim, writeZeroes, flush, cache: readAhead } = CMD;
const COMMANDS = [read, read, write, write, trim, writeZeroes, flush, readAhead];
/** No multiple of any block, so that clients share blocks at their borders. */
const SLICE_BYTES = 3 * MIB + 333;
const DEVICE_BYTES = 16 * MIB;
/** 4 MiB of the first device, then 10 MiB of 64 KiB chunks over both. */
const TABLE: Table = [
  { start: 0, length: 8192, target: 'linear', params: { device: 'a', offset: 0 } },
  {
    start: 8192,
    length: 20_480,
    target: 'striped',
    params: {
      chunkSize: 128,
      stripes: [
        { device: 'a', offset: 9216 },
        { device: 'b', offset: 2048 },
      ],
    },
  },
];

/** xorshift32: repeats from its seed. */
class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0 || 1;
  }

  /** From 0 to limit - 1. */
  below(limit: number): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return (this.#state >>> 0) % limit;
  }

  /** Lengths as file systems and databases have them, and odd ones. */
  length(): number {
    const sizes = [512, 4096, 4096, 16_384, 65_536, 131_072, 600_000];
    const size = sizes[this.below(sizes.length)]!;
    return this.below(3) === 0 ? 1 + this.below(size) : size;
  }

  fill(buffer: Buffer): Buffer {
    const seed = this.below(2 ** 31);
    for (let i = 0; i < buffer.length; i++) buffer[i] = (seed + Math.imul(i, 2_654_435_761)) >>> 13;
    return buffer;
  }
}

/** One client on a slice of the volume that is its own. */
class Load {
  readonly #client: WireClient;
  readonly #base: number;
  readonly #random: Random;
  readonly bytes: Buffer = Buffer.alloc(SLICE_BYTES);
  /** 0 where a trim has left what nobody knows. */
  readonly #known: Buffer = Buffer.alloc(SLICE_BYTES, 1);
  commands = 0;

  constructor(client: WireClient, index: number, seed: number) {
    this.#client = client;
    this.#base = index * SLICE_BYTES;
    this.#random = new Random(seed + index);
  }

  /** Until `due`, and for MIN_COMMANDS: a busy machine does little in a moment. */
  async run(due: () => boolean): Promise<void> {
    const until = (): boolean => due() && this.commands >= MIN_COMMANDS;
    const inFlight = new Map<bigint, { readonly type: number; readonly at: number; readonly length: number }>();
    while (!until() || inFlight.size > 0) {
      const batch: Buffer[] = [];
      while (!until() && inFlight.size < DEPTH) {
        const cookie = BigInt(++this.commands);
        const type = COMMANDS[this.#random.below(COMMANDS.length)]!;
        const length = type === CMD.flush ? 0 : this.#random.length();
        const at = this.#random.below(SLICE_BYTES - length);
        if ([...inFlight.values()].some((other) => other.at < at + length && at < other.at + other.length)) break;
        inFlight.set(cookie, { type, at, length });
        batch.push(this.#command(type, cookie, at, length));
      }
      if (batch.length > 0) this.#client.send(...batch);
      if (inFlight.size === 0) continue;
      const header = await this.#client.take(16);
      const cookie = header.readBigUInt64BE(8);
      const done = inFlight.get(cookie);
      assert(done !== undefined, `an answer to ${cookie}, which nobody asked`);
      assert.equal(header.readUInt32BE(4), 0, `command ${done.type} at ${done.at}+${done.length}`);
      if (done.type === CMD.read) this.#compare(await this.#client.take(done.length), done.at);
      inFlight.delete(cookie);
    }
  }

  #command(type: number, cookie: bigint, at: number, length: number): Buffer {
    const flags = type !== CMD.read && type !== CMD.flush && this.#random.below(8) === 0 ? 1 : 0;
    const offset = type === CMD.flush ? 0 : this.#base + at;
    if (type === CMD.write) {
      const payload = this.#random.fill(this.bytes.subarray(at, at + length));
      this.#known.fill(1, at, at + length);
      return request({ type, flags, cookie, offset, payload });
    }
    if (type === CMD.trim) this.#known.fill(0, at, at + length);
    if (type === CMD.writeZeroes) {
      this.bytes.fill(0, at, at + length);
      this.#known.fill(1, at, at + length);
    }
    return request({
      type,
      flags: type === CMD.writeZeroes ? flags | (cookie % 2n === 0n ? 2 : 0) : flags,
      cookie,
      offset,
      length,
    });
  }

  #compare(actual: Buffer, at: number): void {
    if (actual.equals(this.bytes.subarray(at, at + actual.length))) return;
    for (let i = 0; i < actual.length; i++) {
      const known = this.#known[at + i] === 1;
      if (known) assert.equal(actual[i], this.bytes[at + i], `byte ${at + i} of the slice at ${this.#base}`);
    }
  }

  checkAgainst(volumeBytes: Buffer): void {
    this.#compare(volumeBytes.subarray(this.#base, this.#base + SLICE_BYTES), 0);
  }
}

let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'orion-integrity-'));
});
after(() => {
  rmSync(folder, { recursive: true });
});

interface How extends OpenOptions {
  /** A block cache before the devices; default: none. */
  readonly cache?: CacheOptions;
}

async function openVolume(
  paths: readonly string[],
  how: How,
): Promise<{ readonly volume: Volume; readonly close: () => Promise<void> }> {
  const devices: OpenedDevice[] = [];
  const cache = how.cache === undefined ? null : new BlockCache(how.cache);
  for (const path of paths) {
    const device = await openBlockDevice(path, how);
    devices.push(cache === null ? device : cache.attach(device));
  }
  const volume = new Volume('vg/lv', { targets });
  volume.load(TABLE, (name) => devices[name === 'a' ? 0 : 1]!);
  volume.resume();
  const close = async (): Promise<void> => {
    await volume.close();
    await Promise.all(devices.map((device) => device.close()));
  };
  return { volume, close };
}

async function load(made: readonly TemporaryFile[], how: How): Promise<void> {
  const seed = Math.floor(Math.random() * 2 ** 31);
  const paths = made.map(({ path }) => path);
  const { volume, close } = await openVolume(paths, how);
  const directory = new TestDirectory([makeExport({ volume })]);
  const buffers = new BufferPool({ poison: true });
  const server = new LocalServer({ directory, buffers });
  const path = join(folder, 'nbd.sock');
  await server.listen({ kind: 'unix', path });
  const end = performance.now() + SECONDS * 1000;
  const clients: WireClient[] = [];
  const loads: Load[] = [];
  try {
    for (let i = 0; i < CLIENTS; i++) {
      const client = await WireClient.open(path);
      await client.attach('vg/lv');
      clients.push(client);
      loads.push(new Load(client, i, seed));
    }
    await Promise.all(loads.map((one) => one.run(() => performance.now() > end)));
  } catch (error) {
    throw new Error(`with seed ${seed}`, { cause: error });
  } finally {
    for (const client of clients) client.close();
    await server.close();
    await close();
  }
  assert.equal(buffers.outstanding, 0);
  // As anybody else sees it, through the page cache.
  const again = await openVolume(paths, { engine: 'threads', readOnly: true });
  const bytes = await readAt(again.volume, 0, CLIENTS * SLICE_BYTES);
  for (const one of loads) one.checkAgainst(bytes);
  await again.close();
}

describe('data integrity', () => {
  for (const engine of ['threads', 'uring'] as const) {
    for (const direct of [false, true]) {
      const how = `${engine}${direct ? ', direct' : ''}`;
      test(`on files (${how})`, async () => {
        const made = [await temporaryFile(DEVICE_BYTES), await temporaryFile(DEVICE_BYTES)];
        await load(made, { engine, direct });
        for (const { dispose } of made) await dispose();
      });
      test(`on a file and a loop device with 4096-byte blocks (${how})`, async () => {
        const made = [await temporaryFile(DEVICE_BYTES), await temporaryLoop(DEVICE_BYTES, ['--sector-size', '4096'])];
        await load(made, { engine, direct });
        for (const { dispose } of made) await dispose();
      });
    }
    for (const policy of ['writethrough', 'writeback'] as const) {
      // All of it has room in the one; the other writes back and evicts all the time.
      for (const sizeBytes of [64 * MIB, MIB]) {
        const cache = { sizeBytes, policy, scheduler: 'deadline', writeDeadlineMs: 20 } as const;
        const how = `${engine}, direct, ${policy}, ${sizeBytes / MIB} MiB of cache`;
        test(`on a file and a loop device (${how})`, async () => {
          const made = [await temporaryFile(DEVICE_BYTES), await temporaryLoop(DEVICE_BYTES)];
          await load(made, { engine, direct: true, cache });
          for (const { dispose } of made) await dispose();
        });
      }
    }
    test(`on tmpfs (${engine})`, async () => {
      const made = [await temporaryFile(DEVICE_BYTES, '/dev/shm'), await temporaryFile(DEVICE_BYTES, '/dev/shm')];
      await load(made, { engine });
      for (const { dispose } of made) await dispose();
    });
  }
});
