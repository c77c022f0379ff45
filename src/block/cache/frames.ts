/**
 * The memory of a block cache: frames of one block each, the index that finds them, and what is known of each.
 *
 *     key = device slot * 2^41 + block number        index: block-index.ts
 *
 * Invariants
 *  - The arena has `count` frames and never more; slabs of it are taken from the system as they are needed.
 *  - A frame is in the index exactly while its state is not `free`.
 *  - A frame that is filling, dirty, being written from or covered by a write in flight is pinned: it never leaves by itself.
 *  - Nothing is allocated per look-up, hit, insertion or removal.
 */
import assert from 'node:assert/strict';
import { pageBuffer } from '../../native/addon.ts';
import { BlockIndex } from './block-index.ts';
import { type Replacement, S3Fifo } from './s3-fifo.ts';

export const BLOCK_BYTES = 4096;
/** Blocks that a device of 2^53 bytes has. */
const DEVICE_STRIDE = 2 ** 41;
const MAX_DEVICES = 4096;
const SLAB_FRAMES = 4096;
const SLAB_SHIFT = 12;
const NONE = -1;

/** States of a frame. `filling`: in the index, its bytes not there yet. */
export const FREE = 0;
export const FILLING = 1;
export const VALID = 2;

/** Who is told when a frame of a device is evicted. */
export interface FrameOwner {
  evicted(frame: number): void;
}

export class Frames {
  readonly count: number;
  readonly state: Uint8Array;
  /** Units of the block that the device does not have yet, a bit each. */
  readonly dirty: Uint8Array;
  /** Units that a write-back in flight carries. */
  readonly flying: Uint8Array;
  /** Write-through requests in flight that cover the block. */
  readonly writers: Uint16Array;
  /** Its bytes are not to be used, and it goes when the last writer has ended. */
  readonly poisoned: Uint8Array;
  /** Besides units that the device does not have, or did not have lately, it may hold old bytes. */
  readonly mixed: Uint8Array;
  /** Read ahead and not asked for yet. */
  readonly ahead: Uint8Array;
  /** While filling: the slot of the fill. */
  readonly fill: Int32Array;
  /** While dirty: the epoch since when; links of the device's dirty list; when, in milliseconds. */
  readonly since: Float64Array;
  readonly dirtyAt: Float64Array;
  readonly dirtyBefore: Int32Array;
  readonly dirtyAfter: Int32Array;
  readonly #key: Float64Array;
  readonly #index: BlockIndex;
  readonly #free: Int32Array;
  #freeCount: number;
  readonly #slabs: (Buffer | null)[];
  readonly #policy: Replacement;
  readonly #owners: (FrameOwner | null)[] = [];
  readonly #isPinned = (frame: number): boolean => this.isPinned(frame);
  readonly #keyOf = (frame: number): number => this.#key[frame]!;

  constructor(bytes: number, policy: (frames: number) => Replacement = (frames) => new S3Fifo(frames)) {
    const count = Math.floor(bytes / BLOCK_BYTES);
    assert(count >= 16 && count < 2 ** 29, 'a cache of at least 64 KiB');
    this.count = count;
    this.state = new Uint8Array(count);
    this.dirty = new Uint8Array(count);
    this.flying = new Uint8Array(count);
    this.writers = new Uint16Array(count);
    this.poisoned = new Uint8Array(count);
    this.mixed = new Uint8Array(count);
    this.ahead = new Uint8Array(count);
    this.fill = new Int32Array(count);
    this.since = new Float64Array(count);
    this.dirtyAt = new Float64Array(count);
    this.dirtyBefore = new Int32Array(count);
    this.dirtyAfter = new Int32Array(count);
    this.#key = new Float64Array(count);
    this.#index = new BlockIndex(count);
    this.#free = Int32Array.from({ length: count }, (_, i) => count - 1 - i);
    this.#freeCount = count;
    this.#slabs = Array.from({ length: Math.ceil(count / SLAB_FRAMES) }, () => null);
    this.#policy = policy(count);
  }

  get freeCount(): number {
    return this.#freeCount;
  }

  /** Bytes taken from the system for blocks. */
  get takenBytes(): number {
    return this.#slabs.reduce((sum, slab) => sum + (slab?.length ?? 0), 0);
  }

  /** The first key of a device of its own. */
  attach(owner: FrameOwner): number {
    const vacant = this.#owners.indexOf(null);
    const slot = vacant === NONE ? this.#owners.length : vacant;
    assert(slot < MAX_DEVICES, 'too many cached devices');
    this.#owners[slot] = owner;
    return slot * DEVICE_STRIDE;
  }

  /** Gives the keys back; none of them may be in use. */
  detach(base: number): void {
    this.#owners[base / DEVICE_STRIDE] = null;
  }

  isPinned(frame: number): boolean {
    return (
      this.state[frame] === FILLING ||
      this.dirty[frame] !== 0 ||
      this.flying[frame] !== 0 ||
      this.writers[frame]! > 0 ||
      this.poisoned[frame] !== 0
    );
  }

  keyOf(frame: number): number {
    return this.#key[frame]!;
  }

  /** The frame of a key, or -1. */
  find(key: number): number {
    return this.#index.find(key);
  }

  /** A block was used. The first use of what was read ahead is what it was read for, and no second one. */
  touch(frame: number): void {
    this.#policy.hit(frame);
  }

  /** A frame for a key that has none, in state `filling`; -1: all are pinned, or so many that the search was given up. */
  take(key: number): number {
    let frame: number;
    if (this.#freeCount > 0) {
      frame = this.#free[--this.#freeCount]!;
    } else {
      frame = this.#policy.victim(this.#isPinned, this.#keyOf);
      if (frame === NONE) return NONE;
      const old = this.#key[frame]!;
      this.#index.remove(old);
      this.#owners[Math.floor(old / DEVICE_STRIDE)]!.evicted(frame);
    }
    this.#key[frame] = key;
    this.state[frame] = FILLING;
    this.mixed[frame] = 0;
    this.ahead[frame] = 0;
    this.#index.add(key, frame);
    this.#policy.insert(frame, key);
    return frame;
  }

  /** Forgets what a frame holds. */
  drop(frame: number): void {
    assert(this.dirty[frame] === 0 && this.flying[frame] === 0 && this.writers[frame] === 0);
    this.#policy.remove(frame);
    this.#index.remove(this.#key[frame]!);
    this.state[frame] = FREE;
    this.poisoned[frame] = 0;
    this.ahead[frame] = 0;
    this.#free[this.#freeCount++] = frame;
  }

  copyOut(frame: number, from: number, bytes: number, target: Buffer, at: number): void {
    const start = (frame & (SLAB_FRAMES - 1)) * BLOCK_BYTES + from;
    this.#slabs[frame >> SLAB_SHIFT]!.copy(target, at, start, start + bytes);
  }

  copyIn(frame: number, from: number, bytes: number, source: Buffer, at: number): void {
    const slab = (this.#slabs[frame >> SLAB_SHIFT] ??= this.#newSlab(frame >> SLAB_SHIFT));
    source.copy(slab, (frame & (SLAB_FRAMES - 1)) * BLOCK_BYTES + from, at, at + bytes);
  }

  #newSlab(slab: number): Buffer {
    return pageBuffer(Math.min(SLAB_FRAMES, this.count - slab * SLAB_FRAMES) * BLOCK_BYTES);
  }
}
