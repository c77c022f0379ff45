/**
 * Devices that remember every write and flush, for tests: what could be on the disks if the power went at any moment?
 *
 * The model of a disk: a write that was flushed is there. Of the writes since the last flush any may be there or not, in any
 * order, and of a write of several sectors any part of the sectors; a sector is written whole or not at all.
 *
 * Invariants
 *  - A journal orders the requests of all its devices: a cut hits them all at the same moment.
 *  - Every state that a cut could leave is among those of the moments just before each flush, and at the end: at any other
 *    moment fewer writes are pending, and having none of a write is among the choices.
 *  - If there are more states than wanted, they are drawn at random from a seed that the state's description names.
 */
import assert from 'node:assert/strict';
import { assertInLimits, type BlockDevice, type DeviceLimits } from './device.ts';
import { Op, RequestQueue, type IoRequest } from './request.ts';

const SECTOR_BYTES = 512;

interface WriteEntry {
  readonly kind: 'write';
  readonly device: PowerCutDevice;
  readonly offset: number;
  readonly bytes: Buffer;
}
interface FlushEntry {
  readonly kind: 'flush';
  readonly device: PowerCutDevice;
}

/** What was done to a set of devices, in order. */
export class PowerCutJournal {
  readonly entries: (WriteEntry | FlushEntry)[] = [];
  /** What each device held before the first write. */
  readonly devices: Map<PowerCutDevice, Buffer> = new Map();

  get writes(): number {
    return this.entries.filter((entry) => entry.kind === 'write').length;
  }
}

/** A device over a buffer, which it changes, that keeps a journal. */
export class PowerCutDevice implements BlockDevice {
  readonly name: string;
  readonly limits: DeviceLimits;
  readonly #image: Buffer;
  readonly #journal: PowerCutJournal;
  readonly #queue = new RequestQueue();
  #scheduled = false;

  constructor(name: string, image: Buffer, journal: PowerCutJournal) {
    assert(image.length % SECTOR_BYTES === 0);
    this.name = name;
    this.#image = image;
    this.#journal = journal;
    this.limits = {
      sizeBytes: image.length,
      logicalBlockSize: SECTOR_BYTES,
      physicalBlockSize: SECTOR_BYTES,
      requestAlignment: 1,
      readOnly: false,
      canDiscard: false,
      discardGranularity: 0,
    };
    journal.devices.set(this, Buffer.from(image));
  }

  submit(request: IoRequest): void {
    assertInLimits(this.limits, request);
    request.error = 0;
    this.#queue.push(request);
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => this.#turn());
  }

  /** What the device holds; a test may change it between requests. */
  get image(): Buffer {
    return this.#image;
  }

  /** A copy of what the device holds. */
  snapshot(): Buffer {
    return Buffer.from(this.#image);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #turn(): void {
    this.#scheduled = false;
    for (let left = this.#queue.size; left > 0; left--) {
      const request = this.#queue.shift();
      assert(request !== null);
      this.#carryOut(request);
      request.owner.ioDone(request);
    }
  }

  #carryOut(request: IoRequest): void {
    const { offset, length, buffer, bufferOffset } = request;
    if (request.op === Op.flush) this.#journal.entries.push({ kind: 'flush', device: this });
    else if (request.op === Op.read) this.#image.copy(buffer, bufferOffset, offset, offset + length);
    else {
      const bytes = Buffer.alloc(length);
      if (request.op === Op.write) buffer.copy(bytes, 0, bufferOffset, bufferOffset + length);
      bytes.copy(this.#image, offset);
      this.#journal.entries.push({ kind: 'write', device: this, offset, bytes });
      // The request's own flush covers more than its data, which a disk may do.
      if (request.flags !== 0) this.#journal.entries.push({ kind: 'flush', device: this });
    }
  }
}

/** What the disks may hold after a cut. */
export interface CrashState {
  /** Which moment and which choice: enough to find it again. */
  readonly description: string;
  /** How many entries of the journal were done: whatever was acknowledged later was not acknowledged yet. */
  readonly moment: number;
  readonly images: ReadonlyMap<PowerCutDevice, Buffer>;
}

export interface CrashOptions {
  /** States per moment: all of them if there are no more, else so many at random. */
  readonly statesPerMoment: number;
  readonly seed: number;
}

/** The part of a pending write that reached the disk: a flag per sector. */
type Part = readonly boolean[];

/** Every state of every moment, or as many as wanted. A state's images are its own. */
export function* crashStates(journal: PowerCutJournal, options: CrashOptions): Generator<CrashState> {
  const random = generator(options.seed);
  const durable = new Map([...journal.devices].map(([device, image]) => [device, Buffer.from(image)]));
  let pending: WriteEntry[] = [];
  for (let moment = 0; moment <= journal.entries.length; moment++) {
    const entry = journal.entries[moment];
    if (entry?.kind === 'write') {
      pending.push(entry);
      continue;
    }
    for (const state of statesOf(durable, pending, options.statesPerMoment, random)) {
      yield { ...state, moment, description: `seed ${options.seed}, entry ${moment}, ${state.description}` };
    }
    if (entry === undefined) return;
    for (const write of pending) if (write.device === entry.device) applyWhole(durable, write);
    pending = pending.filter((write) => write.device !== entry.device);
  }
}

function* statesOf(
  durable: ReadonlyMap<PowerCutDevice, Buffer>,
  pending: readonly WriteEntry[],
  limit: number,
  random: () => number,
): Generator<Omit<CrashState, 'moment'>> {
  const choices = pending.map((write) => partsOf(write, random));
  const total = choices.reduce((product, parts) => product * parts.length, 1);
  const count = Math.min(total, limit);
  for (let index = 0; index < count; index++) {
    const picked =
      total <= limit ? pickNth(choices, index) : choices.map((parts) => parts[below(parts.length, random)]);
    const order = pending.map((_, at) => at);
    // Most states keep the order of submission; overlapping writes may also reach the disk the other way round.
    if (total > limit && random() < 0.5) shuffle(order, random);
    const images = new Map([...durable].map(([device, image]) => [device, Buffer.from(image)]));
    for (const at of order) {
      const write = pending[at];
      const part = picked[at];
      if (write !== undefined && part !== undefined) applyPart(images, write, part);
    }
    yield { description: `state ${index} of ${count}: ${describe(pending, picked)}`, images };
  }
}

/** None of the sectors, all of them, and for a write of several: the first, the last, the two halves, every second, some. */
function partsOf({ bytes }: WriteEntry, random: () => number): readonly Part[] {
  const count = Math.ceil(bytes.length / SECTOR_BYTES);
  const part = (has: (sector: number) => boolean): Part => Array.from({ length: count }, (_, sector) => has(sector));
  const plain = [part(() => false), part(() => true)];
  if (count === 1) return plain;
  const half = count / 2;
  return [
    ...plain,
    part((sector) => sector < half),
    part((sector) => sector >= half),
    part((sector) => sector === count - 1),
    part((sector) => sector !== count - 1),
    part(() => random() < 0.5),
  ];
}

function pickNth(choices: readonly (readonly Part[])[], index: number): (Part | undefined)[] {
  let rest = index;
  return choices.map((parts) => {
    const part = parts[rest % parts.length];
    rest = Math.floor(rest / parts.length);
    return part;
  });
}

function applyWhole(images: ReadonlyMap<PowerCutDevice, Buffer>, { device, offset, bytes }: WriteEntry): void {
  const image = images.get(device);
  assert(image !== undefined);
  bytes.copy(image, offset);
}

/** Sectors are the device's, so a write that starts inside one tears at the device's boundaries. */
function applyPart(images: ReadonlyMap<PowerCutDevice, Buffer>, write: WriteEntry, part: Part): void {
  const { device, offset, bytes } = write;
  const image = images.get(device);
  assert(image !== undefined && offset % SECTOR_BYTES === 0, 'writes of whole sectors are expected');
  for (const [sector, there] of part.entries()) {
    const from = sector * SECTOR_BYTES;
    if (there) bytes.copy(image, offset + from, from, Math.min(from + SECTOR_BYTES, bytes.length));
  }
}

function describe(pending: readonly WriteEntry[], picked: readonly (Part | undefined)[]): string {
  const words = pending.map(({ device, offset, bytes }, at) => {
    const part = picked[at] ?? [];
    const there = part.filter(Boolean).length;
    const share = there === part.length ? 'all' : `${there}/${part.length}`;
    return `${device.name}@${offset}+${bytes.length}:${there === 0 ? 'none' : share}`;
  });
  return words.length === 0 ? 'nothing pending' : words.join(' ');
}

/** Random numbers in [0, 1) from a seed (mulberry32). */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function below(limit: number, random: () => number): number {
  return Math.floor(random() * limit);
}

function shuffle(items: number[], random: () => number): void {
  for (let last = items.length - 1; last > 0; last--) {
    const other = below(last + 1, random);
    [items[last], items[other]] = [items[other] ?? 0, items[last] ?? 0];
  }
}
