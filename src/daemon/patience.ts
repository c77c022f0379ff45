/**
 * Work on things that may hang (devices), waited for only so long.
 *
 * Invariants
 *  - What did not end in time goes on by itself; until it ends nothing more is begun under its key, and whoever asks is told at once.
 *  - What a late end gives is handed to `late`, so that nothing of it is lost.
 */

export class Patience {
  readonly #timeoutMs: number;
  /** Keys of work that was given up waiting for. */
  readonly #hanging = new Set<string>();

  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs;
  }

  /** What the work gives; null: it does not end, now or since an earlier time. Rejects as the work does, while it is waited for. */
  async with<T>(
    key: string,
    work: () => Promise<T>,
    late: (value: T) => void | Promise<void>,
  ): Promise<{ value: T } | null> {
    if (this.#hanging.has(key)) return null;
    const { promise, resolve } = Promise.withResolvers<null>();
    const timer = setTimeout(() => resolve(null), this.#timeoutMs);
    const working = work();
    try {
      const outcome = await Promise.race([working.then((value) => ({ value })), promise]);
      if (outcome !== null) return outcome;
    } finally {
      clearTimeout(timer);
    }
    this.#hanging.add(key);
    void this.#untilItEnds(key, working, late);
    return null;
  }

  async #untilItEnds<T>(key: string, working: Promise<T>, late: (value: T) => void | Promise<void>): Promise<void> {
    try {
      await late(await working);
    } catch {
      // Who waited was told that it does not answer; the next one who asks meets the failure itself.
    } finally {
      this.#hanging.delete(key);
    }
  }
}

/** Waits for the end of `work`, at most that long. Gives whether it has ended. */
export async function within(work: Promise<unknown>, timeoutMs: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => resolve(false), timeoutMs);
  try {
    return await Promise.race([work.then(() => true), promise]);
  } finally {
    clearTimeout(timer);
  }
}
