/**
 * Writes that go to the device at once, and what they leave in the cache.
 *
 *  - A block that is written whole is in the cache from the begin of the write on; of a part, only if the block is there already.
 *  - If two writes of one block are in flight together, nobody knows which of them the device keeps: the block is poisoned (reads
 *    go to the device) and leaves with the last of them. So does one whose write failed.
 *  - A write that gets no frames for all of its blocks is blind: it takes its blocks out of the cache, and until it has ended no
 *    block comes in at all (`blind`): a read that began meanwhile may have seen the old bytes.
 *
 * Invariant: while a write is in flight, each of its blocks either has a frame that counts it (`writers`), or `blind` counts it.
 */
import assert from 'node:assert/strict';
import type { IoRequest } from '../request.ts';
import type { DeviceFrames } from './device-frames.ts';
import { BLOCK_BYTES, FILLING, VALID } from './frames.ts';
import type { Operation } from './operation.ts';

const NONE = -1;

export class ThroughWrites {
  /** Blind writes in flight. */
  blind = 0;
  readonly #own: DeviceFrames;
  readonly #maxBlocks: number;

  /** `maxBlocks`: longer writes are not kept. */
  constructor(own: DeviceFrames, maxBlocks: number) {
    this.#own = own;
    this.#maxBlocks = maxBlocks;
  }

  /** Notes a write that is about to begin; its operation has the blocks. False: it would have to be blind, and may not. */
  begin(operation: Operation, mayBeBlind: boolean): boolean {
    const { firstBlock, endBlock } = operation;
    const request = operation.request!;
    let block = firstBlock;
    const tooLong = endBlock - firstBlock > this.#maxBlocks;
    if (!tooLong) while (block < endBlock && this.#note(request, block)) block++;
    if (block === endBlock) return true;
    for (let noted = firstBlock; noted < block; noted++) {
      const frame = this.#own.find(noted);
      this.#own.frames.poisoned[frame] = 1;
      this.#leave(frame);
    }
    if (!mayBeBlind) return false;
    operation.blind = true;
    this.blind++;
    this.#own.each(firstBlock, endBlock, (frame) => {
      if (this.#own.frames.writers[frame]! > 0) this.#own.frames.poisoned[frame] = 1;
      else this.#own.drop(frame);
    });
    return true;
  }

  /** A write has ended. */
  end(operation: Operation, errno: number): void {
    if (operation.blind) {
      this.blind--;
      return;
    }
    for (let block = operation.firstBlock; block < operation.endBlock; block++) {
      const frame = this.#own.find(block);
      assert(frame !== NONE);
      if (errno !== 0) this.#own.frames.poisoned[frame] = 1;
      this.#leave(frame);
    }
  }

  /** Counts the write in the block's frame; false: it gets none. */
  #note(request: IoRequest, block: number): boolean {
    const { frames } = this.#own;
    const start = block * BLOCK_BYTES;
    const from = Math.max(request.offset, start);
    const to = Math.min(request.offset + request.length, start + BLOCK_BYTES);
    const isWhole = to - from === BLOCK_BYTES;
    let frame = this.#own.find(block);
    const isNew = frame === NONE;
    if (isNew) {
      frame = this.blind > 0 ? NONE : this.#own.take(block);
      if (frame === NONE) return false;
    }
    if (frames.state[frame] === FILLING) {
      // Whatever a read brings is of before.
      frames.state[frame] = VALID;
      if (!isWhole) frames.poisoned[frame] = 1;
    }
    if (frames.writers[frame]! > 0) frames.poisoned[frame] = 1;
    frames.writers[frame]!++;
    if (frames.poisoned[frame] === 0) {
      const at = request.bufferOffset + from - request.offset;
      frames.copyIn(frame, from - start, to - from, request.buffer, at);
      if (!isNew) this.#own.used(frame);
    }
    return true;
  }

  #leave(frame: number): void {
    const { frames } = this.#own;
    frames.writers[frame]!--;
    if (frames.writers[frame] === 0 && frames.poisoned[frame] !== 0) this.#own.drop(frame);
  }
}
