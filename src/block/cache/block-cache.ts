/**
 * The block cache of a process: one arena that all of its cached devices share.
 *
 * Invariants
 *  - Blocks take `sizeBytes` and no more; staging memory for reads and writes is bounded beside it (staging.ts), and what is known
 *    of a block takes 3 % of it, at most 5 %.
 *  - At most DIRTY_SHARE of the frames are dirty; while several devices are cached, DEVICE_SHARE of that for one of them, so that a
 *    device which hangs leaves room for the others.
 *  - Room that becomes free is offered to the devices in turn.
 */
import type { BlockDevice, OpenedDevice } from '../device.ts';
import { CachedDevice } from './cached-device.ts';
import { BLOCK_BYTES, Frames } from './frames.ts';
import { LARGE_BYTES, Staging } from './staging.ts';
import type { IoScheduler } from './write-back.ts';

const DIRTY_SHARE = 0.4;
const DEVICE_SHARE = 0.75;
/** Blocks of a device that are dirty for no reason, as a share of those that may be. */
const BACKGROUND_SHARE = 0.25;
/** A request that would take more than this share of the cache goes past it. */
const LARGEST_SHARE = 1 / 8;
const AHEAD_SHARE = 1 / 16;
const DEFAULT_WRITE_DEADLINE_MS = 5000;

/** The smallest cache that makes sense. */
export const MIN_CACHE_BYTES: number = 2 ** 20;

export interface CacheOptions {
  /** Bytes of blocks. */
  readonly sizeBytes: number;
  readonly policy: 'writethrough' | 'writeback';
  readonly scheduler: IoScheduler;
  /** Write-back: how long a block may be dirty before it is written. Default 5 s. */
  readonly writeDeadlineMs?: number;
  /** Default: read ahead; false: never. */
  readonly readAhead?: boolean;
}

export class BlockCache {
  readonly frames: Frames;
  readonly policy: 'writethrough' | 'writeback';
  readonly scheduler: IoScheduler;
  readonly writeDeadlineMs: number;
  readonly readStaging: Staging = new Staging();
  readonly writeStaging: Staging = new Staging();
  /** Longer runs are not kept. */
  readonly maxBlocks: number;
  /** How far to read ahead. */
  readonly aheadBytes: number;
  readonly backgroundBlocks: number;
  /** Dirty blocks of all devices. */
  readonly total: { unclean: number } = { unclean: 0 };
  readonly #maxDirty: number;
  readonly #devices: CachedDevice[] = [];
  #nextServed = 0;
  #offering = false;

  constructor(options: CacheOptions) {
    this.frames = new Frames(options.sizeBytes);
    this.policy = options.policy;
    this.scheduler = options.scheduler;
    this.writeDeadlineMs = options.writeDeadlineMs ?? DEFAULT_WRITE_DEADLINE_MS;
    const { count } = this.frames;
    this.maxBlocks = Math.max(1, Math.floor(count * LARGEST_SHARE));
    const ahead = Math.min(LARGE_BYTES, Math.floor(count * AHEAD_SHARE) * BLOCK_BYTES);
    this.aheadBytes = options.readAhead === false ? 0 : ahead;
    this.#maxDirty = Math.max(1, Math.floor(count * DIRTY_SHARE));
    this.backgroundBlocks = Math.max(1, Math.floor(this.#maxDirty * BACKGROUND_SHARE));
  }

  /** Puts a device behind this cache; the decorator owns it from here on. */
  attach(device: BlockDevice & Partial<OpenedDevice>): CachedDevice {
    const cached = new CachedDevice(device, this);
    this.#devices.push(cached);
    return cached;
  }

  detach(device: CachedDevice): void {
    this.#devices.splice(this.#devices.indexOf(device), 1);
  }

  /** Whether a device that has `unclean` dirty blocks may have one more. */
  mayDirty(unclean: number): boolean {
    if (this.total.unclean >= this.#maxDirty) return false;
    return this.#devices.length < 2 || unclean < this.#maxDirty * DEVICE_SHARE;
  }

  /** Whether some write waits for room: then all devices write back what they can. */
  get isPressed(): boolean {
    // Asked for each batch of write-back: nothing is made here, and in `Ranges`.
    for (const device of this.#devices) if (device.waiting > 0) return true;
    return false;
  }

  /** A write begins to wait for room. */
  pressure(): void {
    for (const device of this.#devices) device.writeBack();
  }

  /** Blocks were written or read: whoever waits for room may go on. */
  roomChanged(): void {
    if (this.#offering) return;
    this.#offering = true;
    const devices = this.#devices;
    for (let i = 0; i < devices.length; i++) devices[(this.#nextServed + i) % devices.length]!.serveWaiting();
    this.#nextServed++;
    this.#offering = false;
  }
}
