/**
 * The volumes that are served: which LVs ought to be active (`DesiredVolume`), which are and by which worker (placement.ts), and
 * the change from one to the other (group-change.ts). Who uses them is volume-clients.ts's.
 *
 * Invariants
 *  - An LV is either served with the table that its metadata demands or has a reason why not; one that can't follow goes on with
 *    the table it had, and with its problem told.
 *  - A volume whose table did not change is not touched by `apply`: its clients notice nothing. Clients stay when the table, the
 *    name or the permission changes; they are let go (what they sent is finished and answered) when the volume goes away.
 *  - After a worker's death its volumes have the tables that they last were to have, but for those that a change holds suspended.
 *  - Changes of one VG go one after the other; VGs don't wait for each other.
 */
import type { IoSnapshot } from '../dm/io-stats.ts';
import type { LiveProblem, LiveStatus, VolumeId } from '../lvm/live.ts';
import { Branches } from './branches.ts';
import { type ChangedSet, GroupChange, ignoreGone, SUSPEND_TIMEOUT_MS, WORKER_TIMEOUT_MS } from './group-change.ts';
import type { Logger } from './log.ts';
import { within } from './patience.ts';
import { Placement } from './placement.ts';
import { restoreVolumes, retireLeft } from './restore.ts';
import { byName, type DesiredVolume, type ExportStatus, groupOf, type ServedVolume } from './served-volume.ts';
import type { ServedSnapshot } from './snapshot-watch.ts';
import { VolumeClients } from './volume-clients.ts';
import { type DeviceKey, deviceKey, type DeviceSpec, type WorkerHost } from './worker/host.ts';
import type { WorkerSlot } from './worker/pool.ts';
import { WorkerError } from './worker/protocol.ts';

/** A volume that goes away is waited for this long; then its end goes on behind our back. */
export const RETIRE_TIMEOUT_MS = 30_000;

const SNAPSHOT_TARGETS: ReadonlySet<string> = new Set(['snapshot', 'snapshot-merge']);

export interface VolumeSetOptions {
  readonly log: Logger;
  readonly slots: () => readonly WorkerSlot[];
}

export interface ApplyOptions {
  /** The VGs that are concerned, by uuid; default all. */
  readonly follows?: (vgId: string) => boolean;
  /** Volumes whose tables are loaded again though they did not change. */
  readonly reload?: ReadonlySet<VolumeId>;
}

export class VolumeSet implements ChangedSet {
  /** Who else serves them than their own workers. */
  readonly branches: Branches;
  /** Who uses the volumes. */
  readonly clients: VolumeClients;
  readonly #log: Logger;
  readonly #placement: Placement;
  readonly #served = new Map<VolumeId, ServedVolume>();
  /** Volumes that are on their way out, with what waits for that. */
  readonly #retiring = new Map<VolumeId, Promise<void>>();
  readonly #inactive = new Map<VolumeId, { readonly name: string; readonly reason: string }>();
  /** Reasons that were logged, each once. */
  readonly #told = new Map<VolumeId, string>();
  /** VGs in the middle of a change. */
  readonly #changing = new Set<string>();
  /** The last change of each VG. */
  readonly #turns = new Map<string, Promise<unknown>>();
  /** Nothing was applied yet: what is served at the start is a summary, what changes later is news. */
  #fresh = true;

  constructor(options: VolumeSetOptions) {
    this.#log = options.log;
    this.#placement = new Placement(this.#served, options.slots);
    const places = { served: this.#served, inactive: this.#inactive, placement: this.#placement };
    this.branches = new Branches({
      ...options,
      ...places,
      movers: () => this.clients,
      isChanging: (vgId) => this.#changing.has(vgId),
      hasTurn: (vgId) => this.#turns.has(vgId),
      inTurn: (vgId, work) => this.#inTurn(vgId, work),
    });
    this.clients = new VolumeClients({ ...places, branches: this.branches });
  }

  /**
   * Makes the volumes what `desired` says; `resolve` gives the claimed device that a table names. Gives what should be active, and
   * isn't or has not followed.
   */
  async apply(
    desired: readonly DesiredVolume[],
    resolve: (path: string) => DeviceSpec | undefined,
    options: ApplyOptions = {},
  ): Promise<readonly LiveProblem[]> {
    const { follows = (): boolean => true, reload = new Set<VolumeId>() } = options;
    const groups = new Map<string, DesiredVolume[]>();
    const known = [...this.#served.keys(), ...this.#inactive.keys(), ...desired.map(({ id }) => id)];
    for (const id of known) if (follows(groupOf(id))) groups.set(groupOf(id), []);
    for (const volume of desired) groups.get(groupOf(volume.id))?.push(volume);
    const problems = await Promise.all(
      [...groups].map(([vgId, own]) => {
        const change = new GroupChange(this, { vgId, desired: own }, resolve, reload);
        return this.#inTurn(vgId, () => {
          for (const id of this.#inactive.keys()) if (groupOf(id) === vgId) this.#inactive.delete(id);
          return change.run();
        });
      }),
    );
    this.#fresh = false;
    this.clients.changed();
    for (const vgId of groups.keys()) this.branches.again(vgId);
    return problems.flat();
  }

  /** Settles when the changes of these VGs, or of all, that were asked for before have ended. */
  async settled(vgIds: Iterable<string> = this.#turns.keys()): Promise<void> {
    await Promise.all(Array.from(vgIds, (vgId) => this.#turns.get(vgId) ?? Promise.resolve()));
  }

  async #inTurn<T>(vgId: string, work: () => Promise<T>): Promise<T> {
    const before = this.#turns.get(vgId) ?? Promise.resolve();
    const turn = before.then(work);
    const settled = Promise.allSettled([turn]);
    this.#turns.set(vgId, settled);
    try {
      return await turn;
    } finally {
      if (this.#turns.get(vgId) === settled) this.#turns.delete(vgId);
    }
  }

  // What a change of a VG works on.

  homeOf(shareKey: string): WorkerSlot | null {
    return this.#placement.homeOf(shareKey);
  }

  share(served: ServedVolume, shareKey: string | null): void {
    this.#placement.share(served, shareKey);
  }

  place(shareKey: string | null): WorkerSlot {
    return this.#placement.place(shareKey);
  }

  add(served: ServedVolume): void {
    this.#served.set(served.id, served);
    this.#placement.add(served);
  }

  servedOf(vgId: string): readonly ServedVolume[] {
    return [...this.#served.values()].filter(({ id }) => groupOf(id) === vgId);
  }

  servedById(id: VolumeId): ServedVolume | undefined {
    return this.#served.get(id);
  }

  async gather(served: ServedVolume): Promise<void> {
    const problem = await this.branches.gather(served);
    if (problem !== null) throw new WorkerError('TIMEOUT', served.slot.index, problem);
  }

  refuse({ id, name }: DesiredVolume, reason: string): void {
    this.#inactive.set(id, { name, reason });
    if (this.#told.get(id) !== reason) this.#log.warn({ lv: name, reason }, 'not served');
    this.#told.set(id, reason);
  }

  went(served: ServedVolume, isNew: boolean): void {
    this.#told.delete(served.id);
    const news = { lv: served.name, clients: served.clients.size };
    if (isNew) this.#log[this.#fresh ? 'debug' : 'info'](news, 'served');
    else this.#log.info({ ...news, suspendMs: served.lastSuspendMs }, 'table reloaded');
  }

  warn(name: string, problem: string): void {
    this.#log.warn({ lv: name, problem }, 'served on');
  }

  fail(name: string, reason: string): void {
    this.#log.error({ lv: name, reason }, 'a table cannot be loaded');
  }

  retire(served: ServedVolume, reason: string): Promise<boolean> {
    let ending = this.#retiring.get(served.id);
    if (ending === undefined) {
      served.leaving = true;
      if (served.planKey !== '') {
        this.#log.info({ lv: served.name, clients: served.clients.size, reason }, 'no longer served');
      }
      ending = this.#end(served).finally(() => {
        this.#retiring.delete(served.id);
        if (this.#served.get(served.id) === served) {
          this.#served.delete(served.id);
          this.#placement.remove(served);
        }
        this.clients.changed();
      });
      this.#retiring.set(served.id, ending);
      // Adopters that wait for it see that it is leaving.
      this.clients.changed();
    }
    return within(ending, RETIRE_TIMEOUT_MS);
  }

  /** Whatever becomes of one worker: its extents are free when none has it any more. */
  async #end(served: ServedVolume): Promise<void> {
    await Promise.all([this.branches.end(served), this.#endAtHome(served)]);
  }

  async #endAtHome({ id, name, slot: { host } }: ServedVolume): Promise<void> {
    if (host === null) return;
    try {
      await host.wipe(id);
      await host.disconnect(id);
      const { problem } = await host.retire(id);
      if (problem === undefined) return;
      this.#log.error({ reason: problem, lv: name }, 'a volume could not be flushed when it was closed');
    } catch (error) {
      // With its worker everything of it has ended.
      ignoreGone(error);
    }
  }

  // Workers that come and go.

  /** Gives a new worker the tables of its volumes; who came to others in its place is spread then. */
  async restore(slot: WorkerSlot, host: WorkerHost): Promise<void> {
    await this.#restore(slot, host);
    // When the slot has its worker.
    setImmediate(() => {
      this.clients.changed();
      this.branches.spread();
    });
  }

  async #restore(slot: WorkerSlot, host: WorkerHost): Promise<void> {
    // In the middle of a change nobody knows which table is the right one; its end lets them go on.
    const own = [...this.#served.values()].filter((served) => served.slot === slot);
    for (const served of own) if (this.#changing.has(groupOf(served.id))) served.held = true;
    const failed = new Set<ServedVolume>();
    const missing = (served: ServedVolume): boolean =>
      served.shown && !served.held && served.liveOn !== host && !failed.has(served);
    // Whoever held one of them may have given up waiting for this worker, and counts on it.
    for (let volumes = own.filter(missing); volumes.length > 0; volumes = own.filter(missing)) {
      const reasons = await restoreVolumes(host, volumes);
      for (const served of volumes) {
        const reason = reasons.get(served.id);
        if (reason === undefined) continue;
        failed.add(served);
        served.problem = `it can't be loaded by its new worker: ${reason}`;
        this.fail(served.name, reason);
      }
      await retireLeft(host, volumes);
    }
  }

  /** The slot's worker has ended with everything that it held. Gives the connections that ended with it. */
  lost(slot: WorkerSlot): readonly number[] {
    const ended: number[] = [];
    for (const served of this.#served.values()) {
      ended.push(...this.clients.at(served, slot));
      if (served.slot === slot) served.liveOn = null;
      else this.branches.lost(served, slot);
    }
    for (const connection of ended) this.clients.closed(connection);
    this.clients.changed();
    return ended;
  }

  /** The devices of a slot's tables, or of all: loaded, to be loaded, or on their way out. */
  deviceKeysOf(slot: WorkerSlot | null): readonly DeviceKey[] {
    const keys = new Set<DeviceKey>();
    for (const served of this.#served.values()) {
      if (slot !== null && served.slot !== slot && !served.branches.has(slot)) continue;
      for (const load of [served.load, served.next]) {
        for (const device of load?.spec.devices ?? []) keys.add(deviceKey(device));
      }
    }
    return [...keys];
  }

  /** Identities of the devices that a table has which is loaded, or on its way out. */
  deviceIdentities(): ReadonlySet<string> {
    const served = [...this.#served.values()];
    return new Set(served.flatMap(({ load }) => load.spec.devices.map(({ identity }) => identity)));
  }

  // What commands ask for (live.ts).

  /** Volumes of a VG in the middle of a change: if their worker dies, the next one doesn't get them before the change has ended. */
  setChanging(vgId: string, changing: boolean): void {
    if (changing) this.#changing.add(vgId);
    else if (this.#changing.delete(vgId)) this.branches.again(vgId);
  }

  /** Volumes of a VG that are held back. */
  heldOf(vgId: string): readonly VolumeId[] {
    return [...this.#served.values()].flatMap(({ id, held }) => (held && groupOf(id) === vgId ? [id] : []));
  }

  /** Clients that use a volume, those included that are about to begin. */
  openCount(id: VolumeId): number {
    return this.#served.get(id)?.clients.size ?? 0;
  }

  /** Lets every client of a volume go; settles when none of them holds anything of it. Gives false when that takes too long. */
  async disconnect(id: VolumeId): Promise<boolean> {
    const hosts = this.#served.get(id)?.hosts() ?? [];
    return within(Promise.all(hosts.map((host) => host.disconnect(id).catch(ignoreGone))), RETIRE_TIMEOUT_MS);
  }

  /** Suspends volumes until `resume` or their next change. Gives the reasons of those that can't be; the others stay suspended. */
  async suspend(ids: readonly VolumeId[]): Promise<readonly { readonly id: VolumeId; readonly problem: string }[]> {
    const problems = await Promise.all(
      ids.map(async (id) => {
        const served = this.#served.get(id);
        if (served === undefined || served.leaving) return [];
        const stuck = await this.branches.gather(served);
        if (stuck !== null) return [{ id, problem: stuck }];
        const host = served.slot.host;
        // Without a worker nothing does I/O; and the next one does not get it while it is held.
        served.held = true;
        if (host === null || served.liveOn !== host) return [];
        try {
          const [answer] = await host.suspend({ ids: [id], timeoutMs: SUSPEND_TIMEOUT_MS });
          if (answer?.problem === undefined) return [];
          served.held = false;
          return [{ id, problem: answer.problem }];
        } catch (error) {
          ignoreGone(error);
          return [];
        }
      }),
    );
    return problems.flat();
  }

  /** Lets volumes go on that `suspend` held and that no change has let go on. */
  async resume(ids: readonly VolumeId[]): Promise<void> {
    await Promise.all(ids.map((id) => this.#resumeOne(id)));
    this.clients.changed();
    for (const vgId of new Set(ids.map(groupOf))) this.branches.again(vgId);
  }

  async #resumeOne(id: VolumeId): Promise<void> {
    const served = this.#served.get(id);
    if (served === undefined || !served.held) return;
    try {
      const host = await served.slot.within(WORKER_TIMEOUT_MS);
      if (served.liveOn !== host) await host.load([served.load.spec]);
      const [answer] = await host.resume([id]);
      if (answer !== undefined && answer.problem === undefined) served.went(host, answer);
      else this.fail(served.name, answer?.problem ?? 'no answer');
    } catch (error) {
      // The worker after this one has it with the others.
      served.held = false;
      if (!(error instanceof WorkerError) || error.code === 'FAILED') throw error;
    }
  }

  /** Every volume that is known, of one VG or of all. */
  liveStatus(vgId?: string): ReadonlyMap<VolumeId, LiveStatus> {
    const all = new Map<VolumeId, LiveStatus>();
    const concerned = (id: VolumeId): boolean => vgId === undefined || groupOf(id) === vgId;
    for (const [id, { reason }] of this.#inactive) {
      const nothing = { active: false, suspended: false, readOnly: false, openCount: 0, inactiveTable: false };
      if (concerned(id)) all.set(id, { id, ...nothing, reason });
    }
    for (const { id, held, facts, clients, next, shown } of this.#served.values()) {
      const { readOnly } = facts;
      const state = { active: true, suspended: held, readOnly, openCount: clients.size, inactiveTable: next !== null };
      if (concerned(id) && shown) all.set(id, { id, ...state });
    }
    return all;
  }

  /** Live volumes of a VG, by their worker. */
  hostsOf(vgId: string): ReadonlyMap<WorkerHost, readonly VolumeId[]> {
    const hosts = new Map<WorkerHost, VolumeId[]>();
    for (const { id, liveOn, live } of this.servedOf(vgId)) {
      if (liveOn === null || !live) continue;
      const own = hosts.get(liveOn);
      if (own === undefined) hosts.set(liveOn, [id]);
      else own.push(id);
    }
    return hosts;
  }

  /** Live snapshots, and origins that take one in. */
  snapshots(): readonly ServedSnapshot[] {
    const found: ServedSnapshot[] = [];
    for (const { id, name, live, liveOn, load } of this.#served.values()) {
      const target = load.spec.table[0]?.target ?? '';
      if (live && liveOn !== null && SNAPSHOT_TARGETS.has(target)) {
        found.push({ id, name, merges: target === 'snapshot-merge', host: liveOn });
      }
    }
    return found;
  }

  /** The worker of a volume that is a snapshot, or takes one in; null: it is none, or not live. */
  snapshotHost(id: VolumeId): WorkerHost | null {
    const served = this.#served.get(id);
    if (served?.live !== true) return null;
    const isSnapshot = served.load.spec.table.some(({ target }) => SNAPSHOT_TARGETS.has(target));
    return isSnapshot ? served.liveOn : null;
  }

  /** What volumes have counted at branches that they have no longer. */
  pastIo(): ReadonlyMap<string, IoSnapshot> {
    return new Map([...this.#served.values()].flatMap(({ name, pastIo }) => (pastIo === null ? [] : [[name, pastIo]])));
  }

  status(): readonly ExportStatus[] {
    const inactive = [...this.#inactive].map(([id, { name, reason }]) => ({
      name,
      id,
      state: 'inactive' as const,
      reason,
      clients: 0,
    }));
    const active = [...this.#served.values()].filter(({ shown }) => shown).map((served) => served.status());
    return [...active, ...inactive].toSorted(byName);
  }

  /** "vg/lv" of a volume that is known, served or not; null: it is not. */
  nameOf(id: VolumeId): string | null {
    const served = this.#served.get(id);
    return (served?.shown === true ? served.name : this.#inactive.get(id)?.name) ?? null;
  }

  /** What is served by this id; null: nothing. */
  served(id: VolumeId): { readonly id: VolumeId; readonly key: string; readonly readOnly: boolean } | null {
    const served = this.#served.get(id);
    if (served?.shown !== true) return null;
    return { id, key: served.planKey, readOnly: served.readOnly };
  }

  /** Why what is served can't be given to another process now; null: it can. */
  stuck(): string | null {
    for (const { name, leaving, held } of this.#served.values()) {
      if (leaving) return `${name} is on its way out, and its device does not answer`;
      if (held) return `${name} is suspended by a change that has not ended`;
    }
    return null;
  }
}
