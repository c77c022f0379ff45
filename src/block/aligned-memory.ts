/**
 * Memory on whole pages, as O_DIRECT needs it: slabs cut into pieces of a few sizes, reused.
 *
 * Invariants
 *  - At most `maxBytes` are ever taken from the system; they are never given back.
 *  - While `hasRoom` there is a piece for whoever asks, maybe a smaller one than he asked for: then he works in several steps.
 *  - Each piece is given back once. Its contents are what the last user left.
 */
import assert from 'node:assert/strict';
import { pageBuffer } from '../native/addon.ts';

export const SLAB_BYTES: number = 2 ** 20;
/** Sizes of pieces, ascending; the last is a whole slab. */
const PIECE_BYTES = [4096, 65_536, SLAB_BYTES];
const DEFAULT_MAX_BYTES = 32 * 2 ** 20;

/** `bytes` at `at` of a slab. */
export interface AlignedPiece {
  readonly slab: Buffer;
  readonly at: number;
  readonly bytes: number;
}

export class AlignedMemory {
  readonly #maxBytes: number;
  #takenBytes = 0;
  /** By size class. */
  readonly #free: AlignedPiece[][] = PIECE_BYTES.map(() => []);
  #outstanding = 0;
  #waiters: (() => void)[] = [];

  constructor(maxBytes: number = DEFAULT_MAX_BYTES) {
    assert(maxBytes >= SLAB_BYTES);
    this.#maxBytes = maxBytes;
  }

  /** Bytes taken from the system. */
  get takenBytes(): number {
    return this.#takenBytes;
  }

  /** Pieces acquired and not given back. */
  get outstanding(): number {
    return this.#outstanding;
  }

  /** Whether there is a piece; if not, `again` is called from a later turn when one was given back. */
  hasRoom(again: () => void): boolean {
    if (this.#canTake() || this.#free.some(({ length }) => length > 0)) return true;
    this.#waiters.push(again);
    return false;
  }

  /** A piece of at least `bytes` where that is possible, else a smaller one. There must be room. */
  acquire(bytes: number): AlignedPiece {
    const wanted = PIECE_BYTES.findIndex((size, i) => size >= bytes || i === PIECE_BYTES.length - 1);
    if (this.#free[wanted]!.length === 0 && this.#canTake()) this.#take(wanted);
    const piece = this.#free[wanted]!.pop() ?? this.#popOther(wanted);
    assert(piece !== undefined, 'no aligned memory is left');
    this.#outstanding++;
    return piece;
  }

  release(piece: AlignedPiece): void {
    assert(this.#outstanding > 0);
    this.#outstanding--;
    this.#free[PIECE_BYTES.indexOf(piece.bytes)]!.push(piece);
    if (this.#waiters.length === 0) return;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const again of waiters) setImmediate(again);
  }

  #canTake(): boolean {
    return this.#takenBytes + SLAB_BYTES <= this.#maxBytes;
  }

  #take(sizeClass: number): void {
    const slab = pageBuffer(SLAB_BYTES);
    const bytes = PIECE_BYTES[sizeClass]!;
    this.#takenBytes += SLAB_BYTES;
    for (let at = SLAB_BYTES - bytes; at >= 0; at -= bytes) this.#free[sizeClass]!.push({ slab, at, bytes });
  }

  /** A free piece of another size: a larger one if there is one. */
  #popOther(wanted: number): AlignedPiece | undefined {
    for (let i = wanted + 1; i < this.#free.length; i++) {
      const piece = this.#free[i]!.pop();
      if (piece !== undefined) return piece;
    }
    for (let i = wanted - 1; i >= 0; i--) {
      const piece = this.#free[i]!.pop();
      if (piece !== undefined) return piece;
    }
    return undefined;
  }
}

let shared: AlignedMemory | null = null;

/** The memory that all direct devices of this thread share. */
export function sharedAlignedMemory(): AlignedMemory {
  shared ??= new AlignedMemory();
  return shared;
}
