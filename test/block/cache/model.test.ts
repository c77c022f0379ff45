/**
 * The block cache against a history of every sector: requests of all kinds in flight together, overlapping as they like, over a
 * device that ends them in any order.
 *
 * A read may give what a change wrote that began before the read ended, unless another change that began after that one's end had
 * ended before the read began. When all is quiet, memory and device must hold the same.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { BlockCache, type CacheOptions } from '../../../src/block/cache/block-cache.ts';
import type { CachedDevice } from '../../../src/block/cache/cached-device.ts';
import { FaultyDevice } from '../../../src/block/faulty.ts';
import { MemoryDevice } from '../../../src/block/memory.ts';
import { Op, RequestFlag, type IoRequest, type RequestOwner } from '../../../src/block/request.ts';
import { makeRequest, performOk, readAt } from '../harness.ts';

const SECTOR = 512;
const SECTORS = 256;
const FOREVER = Number.MAX_SAFE_INTEGER;

interface Step {
  readonly kind: 'read' | 'write' | 'fua' | 'discard' | 'zero' | 'flush' | 'enter' | 'leave' | 'release';
  readonly sector: number;
  readonly count: number;
}

/** A change of a sector: what it writes, and when. */
interface Change {
  readonly value: number;
  readonly begun: number;
  ended: number;
}

/** Every change of every sector, on a clock of its own. */
class History {
  readonly #changes: Change[][] = Array.from({ length: SECTORS }, () => [{ value: 0, begun: -1, ended: 0 }]);
  now = 1;

  begin(sector: number, count: number, value: number): Change {
    const change = { value, begun: this.now++, ended: FOREVER };
    for (let at = sector; at < sector + count; at++) this.#changes[at]!.push(change);
    return change;
  }

  check(sector: number, value: number, begun: number): void {
    const changes = this.#changes[sector]!;
    const allowed = changes.filter(
      (change) => !changes.some((other) => other.begun > change.ended && other.ended < begun),
    );
    assert(
      allowed.some((change) => change.value === value),
      `sector ${sector} holds ${value}, and may hold ${allowed.map((change) => change.value).join(', ')}`,
    );
  }
}

class Run implements RequestOwner {
  readonly #device: CachedDevice;
  readonly #faulty: FaultyDevice;
  readonly #history = new History();
  readonly #begun = new Map<IoRequest, { readonly at: number; readonly change: Change | null }>();
  #leaving = 0;
  readonly #random: () => number;
  #value = 1;

  constructor(device: CachedDevice, faulty: FaultyDevice, seed: number) {
    this.#device = device;
    this.#faulty = faulty;
    let state = seed;
    this.#random = () => (state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0) / 2 ** 32;
    // Requests end in any order, some of them at once.
    faulty.decide = () => {
      return this.#random() < 0.3 ? { kind: 'pass' } : { kind: this.#random() < 0.5 ? 'hold' : 'holdReply' };
    };
  }

  #releaseSome(): void {
    const { held } = this.#faulty;
    const one = held[Math.floor(this.#random() * held.length)];
    if (one !== undefined) this.#faulty.release(one);
  }

  async steps(steps: readonly Step[]): Promise<void> {
    for (const step of steps) {
      this.#step(step);
      if (this.#random() < 0.4) await turn();
    }
    for (let left = 5000; this.#begun.size > 0 || this.#leaving > 0; left--) {
      assert(left > 0, `${this.#begun.size} requests and ${this.#leaving} ranges do not end`);
      this.#releaseSome();
      await turn();
    }
  }

  #step({ kind, sector, count }: Step): void {
    const offset = sector * SECTOR;
    const length = count * SECTOR;
    if (kind === 'enter') this.#device.enter(offset, length);
    else if (kind === 'leave') this.#leave(offset, length);
    else if (kind === 'release') this.#releaseSome();
    else if (kind === 'flush') this.#submit(makeRequest({ op: Op.flush }), null);
    else if (kind === 'read') this.#submit(makeRequest({ op: Op.read, offset, buffer: Buffer.alloc(length) }), null);
    else {
      const isWrite = kind === 'write' || kind === 'fua';
      const value = isWrite ? this.#value++ : 0;
      const buffer = Buffer.alloc(length);
      for (let at = 0; at < length; at += 4) buffer.writeUInt32LE(value, at);
      const op = isWrite ? Op.write : kind === 'discard' ? Op.discard : Op.writeZeroes;
      const flags = kind === 'fua' ? RequestFlag.fua : 0;
      const request = makeRequest({ op, offset, length, flags, ...(isWrite ? { buffer } : {}) });
      this.#submit(request, this.#history.begin(sector, count, value));
    }
  }

  #leave(offset: number, length: number): void {
    this.#leaving++;
    void this.#device.leave(offset, length).then(() => this.#leaving--);
  }

  #submit(request: IoRequest, change: Change | null): void {
    request.owner = this;
    this.#begun.set(request, { at: this.#history.now++, change });
    this.#device.submit(request);
  }

  ioDone(request: IoRequest): void {
    assert.equal(request.error, 0);
    const { at, change } = this.#begun.get(request)!;
    this.#begun.delete(request);
    if (change !== null) change.ended = this.#history.now++;
    if (request.op === Op.read) this.#check(request.offset, request.buffer, at);
  }

  #check(offset: number, bytes: Buffer, at: number): void {
    for (let i = 0; i < bytes.length; i += SECTOR) {
      const value = bytes.readUInt32LE(i);
      assert.equal(bytes.readUInt32LE(i + SECTOR - 4), value, 'a torn sector');
      this.#history.check((offset + i) / SECTOR, value, at);
    }
  }

  /** Memory and device hold the same, and what the history allows. */
  async agree(below: MemoryDevice): Promise<void> {
    this.#faulty.decide = () => ({ kind: 'pass' });
    // What was read ahead, or is being written back.
    for (let quiet = 0; quiet < 5; quiet++) {
      if (this.#faulty.held.length > 0) quiet = 0;
      this.#faulty.releaseAll();
      await turn();
    }
    const size = SECTORS * SECTOR;
    const before = await readAt(this.#device, 0, size);
    this.#check(0, before, this.#history.now++);
    await performOk(this.#device, { op: Op.flush });
    assert(before.equals(await readAt(below, 0, size)), 'the device holds something else than memory after a flush');
    this.#device.enter(0, size);
    assert(before.equals(await readAt(this.#device, 0, size)));
  }
}

function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

const step: fc.Arbitrary<Step> = fc
  .record({
    kind: fc.constantFrom<Step['kind'][]>(
      ...(['read', 'read', 'read', 'write', 'write', 'write', 'fua', 'discard', 'zero'] as const),
      ...(['flush', 'enter', 'leave', 'release', 'release', 'release'] as const),
    ),
    sector: fc.nat(SECTORS - 1),
    count: fc.oneof({ arbitrary: fc.integer({ min: 1, max: 24 }), weight: 5 }, fc.constantFrom(8, 16, 64)),
  })
  .map((made) => ({ ...made, count: Math.min(made.count, SECTORS - made.sector) }));

const WAYS: readonly Pick<CacheOptions, 'policy' | 'scheduler'>[] = [
  { policy: 'writethrough', scheduler: 'none' },
  { policy: 'writeback', scheduler: 'none' },
  { policy: 'writeback', scheduler: 'deadline' },
];

describe('a cache agrees with the history of every sector', () => {
  for (const way of WAYS) {
    for (const sizeBytes of [64 * 1024, 2 ** 20]) {
      test(`${way.policy}, ${way.scheduler}, ${sizeBytes / 1024} KiB`, async () => {
        await fc.assert(
          fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 150 }), fc.nat(), async (steps, seed) => {
            const below = new MemoryDevice({ sizeBytes: SECTORS * SECTOR });
            const faulty = new FaultyDevice(below);
            const cache = new BlockCache({ ...way, sizeBytes, writeDeadlineMs: seed % 3 === 0 ? 1 : 5000 });
            const device = cache.attach(faulty);
            const run = new Run(device, faulty, seed);
            await run.steps(steps);
            await run.agree(below);
            await device.close();
            assert.equal(cache.frames.freeCount, cache.frames.count);
            assert.equal(cache.total.unclean, 0);
          }),
          { numRuns: 120, endOnFailure: true },
        );
      });
    }
  }
});
