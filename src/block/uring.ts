/**
 * The `uring` engine: a file or block device served through this thread's io_uring (block/ring.ts).
 *
 * Invariants
 *  - A request is pushed in `submit` and reaches the kernel at the end of the turn, with all others of the turn.
 *  - Reads of what is cached end in the hand-over itself; what is not waits in the kernel and holds nothing up.
 *  - A device that hangs has at most SLOTS requests in the ring, whose other slots are for the rest.
 *  - Zeroing goes through the ring; a discard of a block device, which has no call of its own there on most kernels, through
 *    libuv's pool.
 */
import { blockDiscard, type RangeCallback } from '../native/addon.ts';
import { openRing, Ring, type RingOwner, type RingWaiter } from './ring.ts';
import { DeviceError, errnoText } from './errors.ts';
import { type EngineCalls, Slot, type SlotOwner } from './engine-calls.ts';
import { SystemDevice, type SystemDeviceOptions } from './system-device.ts';

/** Requests of one device in the ring at once. */
const SLOTS = 256;

class RingSlot extends Slot implements RingOwner {
  /** Whether the call under way moves bytes. */
  moves = false;
  readonly onDiscard: RangeCallback;

  constructor(owner: SlotOwner) {
    super(owner);
    this.onDiscard = (errno) => {
      owner.ranged(this, errno);
    };
  }

  ringDone(result: number): void {
    const errno = result < 0 ? -result : 0;
    if (this.moves) this.owner.moved(this, errno, result);
    else this.owner.ranged(this, errno);
  }
}

class RingCalls implements EngineCalls<RingSlot>, RingWaiter {
  readonly slots: number;
  readonly gathers = true;
  readonly durableWrites: boolean;
  readonly #ring: Ring;
  readonly #fd: number;
  readonly #file: number;
  /** Who waits for room in the ring. */
  #again: (() => void) | null = null;
  #synced: ((errno: number) => void) | null = null;
  readonly #syncOwner: RingOwner = {
    ringDone: (result) => {
      this.#synced!(result < 0 ? -result : 0);
    },
  };

  constructor(ring: Ring, fd: number, file: number, durableWrites: boolean) {
    this.#ring = ring;
    this.#fd = fd;
    this.#file = file;
    this.durableWrites = durableWrites;
    this.slots = Math.min(SLOTS, ring.slots / 2);
  }

  newSlot(owner: SlotOwner): RingSlot {
    return new RingSlot(owner);
  }

  hasRoom(again: () => void): boolean {
    if (!this.#ring.full) return true;
    this.#again = again;
    this.#ring.waitForRoom(this);
    return false;
  }

  ringHasRoom(): void {
    const again = this.#again;
    this.#again = null;
    again?.();
  }

  readAtOnce(): number {
    return 0;
  }

  read(slot: RingSlot, buffer: Buffer, at: number, bytes: number, position: number): void {
    slot.moves = true;
    this.#ring.read(slot, this.#file, buffer, at, bytes, position);
  }

  write(slot: RingSlot, buffer: Buffer, at: number, bytes: number, position: number, durable: boolean): void {
    slot.moves = true;
    this.#ring.write(slot, this.#file, buffer, at, bytes, position, durable);
  }

  fdatasync(done: (errno: number) => void): void {
    this.#synced = done;
    this.#ring.fdatasync(this.#syncOwner, this.#file);
  }

  fallocate(slot: RingSlot, mode: number, offset: number, bytes: number): void {
    slot.moves = false;
    this.#ring.fallocate(slot, this.#file, mode, offset, bytes);
  }

  blockDiscard(slot: RingSlot, offset: number, bytes: number): void {
    blockDiscard(this.#fd, offset, bytes, slot.onDiscard);
  }

  close(): void {
    this.#ring.removeFile(this.#file);
  }
}

/** Why there is no io_uring here, in words; null if there is one. Opens it. */
export function uringProblem(): string | null {
  const ring = openRing();
  return ring instanceof Ring ? null : errnoText(ring);
}

/** Takes over an open file. Throws DeviceError when there is no io_uring here, or no room for one more file. */
export function uringDevice(options: SystemDeviceOptions): SystemDevice<RingSlot> {
  const ring = openRing();
  if (!(ring instanceof Ring)) {
    throw new DeviceError('FAILED', options.name, `cannot be served by io_uring: ${errnoText(ring)}`, { errno: ring });
  }
  const { fd } = options.handle;
  const file = ring.addFile(fd);
  if (file < 0) {
    throw new DeviceError('FAILED', options.name, `cannot be added to the ring: ${errnoText(-file)}`, { errno: -file });
  }
  // Where the page cache lies between, one fdatasync for many writes is the cheaper way.
  const durableWrites = options.bounce !== undefined;
  return new SystemDevice(options, new RingCalls(ring, fd, file, durableWrites));
}
