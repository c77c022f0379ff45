/**
 * Aligned memory for bytes between the device and the frames of a cache: single blocks, and runs of them.
 *
 * Invariants
 *  - At most SMALL_COUNT pieces of one block and LARGE_COUNT of LARGE_BYTES are ever taken from the system, as they are needed.
 *  - Nobody is promised a piece: who gets none works without, or asks to be called.
 */
import { pageBuffer } from '../../native/addon.ts';
import type { AlignedPiece } from '../aligned-memory.ts';
import { BLOCK_BYTES } from './frames.ts';

export const LARGE_BYTES: number = 512 * 1024;
const SMALL_COUNT = 128;
const LARGE_COUNT = 16;

export class Staging {
  readonly #small: AlignedPiece[] = [];
  readonly #large: AlignedPiece[] = [];
  #smallTaken = false;
  #largeTaken = 0;
  #waiters: (() => void)[] = [];

  /** A piece for `bytes`, or a smaller one (a block at least) where there is none; null: nothing is left. */
  acquire(bytes: number): AlignedPiece | null {
    if (bytes > BLOCK_BYTES) {
      if (this.#large.length === 0 && this.#largeTaken < LARGE_COUNT) {
        this.#largeTaken++;
        return { slab: pageBuffer(LARGE_BYTES), at: 0, bytes: LARGE_BYTES };
      }
      const large = this.#large.pop();
      if (large !== undefined) return large;
    }
    if (!this.#smallTaken) this.#takeSmall();
    return this.#small.pop() ?? null;
  }

  release(piece: AlignedPiece): void {
    (piece.bytes === LARGE_BYTES ? this.#large : this.#small).push(piece);
    if (this.#waiters.length === 0) return;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const again of waiters) setImmediate(again);
  }

  /** Has `again` called once, from a later turn, when a piece was given back. */
  onRelease(again: () => void): void {
    this.#waiters.push(again);
  }

  #takeSmall(): void {
    this.#smallTaken = true;
    const slab = pageBuffer(SMALL_COUNT * BLOCK_BYTES);
    for (let i = 0; i < SMALL_COUNT; i++) this.#small.push({ slab, at: i * BLOCK_BYTES, bytes: BLOCK_BYTES });
  }
}
