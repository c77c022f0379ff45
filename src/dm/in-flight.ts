/**
 * What a volume has begun and not ended: requests, and questions about what a range holds.
 *
 * Invariants
 *  - `enter` and `leave` come in pairs; neither allocates.
 *  - Who waits in `drained` is told when the last one leaves, and waits on if another has come by then.
 */
export class InFlight {
  #count = 0;
  #waiters: (() => void)[] = [];

  get count(): number {
    return this.#count;
  }

  enter(): void {
    this.#count++;
  }

  leave(): void {
    this.#count--;
    if (this.#count === 0 && this.#waiters.length > 0) this.#wake();
  }

  /** Settles when there is nothing. Meant for when nothing is begun any more. */
  async drained(): Promise<void> {
    while (this.#count > 0) {
      await new Promise<void>((resolve) => {
        this.#waiters.push(resolve);
      });
    }
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  }
}
