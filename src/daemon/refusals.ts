/**
 * Which refusals are told one by one: whoever is refused again and again fills neither the audit log nor the daemon's.
 *
 *     the first MAX_EACH of one asker in PERIOD_MS   told
 *     what he asks in vain until the period is over  counted, and told as one
 *
 * Invariants
 *  - Nothing is lost but what exactly was asked: every refusal is told by itself or is in a count, at the latest by `close`.
 *  - Memory is one entry for each asker who was refused in the last period; at most MAX_ASKERS are told apart, the rest is one.
 */

const MAX_EACH = 10;
const PERIOD_MS = 60_000;
const MAX_ASKERS = 1000;
/** Whoever comes when there are so many. */
const OTHERS = 'others';

/** Refusals of one asker that were not told. */
export interface Untold<Asker> {
  readonly asker: Asker;
  readonly count: number;
  /** Of the last of them. */
  readonly reason: string;
}

interface Asked<Asker> {
  asker: Asker;
  told: number;
  untold: number;
  reason: string;
  readonly timer: NodeJS.Timeout;
}

export class Refusals<Asker> {
  readonly #told: (untold: Untold<Asker>) => void;
  readonly #periodMs: number;
  readonly #askers = new Map<string, Asked<Asker>>();

  constructor(told: (untold: Untold<Asker>) => void, periodMs: number = PERIOD_MS) {
    this.#told = told;
    this.#periodMs = periodMs;
  }

  /** Whether this one is to be told by itself. `key`: who asks. */
  isTold(key: string, asker: Asker, reason: string): boolean {
    const known = this.#askers.has(key) || this.#askers.size < MAX_ASKERS ? key : OTHERS;
    const asked = this.#askers.get(known) ?? this.#begin(known, asker);
    if (asked.told < MAX_EACH) {
      asked.told++;
      return true;
    }
    asked.untold++;
    asked.asker = asker;
    asked.reason = reason;
    return false;
  }

  #begin(key: string, asker: Asker): Asked<Asker> {
    const timer = setTimeout(() => this.#end(key), this.#periodMs).unref();
    const asked = { asker, told: 0, untold: 0, reason: '', timer };
    this.#askers.set(key, asked);
    return asked;
  }

  #end(key: string): void {
    const asked = this.#askers.get(key);
    if (asked === undefined) return;
    clearTimeout(asked.timer);
    this.#askers.delete(key);
    const { asker, untold: count, reason } = asked;
    if (count > 0) this.#told({ asker, count, reason });
  }

  /** Tells what is left. */
  close(): void {
    for (const key of this.#askers.keys()) this.#end(key);
  }
}
