/**
 * Which frame of a cache holds a block: leaves of LEAF_BLOCKS neighbouring blocks each, found by hash.
 *
 *     key ── / LEAF_BLOCKS ──> hash ──> leaf ── key % LEAF_BLOCKS ──> frame        hash: open addressing, linear probing
 *
 * What is cached of a volume lies close together, so the hash has few entries, which stay in the processor's caches beside all the
 * bytes that pass through them, and a leaf is one line of them: a table with an entry for each block, and the keys to compare with,
 * are two lines of memory that nobody has looked at lately.
 *
 * Invariants
 *  - A leaf is in the hash exactly while it has a frame: so there are at most as many leaves as frames.
 *  - Nothing is allocated per look-up, insertion or removal. Memory is touched only when there is something to put there: 4 bytes
 *    for a block whose neighbours are cached, at most 90 for one without.
 */
import assert from 'node:assert/strict';
import { hashKey } from './s3-fifo.ts';

/** A power of two. */
const LEAF_BLOCKS = 16;
const NONE = -1;
const NO_KEY = -1;

export class BlockIndex {
  /** By leaf and block: its frame + 1; 0: none. Of a free leaf the first entry is the next free one + 1. */
  readonly #frames: Int32Array;
  /** By leaf: the key of its first block, divided; how many frames it has. */
  readonly #keys: Float64Array;
  readonly #counts: Uint8Array;
  /** The hash: leaf + 1; 0: none. */
  readonly #slots: Int32Array;
  readonly #mask: number;
  /** A list of free leaves, and from which one on none has ever been used. */
  #free = NONE;
  #unused = 0;
  /** What was found last; runs of blocks are looked up one after the other. */
  #lastKey = NO_KEY;
  #lastLeaf = NONE;

  /** `frames`: how many there are. */
  constructor(frames: number) {
    this.#frames = new Int32Array(frames * LEAF_BLOCKS);
    this.#keys = new Float64Array(frames);
    this.#counts = new Uint8Array(frames);
    const slots = 2 ** Math.ceil(Math.log2(frames * 2));
    this.#slots = new Int32Array(slots);
    this.#mask = slots - 1;
  }

  /** The frame of a key, or -1. */
  find(key: number): number {
    const leafKey = Math.floor(key / LEAF_BLOCKS);
    const leaf = leafKey === this.#lastKey ? this.#lastLeaf : this.#findLeaf(leafKey);
    return leaf === NONE ? NONE : this.#frames[leaf * LEAF_BLOCKS + (key & (LEAF_BLOCKS - 1))]! - 1;
  }

  /** Notes the frame of a key that has none. */
  add(key: number, frame: number): void {
    const leafKey = Math.floor(key / LEAF_BLOCKS);
    let leaf = this.#findLeaf(leafKey);
    if (leaf === NONE) leaf = this.#newLeaf(leafKey);
    this.#frames[leaf * LEAF_BLOCKS + (key & (LEAF_BLOCKS - 1))] = frame + 1;
    this.#counts[leaf]!++;
  }

  /** Forgets the frame of a key that has one. */
  remove(key: number): void {
    const leafKey = Math.floor(key / LEAF_BLOCKS);
    const leaf = this.#findLeaf(leafKey);
    assert(leaf !== NONE);
    this.#frames[leaf * LEAF_BLOCKS + (key & (LEAF_BLOCKS - 1))] = 0;
    this.#counts[leaf]!--;
    if (this.#counts[leaf] === 0) this.#dropLeaf(leaf, leafKey);
  }

  #findLeaf(leafKey: number): number {
    const slots = this.#slots;
    const mask = this.#mask;
    for (let at = hashKey(leafKey) & mask; ; at = (at + 1) & mask) {
      const leaf = slots[at]! - 1;
      if (leaf === NONE) return NONE;
      if (this.#keys[leaf] !== leafKey) continue;
      this.#lastKey = leafKey;
      this.#lastLeaf = leaf;
      return leaf;
    }
  }

  #newLeaf(leafKey: number): number {
    let leaf = this.#free;
    if (leaf === NONE) {
      leaf = this.#unused++;
    } else {
      this.#free = this.#frames[leaf * LEAF_BLOCKS]! - 1;
      this.#frames[leaf * LEAF_BLOCKS] = 0;
    }
    this.#keys[leaf] = leafKey;
    let at = hashKey(leafKey) & this.#mask;
    while (this.#slots[at] !== 0) at = (at + 1) & this.#mask;
    this.#slots[at] = leaf + 1;
    return leaf;
  }

  /** Takes a leaf without frames out of the hash, and moves up what had to stand behind it. */
  #dropLeaf(leaf: number, leafKey: number): void {
    const slots = this.#slots;
    const mask = this.#mask;
    let hole = hashKey(leafKey) & mask;
    while (slots[hole] !== leaf + 1) hole = (hole + 1) & mask;
    for (let at = (hole + 1) & mask; slots[at] !== 0; at = (at + 1) & mask) {
      const home = hashKey(this.#keys[slots[at]! - 1]!) & mask;
      // It may move to the hole if that is not before its home.
      if (((at - home) & mask) < ((at - hole) & mask)) continue;
      slots[hole] = slots[at]!;
      hole = at;
    }
    slots[hole] = 0;
    this.#frames[leaf * LEAF_BLOCKS] = this.#free + 1;
    this.#free = leaf;
    this.#lastKey = NO_KEY;
  }
}
