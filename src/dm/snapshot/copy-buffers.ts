/**
 * Memory for copying chunks: buffers of powers of two, lent out and given back, within one budget for the whole process however
 * many snapshots copy.
 *
 * Invariants
 *  - Lent and free buffers together never exceed the budget; free ones of another size make room for what is asked.
 *  - Who finds nothing waits in line and is served in order; every borrower gives back without waiting for another.
 */
import assert from 'node:assert/strict';

/** Bytes of the largest buffer: longer copies go in steps. */
export const MAX_COPY_BYTES: number = 256 * 1024;
const MIN_COPY_BYTES = 4096;
const BUDGET_BYTES = 16 * 1024 * 1024;

/** Who waits for a buffer. */
export interface Borrower {
  /** Bytes that it wants; at most MAX_COPY_BYTES. */
  readonly wants: number;
  nextBorrower: Borrower | null;
  lend(buffer: Buffer): void;
}

export class CopyBuffers {
  /** Free buffers by size class. */
  readonly #free: Buffer[][] = [];
  #allocated = 0;
  #first: Borrower | null = null;
  #last: Borrower | null = null;

  /** Lends a buffer of at least `wants` bytes, now or, when all are lent, later. */
  borrow(borrower: Borrower): void {
    assert(borrower.wants <= MAX_COPY_BYTES);
    const buffer = this.#first === null ? this.#take(borrower.wants) : null;
    if (buffer !== null) {
      borrower.lend(buffer);
      return;
    }
    if (this.#last === null) this.#first = borrower;
    else this.#last.nextBorrower = borrower;
    this.#last = borrower;
  }

  giveBack(buffer: Buffer): void {
    (this.#free[classOf(buffer.length)] ??= []).push(buffer);
    while (this.#first !== null) {
      const next = this.#take(this.#first.wants);
      if (next === null) return;
      const borrower = this.#first;
      this.#first = borrower.nextBorrower;
      if (this.#first === null) this.#last = null;
      borrower.nextBorrower = null;
      borrower.lend(next);
    }
  }

  #take(bytes: number): Buffer | null {
    const size = Math.max(MIN_COPY_BYTES, 2 ** Math.ceil(Math.log2(bytes)));
    const free = this.#free[classOf(size)]?.pop();
    if (free !== undefined) return free;
    while (this.#allocated + size > BUDGET_BYTES) {
      const other = this.#free.find((list) => list !== undefined && list.length > 0)?.pop();
      if (other === undefined) return null;
      this.#allocated -= other.length;
    }
    this.#allocated += size;
    return Buffer.allocUnsafeSlow(size);
  }
}

function classOf(bytes: number): number {
  return 31 - Math.clz32(bytes);
}

/** The budget is the process's. */
export const copyBuffers: CopyBuffers = new CopyBuffers();
