/**
 * The composition root: the only file that knows every part of the daemon. Starting is a list, closing is its reverse:
 *
 *     run-time directory, devices, volumes, control socket, NBD listeners
 *
 * so that on the way down the listeners drain first (while the control socket still answers), then volumes flush, and
 * devices are let go last.
 *
 * Invariants
 *  - A start that fails closes what it had opened, and throws a DaemonError that says what to do.
 *  - What is served was read after its devices were held: nobody can have changed the metadata in between.
 *  - `reload` and `close` never overlap; a reload that fails leaves the volumes that were served, served.
 */
import { mkdir } from 'node:fs/promises';
import type { BlockDevice } from '../block/device.ts';
import type { DeviceError } from '../block/errors.ts';
import { listDevices } from '../lvm/devices.ts';
import type { Scan, VolumeGroup } from '../lvm/model.ts';
import { scanDevices } from '../lvm/scan.ts';
import { NbdError } from '../nbd/errors.ts';
import { NbdServer } from '../nbd/server.ts';
import type { Settings } from './config.ts';
import { MetadataBackups } from './backups.ts';
import { ControlServer } from './control.ts';
import { DeviceSet } from './devices.ts';
import { DaemonError, reasonOf, systemReason } from './errors.ts';
import { type Inventory, takeInventory } from './inventory.ts';
import type { ListenAddress } from './listen-uri.ts';
import type { Logger } from './log.ts';
import { type DaemonState, type DaemonStatus, statusOf } from './status.ts';
import { packageVersion } from './version.ts';
import { VolumeSet } from './volumes.ts';

export class Daemon {
  readonly #log: Logger;
  readonly #devices: DeviceSet;
  readonly #volumes: VolumeSet;
  readonly #nbd: NbdServer;
  readonly #opened = new AsyncDisposableStack();
  readonly #listening: ListenAddress[] = [];
  readonly #startedAt = new Date();
  #settings: Settings;
  #inventory: Inventory | null = null;
  #state: DaemonState = 'starting';
  /** Warnings that were logged at the last scan: each is told once. */
  #told: ReadonlySet<string> = new Set();
  /** The last of the reloads and the close, which go one after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(settings: Settings, log: Logger) {
    this.#settings = settings;
    this.#log = log;
    this.#devices = new DeviceSet({ readOnly: settings.readOnly });
    this.#volumes = new VolumeSet({ log, disconnect: (name) => this.#nbd.disconnect(name) });
    this.#nbd = new NbdServer({ directory: this.#volumes, log, limits: settings.limits });
  }

  /** Opens devices, activates volumes and listens. Throws a DaemonError. */
  static async start(settings: Settings, log: Logger): Promise<Daemon> {
    const daemon = new Daemon(settings, log);
    try {
      await daemon.#start();
    } catch (error) {
      await daemon.#opened.disposeAsync().catch((err: unknown) => log.error({ err }, 'not everything could be closed'));
      throw error;
    }
    return daemon;
  }

  async #start(): Promise<void> {
    const settings = this.#settings;
    await makeRunDir(settings.runDir);
    this.#opened.defer(() => this.#devices.close());
    this.#opened.defer(() => this.#volumes.close());
    await this.#refresh(settings, true);
    const control = new ControlServer({
      path: settings.controlPath,
      inherited: settings.inheritedControl,
      mode: settings.socketMode,
      status: () => this.status(),
      log: this.#log,
    });
    this.#opened.defer(() => control.close());
    await listening(control.listen());
    this.#opened.defer(() => this.#nbd.close());
    for (const address of settings.listen) {
      const withMode = address.kind === 'unix' ? { ...address, mode: settings.socketMode } : address;
      this.#listening.push(await listening(this.#nbd.listen(withMode)));
    }
    this.#startBackups(settings);
    this.#state = 'serving';
  }

  #startBackups({ backups }: Settings): void {
    if (backups === null) return;
    const running = new MetadataBackups({
      ...backups,
      generator: `Orion LVM version ${packageVersion()}`,
      volumeGroups: async () => {
        const paths = this.#inventory?.scan.devices.map(({ path }) => path) ?? [];
        return (await this.#scan(paths)).scan.volumeGroups;
      },
      log: this.#log,
    });
    this.#opened.defer(() => running.close());
    void running.run();
  }

  /** Where NBD is served, ports as they were bound. */
  get listening(): readonly ListenAddress[] {
    return this.#listening;
  }

  status(): DaemonStatus {
    return statusOf({
      state: this.#state,
      startedAt: this.#startedAt,
      settings: this.#settings,
      listening: this.#listening,
      connections: this.#nbd.connections().length,
      devices: this.#devices.status(),
      exports: this.#volumes.status(),
      scan: this.#inventory?.scan ?? null,
    });
  }

  /** Resolves when everything that serves has answered; rejects with what does not. The watchdog waits for it. */
  alive(): Promise<void> {
    return Promise.resolve();
  }

  /** Reads the devices again and applies what of the settings can change without a restart. */
  reload(settings: Settings): Promise<void> {
    const turn = this.#turn.then(async () => {
      if (this.#state !== 'serving') return;
      for (const key of restartKeys(this.#settings, settings)) {
        this.#log.warn({ key }, 'this setting changed and takes effect at the next start');
      }
      this.#log.level = settings.logLevel;
      await this.#refresh(settings, false);
      const { devices, activationList, systemId, extraSystemIds, logLevel, configFile } = settings;
      const applied = { devices, activationList, systemId, extraSystemIds, logLevel, configFile };
      this.#settings = { ...this.#settings, ...applied };
    });
    this.#turn = Promise.allSettled([turn]);
    return turn;
  }

  /** Stops accepting, lets clients finish what is in flight, flushes and closes everything. Throws if a flush failed. */
  close(): Promise<void> {
    const turn = this.#turn.then(async () => {
      this.#state = 'draining';
      await this.#opened.disposeAsync();
    });
    this.#turn = Promise.allSettled([turn]);
    return turn;
  }

  /** Scans, holds the devices and makes the served volumes what the metadata says. */
  async #refresh(settings: Settings, starting: boolean): Promise<void> {
    const inventory = await this.#takeStock(settings, starting);
    this.#tell(inventory);
    await this.#volumes.apply(inventory.volumes, (path) => this.#device(path));
    await this.#devices.keepOnly(inventory.devices);
    this.#inventory = inventory;
  }

  /** Scans until every device that the found volumes need was held before the scan that found them. */
  async #takeStock(settings: Settings, starting: boolean): Promise<Inventory> {
    const paths = await this.#devicePaths(settings, starting);
    for (;;) {
      const { scan, unreadable } = await this.#scan(paths);
      if (starting && scan.devices.length === 0) {
        const reason = scan.warnings.map(({ message }) => message).join('; ');
        throw new DaemonError({ code: 'NO_DEVICES', reason });
      }
      const groups = this.#inventory?.groups ?? new Map<string, VolumeGroup>();
      const holding = { groups, unreadable, served: (name: string) => this.#volumes.served(name) };
      const { devices } = takeInventory(scan, settings, undefined, holding);
      const { opened, failures } = await this.#devices.hold(devices);
      if (starting) refuseBusy(settings, failures);
      if (opened === 0) return takeInventory(scan, settings, failures, holding);
    }
  }

  /** Scans; a device that is held stays the PV that it is, whatever else has its uuid. */
  async #scan(paths: readonly string[]): Promise<{ readonly scan: Scan; readonly unreadable: Map<string, string> }> {
    const unreadable = new Map<string, string>();
    const scan = await scanDevices(paths, {
      inUse: ({ identity }) => this.#devices.holds(identity),
      onUnreadable: (path, reason) => unreadable.set(path, reason),
    });
    return { scan, unreadable };
  }

  async #devicePaths(settings: Settings, starting: boolean): Promise<readonly string[]> {
    const problems: string[] = [];
    const paths = await listDevices(settings.devices, { onProblem: (message) => problems.push(message) });
    if (paths.length === 0 && starting) {
      throw new DaemonError({ code: 'NO_DEVICES', reason: problems.join('; ') || 'this machine has no block devices' });
    }
    for (const reason of problems) this.#log.warn({ reason }, 'a device is left out');
    return paths;
  }

  #device(path: string): BlockDevice {
    const device = this.#devices.find(path);
    if (device === undefined) throw new DaemonError({ code: 'NO_DEVICES', reason: `${path} is not open` });
    return device;
  }

  #tell({ scan, volumes }: Inventory): void {
    const warnings = scan.warnings.map(({ message }) => message);
    for (const message of warnings) if (!this.#told.has(message)) this.#log.warn(message);
    this.#told = new Set(warnings);
    if (volumes.length === 0) this.#log.warn({ devices: scan.devices.length }, 'no logical volumes were found');
  }
}

/** Waits for a listener; its NbdError becomes a DaemonError. */
async function listening<T>(listener: Promise<T>): Promise<T> {
  try {
    return await listener;
  } catch (error) {
    if (!(error instanceof NbdError)) throw error;
    const known = systemReason(error.cause);
    const reason = known === null ? error.message : `${error.address}: ${known}`;
    throw new DaemonError({ code: 'LISTEN_FAILED', reason }, { cause: error });
  }
}

async function makeRunDir(path: string | null): Promise<void> {
  if (path === null) return;
  try {
    await mkdir(path, { recursive: true, mode: 0o755 });
  } catch (error) {
    throw new DaemonError({ code: 'RUN_DIR', path, reason: reasonOf(error) }, { cause: error });
  }
}

/** At the start, a device that the user chose and another program holds is an error: there can be only one daemon. */
function refuseBusy(settings: Settings, failures: ReadonlyMap<string, DeviceError>): void {
  // Among "every block device" it is usual that some are in use: those are only left out.
  if (settings.devices.length === 0) return;
  const busy = [...failures.values()].find(({ code }) => code === 'IN_USE');
  if (busy !== undefined) throw new DaemonError({ code: 'DEVICE_BUSY', reason: busy.message }, { cause: busy });
}

/** Keys whose change can't be applied to a running daemon. */
function restartKeys(before: Settings, after: Settings): readonly string[] {
  const fixed: Readonly<Record<string, (settings: Settings) => unknown>> = {
    read_only: (settings) => settings.readOnly,
    listen: (settings) => settings.listen,
    control: (settings) => settings.controlPath,
    run_dir: (settings) => settings.runDir,
    socket_mode: (settings) => settings.socketMode,
    'log.format': (settings) => settings.logFormat,
    limits: (settings) => settings.limits,
  };
  return Object.entries(fixed)
    .filter(([, get]) => JSON.stringify(get(before)) !== JSON.stringify(get(after)))
    .map(([key]) => key);
}
