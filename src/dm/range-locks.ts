/**
 * Who must wait for whom when some changes of a device read a block before they write it.
 *
 * Entries stand in order of arrival. A `partial` entry (read-modify-write) conflicts with every entry that it overlaps; two
 * entries that write whole blocks don't conflict: nobody orders overlapping writes in flight.
 *
 * Invariants
 *  - An entry is granted when no conflicting entry stands before it, so grants of conflicting entries follow arrival: nobody
 *    starves. `blockers` counts the conflicting entries still before it; each of them lowers it once, when it leaves.
 *  - Without partial entries, adding and removing cost the same however many are in flight.
 */
import assert from 'node:assert/strict';

export class RangeEntry {
  /** Bytes, end exclusive. */
  start = 0;
  end = 0;
  partial = false;
  blockers = 0;
  before: RangeEntry | null = null;
  after: RangeEntry | null = null;
}

function conflict(a: RangeEntry, b: RangeEntry): boolean {
  return (a.partial || b.partial) && a.start < b.end && b.start < a.end;
}

export class RangeLocks<Entry extends RangeEntry> {
  #first: RangeEntry | null = null;
  #last: RangeEntry | null = null;
  #partials = 0;
  #waiting = 0;
  readonly #granted: (entry: Entry) => void;

  /** `granted` is told of entries that had to wait, when they no longer do. It must not add or remove entries at once. */
  constructor(granted: (entry: Entry) => void) {
    this.#granted = granted;
  }

  /** Appends an entry; true when nothing is in its way, else `granted` is called for it later. */
  add(entry: Entry): boolean {
    let blockers = 0;
    if (entry.partial || this.#partials > 0) {
      for (let other = this.#first; other !== null; other = other.after) if (conflict(entry, other)) blockers++;
    }
    entry.blockers = blockers;
    entry.before = this.#last;
    entry.after = null;
    if (this.#last === null) this.#first = entry;
    else this.#last.after = entry;
    this.#last = entry;
    if (entry.partial) this.#partials++;
    if (blockers > 0) this.#waiting++;
    return blockers === 0;
  }

  /** Takes out a granted entry, and grants those that waited for it alone. */
  remove(entry: Entry): void {
    assert(entry.blockers === 0);
    const { before, after } = entry;
    if (before === null) this.#first = after;
    else before.after = after;
    if (after === null) this.#last = before;
    else after.before = before;
    entry.before = null;
    entry.after = null;
    if (entry.partial) this.#partials--;
    if (this.#waiting > 0) this.#unblock(entry, after);
  }

  #unblock(gone: RangeEntry, from: RangeEntry | null): void {
    for (let other = from; other !== null; other = other.after) {
      if (other.blockers === 0 || !conflict(gone, other)) continue;
      other.blockers--;
      if (other.blockers > 0) continue;
      this.#waiting--;
      this.#granted(other as Entry);
    }
  }
}
