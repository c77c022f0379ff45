/**
 * Ranges of a device that somebody has for himself: discards, zeroes, and what a table gives up.
 *
 *     added ── frames in it written back, waited for, dropped ──> settled ── the request itself ──> removed
 *
 * Invariants
 *  - From `add` to `remove` nothing of the range comes into the cache; changes that overlap wait in `waiters`. So ranges that are
 *    active never overlap.
 *  - A settled range has no frame and no change on its way to the device.
 */
import type { DeviceFrames } from './device-frames.ts';
import { FILLING } from './frames.ts';
import type { Operation } from './operation.ts';

export class Ranges {
  readonly #own: DeviceFrames;
  readonly #active: Operation[] = [];
  #busy = 0;
  readonly #visit = (frame: number): void => {
    const { frames } = this.#own;
    if (frames.state[frame] !== FILLING && frames.isPinned(frame)) this.#busy++;
    else this.#own.drop(frame);
  };

  constructor(own: DeviceFrames) {
    this.#own = own;
  }

  /** Whether a range waits for what is dirty. */
  get wantsWriteBack(): boolean {
    for (const { settled, error } of this.#active) if (!settled && error === 0) return true;
    return false;
  }

  /** One that is not settled yet; null: all are. */
  get firstUnsettled(): Operation | null {
    for (const range of this.#active) if (!range.settled) return range;
    return null;
  }

  /** An active range that blocks [first, end) overlap; null: none. */
  over(first: number, end: number): Operation | null {
    for (const range of this.#active) if (range.firstBlock < end && first < range.endBlock) return range;
    return null;
  }

  add(range: Operation): void {
    this.#active.push(range);
  }

  remove(range: Operation): void {
    this.#active.splice(this.#active.indexOf(range), 1);
  }

  /** Drops what can be dropped of a range; true: that was all. */
  settle(range: Operation): boolean {
    this.#busy = 0;
    this.#own.each(range.firstBlock, range.endBlock, this.#visit);
    range.pending = this.#busy;
    return this.#busy === 0;
  }

  /** Blocks [first, end) are written, or could not be: calls `again` with each range that may have come further. */
  changed(first: number, end: number, errno: number, again: (range: Operation) => void): void {
    if (this.#active.length === 0) return;
    for (const range of this.#active.slice()) {
      const common = Math.min(end, range.endBlock) - Math.max(first, range.firstBlock);
      if (range.settled || common <= 0) continue;
      range.pending -= common;
      if (errno !== 0) range.error = errno;
      if (range.error !== 0 || range.pending <= 0) again(range);
    }
  }
}
