/**
 * Which block leaves the cache: S3-FIFO (Yang and others, "FIFO queues are all you need for cache eviction", SOSP 2023).
 *
 *     new ──> small, a tenth ──used again──> main ──┐ used: once more round
 *               │ not used                     │    <┘
 *               └──> out, remembered (ghost)   └──> out
 *     new, and remembered ───────────────────> main
 *
 * A scan passes through the small queue and leaves main alone; a hit only counts up to 3, nothing is moved.
 *
 * Invariants
 *  - A frame is on one queue from `insert` until `remove` or until `victim` gives it.
 *  - `victim` gives no pinned frame; it gives up (-1) after TRIES pinned ones in a row, so that its time is bounded.
 *  - The ghost holds as many keys as there are frames; what is older is forgotten. It may take one key for another: then a
 *    block gets more room than it deserves, nothing else.
 */
const MAX_COUNT = 3;
/** Uses in the small queue that earn a place in main. */
const PROMOTE = 2;
const TRIES = 512;
const NONE = -1;

/** What a replacement policy does; `bench/cache-policies.ts` compares several. */
export interface Replacement {
  insert(frame: number, key: number): void;
  hit(frame: number): void;
  remove(frame: number): void;
  /** Takes a frame out that may be used for another block; -1: none is found. */
  victim(isPinned: (frame: number) => boolean, keyOf: (frame: number) => number): number;
}

/** A 32-bit hash of a key below 2^53. */
export function hashKey(key: number): number {
  let mixed = Math.imul((key >>> 0) ^ Math.imul(Math.floor(key / 2 ** 32), 0x9e3779b1), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 13)) >>> 0;
}

/** Frames in order of arrival, in links that all queues of one policy share. */
class Queue {
  size = 0;
  head = NONE;
  tail = NONE;
  readonly #before: Int32Array;
  readonly #after: Int32Array;

  constructor(before: Int32Array, after: Int32Array) {
    this.#before = before;
    this.#after = after;
  }

  push(frame: number): void {
    this.#before[frame] = NONE;
    this.#after[frame] = this.head;
    if (this.head === NONE) this.tail = frame;
    else this.#before[this.head] = frame;
    this.head = frame;
    this.size++;
  }

  remove(frame: number): void {
    const before = this.#before[frame]!;
    const after = this.#after[frame]!;
    if (before === NONE) this.head = after;
    else this.#after[before] = after;
    if (after === NONE) this.tail = before;
    else this.#before[after] = before;
    this.size--;
  }
}

/** Keys that left the small queue: fingerprints with the time of their leaving, in buckets of four. */
class Ghost {
  readonly #capacity: number;
  readonly #mask: number;
  readonly #prints: Uint32Array;
  readonly #times: Float64Array;
  #now: number;

  constructor(capacity: number) {
    this.#capacity = capacity;
    const buckets = 2 ** Math.ceil(Math.log2(Math.max(2, capacity / 2)));
    this.#mask = buckets - 1;
    this.#prints = new Uint32Array(buckets * 4);
    this.#times = new Float64Array(buckets * 4).fill(-capacity - 1);
    this.#now = 0;
  }

  add(key: number): void {
    const hash = hashKey(key);
    const first = (hash & this.#mask) * 4;
    let oldest = first;
    for (let at = first; at < first + 4; at++) if (this.#times[at]! < this.#times[oldest]!) oldest = at;
    this.#prints[oldest] = hash;
    this.#times[oldest] = this.#now++;
  }

  /** Whether the key was remembered; it is not any more. */
  take(key: number): boolean {
    const hash = hashKey(key);
    const first = (hash & this.#mask) * 4;
    for (let at = first; at < first + 4; at++) {
      if (this.#prints[at] !== hash || this.#times[at]! < this.#now - this.#capacity) continue;
      this.#times[at] = -this.#capacity - 1;
      return true;
    }
    return false;
  }
}

export class S3Fifo implements Replacement {
  readonly #small: Queue;
  readonly #main: Queue;
  readonly #ghost: Ghost;
  readonly #smallTarget: number;
  readonly #count: Uint8Array;
  readonly #inMain: Uint8Array;

  constructor(frames: number) {
    const before = new Int32Array(frames);
    const after = new Int32Array(frames);
    this.#small = new Queue(before, after);
    this.#main = new Queue(before, after);
    this.#ghost = new Ghost(frames);
    this.#smallTarget = Math.max(1, Math.floor(frames / 10));
    this.#count = new Uint8Array(frames);
    this.#inMain = new Uint8Array(frames);
  }

  insert(frame: number, key: number): void {
    const known = this.#ghost.take(key);
    this.#count[frame] = 0;
    this.#inMain[frame] = known ? 1 : 0;
    (known ? this.#main : this.#small).push(frame);
  }

  hit(frame: number): void {
    const count = this.#count[frame]!;
    if (count < MAX_COUNT) this.#count[frame] = count + 1;
  }

  remove(frame: number): void {
    (this.#inMain[frame] === 1 ? this.#main : this.#small).remove(frame);
  }

  victim(isPinned: (frame: number) => boolean, keyOf: (frame: number) => number): number {
    let pinned = 0;
    let pinnedSmall = 0;
    while (pinned < TRIES) {
      const due = this.#small.size > this.#smallTarget || this.#main.size === 0;
      // A small queue full of pinned frames does not hide the others.
      const fromSmall = due && pinnedSmall < this.#small.size;
      const queue = fromSmall ? this.#small : this.#main;
      const frame = queue.tail;
      if (frame === NONE) return NONE;
      queue.remove(frame);
      if (isPinned(frame)) {
        pinned++;
        if (fromSmall) pinnedSmall++;
        queue.push(frame);
      } else if (fromSmall && this.#count[frame]! >= PROMOTE) {
        this.#count[frame] = 0;
        this.#toMain(frame);
      } else if (!fromSmall && this.#count[frame]! > 0) {
        this.#count[frame]!--;
        this.#toMain(frame);
      } else {
        if (fromSmall) this.#ghost.add(keyOf(frame));
        return frame;
      }
    }
    return NONE;
  }

  #toMain(frame: number): void {
    this.#inMain[frame] = 1;
    this.#main.push(frame);
  }
}
