/**
 * Random sequences on an origin and its snapshots, against plain buffers: completions in any order, COW devices that fail,
 * suspends, reloads, merges, removals, and everything closed and loaded again from its devices.
 *
 * Invariants that are checked
 *  - The origin always succeeds and is right. A read of a snapshot that succeeds is right; it fails only with EIO, and only when a
 *    COW device failed or was full.
 *  - A snapshot that was not failed by its device, with room enough, stays valid.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import * as fc from 'fast-check';
import { Errno } from '../../src/block/errors.ts';
import { type Fate, FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { type IoRequest, Op, RequestFlag } from '../../src/block/request.ts';
import { Batch, pattern, performOk } from '../block/harness.ts';
import { contentOf, Family, isMerged, same, type SnapshotSpec } from './snapshot-harness.ts';

const SIZE = 96 * 512 + 3 * 512;

interface Io {
  /** Which volume: 0 the origin, then the snapshots. */
  readonly on: number;
  readonly op: Op;
  readonly offset: number;
  readonly length: number;
  readonly flags: number;
  readonly seed: number;
}

type Step =
  | {
      readonly kind: 'io';
      readonly list: readonly Io[];
      readonly twist: 'none' | 'shuffle' | 'faults' | 'suspend';
      readonly seed: number;
    }
  | { readonly kind: 'create'; readonly chunkSize: number; readonly cowSectors: number }
  | { readonly kind: 'reload' | 'merge' | 'remove'; readonly on: number }
  | { readonly kind: 'restart' };

const io: fc.Arbitrary<Io> = fc
  .record({
    on: fc.nat({ max: 4 }),
    op: fc.constantFrom(Op.read, Op.write, Op.write, Op.write, Op.flush, Op.writeZeroes, Op.discard),
    unit: fc.constantFrom(1, 512, 4096, 8192),
    from: fc.nat({ max: SIZE }),
    length: fc.oneof(
      fc.integer({ min: 1, max: 600 }),
      fc.integer({ min: 1, max: 5 }).map((n) => n * 4096),
      fc.constant(SIZE),
    ),
    flags: fc.constantFrom(0, 0, 0, RequestFlag.fua),
    seed: fc.nat({ max: 1000 }),
  })
  .map(({ on, op, unit, from, length, flags, seed }) => {
    const offset = Math.min(SIZE - 1, from - (from % unit));
    return { on, op, offset, length: Math.min(length, SIZE - offset), flags, seed };
  });

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('io' as const),
      list: fc.array(io, { minLength: 1, maxLength: 12 }),
      twist: fc.constantFrom(
        'none' as const,
        'shuffle' as const,
        'shuffle' as const,
        'faults' as const,
        'suspend' as const,
      ),
      seed: fc.nat({ max: 1_000_000 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('create' as const),
      chunkSize: fc.constantFrom(1, 2, 8, 16, 128),
      cowSectors: fc.constantFrom(60, 300, 2000, 2000),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constantFrom('reload' as const, 'merge' as const, 'remove' as const),
      on: fc.nat({ max: 3 }),
    }),
  },
  { weight: 1, arbitrary: fc.constant({ kind: 'restart' as const }) },
);

/** What a volume holds, as far as it is known: a failed write leaves its bytes unknown. */
class Content {
  readonly bytes: Buffer;
  readonly known: Buffer;
  constructor(bytes: Buffer, known: Buffer) {
    this.bytes = Buffer.from(bytes);
    this.known = Buffer.from(known);
  }

  check(offset: number, actual: Buffer, what: string): void {
    for (let i = 0; i < actual.length; i++) {
      if (this.known[offset + i] === 1 && actual[i] !== this.bytes[offset + i]) {
        assert.fail(`${what}: byte ${offset + i} is ${actual[i]} and not ${this.bytes[offset + i]}`);
      }
    }
  }
}

interface Shot {
  readonly name: string;
  readonly spec: SnapshotSpec & { readonly cow: FaultyDevice };
  readonly content: Content;
  /** Its device has failed, or is small: it may be invalid. */
  doubtful: boolean;
}

function random(seed: number): () => number {
  let state = seed + 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

class Run {
  readonly #real = new FaultyDevice(new MemoryDevice({ name: 'real', sizeBytes: SIZE, canDiscard: false }));
  #family = new Family(this.#real);
  readonly #origin = new Content(Buffer.alloc(SIZE), Buffer.alloc(SIZE, 1));
  #shots: Shot[] = [];
  #made = 0;
  #hasOriginTable = false;

  async step(one: Step): Promise<void> {
    if (one.kind === 'create') await this.#create(one.chunkSize, one.cowSectors);
    else if (one.kind === 'io') await this.#io(one.list, one.twist, random(one.seed));
    else if (one.kind === 'restart') await this.#restart();
    else {
      const shot = this.#shots[one.on];
      if (shot !== undefined) await this.#change(one.kind, shot);
    }
  }

  async finish(): Promise<void> {
    await this.#compare();
    await this.#family.close();
  }

  async #create(chunkSize: number, cowSectors: number): Promise<void> {
    if (this.#shots.length === 4) return;
    const name = `s${this.#made++}`;
    const cow = new FaultyDevice(new MemoryDevice({ name: `cow-${name}`, sizeBytes: cowSectors * 512 }));
    // Of a device that has no room for two chunks nothing can be made.
    if (cowSectors < chunkSize * 2) return;
    const spec = { name, cow, chunkSize };
    await this.#family.snapshot(spec);
    this.#hasOriginTable = true;
    const content = new Content(this.#origin.bytes, this.#origin.known);
    this.#shots.push({ name, spec, content, doubtful: cowSectors < 2000 });
  }

  async #change(kind: 'reload' | 'merge' | 'remove', shot: Shot): Promise<void> {
    const volume = this.#family.volume(shot.name);
    if (kind === 'reload') {
      volume.load(this.#family.snapshotTable(shot.spec), this.#family.resolver(shot.spec.cow));
      await volume.suspend();
      volume.resume();
      return;
    }
    this.#shots = this.#shots.filter((other) => other !== shot);
    if (kind === 'remove') {
      await this.#family.remove(shot.name);
      return;
    }
    const invalid = (await contentOf(volume)) === null;
    await this.#family.merge(shot.name);
    if (!invalid) {
      shot.content.bytes.copy(this.#origin.bytes);
      shot.content.known.copy(this.#origin.known);
    }
    await this.#compare();
    await this.#io(
      [0, 1, 2, 3].map((n) => ({ on: 0, op: Op.write, offset: n * 9000, length: 5000, flags: 0, seed: n })),
      'shuffle',
      random(7),
    );
    if (!invalid) await this.#merged();
    await this.#compare();
    this.#family.loadOrigin(this.#shots.length > 0 ? 'snapshot-origin' : 'linear');
    await this.#family.origin.suspend();
    this.#family.origin.resume();
  }

  async #merged(): Promise<void> {
    while (!isMerged(this.#family.statusOf('origin'))) await turn();
  }

  /** Everything is closed and loaded again. */
  async #restart(): Promise<void> {
    // A device that could not even be told that its snapshot is invalid makes it valid again: nobody may use it then.
    this.#shots = this.#shots.filter(({ name }) => !/nor could/.test(this.#family.problemOf(name)));
    await this.#family.close();
    this.#family = new Family(this.#real);
    for (const { spec } of this.#shots) await this.#family.snapshot(spec);
    if (this.#hasOriginTable && this.#shots.length === 0) this.#hasOriginTable = false;
    await this.#compare();
  }

  async #io(list: readonly Io[], twist: string, next: () => number): Promise<void> {
    const names = ['origin', ...this.#shots.map(({ name }) => name)];
    const commands = list.filter(({ on }) => on < names.length);
    const kept: Io[] = [];
    for (const command of commands) if (!kept.some((other) => race(command, other))) kept.push(command);
    const batch = new Batch();
    const sent: { command: Io; request: IoRequest; buffer: Buffer }[] = [];
    const devices = [this.#real, ...this.#shots.map(({ spec }) => spec.cow)];
    if (twist === 'shuffle')
      for (const one of devices) one.decide = () => ({ kind: next() < 0.5 ? 'hold' : 'holdReply' });
    if (twist === 'faults') {
      for (const shot of this.#shots) {
        shot.doubtful = true;
        shot.spec.cow.decide = () => cowFault(next());
      }
    }
    for (const command of kept) {
      const { op, offset, length, flags, seed } = command;
      const buffer = op === Op.read ? Buffer.alloc(length) : pattern(length, seed);
      const range = op === Op.flush ? { op } : { op, offset, length, flags, buffer };
      sent.push({ command, buffer, request: batch.submit(this.#family.volume(names[command.on]!), range) });
    }
    if (twist === 'suspend') {
      // In the order that LVM2 keeps, and in one turn.
      await Promise.all(this.#family.volumes.map((volume) => volume.suspend()));
      for (const volume of this.#family.volumes.toReversed()) volume.resume();
    }
    if (twist === 'shuffle') await releaseInAnyOrder(batch, devices, next);
    await batch.done();
    for (const one of devices) one.decide = () => ({ kind: 'pass' });
    for (const { command, request, buffer } of sent) this.#judge(command, request, buffer);
  }

  #judge({ on, op, offset, length }: Io, { error }: IoRequest, buffer: Buffer): void {
    const shot = this.#shots[on - 1];
    const content = on === 0 ? this.#origin : shot!.content;
    const what = `${shot?.name ?? 'origin'}, op ${op} at ${offset}+${length}`;
    if (shot === undefined || !shot.doubtful) assert.equal(error, 0, what);
    else assert(error === 0 || error === Errno.EIO, what);
    if (op === Op.read && error === 0) content.check(offset, buffer, what);
    if (op !== Op.write && op !== Op.writeZeroes) return;
    if (op === Op.write) buffer.copy(content.bytes, offset);
    else content.bytes.fill(0, offset, offset + length);
    content.known.fill(error === 0 ? 1 : 0, offset, offset + length);
  }

  async #compare(): Promise<void> {
    this.#origin.check(0, await requireContent(this.#family, 'origin'), 'origin');
    for (const { name, content, doubtful } of this.#shots) {
      const actual = await contentOf(this.#family.volume(name));
      if (actual === null) assert(doubtful && this.#family.statusOf(name) === 'Invalid', name);
      else content.check(0, actual, name);
    }
  }
}

/** Until the requests have ended; then what is held without one behind it: a store that is being loaded. */
async function releaseInAnyOrder(batch: Batch, devices: readonly FaultyDevice[], next: () => number): Promise<void> {
  while (batch.outstanding > 0) {
    const held = devices.flatMap((one) => one.held.map((request) => ({ one, request })));
    const choice = held[Math.floor(next() * held.length)];
    if (choice !== undefined) choice.one.release(choice.request);
    if (choice === undefined || next() < 0.3) await turn();
  }
  for (const one of devices) one.decide = () => ({ kind: 'pass' });
  for (let i = 0; i < 3; i++) {
    for (const one of devices) one.releaseAll();
    await turn();
  }
}

async function requireContent(family: Family, name: string): Promise<Buffer> {
  const content = await contentOf(family.volume(name));
  assert(content !== null, `${name} can't be read`);
  return content;
}

function cowFault(chance: number): Fate {
  if (chance < 0.15) return { kind: 'fail', errno: Errno.EIO };
  return { kind: 'pass' };
}

function race(a: Io, b: Io): boolean {
  if (a.on !== b.on || a.op === Op.flush || b.op === Op.flush || (a.op === Op.read && b.op === Op.read)) return false;
  return a.offset < b.offset + b.length && b.offset < a.offset + a.length;
}

describe('an origin and its snapshots', () => {
  test('agree with buffers over any sequence of requests, faults and changes', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 14 }), async (steps) => {
        const run = new Run();
        for (const one of steps) await run.step(one);
        await run.finish();
      }),
      { numRuns: Number(process.env['SNAPSHOT_RUNS'] ?? 150) },
    );
  });

  test('agree while many requests are in flight on all of them', async () => {
    const real = new MemoryDevice({ name: 'real', sizeBytes: 1 << 20 });
    const family = new Family(real);
    const content = pattern(1 << 20, 5);
    await performOk(family.origin, { op: Op.write, buffer: content });
    const models = [Buffer.from(content)];
    for (const chunkSize of [8, 16, 128]) {
      const cow = new MemoryDevice({ name: `c${chunkSize}`, sizeBytes: 4 << 20 });
      await family.snapshot({ name: `s${chunkSize}`, cow, chunkSize });
      models.push(Buffer.from(content));
    }
    const next = random(11);
    for (let round = 0; round < 20; round++) {
      const batch = new Batch();
      // Each slot of 8 KiB is written by one request at most.
      for (let slot = 0; slot < 128; slot++) {
        family.volumes.forEach((volume, on) => {
          if (next() < 0.7) return;
          const offset = slot * 8192 + Math.floor(next() * 4000);
          const buffer = pattern(1 + Math.floor(next() * 4000), round * 1000 + slot);
          buffer.copy(models[on]!, offset);
          batch.submit(volume, { op: Op.write, offset, buffer });
        });
      }
      await batch.done();
    }
    const contents = await Promise.all(family.volumes.map((volume) => contentOf(volume)));
    contents.forEach((actual, on) => same(actual, models[on]!, `volume ${on}`));
    await family.close();
  });
});
