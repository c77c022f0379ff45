/**
 * The bound on payload memory over all connections of a process: what each charges counts, and who does not fit waits.
 *
 * Invariants
 *  - A connection that uses nothing may always have one small request, so that nobody is kept out by others that don't move:
 *    the bound is `maxBytes` and RESERVED_BYTES for each connection.
 *  - Otherwise whoever waits comes in the order in which they began to wait; nobody passes the first of them.
 */
import assert from 'node:assert/strict';

/** What a connection may have when there is no room. */
export const RESERVED_BYTES: number = 128 * 1024;

/** Somebody who waits for room. */
export interface BudgetWaiter {
  /** There may be room now: take it, or stay the first of those who wait. */
  roomForPayload(): void;
}

export class PayloadBudget {
  readonly maxBytes: number;
  readonly #waiting = new Set<BudgetWaiter>();
  #used = 0;

  /** `maxBytes`: at least that of the largest request. */
  constructor(maxBytes: number) {
    this.maxBytes = maxBytes;
  }

  /** Bytes charged. */
  get used(): number {
    return this.#used;
  }

  /** How many wait for room. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** Whether `who`, who has charged `own` bytes, may charge `bytes` more now. */
  admits(who: BudgetWaiter, own: number, bytes: number): boolean {
    if (own === 0 && bytes <= RESERVED_BYTES) return true;
    if (this.#waiting.size > 0 && this.#first() !== who) return false;
    return this.#used === 0 || this.#used + bytes <= this.maxBytes;
  }

  charge(bytes: number): void {
    this.#used += bytes;
  }

  refund(bytes: number): void {
    assert(this.#used >= bytes);
    this.#used -= bytes;
    if (bytes > 0 && this.#waiting.size > 0) this.#first()?.roomForPayload();
  }

  wait(who: BudgetWaiter): void {
    this.#waiting.add(who);
  }

  /** `who` waits no longer: it has what it wanted, or wants nothing any more. */
  leave(who: BudgetWaiter): void {
    if (this.#waiting.delete(who) && this.#waiting.size > 0) this.#first()?.roomForPayload();
  }

  #first(): BudgetWaiter | undefined {
    return this.#waiting.values().next().value;
  }
}
