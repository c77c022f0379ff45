/**
 * Which chunks of an origin have their old content on a COW device, and where: a sorted map from old to new chunks.
 * Consecutive chunks whose copies are consecutive too share one entry of 12 bytes.
 *
 *     index   sorted by first old chunk: leaf 7, leaf 0, leaf 3, …
 *     leaf    up to 256 entries, sorted: old u40, new u40, chunks - 1 u16        leaves live in slabs of 16
 *
 * Invariants
 *  - Entries do not overlap, and none could be joined with its neighbour of the same leaf.
 *  - No leaf is empty, except a lone one. An insertion moves at most one leaf's entries and, once in 128 or more, the index:
 *    never the whole table, so no request waits for a rehash.
 *  - `find` leaves its answer in the fields `mapped`, `newChunk` and `run`: no object is made per lookup.
 *  - At worst (single chunks in random order) an exception takes 12 bytes in leaves that are two thirds full, in sorted order in
 *    full ones: test/dm/snapshot-table.test.ts measures it.
 */
import assert from 'node:assert/strict';
import { MAX_CHUNK_NUMBER } from '../../ondisk/snapshot-store.ts';

const LEAF_ENTRIES = 256;
const SLAB_LEAVES = 16;
const SLAB_ENTRIES = LEAF_ENTRIES * SLAB_LEAVES;
const MAX_RUN = 65_536;
const TWO_32 = 2 ** 32;

/** Entries of 16 leaves, a field per array. */
class Slab {
  readonly oldLow = new Uint32Array(SLAB_ENTRIES);
  readonly newLow = new Uint32Array(SLAB_ENTRIES);
  /** Bits 32 to 39 of the old chunk above those of the new one. */
  readonly high = new Uint16Array(SLAB_ENTRIES);
  /** Chunks of the run, less one. */
  readonly more = new Uint16Array(SLAB_ENTRIES);
}

export class ExceptionTable {
  /** Answers of `find`. */
  mapped = false;
  newChunk = 0;
  run = 0;

  readonly #slabs: Slab[] = [];
  readonly #freeLeaves: number[] = [];
  /** By leaf. */
  #counts: Uint16Array = new Uint16Array(SLAB_LEAVES);
  /** In order: the first old chunk of each leaf, and its number. */
  #firsts: Float64Array = new Float64Array(SLAB_LEAVES);
  #leaves: Int32Array = new Int32Array(SLAB_LEAVES);
  #leafCount = 0;
  #size = 0;

  /** Exceptions: chunks, not entries. */
  get size(): number {
    return this.#size;
  }

  /** Bytes of the arrays. */
  get memoryBytes(): number {
    const index = this.#counts.byteLength + this.#firsts.byteLength + this.#leaves.byteLength;
    return this.#slabs.length * SLAB_ENTRIES * 12 + index;
  }

  /**
   * Whether a chunk has an exception, its new chunk, and for how many chunks from it on the same holds (with consecutive new
   * chunks); `run` is Infinity after the last one.
   */
  find(chunk: number): void {
    if (this.#leafCount === 0) {
      this.mapped = false;
      this.run = Infinity;
      return;
    }
    const position = this.#positionOf(chunk);
    const leaf = this.#leaves[position]!;
    const slab = this.#slabs[Math.floor(leaf / SLAB_LEAVES)]!;
    const base = (leaf % SLAB_LEAVES) * LEAF_ENTRIES;
    const count = this.#counts[leaf]!;
    const index = this.#indexOf(slab, base, count, chunk);
    if (index >= 0) {
      const into = chunk - oldAt(slab, base + index);
      const length = slab.more[base + index]! + 1;
      if (into < length) {
        this.mapped = true;
        this.newChunk = newAt(slab, base + index) + into;
        this.run = length - into;
        return;
      }
    }
    this.mapped = false;
    if (index + 1 < count) this.run = oldAt(slab, base + index + 1) - chunk;
    else if (position + 1 < this.#leafCount) this.run = this.#firsts[position + 1]! - chunk;
    else this.run = Infinity;
  }

  has(chunk: number): boolean {
    this.find(chunk);
    return this.mapped;
  }

  /** Adds an exception; false, and nothing is changed, when the chunk has one. */
  add(oldChunk: number, newChunk: number): boolean {
    assert(oldChunk >= 0 && oldChunk <= MAX_CHUNK_NUMBER && newChunk >= 0 && newChunk <= MAX_CHUNK_NUMBER);
    if (this.#leafCount === 0) this.#addLeaf(0, oldChunk);
    const position = this.#positionOf(oldChunk);
    const leaf = this.#leaves[position]!;
    const slab = this.#slabs[Math.floor(leaf / SLAB_LEAVES)]!;
    const base = (leaf % SLAB_LEAVES) * LEAF_ENTRIES;
    const count = this.#counts[leaf]!;
    const index = this.#indexOf(slab, base, count, oldChunk);
    const at = base + index;
    let before = false;
    if (index >= 0) {
      const length = slab.more[at]! + 1;
      const into = oldChunk - oldAt(slab, at);
      if (into < length) return false;
      before = into === length && length < MAX_RUN && newAt(slab, at) + length === newChunk;
    }
    const after =
      index + 1 < count && oldAt(slab, at + 1) === oldChunk + 1 && newAt(slab, at + 1) === newChunk + 1
        ? slab.more[at + 1]! + 1
        : 0;
    this.#size++;
    if (before && after > 0 && slab.more[at]! + 2 + after <= MAX_RUN) {
      slab.more[at] = slab.more[at]! + 1 + after;
      this.#move(slab, at + 2, at + 1, base + count);
      this.#counts[leaf] = count - 1;
    } else if (before) {
      slab.more[at] = slab.more[at]! + 1;
    } else if (after > 0 && after < MAX_RUN) {
      put(slab, at + 1, oldChunk, newChunk, after + 1);
      if (index < 0) this.#firsts[position] = oldChunk;
    } else {
      this.#insert(position, index + 1, oldChunk, newChunk, 1);
    }
    return true;
  }

  /** Removes the exceptions of `count` chunks from `oldChunk` on; those without one are passed over. */
  remove(oldChunk: number, count: number): void {
    const end = oldChunk + count;
    for (let chunk = oldChunk; chunk < end;) {
      this.find(chunk);
      const step = Math.min(this.run, end - chunk);
      if (this.mapped) this.#removePart(chunk, step);
      chunk += step;
    }
  }

  /** Calls `visit` for each run, in order of old chunks. */
  forEach(visit: (oldChunk: number, newChunk: number, chunks: number) => void): void {
    for (let position = 0; position < this.#leafCount; position++) {
      const leaf = this.#leaves[position]!;
      const slab = this.#slabs[Math.floor(leaf / SLAB_LEAVES)]!;
      const base = (leaf % SLAB_LEAVES) * LEAF_ENTRIES;
      for (let at = base; at < base + this.#counts[leaf]!; at++)
        visit(oldAt(slab, at), newAt(slab, at), slab.more[at]! + 1);
    }
  }

  /** Removes a part of one entry. */
  #removePart(oldChunk: number, count: number): void {
    const position = this.#positionOf(oldChunk);
    const leaf = this.#leaves[position]!;
    const slab = this.#slabs[Math.floor(leaf / SLAB_LEAVES)]!;
    const base = (leaf % SLAB_LEAVES) * LEAF_ENTRIES;
    const index = this.#indexOf(slab, base, this.#counts[leaf]!, oldChunk);
    const at = base + index;
    const first = oldAt(slab, at);
    const firstNew = newAt(slab, at);
    const length = slab.more[at]! + 1;
    const head = oldChunk - first;
    const tail = length - head - count;
    this.#size -= count;
    if (head > 0) slab.more[at] = head - 1;
    if (head > 0 && tail > 0) {
      this.#insert(position, index + 1, oldChunk + count, firstNew + head + count, tail);
    } else if (head === 0 && tail > 0) {
      put(slab, at, oldChunk + count, firstNew + count, tail);
      if (index === 0) this.#firsts[position] = oldChunk + count;
    } else if (head === 0) {
      this.#removeEntry(position, index);
    }
  }

  #removeEntry(position: number, index: number): void {
    const leaf = this.#leaves[position]!;
    const slab = this.#slabs[Math.floor(leaf / SLAB_LEAVES)]!;
    const base = (leaf % SLAB_LEAVES) * LEAF_ENTRIES;
    const count = this.#counts[leaf]!;
    this.#move(slab, base + index + 1, base + index, base + count);
    this.#counts[leaf] = count - 1;
    if (count > 1) {
      if (index === 0) this.#firsts[position] = oldAt(slab, base);
      return;
    }
    this.#firsts.copyWithin(position, position + 1, this.#leafCount);
    this.#leaves.copyWithin(position, position + 1, this.#leafCount);
    this.#leafCount--;
    this.#freeLeaves.push(leaf);
  }

  /** Puts an entry at `index` of the leaf at `position`, splitting it when it is full. */
  #insert(position: number, index: number, oldChunk: number, newChunk: number, chunks: number): void {
    const leaf = this.#leaves[position]!;
    const count = this.#counts[leaf]!;
    if (count === LEAF_ENTRIES) {
      // A leaf that is filled in order, up or down, stays full.
      const half = index === LEAF_ENTRIES || index === 0 ? index : LEAF_ENTRIES / 2;
      if (half === 0) this.#addLeaf(position, oldChunk);
      else this.#split(position, half, oldChunk);
      if (index <= half && index < LEAF_ENTRIES) this.#insert(position, index, oldChunk, newChunk, chunks);
      else this.#insert(position + 1, index - half, oldChunk, newChunk, chunks);
      return;
    }
    const slab = this.#slabs[Math.floor(leaf / SLAB_LEAVES)]!;
    const base = (leaf % SLAB_LEAVES) * LEAF_ENTRIES;
    this.#move(slab, base + index, base + index + 1, base + count);
    put(slab, base + index, oldChunk, newChunk, chunks);
    this.#counts[leaf] = count + 1;
    if (index === 0) this.#firsts[position] = oldChunk;
  }

  /** Moves the entries from `half` on to a new leaf behind; one without entries begins at `first`. */
  #split(position: number, half: number, first: number): void {
    const leaf = this.#leaves[position]!;
    const moved = LEAF_ENTRIES - half;
    const slab = this.#slabs[Math.floor(leaf / SLAB_LEAVES)]!;
    const from = (leaf % SLAB_LEAVES) * LEAF_ENTRIES + half;
    this.#addLeaf(position + 1, moved === 0 ? first : oldAt(slab, from));
    const other = this.#leaves[position + 1]!;
    const target = this.#slabs[Math.floor(other / SLAB_LEAVES)]!;
    const to = (other % SLAB_LEAVES) * LEAF_ENTRIES;
    target.oldLow.set(slab.oldLow.subarray(from, from + moved), to);
    target.newLow.set(slab.newLow.subarray(from, from + moved), to);
    target.high.set(slab.high.subarray(from, from + moved), to);
    target.more.set(slab.more.subarray(from, from + moved), to);
    this.#counts[leaf] = half;
    this.#counts[other] = moved;
  }

  #addLeaf(position: number, first: number): void {
    if (this.#freeLeaves.length === 0) this.#addSlab();
    const leaf = this.#freeLeaves.pop()!;
    this.#firsts.copyWithin(position + 1, position, this.#leafCount);
    this.#leaves.copyWithin(position + 1, position, this.#leafCount);
    this.#firsts[position] = first;
    this.#leaves[position] = leaf;
    this.#counts[leaf] = 0;
    this.#leafCount++;
  }

  #addSlab(): void {
    const first = this.#slabs.length * SLAB_LEAVES;
    this.#slabs.push(new Slab());
    for (let leaf = first + SLAB_LEAVES - 1; leaf >= first; leaf--) this.#freeLeaves.push(leaf);
    if (first + SLAB_LEAVES <= this.#counts.length) return;
    const capacity = this.#counts.length * 2;
    const counts = new Uint16Array(capacity);
    counts.set(this.#counts);
    this.#counts = counts;
    const firsts = new Float64Array(capacity);
    firsts.set(this.#firsts);
    this.#firsts = firsts;
    const leaves = new Int32Array(capacity);
    leaves.set(this.#leaves);
    this.#leaves = leaves;
  }

  /** The last leaf that begins at or before the chunk; the first one when none does. */
  #positionOf(chunk: number): number {
    let low = 0;
    let high = this.#leafCount - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#firsts[middle]! <= chunk) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** The last entry that begins at or before the chunk, or -1. */
  #indexOf(slab: Slab, base: number, count: number, chunk: number): number {
    if (count === 0) return -1;
    // Nearly every leaf lies in one range of 2^32 chunks: then the low words alone decide.
    const { oldLow } = slab;
    const high = slab.high[base]! >>> 8;
    const alike = high === slab.high[base + count - 1]! >>> 8 && high === Math.floor(chunk / TWO_32);
    const wanted = alike ? chunk % TWO_32 : chunk;
    let low = -1;
    let last = count - 1;
    while (low < last) {
      const middle = (low + last + 1) >> 1;
      if ((alike ? oldLow[base + middle]! : oldAt(slab, base + middle)) <= wanted) low = middle;
      else last = middle - 1;
    }
    return low;
  }

  /** Moves the entries from `from` to `end` so that they begin at `to`. */
  #move(slab: Slab, from: number, to: number, end: number): void {
    slab.oldLow.copyWithin(to, from, end);
    slab.newLow.copyWithin(to, from, end);
    slab.high.copyWithin(to, from, end);
    slab.more.copyWithin(to, from, end);
  }
}

function oldAt(slab: Slab, at: number): number {
  return (slab.high[at]! >>> 8) * TWO_32 + slab.oldLow[at]!;
}

function newAt(slab: Slab, at: number): number {
  return (slab.high[at]! & 0xff) * TWO_32 + slab.newLow[at]!;
}

function put(slab: Slab, at: number, oldChunk: number, newChunk: number, chunks: number): void {
  slab.oldLow[at] = oldChunk % TWO_32;
  slab.newLow[at] = newChunk % TWO_32;
  slab.high[at] = (Math.floor(oldChunk / TWO_32) << 8) | Math.floor(newChunk / TWO_32);
  slab.more[at] = chunks - 1;
}
