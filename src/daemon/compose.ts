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
 *  - Nothing is served before the workers of a daemon that was here before have ended.
 *  - A reload that fails leaves the volumes that were served, served.
 */
import { NbdServer } from '../nbd/server.ts';
import { attachedDevices } from './client/attached.ts';
import { identifyClient } from './client-identity.ts';
import type { Settings } from './config.ts';
import { ConfiguredExports } from './configured-exports.ts';
import { type OpenControl, openControl } from './control/open.ts';
import { DeferredMerges } from './deferred-merges.ts';
import { DeviceSet } from './devices.ts';
import { DaemonError } from './errors.ts';
import { ignoreGone } from './group-change.ts';
import { GuardedExports } from './guarded-exports.ts';
import { HeldExports } from './held-exports.ts';
import { acceptNewcomers, dropListeners, follow, lifeLock, serveClients } from './handover/follow.ts';
import { Departure } from './handover/departure.ts';
import type { Patience } from './handover/hand-over.ts';
import type { Predecessor } from './handover/predecessor.ts';
import type { Program, Successor } from './handover/successor.ts';
import { HotPlug } from './hotplug.ts';
import type { LifeLock } from './life-lock.ts';
import type { ListenAddress } from './listen-uri.ts';
import { Listeners } from './listeners.ts';
import { listening, makeRunDir } from './listening.ts';
import { DaemonVolumes, movesOf } from './live.ts';
import type { Logger } from './log.ts';
import { Observer } from './observer.ts';
import { appliedBy, restartKeys } from './restart-keys.ts';
import { Scans } from './scans.ts';
import { unservedOf } from './served-volume.ts';
import { type DaemonState, type DaemonStatus, statusOf } from './status.ts';
import { type StdioClient, takeStdioClient } from './stdio.ts';
import { Stock } from './stock.ts';
import { TlsGate } from './tls/gate.ts';
import { tlsOf, tunnelSettings } from './tls/settings.ts';
import { Upkeep } from './upkeep.ts';
import { VolumeSet } from './volumes.ts';
import type { WorkerStats } from './worker/host.ts';
import { WorkerPool } from './worker/pool.ts';
import { startWorker } from './worker/start.ts';

export class Daemon {
  readonly #log: Logger;
  readonly #devices: DeviceSet;
  readonly #volumes: VolumeSet;
  readonly #live: DaemonVolumes;
  readonly #workers: WorkerPool;
  readonly #exports: ConfiguredExports;
  readonly #held: HeldExports;
  readonly #nbd: NbdServer;
  readonly #tls: TlsGate;
  readonly #opened = new AsyncDisposableStack();
  readonly #listeners: Listeners;
  readonly #startedAt = new Date();
  readonly #deferred: DeferredMerges;
  readonly #stock: Stock;
  readonly #scans: Scans;
  readonly #hotplug: HotPlug;
  readonly #upkeep: Upkeep;
  readonly #departure: Departure;
  #settings: Settings;
  /** Who is at our standard streams, where he is to be served. */
  #stdio: StdioClient | null = null;
  #state: DaemonState = 'starting';
  #lock: LifeLock | null = null;
  /** Null: not yet there. */
  #control: OpenControl | null = null;
  #observer: Observer | null = null;

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
      start: (index, events) => startWorker(this.#settings, { index, events, lockFd: this.#lock?.fd ?? null, log }),
      restore: (slot, host) => this.#volumes.restore(slot, host),
      client: (request, handle) => this.#departure.moved(request, handle),
      lost: (slot) => {
        for (const connection of this.#volumes.lost(slot)) this.#nbd.ended(connection);
      },
      connectionClosed: (connection) => {
        this.#volumes.clients.closed(connection);
        this.#nbd.ended(connection);
      },
      pathOf: (device) => this.#devices.pathOf(device),
      log,
    });
    this.#volumes = new VolumeSet({ log, slots: () => this.#workers.slots });
    this.#held = new HeldExports(this.#volumes.clients);
    this.#deferred = new DeferredMerges({
      path: `${settings.controlPath}.merges`,
      isServed: (id) => this.#volumes.served(id) !== null,
      log,
    });
    this.#stock = new Stock({
      devices: this.#devices,
      served: (id) => this.#volumes.served(id),
      mergeWaits: (origin) => this.#deferred.waits(origin),
      decisions: () => this.#live.decisions,
      log,
    });
    this.#live = new DaemonVolumes({
      volumes: this.#volumes,
      readOnly: settings.readOnly,
      holds: (identity) => this.#devices.holds(identity),
      loseFlushes: (identity, errno) => this.#workers.loseFlushes(this.#devices.keysOf(identity), errno),
      refresh: (vgIds, reload = new Set()) => this.#scans.refresh({ follows: (vgId) => vgIds.has(vgId), reload }),
      rescan: (reason) => this.rescan(reason),
      settled: async (vgIds) => {
        await this.#scans.inTurn(() => Promise.resolve());
        await this.#volumes.settled(vgIds);
      },
      nameOf: (id) => this.#scans.nameOf(id),
      moves: (vgId) => movesOf(this.#scans.groups, vgId),
      deferred: this.#deferred,
      expect: (groups) => this.#observer?.expect(groups),
      lookAt: (paths) => this.#stock.lookAt(paths, this.#settings, this.#scans.last),
    });
    this.#scans = new Scans({
      devices: this.#devices,
      stock: this.#stock,
      volumes: this.#volumes,
      workers: this.#workers,
      settings: () => this.#settings,
      isChanging: (vgId) => this.#live.isChanging(vgId),
      isEnding: () => this.#state === 'draining',
      scanned: (scan) => {
        this.#live.scanned(scan.volumeGroups);
        this.#observer?.scanned(scan);
        this.#control?.scanned(scan);
      },
      followed: () => this.#upkeep.follow(),
      log,
    });
    this.#upkeep = new Upkeep({
      volumes: this.#volumes,
      stock: this.#stock,
      scans: this.#scans,
      listeners: () => this.#listeners,
      surroundings: () => this.#settings,
      log,
    });
    const guarded = new GuardedExports({
      directory: this.#volumes.clients,
      rules: () => this.#settings.access.exports,
      refused: (client, name, reason) => this.#observer?.exportRefused(client, name, reason),
    });
    this.#exports = new ConfiguredExports({
      directory: guarded,
      settings: () => this.#settings.exports,
      uses: (name) => this.#volumes.clients.uses(name),
      holder: (name) => this.#held.holder(name),
    });
    this.#tls = new TlsGate({ settings: tunnelSettings(settings), count: settings.workers, log });
    this.#nbd = new NbdServer({
      directory: this.#exports,
      adopt: (handover) => this.#volumes.clients.adopt(handover, this.#exports.viewFor(handover.client)),
      secure: (client) => this.#tls.secure(client),
      identify: identifyClient,
      limits: settings.limits,
      log,
    });
    this.#listeners = new Listeners(this.#nbd, log);
    this.#departure = new Departure({
      workers: this.#workers,
      volumes: this.#volumes,
      nbd: this.#nbd,
      devices: this.#devices,
      listeners: this.#listeners,
      scans: this.#scans,
      live: this.#live,
      stock: this.#stock,
      log,
    });
  }

  /** Opens devices, activates volumes and listens, or follows another process in that. Throws a DaemonError. */
  static async start(settings: Settings, log: Logger, predecessor: Predecessor | null = null): Promise<Daemon> {
    const daemon = new Daemon(settings, log);
    try {
      await daemon.#start(predecessor);
    } catch (error) {
      await daemon.#opened.disposeAsync().catch((err: unknown) => log.error({ err }, 'not everything could be closed'));
      throw error;
    }
    return daemon;
  }

  async #start(predecessor: Predecessor | null): Promise<void> {
    const settings = this.#settings;
    // Before another process is started, which would have them too.
    if (this.#settings.stdio) this.#stdio = takeStdioClient();
    const estate = predecessor?.estate ?? null;
    await makeRunDir(settings.runDir);
    const attached = new Set((await attachedDevices()).map(({ volume }) => volume.replace('/', ' ')));
    this.#deferred.restore((id) => predecessor !== null || attached.has(id));
    if (settings.engine.note !== null) this.#log.warn(settings.engine.note);
    for (const note of settings.withoutEffect) this.#log.warn(note);
    this.#lock = await lifeLock(settings, estate, this.#log);
    this.#opened.defer(() => this.#lock?.close());
    this.#opened.defer(() => this.#devices.close());
    this.#devices.inherit(estate?.claims ?? []);
    this.#opened.defer(() => this.#workers.close());
    const observer = predecessor === null ? await this.#activate(settings) : await this.#follows(settings, predecessor);
    const control = await this.#openControl(observer, estate?.control ?? null);
    // When workers have let their clients go.
    this.#opened.defer(() => this.#tls.close());
    this.#opened.defer(() => this.#nbd.stopped());
    this.#opened.defer(() => this.#workers.disconnectAll());
    this.#opened.defer(() => this.#nbd.close());
    this.#opened.defer(() => this.#volumes.branches.stop());
    this.#opened.defer(() => this.#listeners.close());
    for (const address of settings.listen) await this.#listeners.listen(address, settings, estate);
    if (estate !== null) dropListeners(estate, settings);
    if (predecessor !== null) acceptNewcomers({ nbd: this.#nbd, control }, predecessor);
    this.#opened.defer(() => this.#upkeep.close());
    this.#upkeep.start(settings, control.own);
    this.#state = 'serving';
    await observer.start(estate?.metrics ?? null).catch((error: unknown) => {
      if (estate === null || !(error instanceof DaemonError)) throw error;
      this.#log.error({ reason: error.message }, 'metrics are left out');
    });
  }

  /** Makes volumes active as the settings and the metadata say. */
  async #activate(settings: Settings): Promise<Observer> {
    const observer = await this.#openObserver(settings);
    await observer.begin();
    await this.#openWorkers();
    await this.#scans.refresh({ settings, starting: true });
    return observer;
  }

  /** Makes volumes active, and serves clients, as another process did. */
  async #follows(settings: Settings, predecessor: Predecessor): Promise<Observer> {
    const [log, devices, workers] = [this.#log, this.#devices, this.#workers];
    // What can fail is tried while the other process can go on.
    const observer = await this.#openObserver(settings);
    await this.#openWorkers();
    const parts = { settings, devices, workers, stock: this.#stock, live: this.#live, log };
    const { inventory, taken } = await this.#scans.inTurn(() => follow(parts, predecessor));
    this.#scans.takeOver(inventory);
    this.#nbd.follow([], taken.nextId);
    const problems = await this.#volumes.apply(inventory.volumes, (path) => devices.find(path));
    for (const { volume, reason } of problems) log.error({ lv: volume.name, reason }, 'not taken over');
    serveClients({ volumes: this.#volumes, nbd: this.#nbd, log }, predecessor, taken);
    await observer.begin().catch((err: unknown) => log.error({ err }, 'the audit log cannot be read'));
    observer.scanned(inventory.scan);
    this.#stock.tell(inventory);
    await this.#scans.letDevicesGo();
    devices.dropInherited();
    return observer;
  }

  async #openWorkers(): Promise<void> {
    await this.#workers.open();
    // Before the scan, so that nothing comes between.
    this.#opened.defer(() => this.#hotplug.close());
    await this.#hotplug.start();
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
        return {
          startedAt: this.#startedAt,
          connections,
          workers,
          exports,
          devices,
          pastIo: this.#volumes.pastIo(),
          scan: this.#scans.last,
        };
      },
      snapshotProblems: () => this.#upkeep.snapshotProblems,
      unserved: () => unservedOf(this.#volumes.status()),
    });
    this.#observer = observer;
    this.#opened.defer(() => observer.close());
    return observer;
  }

  async #openControl(observer: Observer, fd: number | null): Promise<OpenControl> {
    const control = await listening(
      openControl({
        live: this.#live,
        log: this.#log,
        status: () => this.status(),
        segments: (name) => this.#volumes.clients.segments(name),
        held: this.#held,
        rescan: () => this.rescan('asked for over the control socket'),
        settings: () => ({ ...this.#settings, devices: this.#stock.commandDevices(this.#settings) }),
        devices: () => [...this.#devices.specs(), ...(this.#scans.last?.devices ?? [])],
        observer,
        fd,
      }),
    );
    this.#control = control;
    if (this.#scans.last !== null) control.scanned(this.#scans.last);
    this.#opened.defer(() => control.close());
    return control;
  }

  /** Where NBD is served, ports as they were bound. */
  get listening(): readonly ListenAddress[] {
    return this.#listeners.addresses;
  }

  /** What commands ask of the volumes that they change. */
  get live(): DaemonVolumes {
    return this.#live;
  }

  status(): DaemonStatus {
    return statusOf({
      state: this.#state,
      startedAt: this.#startedAt,
      settings: this.#settings,
      listening: this.#listeners.addresses,
      connections: this.#nbd.connections,
      workers: this.#workers.slots.map((slot) => slot.status()),
      tls: this.#tls.status(),
      devices: this.#devices.status(),
      exports: this.#volumes.status(),
      scan: this.#scans.last,
    });
  }

  /** Resolves when everything that serves has answered; rejects with what does not. The watchdog waits for it. */
  async alive(): Promise<void> {
    // One that is being started again is seen to.
    await Promise.all(this.#workers.hosts().map((host) => host.ping().catch(ignoreGone)));
  }

  /** What the workers count; null for one that is not there, or does not answer. */
  stats(): Promise<readonly (WorkerStats | null)[]> {
    return this.#workers.stats();
  }

  /** Reads the devices again and applies what of the settings can change without a restart. */
  async reload(settings: Settings): Promise<void> {
    if (this.#state !== 'serving') return;
    for (const key of restartKeys(this.#settings, settings)) {
      this.#log.warn({ key }, 'this setting changed and takes effect at the next start');
    }
    // First, so that nobody is let in by the former rules while a device keeps a scan waiting, and no scan goes by them any more.
    this.#settings = { ...this.#settings, ...appliedBy(settings) };
    this.#tls.configure(tunnelSettings(settings));
    this.#observer?.configure(settings);
    this.#log.level = settings.logLevel;
    await Promise.all(
      this.#workers.hosts().map((host) => host.configure({ logLevel: settings.logLevel }).catch(ignoreGone)),
    );
    await this.#hotplug.configure(settings);
    await this.#scans.refresh({});
  }

  /** Looks for devices and volume groups that came, went or changed. `reason` is for the log. */
  async rescan(reason: string): Promise<void> {
    this.#log.debug({ reason }, 'reading the devices again');
    await this.#scans.refresh({});
  }

  /** Serves the client at the standard streams. Settles when it has left, and has taken what was for it. */
  async serveStdio(): Promise<void> {
    if (this.#stdio === null) return;
    this.#nbd.accept(this.#stdio.socket, { kind: 'stdio' }, tlsOf(this.#settings.tls, { kind: 'stdio' }));
    this.#stdio.socket.resume();
    await this.#nbd.empty();
    await this.#stdio.ended;
  }

  /** Stops accepting, lets clients finish what is in flight, flushes and closes everything. Throws if a flush failed. */
  async close(): Promise<void> {
    // It may be waiting for its turn.
    await this.#hotplug.close();
    // Commands wait for scans.
    await this.#control?.endCommands();
    await this.#scans.inTurn(async () => {
      this.#state = 'draining';
      await this.#opened.disposeAsync();
    });
  }

  /**
   * Hands everything over to a process of the same program; gives its id. Throws a DaemonError HAND_OVER, after which everything goes
   * on as it was, or HAND_OVER_LOST: that process is ended, too. Afterwards nothing is left to close: the process is to be ended without.
   */
  async handOver(program: Program, patience: Partial<Patience> = {}): Promise<Successor> {
    const control = this.#state === 'serving' ? this.#control : null;
    const successor = await this.#departure.handOver(program, {
      settings: this.#settings,
      lockFd: this.#lock?.fd ?? null,
      metrics: this.#observer?.metricsPlace ?? null,
      control,
      letGo: () => this.#letGo(),
      patience,
    });
    this.#tls.leave();
    return successor;
  }

  /** After a hand-over: delivers what alerts wait, for some seconds, holding nothing that somebody else may want. */
  async leave(): Promise<void> {
    const released = Promise.all([this.#devices.keepOnly([]), this.#lock?.close()]);
    released.catch((err: unknown) => this.#log.error({ err }, 'something could not be let go'));
    await this.#observer?.close();
  }

  /** What works for itself, and is not to do so beside a successor. */
  async #letGo(): Promise<void> {
    this.#state = 'draining';
    // What it waits for sees that, and does nothing.
    this.#hotplug.close().catch((err: unknown) => this.#log.error({ err }, 'watching devices could not be ended'));
    await Promise.all([this.#control?.endCommands(), this.#upkeep.close()]);
    await this.#observer?.letGo();
  }

  /** Ends workers at once: nothing is flushed. */
  kill(): void {
    this.#departure.kill();
    this.#workers.kill();
    this.#tls.kill();
  }
}
