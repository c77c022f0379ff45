/**
 * A scenario for power cuts: an origin and snapshots over devices that remember every write and flush, random writes on them, and
 * what each volume may hold at any moment.
 *
 * Invariants
 *  - Of a volume's sector the last durable write counts, or any later one.
 *  - A snapshot's history begins with its origin's content at its creation.
 */
import assert from 'node:assert/strict';
import { setImmediate as turn } from 'node:timers/promises';
import { MemoryDevice } from '../../src/block/memory.ts';
import { type CrashState, crashStates, PowerCutDevice, PowerCutJournal } from '../../src/block/power-cut.ts';
import { Op, RequestFlag } from '../../src/block/request.ts';
import { Batch, pattern, performOk } from '../block/harness.ts';
import { contentOf, Family, isMerged, type SnapshotSpec } from './snapshot-harness.ts';

const SECTOR = 512;

export interface Written {
  readonly offset: number;
  readonly bytes: Buffer;
  /** Journal entries when it was submitted, and when it was known to be durable. */
  readonly from: number;
  durable: number;
}

/** What a volume may hold: its first content, and every write with its times. */
export class History {
  readonly first: Buffer;
  readonly writes: Written[] = [];

  constructor(first: Buffer) {
    this.first = Buffer.from(first);
  }

  /** The content now. */
  now(): Buffer {
    const content = Buffer.from(this.first);
    for (const { offset, bytes } of this.writes) bytes.copy(content, offset);
    return content;
  }

  /** Whether `actual` is possible when so many entries of the journal have happened. */
  check(actual: Buffer, moment: number, what: string): void {
    for (let at = 0; at < actual.length; at += SECTOR) {
      const allowed = [this.first.subarray(at, at + SECTOR)];
      for (const { offset, bytes, from, durable } of this.writes) {
        if (at < offset || at >= offset + bytes.length || from >= moment) continue;
        if (durable <= moment) allowed.length = 0;
        allowed.push(bytes.subarray(at - offset, at - offset + SECTOR));
      }
      const found = actual.subarray(at, at + SECTOR);
      if (!allowed.some((bytes) => bytes.equals(found)))
        assert.fail(`${what}: sector ${at / SECTOR} is none of ${allowed.length}`);
    }
  }
}

export interface Shot {
  readonly spec: SnapshotSpec & { readonly cow: PowerCutDevice };
  readonly history: History;
  /** Journal entries when it existed for good. */
  readonly since: number;
  readonly mayBeInvalid: boolean;
}

export class Scenario {
  readonly journal: PowerCutJournal = new PowerCutJournal();
  readonly real: PowerCutDevice;
  readonly family: Family;
  origin: History;
  readonly shots: Shot[] = [];
  merging: { readonly shot: Shot; readonly since: number } | null = null;
  readonly #next: () => number;
  #seeds = 1;

  constructor(sectors: number, seed: number) {
    const image = pattern(sectors * SECTOR, seed);
    this.real = new PowerCutDevice('real', image, this.journal);
    this.family = new Family(this.real);
    this.origin = new History(image);
    this.#next = numbers(seed);
  }

  get #size(): number {
    return this.origin.first.length;
  }

  async snapshot(name: string, chunkSize: number, cowSectors: number, mayBeInvalid = false): Promise<void> {
    const cow = new PowerCutDevice(`cow-${name}`, usedBefore(cowSectors), this.journal);
    const spec = { name, cow, chunkSize };
    const volume = await this.family.snapshot(spec);
    await contentOf(volume);
    const history = new History(this.origin.now());
    this.shots.push({ spec, history, since: this.journal.entries.length, mayBeInvalid });
  }

  /** Random writes on volumes, some with FUA, some followed by a flush. */
  async write(rounds: number, perRound: number, names: readonly string[]): Promise<void> {
    for (let round = 0; round < rounds; round++) {
      const batch = new Batch();
      const sent: { written: Written; name: string; fua: boolean; ended: () => boolean }[] = [];
      for (let i = 0; i < perRound; i++) {
        const name = names[Math.floor(this.#next() * names.length)]!;
        const length = (1 + Math.floor(this.#next() * 12)) * SECTOR;
        const offset = Math.floor((this.#next() * (this.#size - length)) / SECTOR) * SECTOR;
        const clash = sent.some(
          (other) =>
            other.name === name &&
            offset < other.written.offset + other.written.bytes.length &&
            other.written.offset < offset + length,
        );
        if (clash) continue;
        const bytes = pattern(length, 1000 + this.#seeds++);
        const fua = this.#next() < 0.2;
        const written = { offset, bytes, from: this.journal.entries.length, durable: Infinity };
        this.#historyOf(name).writes.push(written);
        const flags = fua ? RequestFlag.fua : 0;
        const request = batch.submit(this.family.volume(name), { op: Op.write, offset, buffer: bytes, flags });
        sent.push({ written, name, fua, ended: () => batch.completed.includes(request) && request.error === 0 });
      }
      await batch.done();
      for (const { written, fua, ended } of sent) if (fua && ended()) written.durable = this.journal.entries.length;
      if (this.#next() < 0.5) {
        for (const name of names) {
          await performOk(this.family.volume(name), { op: Op.flush });
          const done = sent.filter((one) => one.name === name && one.ended());
          for (const { written } of done) written.durable = Math.min(written.durable, this.journal.entries.length);
        }
      }
    }
  }

  /** Only for scenarios in which the snapshot is valid. */
  async merge(name: string): Promise<void> {
    const shot = this.shots.find(({ spec }) => spec.name === name)!;
    await performOk(this.family.volume(name), { op: Op.flush });
    const since = this.journal.entries.length;
    for (const written of shot.history.writes) written.durable = Math.min(written.durable, since);
    await this.family.merge(name);
    this.shots.splice(this.shots.indexOf(shot), 1);
    this.merging = { shot, since };
    this.origin = shot.history;
  }

  async merged(): Promise<void> {
    while (!isMerged(this.family.statusOf('origin'))) await turn();
  }

  /** Checks every state from the moment on that all of the scenario's snapshots exist; gives their number. */
  async check(statesPerMoment: number, seed: number): Promise<number> {
    await this.family.close();
    const since = Math.max(this.merging?.since ?? 0, ...this.shots.map((shot) => shot.since));
    let count = 0;
    for (const state of crashStates(this.journal, { statesPerMoment, seed })) {
      const moment = Number(/entry (\d+)/.exec(state.description)?.[1]);
      if (moment < since) continue;
      count++;
      await this.#checkState(state, moment);
    }
    return count;
  }

  async #checkState(state: CrashState, moment: number): Promise<void> {
    const device = (of: PowerCutDevice): MemoryDevice => {
      const image = state.images.get(of)!;
      const memory = new MemoryDevice({ name: of.name, sizeBytes: image.length });
      memory.poke(0, image);
      return memory;
    };
    const family = new Family(device(this.real));
    for (const { spec } of this.shots) await family.snapshot({ ...spec, cow: device(spec.cow) });
    if (this.merging !== null) await this.#checkMerge(family, device(this.merging.shot.spec.cow), state, moment);
    await this.#compare(family, state, moment);
    // Once more, after writes that need what was loaded.
    const before = await contentOf(family.origin);
    assert(before !== null);
    await performOk(family.origin, {
      op: Op.write,
      offset: SECTOR,
      buffer: Buffer.alloc(this.#size - 2 * SECTOR, 0xaa),
    });
    await this.#compareShots(family, state, moment);
    await family.close();
  }

  async #compare(family: Family, state: CrashState, moment: number): Promise<void> {
    const origin = await contentOf(family.origin);
    assert(origin !== null, state.description);
    this.origin.check(origin, moment, `origin, ${state.description}`);
    await this.#compareShots(family, state, moment);
  }

  async #compareShots(family: Family, state: CrashState, moment: number): Promise<void> {
    for (const { spec, history, mayBeInvalid } of this.shots) {
      const content = await contentOf(family.volume(spec.name));
      if (content === null) assert(mayBeInvalid, `${spec.name} is invalid, ${state.description}`);
      else history.check(content, moment, `${spec.name}, ${state.description}`);
    }
  }

  /** The merge goes on: its origin reads as before while it is going on. */
  async #checkMerge(family: Family, cow: MemoryDevice, state: CrashState, moment: number): Promise<void> {
    family.origin.load(family.mergeTable({ ...this.merging!.shot.spec, cow }), family.resolver(cow));
    await family.origin.suspend();
    family.origin.resume();
    const first = await contentOf(family.origin);
    assert(first !== null, state.description);
    this.origin.check(first, moment, `origin at once, ${state.description}`);
    while (!isMerged(family.statusOf('origin'))) await turn();
    family.loadOrigin('snapshot-origin');
    await family.origin.suspend();
    family.origin.resume();
  }

  #historyOf(name: string): History {
    return name === 'origin' ? this.origin : this.shots.find(({ spec }) => spec.name === name)!.history;
  }
}

/** A COW device as lvcreate leaves it: its first 4 KiB zero, and behind them what was there before: here, another store's records. */
function usedBefore(sectors: number): Buffer {
  const image = Buffer.alloc(sectors * SECTOR);
  for (let at = 4096; at < image.length; at += 16) {
    image.writeUInt32LE((at / 16) % 50, at);
    image.writeUInt32LE(3 + ((at / 16) % 20), at + 8);
  }
  return image;
}

function numbers(seed: number): () => number {
  let state = (seed * 2_654_435_761) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}
