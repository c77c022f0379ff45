/**
 * The conformance suite of targets: what a volume must do, whatever its table is made of, as a function over a factory.
 *
 * Invariants
 *  - Contents are compared with a plain Buffer as model (test/dm/model.ts); requests in flight together never race.
 *  - The devices below are faulty devices over memory: completions are held, shuffled or failed by a seeded decision, so that a
 *    failing case repeats.
 *  - After each step nothing of the pools is outstanding.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import * as fc from 'fast-check';
import { Errno } from '../../src/block/errors.ts';
import type { Fate, FaultyDevice } from '../../src/block/faulty.ts';
import { type IoRequest, Op, RequestFlag } from '../../src/block/request.ts';
import { anyRange, AlignedDevice } from '../../src/dm/aligned-device.ts';
import type { Table } from '../../src/dm/table.ts';
import type { TargetRegistry } from '../../src/dm/target.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { Batch, pattern } from '../block/harness.ts';
import { type Command, type Hole, Model, race } from './model.ts';

export interface TargetFixture {
  readonly table: Table;
  /** The same volume with more at its end. */
  readonly grown: Table;
  /** By the names that the tables use; they read as zeroes. */
  readonly devices: ReadonlyMap<string, FaultyDevice>;
  /** Where the bytes are not kept: in bytes of the grown volume. */
  readonly holes?: readonly Hole[];
  /** Bytes around which requests should begin and end. */
  readonly border: number;
  /** Default: the real ones. */
  readonly targets?: TargetRegistry;
  /** The target does I/O of its own, whenever it likes. */
  readonly background?: boolean;
  /** Lines or layers share a device without knowing of each other: up to two flushes reach it. */
  readonly layered?: boolean;
}

const TWISTS = ['none', 'shuffle', 'suspend', 'abort', 'reload', 'faults'] as const;
type Twist = (typeof TWISTS)[number];

interface Step {
  readonly commands: readonly Command[];
  readonly twist: Twist;
  /** How many of the commands are submitted before the twist. */
  readonly at: number;
  readonly seed: number;
}

/** Registers the suite for the volumes that `make` describes. */
export function targetSuite(name: string, make: () => TargetFixture): void {
  describe(`target: ${name}`, () => {
    test('agrees with a buffer over any sequence of requests, suspends, reloads and faults', async () => {
      await fc.assert(
        fc.asyncProperty(steps(make()), async (sequence) => {
          const run = new SuiteRun(make());
          for (const step of sequence) await run.step(step);
          await run.finish();
        }),
        { numRuns: 150 },
      );
    });

    test('a flush reaches every device once', async () => {
      const run = new SuiteRun(make());
      const batch = new Batch();
      batch.submit(run.volume, { op: Op.flush });
      await batch.done();
      assert.equal(batch.completed[0]?.error, 0);
      const most = run.fixture.layered === true ? 2 : 1;
      for (const device of run.used) {
        const flushes = device.submitted[Op.flush] ?? 0;
        assert(flushes >= 1 && flushes <= most, `${flushes} flushes of ${device.name}`);
      }
    });

    test('reports its table and its status line by line', () => {
      const { volume, fixture } = new SuiteRun(make());
      assert.deepEqual(volume.table(), fixture.table);
      const places = fixture.table.map(({ start, length, target }) => `${start} ${length} ${target} `);
      for (const text of [volume.tableText(), volume.statusText()]) {
        const lines = text.split('\n').slice(0, -1);
        assert.equal(lines.length, places.length);
        places.forEach((place, i) => assert.equal(lines[i]?.startsWith(place), true, text));
      }
      assert.doesNotThrow(() => JSON.stringify(volume.status()));
    });

    test('takes a thousand requests through a storm of suspends and reloads', async () => {
      const run = new SuiteRun(make());
      const size = run.sizeOf(run.fixture.table);
      const batch = new Batch();
      for (let round = 0; round < 20; round++) {
        for (let i = 0; i < 50; i++) {
          const offset = ((round * 50 + i) * 997) % (size - 700);
          batch.submit(run.volume, { op: Op.read, offset, buffer: Buffer.alloc(700) });
        }
        const suspended = run.volume.suspend();
        batch.submit(run.volume, { op: Op.flush });
        await suspended;
        assert.equal(run.volume.status().inFlight, 0);
        if (round % 2 === 0) run.load(round % 4 === 0 ? run.fixture.grown : run.fixture.table);
        run.volume.resume();
      }
      await batch.done();
      assert.equal(batch.completed.length, 20 * 51);
      await run.finish();
    });
  });
}

/** A volume over a fixture, and the model beside it. */
class SuiteRun {
  readonly fixture: TargetFixture;
  readonly volume: Volume;
  readonly model: Model;

  constructor(fixture: TargetFixture) {
    this.fixture = fixture;
    this.volume = new Volume('vg/lv', { targets: fixture.targets ?? targets });
    this.model = new Model(this.sizeOf(fixture.grown), fixture.holes ?? []);
    this.load(fixture.table);
    this.volume.resume();
  }

  /** The devices of the live table. */
  get used(): readonly FaultyDevice[] {
    const below = new Set(this.volume.dependencies());
    return [...this.fixture.devices.values()].filter((device) => below.has(device));
  }

  sizeOf(table: Table): number {
    return table.reduce((sectors, { length }) => sectors + length, 0) * 512;
  }

  load(table: Table): void {
    this.volume.load(table, (name) => {
      const device = this.fixture.devices.get(name);
      assert(device !== undefined);
      return device;
    });
  }

  async step(step: Step): Promise<void> {
    const before = this.volume.limits.sizeBytes;
    const next = step.twist === 'reload' ? this.#other() : null;
    const size = next === null ? before : Math.min(before, this.sizeOf(next));
    const commands = withoutRaces(step.commands.map((command) => clamp(command, size)));
    const payloads = new Map<IoRequest, { command: Command; buffer: Buffer }>();
    const batch = new Batch();
    const submit = (list: readonly Command[]): void => {
      for (const command of list) {
        const { op, offset, length, flags, seed } = command;
        // The payload lies inside a larger buffer, whose other bytes must stay as they are.
        const buffer = op === Op.read ? Buffer.alloc(length + 7, 0xee) : pattern(length + 7, seed);
        const request = batch.submit(this.volume, { op, offset, length, flags, buffer, bufferOffset: 3 });
        payloads.set(request, { command, buffer });
      }
    };
    await this.#twist(step, batch, submit, commands, next);
    await batch.done();
    this.#decide(() => ({ kind: 'pass' }));
    if (this.fixture.background === true) await this.#releaseAll();
    assert.equal(batch.completed.length, commands.length);
    for (const request of batch.completed) {
      const { command, buffer } = payloads.get(request)!;
      this.#judge(request, command, buffer, step.twist === 'faults');
    }
    this.#checkIdle();
  }

  async #twist(
    step: Step,
    batch: Batch,
    submit: (list: readonly Command[]) => void,
    commands: readonly Command[],
    next: Table | null,
  ): Promise<void> {
    const first = commands.slice(0, step.at);
    const rest = commands.slice(step.at);
    const random = generator(step.seed);
    if (step.twist === 'shuffle') this.#decide(() => (random() < 0.5 ? { kind: 'hold' } : { kind: 'holdReply' }));
    if (step.twist === 'faults') this.#decide((request) => fault(request, random));
    submit(first);
    if (step.twist === 'shuffle') {
      submit(rest);
      await this.#releaseInAnyOrder(batch, random);
    } else if (step.twist === 'suspend' || step.twist === 'reload') {
      const suspended = this.volume.suspend();
      submit(rest);
      await suspended;
      // Long requests may have stopped half-way; new ones have not begun.
      const done = batch.completed.length;
      assert(done <= first.length && this.volume.status().waiting === commands.length - done);
      assert.equal(this.volume.status().inFlight, 0);
      if (next !== null) this.load(next);
      this.volume.resume();
    } else if (step.twist === 'abort') {
      const abort = new AbortController();
      const suspended = this.volume.suspend(abort.signal);
      submit(rest);
      abort.abort();
      await suspended.catch((error: unknown) => assert.equal((error as { code?: unknown }).code, 'SUSPEND_ABORTED'));
      if (this.volume.state === 'suspended') this.volume.resume();
      // The flush of the suspend that was taken back may still be under way; this waits for it.
      await batch.done();
      await this.volume.suspend();
      this.volume.resume();
    } else {
      submit(rest);
    }
  }

  async #releaseInAnyOrder(batch: Batch, random: () => number): Promise<void> {
    const devices = [...this.fixture.devices.values()];
    while (batch.outstanding > 0) {
      const held = devices.flatMap((device) => device.held.map((request) => ({ device, request })));
      const choice = held[Math.floor(random() * held.length)];
      if (choice !== undefined) choice.device.release(choice.request);
      if (choice === undefined || random() < 0.3) await turn();
    }
  }

  /** Lets go of what a target does of its own, too: of replies that are held back only when they have come. */
  async #releaseAll(): Promise<void> {
    for (let turns = 0; turns < 4; turns++) {
      for (const device of this.fixture.devices.values()) device.releaseAll();
      await turn();
    }
  }

  #decide(decide: (request: IoRequest) => Fate): void {
    for (const device of this.fixture.devices.values()) device.decide = decide;
  }

  #judge(request: IoRequest, command: Command, buffer: Buffer, faults: boolean): void {
    const place = `op ${command.op} at ${command.offset}+${command.length}`;
    if (this.model.mustFail(command)) assert.equal(request.error, Errno.EIO, place);
    else if (!faults) assert.equal(request.error, 0, place);
    else assert(request.error === 0 || request.error === Errno.EIO || request.error === Errno.ENOSPC, place);
    const payload = buffer.subarray(3, 3 + command.length);
    if (command.op === Op.read) {
      if (request.error === 0) this.model.check(command.offset, payload);
      assert.equal(buffer.subarray(0, 3).toString('hex'), 'eeeeee', 'bytes before the payload');
      assert.equal(buffer.subarray(-4).toString('hex'), 'eeeeeeee', 'bytes after the payload');
    } else {
      assert(pattern(buffer.length, command.seed).equals(buffer), 'a payload is left as it is');
      this.model.changed(command, payload, request.error);
    }
  }

  #other(): Table {
    return this.volume.table() === this.fixture.table ? this.fixture.grown : this.fixture.table;
  }

  #checkIdle(): void {
    const { inFlight, waiting } = this.volume.status();
    assert.deepEqual(
      { inFlight, waiting, outstanding: this.volume.outstanding },
      { inFlight: 0, waiting: 0, outstanding: 0 },
    );
    if (this.fixture.background === true) return;
    for (const device of this.fixture.devices.values()) {
      const below = anyRange(device);
      if (below instanceof AlignedDevice) assert.equal(below.outstanding, 0);
    }
  }

  /** Compares all that can be read, once more, and closes. */
  async finish(): Promise<void> {
    const size = this.volume.limits.sizeBytes;
    const batch = new Batch();
    const reads = new Map<IoRequest, Buffer>();
    for (let offset = 0; offset < size; offset += 4096) {
      const buffer = Buffer.alloc(Math.min(4096, size - offset));
      reads.set(batch.submit(this.volume, { op: Op.read, offset, buffer }), buffer);
    }
    await batch.done();
    for (const [request, buffer] of reads) {
      const { op, offset, length, error } = request;
      assert.equal(error !== 0, this.model.mustFail({ op, offset, length, flags: 0, seed: 0 }));
      if (error === 0) this.model.check(offset, buffer);
    }
    this.#checkIdle();
    await this.volume.close();
  }
}

function fault(request: IoRequest, random: () => number): Fate {
  const chance = random();
  if (chance < 0.2) return { kind: 'fail', errno: random() < 0.5 ? Errno.EIO : Errno.ENOSPC };
  if (chance < 0.3 && request.op === Op.write) {
    return { kind: 'torn', bytes: Math.floor((random() * request.length) / 4096) * 4096, errno: Errno.EIO };
  }
  return { kind: 'pass' };
}

/** Numbers in [0, 1) from a seed (xorshift). */
function generator(seed: number): () => number {
  let state = seed + 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

function clamp(command: Command, size: number): Command {
  if (command.op === Op.flush) return { ...command, offset: 0, length: 0 };
  const offset = Math.min(command.offset, size - 1);
  return { ...command, offset, length: Math.max(1, Math.min(command.length, size - offset)) };
}

function withoutRaces(commands: readonly Command[]): Command[] {
  const kept: Command[] = [];
  for (const command of commands) if (!kept.some((other) => race(command, other))) kept.push(command);
  return kept;
}

/** Sequences of steps whose requests often begin or end at a border or a byte beside it. */
function steps({ grown, border }: TargetFixture): fc.Arbitrary<Step[]> {
  const size = grown.reduce((sectors, { length }) => sectors + length, 0) * 512;
  const near = (unit: number): fc.Arbitrary<number> =>
    fc
      .tuple(fc.nat({ max: Math.floor(size / unit) }), fc.integer({ min: -1, max: 1 }))
      .map(([n, off]) => Math.max(0, n * unit + off));
  const position = fc.oneof(fc.nat({ max: size }), near(border), near(4096), near(512));
  const command = fc
    .record({
      op: fc.constantFrom(Op.read, Op.read, Op.write, Op.write, Op.write, Op.flush, Op.discard, Op.writeZeroes),
      from: position,
      to: fc.oneof(
        position.map((at) => ({ at, short: false })),
        fc.nat({ max: 9000 }).map((at) => ({ at, short: true })),
      ),
      flags: fc.constantFrom(0, 0, 0, RequestFlag.fua, RequestFlag.noUnmap),
      seed: fc.nat({ max: 1000 }),
    })
    .map(({ op, from, to, flags, seed }): Command => {
      const end = to.short ? from + to.at : to.at;
      return { op, offset: Math.min(from, end), length: Math.max(1, Math.abs(end - from)), flags, seed };
    });
  const step = fc.record({
    commands: fc.array(command, { minLength: 1, maxLength: 10 }),
    twist: fc.constantFrom(...TWISTS),
    at: fc.nat({ max: 10 }),
    seed: fc.nat({ max: 1_000_000 }),
  });
  return fc.array(step, { minLength: 1, maxLength: 8 });
}
