/**
 * What was asked of a volume or a device, and how long it took: plain numbers in one typed array, added to on the data path and
 * read by whoever shows them.
 *
 *     0  requests in flight
 *     1  sum, over all requests, of those in flight when it came (itself included)
 *     2  for each Op: requests ended, bytes moved, requests failed, microseconds taken, LATENCY_BUCKETS counts
 *
 * Latency bucket i counts requests that took less than 2^i microseconds, and at least 2^(i-1); the last one everything longer.
 *
 * Invariants
 *  - `started` and `ended` come in pairs and allocate nothing.
 *  - Numbers only grow, but for the first; doubles count exactly to 2^53.
 */
import type { Op } from '../block/request.ts';

/** The last bucket starts at 2^25 microseconds: 33 seconds. */
export const LATENCY_BUCKETS = 27;
/** Names by Op. */
export const OP_NAMES = ['read', 'write', 'flush', 'discard', 'write_zeroes'] as const;

const IN_FLIGHT = 0;
const DEPTH_SUM = 1;
const FIRST = 2;
const ENDED = 0;
const BYTES = 1;
const FAILED = 2;
const MICROSECONDS = 3;
const BUCKETS = 4;
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
  /** Sum of the queue's depth as each request found it: divided by all requests, the mean depth. */
  readonly depthSum: number;
  readonly ops: Readonly<Record<(typeof OP_NAMES)[number], OpSnapshot>>;
}

export class IoStats {
  readonly #values = new Float64Array(FIRST + OP_NAMES.length * STRIDE);

  started(): void {
    const values = this.#values;
    const depth = values[IN_FLIGHT]! + 1;
    values[IN_FLIGHT] = depth;
    values[DEPTH_SUM]! += depth;
  }

  /** `microseconds` since `started`; `errno` is 0 or positive. */
  ended(op: Op, bytes: number, microseconds: number, errno: number): void {
    const values = this.#values;
    const at = FIRST + op * STRIDE;
    values[IN_FLIGHT]!--;
    values[at + ENDED]!++;
    if (errno === 0) values[at + BYTES]! += bytes;
    else values[at + FAILED]!++;
    values[at + MICROSECONDS]! += microseconds;
    values[at + BUCKETS + bucketOf(microseconds)]!++;
  }

  get inFlight(): number {
    return this.#values[IN_FLIGHT]!;
  }

  /** Null where nothing was ever asked: thousands of idle volumes stay small. */
  snapshotIfUsed(): IoSnapshot | null {
    return this.#values[DEPTH_SUM] === 0 ? null : this.snapshot();
  }

  snapshot(): IoSnapshot {
    const [read, write, flush, discard, writeZeroes] = [0, 1, 2, 3, 4].map((op) => this.#opSnapshot(op)) as FiveOps;
    return {
      inFlight: this.#values[IN_FLIGHT]!,
      depthSum: this.#values[DEPTH_SUM]!,
      ops: { read, write, flush, discard, write_zeroes: writeZeroes },
    };
  }

  #opSnapshot(op: number): OpSnapshot {
    const at = FIRST + op * STRIDE;
    const values = this.#values;
    return {
      ended: values[at + ENDED]!,
      bytes: values[at + BYTES]!,
      failed: values[at + FAILED]!,
      milliseconds: values[at + MICROSECONDS]! / 1000,
      latency: [...values.subarray(at + BUCKETS, at + STRIDE)],
    };
  }
}

/** A batch's clock may have been read before the request came: that is no time at all. */
function bucketOf(microseconds: number): number {
  if (microseconds >= LAST_FROM) return LATENCY_BUCKETS - 1;
  return microseconds < 1 ? 0 : 32 - Math.clz32(microseconds);
}

type FiveOps = [OpSnapshot, OpSnapshot, OpSnapshot, OpSnapshot, OpSnapshot];
