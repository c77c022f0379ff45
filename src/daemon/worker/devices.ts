/**
 * The devices that a worker has opened, for the tables of its volumes.
 *
 * Invariants
 *  - A device is open once for each key, from the first load that names it until `keep` leaves it out.
 *  - What is behind a path is the device that the supervisor claimed, or it is not used.
 *  - A flush that failed in one worker has failed in all that have the device: who else has it may have written what was lost.
 *  - One that does not answer fails who asked for it; what it answers late is there for the next one.
 */
import type { BlockCache } from '../../block/cache/block-cache.ts';
import { CachedDevice } from '../../block/cache/cached-device.ts';
import type { OpenedDevice } from '../../block/device.ts';
import { openBlockDevice } from '../../block/open.ts';
import { flush } from '../../block/sync-io.ts';
import { deviceStats } from '../../dm/measured-device.ts';
import { cacheOf, directOf, dressed, type EngineSettings } from '../engine.ts';
import { Patience } from '../patience.ts';
import { type DeviceKey, deviceKey, type DeviceSpec, type LostFlushes, type WorkerStats } from './host.ts';

/** How long opening a device, or asking for its size, may take. */
const DEVICE_TIMEOUT_MS = 10_000;

export class WorkerDevices {
  readonly #engine: EngineSettings;
  readonly #cache: BlockCache | null;
  readonly #devices = new Map<DeviceKey, Promise<OpenedDevice>>();
  readonly #patience = new Patience(DEVICE_TIMEOUT_MS);
  readonly #flushLost: (lost: LostFlushes) => void;
  /** Devices whose flushes are lost, opened or not. */
  readonly #lost = new Map<DeviceKey, number>();
  /** As they were opened. */
  readonly #bare = new Map<DeviceKey, OpenedDevice>();

  constructor(engine: EngineSettings, flushLost: (lost: LostFlushes) => void) {
    this.#engine = engine;
    this.#flushLost = flushLost;
    this.#cache = cacheOf(engine);
  }

  /** The device, opened if it is not yet, and at least as large as it is said to be, if it is that. */
  async get(spec: DeviceSpec): Promise<OpenedDevice> {
    const key = deviceKey(spec);
    let opening = this.#devices.get(key);
    if (opening === undefined) {
      opening = this.#open(spec);
      this.#devices.set(key, opening);
      opening.catch(() => this.#devices.delete(key));
    }
    const opened = opening;
    const device = (await this.#patience.with(`open ${key}`, () => opened, ignoreLate))?.value;
    if (device === undefined) throw new Error(`${spec.path} does not answer`);
    if (spec.sizeBytes > device.limits.sizeBytes) {
      const measured = await this.#patience.with(`measure ${key}`, async () => device.remeasure?.(), ignoreLate);
      if (measured === null) throw new Error(`${spec.path} does not answer`);
    }
    return device;
  }

  async #open(spec: DeviceSpec): Promise<OpenedDevice> {
    const { path, identity, readOnly } = spec;
    const device = await openBlockDevice(path, {
      readOnly,
      engine: this.#engine.engine,
      direct: directOf(this.#engine.direct, path),
    });
    if (device.identity === identity) {
      this.#know(deviceKey(spec), device);
      return dressed(device, this.#cache, this.#engine);
    }
    await device.close();
    throw new Error(`${path} is another device now than the one that was scanned`);
  }

  #know(key: DeviceKey, device: OpenedDevice): void {
    device.onFlushLost = (errno) => {
      this.#lost.set(key, errno);
      this.#flushLost({ key, errno });
    };
    device.loseFlushes?.(this.#lost.get(key) ?? 0);
    this.#bare.set(key, device);
  }

  /** A flush of the device has failed in another worker. */
  loseFlushes({ key, errno }: LostFlushes): void {
    this.#lost.set(key, errno);
    this.#bare.get(key)?.loseFlushes?.(errno);
  }

  /** Closes all others. */
  async keep(keys: readonly DeviceKey[]): Promise<void> {
    const keep = new Set(keys);
    const dropped = [...this.#devices].filter(([key]) => !keep.has(key));
    for (const [key] of dropped) {
      this.#devices.delete(key);
      this.#bare.delete(key);
    }
    await Promise.all(
      dropped.map(async ([, opening]) => {
        await (await opening).close();
      }),
    );
  }

  async stats(): Promise<WorkerStats['devices']> {
    const opened = await Promise.allSettled(this.#devices.values());
    return opened.flatMap((outcome) => {
      if (outcome.status === 'rejected') return [];
      const { name, identity, limits } = outcome.value;
      const io = deviceStats(outcome.value)?.snapshotIfUsed() ?? null;
      const cache = outcome.value instanceof CachedDevice ? outcome.value.cacheStats : null;
      return [{ path: name, identity, sizeBytes: limits.sizeBytes, io, cache }];
    });
  }

  /** Flushes and closes every device; one promise for each. */
  closeAll(): readonly Promise<void>[] {
    const devices = [...this.#devices.values()];
    this.#devices.clear();
    return devices.map(closeDevice);
  }
}

async function closeDevice(opening: Promise<OpenedDevice>): Promise<void> {
  const device = await opening;
  try {
    if (!device.limits.readOnly) await flush(device);
  } finally {
    await device.close();
  }
}

/** It is in its place by now: the next load finds it there. */
function ignoreLate(): void {}
