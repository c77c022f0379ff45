/**
 * What was asked of a volume or a device, and how long it took: plain numbers in typed arrays, added to on the data path and
 * read by whoever shows them.
 *
 *     0  requests that came
 *     1  for each Op: bytes moved, requests failed, microseconds taken, LATENCY_BUCKETS counts of requests that ended
 *
 * Latency bucket i counts requests that took less than 2^i microseconds, and at least 2^(i-1); the last one everything longer. How
 * many ended is their sum, how many are in flight the difference to those that came, and how deep the queue was on average the
 * time that requests took divided by the time that passed: none of these is counted again.
 *
 * A request that is one piece on one device comes there when it comes to the volume, and ends with it: it is counted once, in
 * counts that volume and device share (SharedCounts).
 *
 * Invariants
 *  - `started` and `ended` come in pairs and allocate nothing.
 *  - Numbers only grow, also when what was shared is shared no more; doubles count exactly to 2^53.
 */
import type { Op } from '../block/request.ts';

/** The last bucket starts at 2^25 microseconds: 33 seconds. */
export const LATENCY_BUCKETS = 27;
/** Names by Op. */
export const OP_NAMES = ['read', 'write', 'flush', 'discard', 'write_zeroes'] as const;

const STARTED = 0;
const FIRST = 1;
const BYTES = 0;
const FAILED = 1;
const MICROSECONDS = 2;
const BUCKETS = 3;
const STRIDE: number = BUCKETS + LATENCY_BUCKETS;
/** Where the last bucket starts. */
const LAST_FROM: number = 2 ** (LATENCY_BUCKETS - 2);

/** One operation's numbers. */
export interface OpSnapshot {
  readonly ended: number;
  /** Of those that succeeded. */
  readonly bytes: number;
  readonly failed: number;
  readonly milliseconds: number;
  /** See the head of the file. */
  readonly latency: readonly number[];
}

/** Plain data: survives JSON and IPC. */
export interface IoSnapshot {
  readonly inFlight: number;
  readonly ops: Readonly<Record<(typeof OP_NAMES)[number], OpSnapshot>>;
}

/** One array of them. */
export class IoCounts {
  readonly values: Float64Array = new Float64Array(FIRST + OP_NAMES.length * STRIDE);

  started(): void {
    this.values[STARTED]!++;
  }

  /** `microseconds` since `started`; `errno` is 0 or positive. */
  ended(op: Op, bytes: number, microseconds: number, errno: number): void {
    const { values } = this;
    const at = FIRST + op * STRIDE;
    if (errno === 0) values[at + BYTES]! += bytes;
    else values[at + FAILED]!++;
    values[at + MICROSECONDS]! += microseconds;
    values[at + BUCKETS + bucketOf(microseconds)]!++;
  }
}

/** Of a volume or a device: its own counts, and those that it shares. */
export class IoStats extends IoCounts {
  #shared: IoCounts[] = [];

  /** Adds what others count from now on. */
  join(counts: IoCounts): void {
    this.#shared.push(counts);
  }

  /** Keeps what they have counted: nothing will be added to them. */
  absorb(counts: IoCounts): void {
    this.#shared = this.#shared.filter((other) => other !== counts);
    addTo(this.values, counts.values);
  }

  get inFlight(): number {
    return inFlightOf(this.#total());
  }

  /** Null where nothing was ever asked: thousands of idle volumes stay small. */
  snapshotIfUsed(): IoSnapshot | null {
    return this.values[STARTED] === 0 && this.#shared.length === 0 ? null : this.snapshot();
  }

  snapshot(): IoSnapshot {
    const total = this.#total();
    const [read, write, flush, discard, writeZeroes] = [0, 1, 2, 3, 4].map((op) => opSnapshot(total, op)) as FiveOps;
    return { inFlight: inFlightOf(total), ops: { read, write, flush, discard, write_zeroes: writeZeroes } };
  }

  #total(): Float64Array {
    if (this.#shared.length === 0) return this.values;
    const total = this.values.slice();
    for (const { values } of this.#shared) addTo(total, values);
    return total;
  }
}

/** Counts of what a volume asks of a device in one piece. */
export class SharedCounts extends IoCounts {
  readonly #volume: IoStats;
  readonly device: IoStats;

  constructor(volume: IoStats, device: IoStats) {
    super();
    this.#volume = volume;
    this.device = device;
    volume.join(this);
    device.join(this);
  }

  /** Both keep what was counted; nothing may be in flight. */
  end(): void {
    this.#volume.absorb(this);
    this.device.absorb(this);
  }
}

function addTo(total: Float64Array, values: Float64Array): void {
  for (let i = 0; i < total.length; i++) total[i]! += values[i]!;
}

function endedIn(values: Float64Array, op: number): number {
  const at = FIRST + op * STRIDE;
  return values.subarray(at + BUCKETS, at + STRIDE).reduce((sum, count) => sum + count, 0);
}

function inFlightOf(values: Float64Array): number {
  return OP_NAMES.reduce((left, _, op) => left - endedIn(values, op), values[STARTED]!);
}

function opSnapshot(values: Float64Array, op: number): OpSnapshot {
  const at = FIRST + op * STRIDE;
  return {
    ended: endedIn(values, op),
    bytes: values[at + BYTES]!,
    failed: values[at + FAILED]!,
    milliseconds: values[at + MICROSECONDS]! / 1000,
    latency: [...values.subarray(at + BUCKETS, at + STRIDE)],
  };
}

/** A batch's clock may have been read before the request came: that is no time at all. */
function bucketOf(microseconds: number): number {
  if (microseconds >= LAST_FROM) return LATENCY_BUCKETS - 1;
  return microseconds < 1 ? 0 : 32 - Math.clz32(microseconds);
}

type FiveOps = [OpSnapshot, OpSnapshot, OpSnapshot, OpSnapshot, OpSnapshot];

/** What a volume counts together with its devices, once for each. */
export class SharedCountsOfVolume {
  readonly #volume: IoStats;
  #shared: SharedCounts[] = [];

  constructor(volume: IoStats) {
    this.#volume = volume;
  }

  with(device: IoStats): SharedCounts {
    const known = this.#shared.find((each) => each.device === device);
    if (known !== undefined) return known;
    const shared = new SharedCounts(this.#volume, device);
    this.#shared.push(shared);
    return shared;
  }

  /** Volume and devices keep what was counted; nothing may be in flight. */
  end(): void {
    for (const shared of this.#shared) shared.end();
    this.#shared = [];
  }
}
