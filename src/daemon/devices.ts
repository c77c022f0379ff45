/**
 * The devices that the daemon claims: opened exclusively once each, however many volumes use them. Workers open them again, without a
 * claim of their own.
 *
 * Invariants
 *  - A device is known by its identity, so that two paths of one device are one opened device.
 *  - A device is let go only by `keepOnly`, `forget` and `close`, which the caller uses when no table names it any more.
 *  - A device that can't be opened takes nothing else with it: the failure is kept as a reason. One that does not answer counts as such
 *    after HOLD_TIMEOUT_MS, and is passed over until it does.
 *  - Each claim of an identity has a generation of its own: who had the device open before a loss knows that it is another one.
 */
import type { OpenedDevice } from '../block/device.ts';
import { DeviceError } from '../block/errors.ts';
import { openBlockDevice } from '../block/open.ts';
import { flush } from '../block/sync-io.ts';
import type { ScannedDevice } from '../lvm/model.ts';
import { settleAll } from './errors.ts';
import { Patience } from './patience.ts';
import type { DeviceSpec } from './worker/host.ts';

export interface DeviceStatus {
  readonly path: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly state: 'open' | 'failed';
  /** Why it is not open. */
  readonly reason?: string;
}

export interface HoldOutcome {
  readonly opened: number;
  /** By path. */
  readonly failures: ReadonlyMap<string, DeviceError>;
}

interface Held {
  readonly scanned: ScannedDevice;
  readonly device: OpenedDevice;
  readonly generation: number;
}

/** How long opening a device, or asking for its size, may take. */
const HOLD_TIMEOUT_MS = 10_000;

export interface DeviceSetOptions {
  readonly readOnly: boolean;
  /** Default: the system's devices. */
  readonly open?: typeof openBlockDevice;
  readonly timeoutMs?: number;
}

export class DeviceSet {
  readonly #readOnly: boolean;
  readonly #openDevice: typeof openBlockDevice;
  readonly #patience: Patience;
  readonly #held = new Map<string, Held>();
  readonly #generations = new Map<string, number>();
  readonly #identityOfPath = new Map<string, string>();
  readonly #failed = new Map<string, { readonly scanned: ScannedDevice; readonly error: DeviceError }>();

  constructor(options: DeviceSetOptions) {
    this.#readOnly = options.readOnly;
    this.#openDevice = options.open ?? openBlockDevice;
    this.#patience = new Patience(options.timeoutMs ?? HOLD_TIMEOUT_MS);
  }

  /** Opens those of `devices` that are not open yet, and says how many these were and which failed. */
  async hold(devices: readonly ScannedDevice[]): Promise<HoldOutcome> {
    const before = this.#held.size;
    this.#failed.clear();
    for (const scanned of devices) this.#identityOfPath.set(scanned.path, scanned.identity);
    await Promise.all(devices.map((scanned) => this.#open(scanned)));
    const failures = new Map([...this.#failed.values()].map(({ scanned, error }) => [scanned.path, error]));
    return { opened: this.#held.size - before, failures };
  }

  async #open(scanned: ScannedDevice): Promise<void> {
    const held = this.#held.get(scanned.identity);
    if (held !== undefined) {
      // A disk that was enlarged meanwhile may already hold extents past its old end.
      // One that does not tell in time keeps the size that is known: a table past it is refused by name.
      if (scanned.sizeBytes > held.device.limits.sizeBytes) await this.#remeasure(held.device);
      return;
    }
    const readOnly = this.#readOnly || scanned.readOnly;
    try {
      const device = await this.#inTime(scanned, readOnly);
      // By what was opened: the path may have got another device since the scan, and then the next scan finds this one held.
      const generation = (this.#generations.get(device.identity) ?? 0) + 1;
      this.#generations.set(device.identity, generation);
      this.#held.set(device.identity, { scanned, device, generation });
    } catch (error) {
      if (!(error instanceof DeviceError)) throw error;
      this.#failed.set(scanned.identity, { scanned, error });
    }
  }

  async #inTime({ path, identity }: ScannedDevice, readOnly: boolean): Promise<OpenedDevice> {
    const opening = (): Promise<OpenedDevice> => this.#openDevice(path, { readOnly, exclusive: true });
    const outcome = await this.#patience.with(identity, opening, (device) => device.close());
    if (outcome === null) throw new DeviceError('FAILED', path, 'does not answer');
    return outcome.value;
  }

  async #remeasure(device: OpenedDevice): Promise<void> {
    const measuring = async (): Promise<void> => device.remeasure?.();
    await this.#patience.with(device.identity, measuring, () => undefined);
  }

  /** Whether the device of this identity is held. */
  holds(identity: string): boolean {
    return this.#held.has(identity);
  }

  /** The claimed device that a table means by this path, as a worker opens it. */
  find(path: string): DeviceSpec | undefined {
    const held = this.#held.get(this.#identityOfPath.get(path) ?? '');
    if (held === undefined) return undefined;
    const { device, generation } = held;
    const { sizeBytes, readOnly } = device.limits;
    return { path, identity: device.identity, generation, readOnly, sizeBytes };
  }

  /** Every claimed device. */
  specs(): readonly DeviceSpec[] {
    return [...this.#held.values()].map(({ scanned, device, generation }) => {
      const { sizeBytes, readOnly } = device.limits;
      return { path: scanned.path, identity: device.identity, generation, readOnly, sizeBytes };
    });
  }

  /** Lets go of a device that has gone: what comes back under its identity is opened anew. */
  async forget(identity: string): Promise<void> {
    const held = this.#held.get(identity);
    this.#held.delete(identity);
    await held?.device.close();
  }

  /** Lets go of every device but these. */
  async keepOnly(devices: readonly ScannedDevice[]): Promise<void> {
    const keep = new Set(devices.map(({ identity }) => identity));
    const dropped = [...this.#held].filter(([identity]) => !keep.has(identity));
    for (const [identity] of dropped) this.#held.delete(identity);
    await Promise.all(dropped.map(([, { device }]) => device.close()));
  }

  /** Makes everything durable and closes every device, even when some of them fail; then throws what failed. */
  async close(): Promise<void> {
    const held = [...this.#held.values()];
    this.#held.clear();
    const closing = held.map(({ device }) => closeDevice(device));
    await settleAll(closing, 'some devices could not be flushed and closed');
  }

  status(): readonly DeviceStatus[] {
    const open = [...this.#held.values()].map(({ scanned, device }) => ({
      path: scanned.path,
      sizeBytes: device.limits.sizeBytes,
      readOnly: device.limits.readOnly,
      state: 'open' as const,
    }));
    const failed = [...this.#failed.values()].map(({ scanned, error }) => ({
      path: scanned.path,
      sizeBytes: scanned.sizeBytes,
      readOnly: scanned.readOnly,
      state: 'failed' as const,
      reason: error.message,
    }));
    return [...open, ...failed].sort((a, b) => (a.path < b.path ? -1 : 1));
  }
}

async function closeDevice(device: OpenedDevice): Promise<void> {
  try {
    if (!device.limits.readOnly) await flush(device);
  } finally {
    await device.close();
  }
}
