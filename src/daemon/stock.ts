/**
 * What the devices hold, as the daemon looks at them: which paths to look at, the scan, and devices held before they are believed.
 *
 * Invariants
 *  - What an inventory says to serve was read after its devices were held: nobody can have changed the metadata in between.
 *  - A device that does not answer delays a scan once, and is passed over until it does.
 *  - Each warning is told once, as long as it lasts.
 */
import type { DeviceError } from '../block/errors.ts';
import { listDevices } from '../lvm/devices.ts';
import type { VolumeId } from '../lvm/live.ts';
import type { Scan } from '../lvm/model.ts';
import { scanDevices } from '../lvm/scan.ts';
import type { Settings } from './config.ts';
import type { DeviceSet } from './devices.ts';
import { DaemonError } from './errors.ts';
import { type Decisions, type Inventory, takeInventory } from './inventory.ts';
import { tellForeign } from './foreign-devices.ts';
import type { Holding } from './keep.ts';
import type { Logger } from './log.ts';
import { Patience } from './patience.ts';

/** A device that does not answer a scan for so long counts as unreadable. */
const SCAN_TIMEOUT_MS = 10_000;

export interface StockOptions {
  readonly devices: DeviceSet;
  /** What is served of a volume; null: nothing. */
  readonly served: Holding['served'];
  readonly mergeWaits: Holding['mergeWaits'];
  /** What commands decided. */
  readonly decisions: () => Decisions;
  readonly log: Logger;
}

export interface TakeOptions {
  readonly settings: Settings;
  /** The first look: what can't be had is an error. */
  readonly starting: boolean;
  /** What the look before found. */
  readonly before: Inventory | null;
  /** What the process before has served, if nothing is served yet. */
  readonly served?: Holding['served'];
}

export class Stock {
  readonly #options: StockOptions;
  /** Devices that a scan still waits for. */
  readonly #hanging = new Map<string, Promise<unknown>>();
  /** Devices that commands made PVs, and that the settings don't name. */
  readonly #added = new Set<string>();
  /** Warnings that were logged at the last scan. */
  #told: ReadonlySet<string> = new Set();

  constructor(options: StockOptions) {
    this.#options = options;
  }

  /** Scans until every device that the found volumes need was held before the scan that found them. */
  async take(options: TakeOptions): Promise<Inventory> {
    const { settings, starting, before } = options;
    const { devices: held, mergeWaits, decisions } = this.#options;
    const served = options.served ?? this.#options.served;
    const paths = await this.#paths(settings, starting);
    const patience = new Patience(SCAN_TIMEOUT_MS);
    for (;;) {
      const { scan, unreadable } = await this.scan(paths);
      if (starting && scan.devices.length === 0) {
        const reason = scan.warnings.map(({ message }) => message).join('; ');
        throw new DaemonError({ code: 'NO_DEVICES', reason });
      }
      const groups = before?.groups ?? new Map();
      const holding: Holding = { groups, unreadable, served: (id: VolumeId) => served(id), mergeWaits };
      const inventoryWith = (failures?: ReadonlyMap<string, DeviceError>): Inventory =>
        takeInventory(scan, settings, failures, holding, decisions(), before);
      const inventory = inventoryWith();
      const { opened, failures } = await held.hold(inventory.devices);
      if (starting) refuseBusy(settings, failures);
      if (opened === 0 && starting) await tellForeign(scan, settings.devices, { log: this.#options.log, patience });
      if (opened === 0) return failures.size === 0 ? inventory : inventoryWith(failures);
    }
  }

  /** Scans; a device that is held stays the PV that it is, whatever else has its uuid. */
  async scan(paths: readonly string[]): Promise<{ readonly scan: Scan; readonly unreadable: Map<string, string> }> {
    const unreadable = new Map<string, string>();
    const scan = await scanDevices(paths, {
      inUse: ({ identity }) => this.#options.devices.holds(identity),
      onUnreadable: (path, reason, identity) => unreadable.set(identity ?? path, reason),
      patience: { timeoutMs: SCAN_TIMEOUT_MS, hanging: this.#hanging },
    });
    return { scan, unreadable };
  }

  async #paths(settings: Settings, starting: boolean): Promise<readonly string[]> {
    const problems: string[] = [];
    const paths = await listDevices(settings.devices, { onProblem: (message) => problems.push(message) });
    if (paths.length === 0 && starting) {
      throw new DaemonError({ code: 'NO_DEVICES', reason: problems.join('; ') || 'this machine has no block devices' });
    }
    for (const reason of problems) this.#options.log.warn({ reason }, 'a device is left out');
    if (settings.devices.length === 0 || this.#added.size === 0) return paths;
    // One that is gone is a missing PV, of which the scan tells.
    return listDevices([...paths, ...this.#added], { onProblem: () => undefined });
  }

  /** Where commands look that name no devices: as the daemon does. */
  commandDevices({ devices }: Pick<Settings, 'devices'>): readonly string[] {
    return devices.length === 0 ? devices : [...devices, ...this.#added];
  }

  /** Takes what commands have added before. */
  inherit(added: readonly string[]): void {
    for (const path of added) this.#added.add(path);
  }

  /** Devices that commands made PVs, and that the settings don't name. */
  get added(): readonly string[] {
    return [...this.#added];
  }

  /** A PV that a command made is looked at, even if the settings don't name it; the next start needs it there. */
  lookAt(paths: readonly string[], { devices }: Pick<Settings, 'devices'>, known: Scan | null): void {
    const scanned = new Set(known?.devices.map(({ path }) => path));
    for (const path of devices.length === 0 ? [] : paths) {
      if (scanned.has(path) || this.#added.has(path)) continue;
      this.#added.add(path);
      this.#options.log.info(
        { path },
        'a device was added by a command: the next start looks at it only if the settings name it',
      );
    }
  }

  /** Logs what is new of an inventory's warnings. */
  tell({ scan, volumes }: Inventory): void {
    const { log } = this.#options;
    const warnings = scan.warnings.map(({ message }) => message);
    for (const message of warnings) if (!this.#told.has(message)) log.warn(message);
    this.#told = new Set(warnings);
    if (volumes.length === 0) log.warn({ devices: scan.devices.length }, 'no logical volumes were found');
  }
}

/** At the start, a device that the user chose and another program holds is an error: there can be only one daemon. */
function refuseBusy(settings: Settings, failures: ReadonlyMap<string, DeviceError>): void {
  // Among "every block device" it is usual that some are in use: those are only left out.
  if (settings.devices.length === 0) return;
  const busy = [...failures.values()].find(({ code }) => code === 'IN_USE');
  if (busy !== undefined) throw new DaemonError({ code: 'DEVICE_BUSY', reason: busy.message }, { cause: busy });
}
