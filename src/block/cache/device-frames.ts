/**
 * The frames of one device: the cache's frames by block number, with the device's counts.
 *
 * Invariants
 *  - Only whole blocks inside the device are cached; what is behind the last whole block always goes to the device.
 *  - `cached` counts the device's frames in every state.
 */
import type { DeviceLimits } from '../device.ts';
import type { IoRequest } from '../request.ts';
import { BLOCK_BYTES, FILLING, type FrameOwner, type Frames, VALID } from './frames.ts';
import { CacheCounters } from './stats.ts';

const NONE = -1;
const SECTOR_BYTES = 512;

/** Blocks are kept in units that any device of today takes. */
export function limitsOver(limits: DeviceLimits): DeviceLimits {
  const requestAlignment = Math.max(limits.requestAlignment, SECTOR_BYTES);
  return { ...limits, requestAlignment, sizeBytes: limits.sizeBytes - (limits.sizeBytes % requestAlignment) };
}

export class DeviceFrames implements FrameOwner {
  readonly frames: Frames;
  /** The key of block 0. */
  readonly base: number;
  readonly counters: CacheCounters = new CacheCounters();
  /** Blocks that may be cached. */
  blocks = 0;
  cached = 0;

  constructor(frames: Frames) {
    this.frames = frames;
    this.base = frames.attach(this);
  }

  find(block: number): number {
    return this.frames.find(this.base + block);
  }

  /** A frame for a block that has none, `filling`; -1: there is none to be had. */
  take(block: number): number {
    const frame = this.frames.take(this.base + block);
    if (frame !== NONE) this.cached++;
    return frame;
  }

  drop(frame: number): void {
    this.#left(frame);
    this.frames.drop(frame);
  }

  evicted(frame: number): void {
    this.#left(frame);
    this.counters.evictions++;
  }

  #left(frame: number): void {
    this.cached--;
    if (this.frames.ahead[frame] !== 0) this.counters.aheadWasted++;
  }

  isReadable(frame: number): boolean {
    const { state, poisoned, mixed } = this.frames;
    return frame !== NONE && state[frame] === VALID && poisoned[frame] === 0 && mixed[frame] === 0;
  }

  /**
   * Nothing that blocks [first, end) hold is to be used but what was written here and the device does not have yet. Where a block has
   * both, it is read again once the device has that.
   */
  distrust(first: number, end: number): void {
    const { writers, poisoned, state, mixed } = this.frames;
    this.each(first, end, (frame) => {
      if (writers[frame]! > 0) poisoned[frame] = 1;
      else if (state[frame] === FILLING || !this.frames.isPinned(frame)) this.drop(frame);
      else mixed[frame] = 1;
    });
  }

  /** Copies blocks of a read from memory, from byte `position` up to the first that is not there; gives its byte. */
  copyHits(request: IoRequest, position: number, end: number): number {
    while (position < end) {
      const block = Math.floor(position / BLOCK_BYTES);
      const frame = this.find(block);
      if (!this.isReadable(frame)) return position;
      const stop = Math.min(end, (block + 1) * BLOCK_BYTES);
      const at = request.bufferOffset + position - request.offset;
      this.frames.copyOut(frame, position - block * BLOCK_BYTES, stop - position, request.buffer, at);
      this.used(frame);
      position = stop;
    }
    return position;
  }

  /** The first use of what was read ahead is what it was read for, and none that earns it a longer stay. */
  used(frame: number): void {
    const { frames } = this;
    if (frames.ahead[frame] === 0) {
      frames.touch(frame);
    } else {
      frames.ahead[frame] = 0;
      this.counters.aheadUsed++;
    }
  }

  /** Calls `visit` with each frame of blocks [first, end), whatever its state. */
  each(first: number, end: number, visit: (frame: number) => void): void {
    const { frames, base } = this;
    if (this.cached === 0) return;
    if (end - first <= frames.count) {
      for (let block = first; block < end; block++) {
        const frame = this.find(block);
        if (frame !== NONE) visit(frame);
      }
      return;
    }
    for (let frame = 0; frame < frames.count; frame++) {
      const block = frames.keyOf(frame) - base;
      if (frames.state[frame]! >= FILLING && block >= first && block < end) visit(frame);
    }
  }
}
