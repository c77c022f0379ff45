/**
 * The devices that the daemon claims: opened exclusively once each, however many volumes use them. Workers open them again, without a
 * claim of their own.
 *
 * Invariants
 *  - A device is known by its identity, so that two paths of one device are one opened device.
 *  - A device is let go only by `keepOnly`, `forget` and `close`, which the caller uses when no table names it any more.
 *  - A device that can't be opened takes nothing else with it: the failure is kept as a reason. One that does not answer counts as such
 *    after HOLD_TIMEOUT_MS, and is passed over until it does.
 *  - A claim that another process has left us is kept as it was taken, by its descriptor: nobody can come between.
 *  - Each claim of an identity has a generation of its own: who had the device open before a loss knows that it is another one.
 */
import { closeSync } from 'node:fs';
import type { OpenedDevice } from '../block/device.ts';
import { DeviceError } from '../block/errors.ts';
import { openBlockDevice, type OpenOptions } from '../block/open.ts';
import { flush } from '../block/sync-io.ts';
import type { ScannedDevice } from '../lvm/model.ts';
import { settleAll } from './errors.ts';
import { Patience } from './patience.ts';
import { type DeviceKey, deviceKey, type DeviceSpec } from './worker/host.ts';

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
  /** The descriptor of a claim that was left to us; null: the device itself claims. */
  readonly claim: number | null;
}

/** A claim in the form in which another process can have it. */
export interface DeviceClaim {
  readonly identity: string;
  readonly fd: number;
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
  /** Claims that were left to us, by identity, of devices that are not opened yet. */
  readonly #inherited = new Map<string, number>();
  readonly #generations = new Map<string, number>();
  readonly #identityOfPath = new Map<string, string>();
  readonly #failed = new Map<string, { readonly scanned: ScannedDevice; readonly error: DeviceError }>();

  constructor(options: DeviceSetOptions) {
    this.#readOnly = options.readOnly;
    this.#openDevice = options.open ?? openBlockDevice;
    this.#patience = new Patience(options.timeoutMs ?? HOLD_TIMEOUT_MS);
  }

  /** Takes claims that another process has left us. */
  inherit(claims: readonly DeviceClaim[]): void {
    for (const { identity, fd } of claims) this.#inherited.set(identity, fd);
  }

  /** Lets go of the inherited claims that no device was opened for. */
  dropInherited(): void {
    for (const fd of this.#inherited.values()) closeSync(fd);
    this.#inherited.clear();
  }

  /** What another process needs to have the same claims. */
  claims(): readonly DeviceClaim[] {
    return [...this.#held].flatMap(([identity, { claim, device }]) => {
      const fd = claim ?? device.fd;
      return fd === undefined ? [] : [{ identity, fd }];
    });
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
    const claim = this.#inherited.get(scanned.identity) ?? null;
    try {
      const device = await this.#inTime(scanned, { readOnly, exclusive: claim === null });
      if (claim !== null && device.identity !== scanned.identity) {
        await device.close();
        throw new DeviceError('FAILED', scanned.path, 'was replaced since it was scanned');
      }
      this.#inherited.delete(scanned.identity);
      // By what was opened: the path may have got another device since the scan, and then the next scan finds this one held.
      const generation = (this.#generations.get(device.identity) ?? 0) + 1;
      this.#generations.set(device.identity, generation);
      this.#held.set(device.identity, { scanned, device, generation, claim });
    } catch (error) {
      if (!(error instanceof DeviceError)) throw error;
      this.#failed.set(scanned.identity, { scanned, error });
    }
  }

  async #inTime({ path, identity }: ScannedDevice, options: OpenOptions): Promise<OpenedDevice> {
    const opening = (): Promise<OpenedDevice> => this.#openDevice(path, options);
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
    return this.#held.has(identity) || this.#inherited.has(identity);
  }

  /** What the claimed device of this identity is called in workers; nothing, if there is none. */
  keysOf(identity: string): readonly DeviceKey[] {
    const held = this.#held.get(identity);
    return held === undefined ? [] : [deviceKey({ identity, generation: held.generation })];
  }

  /** The claimed device that a table means by this path, as a worker opens it. */
  find(path: string): DeviceSpec | undefined {
    const held = this.#held.get(this.#identityOfPath.get(path) ?? '');
    if (held === undefined) return undefined;
    const { device, generation } = held;
    const { sizeBytes, readOnly } = device.limits;
    return { path, identity: device.identity, generation, readOnly, sizeBytes };
  }

  /** Where a claimed device is; null: it is not claimed any more. */
  pathOf(key: DeviceKey): string | null {
    return this.specs().find((spec) => deviceKey(spec) === key)?.path ?? null;
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
    if (held !== undefined) await letGo(held);
  }

  /** Lets go of every device but these. */
  async keepOnly(devices: readonly ScannedDevice[]): Promise<void> {
    const keep = new Set(devices.map(({ identity }) => identity));
    const dropped = [...this.#held].filter(([identity]) => !keep.has(identity));
    for (const [identity] of dropped) this.#held.delete(identity);
    await Promise.all(dropped.map(([, each]) => letGo(each)));
  }

  /** Makes everything durable and closes every device, even when some of them fail; then throws what failed. */
  async close(): Promise<void> {
    const held = [...this.#held.values()];
    this.#held.clear();
    this.dropInherited();
    const closing = held.map((each) => flushAndLetGo(each));
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

async function flushAndLetGo(held: Held): Promise<void> {
  try {
    if (!held.device.limits.readOnly) await flush(held.device);
  } finally {
    await letGo(held);
  }
}

async function letGo({ device, claim }: Held): Promise<void> {
  try {
    await device.close();
  } finally {
    if (claim !== null) closeSync(claim);
  }
}
