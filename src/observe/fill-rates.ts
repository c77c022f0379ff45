/**
 * How fast the COW stores of snapshots fill up, from what was seen of them before, and when they will be full at that rate.
 *
 * Invariants
 *  - A rate is a mean in which what happened MEMORY_MS ago counts a third: one busy moment is no alarm, and a rate that has ended fades.
 *  - A store that is emptier than before is another one, or was merged from: it begins anew.
 *  - Pure but for its memory; time comes from the caller.
 */

/** What is known of a snapshot's store now. */
export interface StoreFill {
  /** VG/LV */
  readonly name: string;
  readonly usedBytes: number;
}

const MEMORY_MS = 5 * 60 * 1000;
/** Less than this per second is nothing: a store would take years. */
const LEAST_RATE = 1;

interface Seen {
  time: number;
  usedBytes: number;
  /** Bytes per second; null: it was seen once. */
  rate: number | null;
}

export class FillRates {
  readonly #seen = new Map<string, Seen>();

  /** Takes in what is there now, at `time` in milliseconds of a clock that is never set. */
  look(time: number, stores: readonly StoreFill[]): void {
    const names = new Set(stores.map(({ name }) => name));
    for (const name of this.#seen.keys()) if (!names.has(name)) this.#seen.delete(name);
    for (const { name, usedBytes } of stores) {
      const seen = this.#seen.get(name);
      if (seen === undefined || usedBytes < seen.usedBytes) {
        this.#seen.set(name, { time, usedBytes, rate: null });
        continue;
      }
      const elapsed = time - seen.time;
      if (elapsed <= 0) continue;
      const now = ((usedBytes - seen.usedBytes) * 1000) / elapsed;
      const weight = 1 - Math.exp(-elapsed / MEMORY_MS);
      seen.rate = seen.rate === null ? now : seen.rate + (now - seen.rate) * weight;
      seen.time = time;
      seen.usedBytes = usedBytes;
    }
  }

  /** Bytes per second; 0: nothing, or not known yet. */
  rateOf(name: string): number {
    const rate = this.#seen.get(name)?.rate ?? 0;
    return rate < LEAST_RATE ? 0 : rate;
  }
}
