/**
 * Counts what volumes and their targets ask of a device.
 *
 * A table's legs go straight to the device, and the volume counts them itself (dm/request-mapper.ts): nothing is added to their
 * way. Targets of the submit form do I/O of their own, through this device, which passes a request of its own on.
 *
 * Invariants
 *  - One MeasuredDevice and one IoStats for each device, whichever volume asks; they live as long as it.
 *  - Limits, name and closing are the device's own.
 */
import type { BlockDevice, DeviceLimits } from '../block/device.ts';
import { blockStatusOf, type ExtentList, type StatusDone } from '../block/extents.ts';
import { type IoRequest, type RequestOwner, RequestPool } from '../block/request.ts';
import { anyRange } from './aligned-device.ts';
import { IoStats } from './io-stats.ts';
import { turnClock } from './turn-clock.ts';

export class MeasuredDevice implements BlockDevice, RequestOwner {
  /** Takes any byte range, and counts nothing. */
  readonly inner: BlockDevice;
  readonly stats: IoStats;
  readonly #pool = new RequestPool();

  constructor(inner: BlockDevice, stats: IoStats) {
    this.inner = inner;
    this.stats = stats;
  }

  get name(): string {
    return this.inner.name;
  }

  get limits(): DeviceLimits {
    return this.inner.limits;
  }

  submit(request: IoRequest): void {
    const child = this.#pool.acquire(this);
    child.op = request.op;
    child.flags = request.flags;
    child.offset = request.offset;
    child.length = request.length;
    child.buffer = request.buffer;
    child.bufferOffset = request.bufferOffset;
    child.parent = request;
    child.startedAt = turnClock.now();
    this.stats.started();
    this.inner.submit(child);
  }

  ioDone(child: IoRequest): void {
    const request = child.parent!;
    const { error } = child;
    this.stats.ended(child.op, child.length, turnClock.since(child.startedAt), error);
    this.#pool.release(child);
    request.error = error;
    request.owner.ioDone(request);
  }

  /** Questions are not counted. */
  blockStatus(offset: number, length: number, extents: ExtentList, done: StatusDone): void {
    blockStatusOf(this.inner, offset, length, extents, done);
  }

  close(): Promise<void> {
    return this.inner.close();
  }
}

const devices = new WeakMap<BlockDevice, MeasuredDevice>();

/** The device, taking any byte range and counted. */
export function measured(device: BlockDevice): MeasuredDevice {
  if (device instanceof MeasuredDevice) return device;
  const known = devices.get(device);
  if (known !== undefined) return known;
  const made = new MeasuredDevice(anyRange(device), new IoStats());
  devices.set(device, made);
  return made;
}

/** What was asked of a device so far by tables that name it; null: none does. */
export function deviceStats(device: BlockDevice): IoStats | null {
  return devices.get(device)?.stats ?? null;
}
