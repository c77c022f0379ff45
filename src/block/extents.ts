/**
 * What ranges of a device hold: a bounded list of extents, and how a device is asked for it.
 *
 * Invariants
 *  - Extents follow each other from the offset that was asked for; none is empty, and neighbours differ.
 *  - "Neither hole nor zero" is always true: who doesn't know says so.
 *  - A list belongs to who asks; whoever answers adds to it until its callback, and not afterwards.
 *  - What the bits of a status mean is the question's: `ExtentFlag` where it is what a range holds, else what the context says.
 */
import assert from 'node:assert/strict';

/** Bits of the status of what a range holds; none: data. */
export const ExtentFlag = {
  /** Nothing is allocated: a write may find no space. */
  hole: 1,
  /** Reads as zeroes. */
  zero: 2,
} as const;

/** Status of what is known to be a hole that reads as zeroes. */
export const HOLE_STATUS: number = ExtentFlag.hole | ExtentFlag.zero;

export class ExtentList {
  /** Extents that it takes; at most `capacity`. */
  limit: number;
  count = 0;
  /** Bytes of all extents. */
  bytes = 0;
  /** Bytes of each. */
  readonly lengths: Float64Array;
  readonly flags: Uint32Array;

  constructor(capacity: number) {
    this.limit = capacity;
    this.lengths = new Float64Array(capacity);
    this.flags = new Uint32Array(capacity);
  }

  /** Empties it, to take up to `limit` extents. */
  clear(limit: number): void {
    assert(limit > 0 && limit <= this.lengths.length);
    this.limit = limit;
    this.count = 0;
    this.bytes = 0;
  }

  /** Adds `length` bytes at the end; false if there is no room for one more extent, and the list stays as it is. */
  add(length: number, flags: number): boolean {
    if (length === 0) return true;
    const last = this.count - 1;
    if (last >= 0 && this.flags[last] === flags) {
      this.lengths[last]! += length;
    } else {
      if (this.count === this.limit) return false;
      this.lengths[this.count] = length;
      this.flags[this.count] = flags;
      this.count++;
    }
    this.bytes += length;
    return true;
  }
}

/** Receives 0 or a positive errno; never from inside the call that asks. */
export type StatusDone = (errno: number) => void;

/** Who may be asked for the status of ranges. */
export interface StatusSource {
  blockStatus?(offset: number, length: number, extents: ExtentList, done: StatusDone): void;
}

/** Asks for the status of a range; where nobody can tell, all of it is data. */
export function blockStatusOf(
  source: StatusSource,
  offset: number,
  length: number,
  extents: ExtentList,
  done: StatusDone,
): void {
  if (source.blockStatus !== undefined) {
    source.blockStatus(offset, length, extents, done);
    return;
  }
  extents.add(length, 0);
  setImmediate(done, 0);
}
