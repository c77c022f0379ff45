/**
 * The composition root: the only file that knows every part of the daemon. Starting is a list, closing is its reverse:
 *
 *     run-time directory, lock, devices, workers, volumes, control socket, NBD listeners
 *
 * so that on the way down the listeners go first (while the control socket still answers), then workers let their clients go and
 * flush, and devices are let go last.
 *
 * Invariants
 *  - A start that fails closes what it had opened, and throws a DaemonError that says what to do.
 *  - What is served was read after its devices were held: nobody can have changed the metadata in between.
 *  - Nothing is served before the workers of a daemon that was here before have ended.
 *  - Scans go one after the other, and none after the close; VGs whose change by a command is under way are that command's.
 *  - A reload that fails leaves the volumes that were served, served.
 */
import { mkdir } from 'node:fs/promises';
import type { DeviceError } from '../block/errors.ts';
import { listDevices } from '../lvm/devices.ts';
import type { LiveProblem, LiveVolumes, VolumeId } from '../lvm/live.ts';
import type { Scan, VolumeGroup } from '../lvm/model.ts';
import { scanDevices } from '../lvm/scan.ts';
import { NbdError } from '../nbd/errors.ts';
import type { NbdAddress } from '../nbd/listener.ts';
import { NbdServer } from '../nbd/server.ts';
import { MetadataBackups } from './backups.ts';
import { AttachedDevices } from './attached-devices.ts';
import { identifyClient } from './client-identity.ts';
import type { Settings } from './config.ts';
import { type OpenControl, openControl } from './control/open.ts';
import { DeviceSet } from './devices.ts';
import { DaemonError, reasonOf, systemReason } from './errors.ts';
import { ignoreGone } from './group-change.ts';
import { GuardedExports } from './guarded-exports.ts';
import { HotPlug } from './hotplug.ts';
import { type Inventory, mergeInventories, takeInventory } from './inventory.ts';
import { holdLifeLock } from './life-lock.ts';
import { formatListenUri, type ListenAddress } from './listen-uri.ts';
import { DaemonVolumes } from './live.ts';
import type { Logger } from './log.ts';
import { Observer } from './observer.ts';
import { groupOf } from './served-volume.ts';
import { type DaemonState, type DaemonStatus, statusOf } from './status.ts';
import { packageVersion } from './version.ts';
import { VolumeSet } from './volumes.ts';
import { ForkedWorker } from './worker/forked.ts';
import type { WorkerEvents, WorkerHost, WorkerStats } from './worker/host.ts';
import { LocalWorker } from './worker/local.ts';
import { WorkerPool } from './worker/pool.ts';
import type { WorkerSettings } from './worker/worker.ts';

/** Numbers of a worker that does not answer are not waited for. */
const STATS_TIMEOUT_MS = 2000;
/** A device that does not answer a scan for so long counts as unreadable. */
const SCAN_TIMEOUT_MS = 10_000;

export class Daemon {
  readonly #log: Logger;
  readonly #devices: DeviceSet;
  readonly #volumes: VolumeSet;
  readonly #live: DaemonVolumes;
  readonly #workers: WorkerPool;
  readonly #exports: GuardedExports;
  readonly #nbd: NbdServer;
  readonly #opened = new AsyncDisposableStack();
  readonly #listening: ListenAddress[] = [];
  readonly #startedAt = new Date();
  /** Devices that a scan still waits for. */
  readonly #hanging = new Map<string, Promise<unknown>>();
  readonly #hotplug: HotPlug;
  readonly #attached: AttachedDevices;
  #settings: Settings;
  #inventory: Inventory | null = null;
  #state: DaemonState = 'starting';
  #lockFd: number | null = null;
  /** Null: not yet there. */
  #control: OpenControl | null = null;
  #observer: Observer | null = null;
  /** Devices that commands made PVs, and that the settings don't name. */
  readonly #added = new Set<string>();
  /** Warnings that were logged at the last scan: each is told once. */
  #told: ReadonlySet<string> = new Set();
  /** The last of the scans, which go one after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(settings: Settings, log: Logger) {
    this.#settings = settings;
    this.#log = log;
    this.#devices = new DeviceSet({ readOnly: settings.readOnly });
    this.#hotplug = new HotPlug({
      settings,
      rescan: (reason) => this.rescan(reason),
      isHeld: (identity) => this.#devices.holds(identity),
      log,
    });
    this.#workers = new WorkerPool({
      count: Math.max(settings.workers, 1),
      start: (index, events) => this.#startWorker(index, events),
      restore: (slot, host) => this.#volumes.restore(slot, host),
      lost: (slot) => {
        for (const connection of this.#volumes.lost(slot)) this.#nbd.ended(connection);
      },
      connectionClosed: (connection) => {
        this.#volumes.closed(connection);
        this.#nbd.ended(connection);
      },
      log,
    });
    this.#volumes = new VolumeSet({ log, slots: () => this.#workers.slots });
    this.#live = new DaemonVolumes({
      volumes: this.#volumes,
      readOnly: settings.readOnly,
      holds: (identity) => this.#devices.holds(identity),
      refresh: (vgIds, reload) => this.#follow((vgId) => vgIds.has(vgId), reload),
      rescan: (reason) => this.rescan(reason),
      settled: async (vgIds) => {
        await this.#inTurn(() => Promise.resolve());
        await this.#volumes.settled(vgIds);
      },
      nameOf: (id) => this.#nameOf(id),
      expect: (groups) => this.#observer?.expect(groups),
      lookAt: (paths) => this.#lookAt(paths),
    });
    this.#attached = new AttachedDevices({
      servers: () => this.#listening.map(formatListenUri),
      sizeOf: (name) => this.#volumes.viewFor().find(name)?.sizeBytes ?? null,
      nameOf: (volume) => this.#volumes.status().find(({ id }) => id === volume.replace('/', ' '))?.name ?? null,
      log,
    });
    this.#exports = new GuardedExports({
      directory: this.#volumes,
      rules: () => this.#settings.access.exports,
      refused: (client, name, reason) => this.#observer?.exportRefused(client, name, reason),
    });
    this.#nbd = new NbdServer({
      directory: this.#exports,
      adopt: (handover) => this.#volumes.adopt(handover, this.#exports.viewFor(handover.client)),
      identify: (socket, { kind }) => identifyClient(socket, kind === 'tcp' ? 'tcp' : 'unix'),
      limits: settings.limits,
      log,
    });
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
    if (settings.engine.note !== null) this.#log.warn(settings.engine.note);
    for (const note of settings.withoutEffect) this.#log.warn(note);
    if (settings.workers > 0) {
      const lock = await holdLifeLock(settings.controlPath, this.#log);
      this.#lockFd = lock.fd;
      this.#opened.defer(() => lock.close());
    }
    this.#opened.defer(() => this.#devices.close());
    this.#opened.defer(() => this.#endWorkers());
    const observer = await this.#openObserver(settings);
    await this.#workers.open();
    // Before the scan, so that nothing comes between.
    this.#opened.defer(() => this.#hotplug.close());
    await this.#hotplug.start();
    await this.#refresh({ settings, starting: true });
    await this.#openControl(observer);
    this.#opened.defer(() => this.#nbd.stopped());
    this.#opened.defer(() => this.#workers.disconnectAll());
    this.#opened.defer(() => this.#nbd.close());
    for (const address of settings.listen) {
      this.#listening.push(await listening(this.#nbd.listen(withPermissions(address, settings))));
    }
    this.#startBackups(settings);
    this.#state = 'serving';
    this.#opened.defer(() => this.#attached.close());
    this.#attached.start();
    await observer.start();
  }

  async #startWorker(index: number, events: WorkerEvents): Promise<WorkerHost> {
    const { limits, workers, logLevel, logFormat } = this.#settings;
    const settings: WorkerSettings = {
      limits: { ...limits, maxBytes: Math.floor(limits.maxBytes / Math.max(workers, 1)) },
      engine: this.#settings.engine,
      logLevel,
      logFormat,
    };
    if (workers === 0) return new LocalWorker(settings, this.#log, events);
    return ForkedWorker.start({ index, settings, events, lockFd: this.#lockFd });
  }

  async #endWorkers(): Promise<void> {
    const problems = await this.#workers.drain();
    if (problems.length === 0) return;
    throw new AggregateError(
      problems.map((reason) => new DaemonError({ code: 'CLOSE_FAILED', reason })),
      'some volumes could not be flushed and closed',
    );
  }

  async #openObserver(settings: Settings): Promise<Observer> {
    const observer = await Observer.open({
      settings,
      log: this.#log,
      gather: async () => {
        const { connections, devices, exports } = this.status();
        const stats = await this.stats();
        const workers = this.#workers.slots.map((slot, index) => {
          return { index, restarts: slot.status().restarts, stats: stats[index] ?? null };
        });
        const scan = this.#inventory?.scan ?? null;
        return { startedAt: this.#startedAt, connections, workers, exports, devices, scan };
      },
      unserved: () =>
        this.#volumes.status().flatMap(({ name, state, reason }) => {
          return state === 'active' || reason === undefined ? [] : [{ name, reason }];
        }),
    });
    this.#observer = observer;
    this.#opened.defer(() => observer.close());
    return observer;
  }

  async #openControl(observer: Observer): Promise<void> {
    const control = await listening(
      openControl({
        live: this.#live,
        log: this.#log,
        status: () => this.status(),
        rescan: () => this.rescan('asked for over the control socket'),
        settings: () => ({ ...this.#settings, devices: this.#commandDevices() }),
        devices: () => [...this.#devices.specs(), ...(this.#inventory?.scan.devices ?? [])],
        observer,
      }),
    );
    this.#control = control;
    if (this.#inventory !== null) control.scanned(this.#inventory.scan);
    this.#opened.defer(() => control.close());
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

  /** What commands ask of the volumes that they change. */
  get live(): LiveVolumes {
    return this.#live;
  }

  status(): DaemonStatus {
    return statusOf({
      state: this.#state,
      startedAt: this.#startedAt,
      settings: this.#settings,
      listening: this.#listening,
      connections: this.#nbd.connections,
      workers: this.#workers.slots.map((slot) => slot.status()),
      devices: this.#devices.status(),
      exports: this.#volumes.status(),
      scan: this.#inventory?.scan ?? null,
    });
  }

  /** Resolves when everything that serves has answered; rejects with what does not. The watchdog waits for it. */
  async alive(): Promise<void> {
    // One that is being started again is seen to.
    await Promise.all(this.#workers.hosts().map((host) => host.ping().catch(ignoreGone)));
  }

  /** What the workers count; null for one that is not there, or does not answer. */
  stats(): Promise<readonly (WorkerStats | null)[]> {
    return Promise.all(
      this.#workers.slots.map(async ({ host }) => {
        if (host === null) return null;
        const { promise, resolve } = Promise.withResolvers<null>();
        const timer = setTimeout(() => resolve(null), STATS_TIMEOUT_MS);
        try {
          return await Promise.race([host.stats(), promise]);
        } catch {
          // It has ended meanwhile, and is being started again.
          return null;
        } finally {
          clearTimeout(timer);
        }
      }),
    );
  }

  /** Reads the devices again and applies what of the settings can change without a restart. */
  async reload(settings: Settings): Promise<void> {
    if (this.#state !== 'serving') return;
    for (const key of restartKeys(this.#settings, settings)) {
      this.#log.warn({ key }, 'this setting changed and takes effect at the next start');
    }
    this.#log.level = settings.logLevel;
    await Promise.all(
      this.#workers.hosts().map((host) => host.configure({ logLevel: settings.logLevel }).catch(ignoreGone)),
    );
    await this.#hotplug.configure(settings);
    await this.#refresh({ settings });
    const { devices, rescanIntervalMs, activationList, systemId, extraSystemIds, logLevel, configFile, access } =
      settings;
    const applied = {
      devices,
      rescanIntervalMs,
      activationList,
      systemId,
      extraSystemIds,
      logLevel,
      configFile,
      access,
    };
    this.#settings = { ...this.#settings, ...applied };
    this.#observer?.configure(settings);
  }

  /** Looks for devices and volume groups that came, went or changed. `reason` is for the log. */
  async rescan(reason: string): Promise<void> {
    this.#log.debug({ reason }, 'reading the devices again');
    await this.#refresh({});
  }

  /** Reads one VG again, by name or uuid; its volumes follow. Gives what should be active and isn't, or has not followed. */
  async refreshGroup(vg: string): Promise<readonly LiveProblem[]> {
    const ids = new Set([vg, ...this.#groups().flatMap(({ vg: { name, id } }) => (name === vg ? [id] : []))]);
    return this.#follow((vgId) => ids.has(vgId));
  }

  #follow(
    follows: (vgId: string) => boolean,
    reload: ReadonlySet<VolumeId> = new Set(),
  ): Promise<readonly LiveProblem[]> {
    return this.#refresh({ follows, reload });
  }

  #groups(): readonly VolumeGroup[] {
    return this.#inventory?.scan.volumeGroups ?? [];
  }

  #nameOf(id: VolumeId): string | null {
    const vgId = groupOf(id);
    const group = this.#inventory?.groups.get(vgId) ?? this.#groups().find(({ vg }) => vg.id === vgId);
    const lv = group?.vg.logicalVolumes.find((each) => `${vgId} ${each.id}` === id);
    return group === undefined || lv === undefined ? null : `${group.vg.name}/${lv.name}`;
  }

  /** Stops accepting, lets clients finish what is in flight, flushes and closes everything. Throws if a flush failed. */
  async close(): Promise<void> {
    // It may be waiting for its turn.
    await this.#hotplug.close();
    // Commands wait for scans.
    await this.#control?.endCommands();
    await this.#inTurn(async () => {
      this.#state = 'draining';
      await this.#opened.disposeAsync();
    });
  }

  /** Ends workers at once: nothing is flushed. */
  kill(): void {
    this.#workers.kill();
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work);
    this.#turn = Promise.allSettled([turn]);
    return turn;
  }

  /**
   * Scans, holds the devices and makes the served volumes what the metadata says: of the VGs for which `follows`, default all
   * but those that a command changes at the moment. Only the scan is waited for by others, not that volumes follow.
   */
  async #refresh(options: RefreshOptions): Promise<readonly LiveProblem[]> {
    const follows = options.follows ?? ((vgId: string): boolean => !this.#live.isChanging(vgId));
    const following = await this.#inTurn(async () => {
      if (this.#state === 'draining') return null;
      const found = await this.#takeStock(options.settings ?? this.#settings, options.starting ?? false);
      const inventory = mergeInventories(this.#inventory, found, follows);
      this.#inventory = inventory;
      this.#observer?.scanned(inventory.scan);
      this.#control?.scanned(inventory.scan);
      this.#tell(inventory);
      const reload = options.reload ?? new Set<VolumeId>();
      // Begun in this turn, so that changes of a VG follow each other as their scans did.
      const apply = this.#volumes.apply(inventory.volumes, (path) => this.#devices.find(path), { follows, reload });
      return { apply };
    });
    const problems = (await following?.apply) ?? [];
    await this.#attached.follow();
    await this.#inTurn(() => this.#letDevicesGo());
    return problems;
  }

  /** Lets go of the devices that nothing needs any more, in workers first. */
  async #letDevicesGo(): Promise<void> {
    if (this.#state === 'draining') return;
    for (const slot of this.#workers.slots) {
      // One whose device hangs does not keep the others waiting.
      slot.host?.keepDevices(this.#volumes.deviceKeysOf(slot)).catch((err: unknown) => {
        this.#log.debug({ err, worker: slot.index }, 'a device could not be closed');
      });
    }
    const used = this.#volumes.deviceIdentities();
    const wanted = this.#inventory?.devices ?? [];
    const leaving = (this.#inventory?.scan.devices ?? []).filter(({ identity }) => used.has(identity));
    await this.#devices.keepOnly([...wanted, ...leaving]);
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
      const holding = { groups, unreadable, served: (id: VolumeId) => this.#volumes.served(id) };
      const { decisions } = this.#live;
      const { devices } = takeInventory(scan, settings, undefined, holding, decisions, this.#inventory);
      const { opened, failures } = await this.#devices.hold(devices);
      if (starting) refuseBusy(settings, failures);
      if (opened === 0) return takeInventory(scan, settings, failures, holding, decisions, this.#inventory);
    }
  }

  /** Scans; a device that is held stays the PV that it is, whatever else has its uuid. */
  async #scan(paths: readonly string[]): Promise<{ readonly scan: Scan; readonly unreadable: Map<string, string> }> {
    const unreadable = new Map<string, string>();
    const scan = await scanDevices(paths, {
      inUse: ({ identity }) => this.#devices.holds(identity),
      onUnreadable: (path, reason) => unreadable.set(path, reason),
      patience: { timeoutMs: SCAN_TIMEOUT_MS, hanging: this.#hanging },
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
    if (settings.devices.length === 0 || this.#added.size === 0) return paths;
    // One that is gone is a missing PV, of which the scan tells.
    return listDevices([...paths, ...this.#added], { onProblem: () => undefined });
  }

  /** Where commands look that name no devices: as the daemon does. */
  #commandDevices(): readonly string[] {
    const { devices } = this.#settings;
    return devices.length === 0 ? devices : [...devices, ...this.#added];
  }

  /** A PV that a command made is looked at, even if the settings don't name it; the next start needs it there. */
  #lookAt(paths: readonly string[]): void {
    const { devices } = this.#settings;
    const known = new Set(this.#inventory?.scan.devices.map(({ path }) => path));
    for (const path of devices.length === 0 ? [] : paths) {
      if (known.has(path) || this.#added.has(path)) continue;
      this.#added.add(path);
      this.#log.info(
        { path },
        'a device was added by a command: the next start looks at it only if the settings name it',
      );
    }
  }

  #tell({ scan, volumes }: Inventory): void {
    const warnings = scan.warnings.map(({ message }) => message);
    for (const message of warnings) if (!this.#told.has(message)) this.#log.warn(message);
    this.#told = new Set(warnings);
    if (volumes.length === 0) this.#log.warn({ devices: scan.devices.length }, 'no logical volumes were found');
  }
}

interface RefreshOptions {
  /** Default those in force. */
  readonly settings?: Settings;
  readonly starting?: boolean;
  readonly follows?: (vgId: string) => boolean;
  readonly reload?: ReadonlySet<VolumeId>;
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

/** A unix socket's address with who may connect to it. */
function withPermissions(address: ListenAddress, { socketMode: mode, socketGroup: group }: Settings): NbdAddress {
  if (address.kind !== 'unix') return address;
  return { ...address, mode, ...(group === null ? {} : { group }) };
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
    socket_group: (settings) => settings.socketGroup,
    audit: (settings) => settings.audit,
    'metrics.listen': (settings) => settings.metricsListen,
    workers: (settings) => settings.workers,
    'log.format': (settings) => settings.logFormat,
    limits: (settings) => settings.limits,
  };
  return Object.entries(fixed)
    .filter(([, get]) => JSON.stringify(get(before)) !== JSON.stringify(get(after)))
    .map(([key]) => key);
}
