/**
 * What commands ask of the daemon that serves the volumes which they change (lvm/live.ts), carried out.
 *
 * Invariants
 *  - From `prepare` to `committed` or `abandoned` no scan touches the VGs of the change, new clients of the volumes that leave wait,
 *    and the volumes that lose extents are suspended. If a worker dies then, the next one gets the VG's volumes when the change has ended.
 *  - A `prepare` that throws has left nothing behind. The end of a change that is not known (any more) ends nothing.
 */
import { mirrorStates } from '../dm/mirror/control.ts';
import { CommandError } from '../lvm/edit/errors.ts';
import {
  volumeId,
  type LiveActivation,
  type LiveChange,
  type LiveDecision,
  type LiveProblem,
  type LiveStatus,
  type LiveVolumeRef,
  type LiveVolumes,
  type MoveStatus,
  type VolumeId,
} from '../lvm/live.ts';
import type { VolumeGroup } from '../lvm/model.ts';
import { copiedBytes, moveStatusOf } from '../lvm/pvmove/live-status.ts';
import { isPvmove } from '../lvm/relations.ts';
import { snapshotStatusOf } from '../lvm/snapshot-status.ts';
import type { DeferredMerges } from './deferred-merges.ts';
import { ignoreGone } from './group-change.ts';
import { groupOf } from './served-volume.ts';
import type { VolumeSet } from './volumes.ts';
import type { WorkerHost, WorkerVolume } from './worker/host.ts';

/** The daemon as far as changes need it. */
export interface LiveDaemon {
  readonly volumes: VolumeSet;
  /** --read-only: nothing may be changed. */
  readonly readOnly: boolean;
  /** Whether the device of this identity is claimed. */
  holds(identity: string): boolean;
  /** Reads these VGs again and makes their volumes follow, whatever changes of others are under way. */
  refresh(vgIds: ReadonlySet<string>, reload?: ReadonlySet<VolumeId>): Promise<readonly LiveProblem[]>;
  rescan(reason: string): Promise<void>;
  /** No flush of the device of this identity succeeds any more. */
  loseFlushes(identity: string, errno: number): void;
  /** Settles when no scan or change that began before touches these VGs any more. */
  settled(vgIds: readonly string[]): Promise<void>;
  /** Told of VGs that a command is about to write. */
  expect(groups: LiveChange['groups']): void;
  /** Where else to look for devices from now on: absolute paths of those that a command makes PVs of a VG. */
  lookAt(paths: readonly string[]): void;
  readonly deferred: DeferredMerges;
  /** Names of a VG and an LV of it, as last scanned; null: there is none. */
  nameOf(id: VolumeId): string | null;
  /** LVs of moves under way, of a VG or of all, as last scanned. */
  moves(vgId?: string): readonly VolumeId[];
}

export class DaemonVolumes implements LiveVolumes {
  readonly present = true;
  readonly #daemon: LiveDaemon;
  readonly #changes = new Map<string, LiveChange>();
  readonly #decisions = new Map<VolumeId, boolean | 'partial'>();

  constructor(daemon: LiveDaemon) {
    this.#daemon = daemon;
  }

  /** What commands decided, by volume. */
  get decisions(): ReadonlyMap<VolumeId, boolean | 'partial'> {
    return this.#decisions;
  }

  /** Takes what was decided before, by commands of the process that this one follows. */
  inherit(decisions: ReadonlyMap<VolumeId, boolean | 'partial'>): void {
    for (const [id, decision] of decisions) this.#decisions.set(id, decision);
  }

  /** Whether a change of the VG is under way: then only that change may touch its volumes. */
  isChanging(vgId: string): boolean {
    return [...this.#changes.values()].some(({ groups }) => groups.some(({ id }) => id === vgId));
  }

  /** Forgets merges that wait, and of which these groups, as they were just read, know nothing. */
  scanned(groups: readonly VolumeGroup[]): void {
    const pending = [...this.#changes.values()].flatMap(({ deferred }) => deferred.map(({ origin }) => origin));
    this.#daemon.deferred.forget(groups, new Set(pending));
  }

  /** Asked by a command that is about to write to the device. */
  holds(identity: string): Promise<boolean> {
    return this.#daemon.readOnly ? Promise.reject(onlyReads()) : Promise.resolve(this.#daemon.holds(identity));
  }

  flushLost(identity: string, errno: number): Promise<void> {
    this.#daemon.loseFlushes(identity, errno);
    return Promise.resolve();
  }

  async prepare(change: LiveChange): Promise<void> {
    const { volumes } = this.#daemon;
    if (this.#daemon.readOnly) throw onlyReads();
    this.#changes.set(change.key, change);
    this.#daemon.expect(change.groups);
    for (const { id } of change.groups) volumes.setChanging(id, true);
    volumes.clients.block(idsOf([...change.leaving, ...change.unused]));
    try {
      await this.#daemon.settled(change.groups.map(({ id }) => id));
      await this.#empty(change.leaving, change.force);
      await this.#empty(change.unused, false);
      this.#daemon.deferred.add(change.deferred);
      const [stuck] = await volumes.suspend(idsOf(change.losing));
      if (stuck === undefined) return;
      const name = change.losing.find(({ id }) => id === stuck.id)?.name ?? '';
      throw new CommandError(`Logical volume ${name} cannot be suspended: ${stuck.problem}`);
    } catch (error) {
      await this.#end(change);
      throw error;
    }
  }

  /** Sees to it that nobody uses the volumes, or throws. */
  async #empty(refs: LiveChange['leaving'], force: boolean): Promise<void> {
    const { volumes } = this.#daemon;
    const used = refs.filter(({ id }) => volumes.openCount(id) > 0);
    if (used.length === 0) return;
    if (!force) throw new CommandError(used.map(({ name }) => `Logical volume ${name} in use.`));
    const outcomes = await Promise.all(used.map(async (ref) => ({ ref, gone: await volumes.disconnect(ref.id) })));
    const stuck = outcomes.filter(({ gone }) => !gone);
    if (stuck.length > 0) {
      throw new CommandError(stuck.map(({ ref }) => `Logical volume ${ref.name} in use: its device does not answer.`));
    }
  }

  async committed(change: LiveChange): Promise<readonly LiveProblem[]> {
    this.#daemon.lookAt(change.joining);
    this.#decide(change.decisions);
    for (const { id } of change.leaving) this.#decisions.delete(id);
    try {
      return await this.#daemon.refresh(new Set(change.groups.map(({ id }) => id)));
    } finally {
      await this.#end(change);
    }
  }

  async abandoned(change: LiveChange): Promise<void> {
    try {
      this.#daemon.deferred.end(change.deferred.map(({ origin }) => origin));
      await this.#daemon.refresh(new Set(change.groups.map(({ id }) => id)));
    } finally {
      await this.#end(change);
    }
  }

  async #end(change: LiveChange): Promise<void> {
    if (!this.#changes.delete(change.key)) return;
    const { volumes } = this.#daemon;
    volumes.clients.release(idsOf([...change.leaving, ...change.unused]));
    const ended = change.groups.map(({ id }) => id).filter((id) => !this.isChanging(id));
    for (const id of ended) volumes.setChanging(id, false);
    await volumes.resume([...idsOf(change.losing), ...ended.flatMap((id) => volumes.heldOf(id))]);
  }

  #decide(decisions: readonly LiveDecision[]): void {
    for (const { volume, active, partial } of decisions) {
      this.#decisions.set(volume.id, active && partial === true ? 'partial' : active);
    }
  }

  async activate({ vgId, decisions, refresh, force }: LiveActivation): Promise<readonly LiveProblem[]> {
    const { volumes, deferred } = this.#daemon;
    const leaving = decisions.filter(({ active }) => !active).map(({ volume }) => volume);
    const going = [...leaving, ...this.#deferredSnapshots(leaving)];
    const starting = refresh.filter(({ id }) => this.#isIdleDeferred(id));
    const blocked = [...idsOf(going), ...idsOf([...starting, ...this.#deferredSnapshots(starting)])];
    volumes.clients.block(blocked);
    try {
      await this.#empty(going, force);
      this.#decide(decisions);
      deferred.end(idsOf([...leaving, ...starting]));
      return await this.#daemon.refresh(new Set([vgId]), new Set(idsOf(refresh)));
    } finally {
      volumes.clients.release(blocked);
    }
  }

  /** Snapshots that merge into these origins when they are activated the next time. */
  #deferredSnapshots(origins: readonly LiveVolumeRef[]): readonly LiveVolumeRef[] {
    return origins.flatMap(({ id, name }) => {
      const cow = this.#daemon.deferred.find(id)?.cow;
      return cow === undefined ? [] : [{ id: cow, name: this.#daemon.nameOf(cow) ?? `the snapshot of ${name}` }];
    });
  }

  /** Whether a merge waits that nothing keeps waiting but that nobody has said so. */
  #isIdleDeferred(origin: VolumeId): boolean {
    const { volumes, deferred } = this.#daemon;
    const merge = deferred.find(origin);
    return merge !== null && volumes.openCount(origin) + volumes.openCount(merge.cow) === 0;
  }

  async status(vgId?: string): Promise<ReadonlyMap<VolumeId, LiveStatus>> {
    const statuses = [...this.#daemon.volumes.liveStatus(vgId).values()].map((status): LiveStatus => {
      if (this.#daemon.deferred.find(status.id) !== null) return { ...status, mergeWaits: true };
      if (this.#decisions.get(status.id) !== false) return status;
      const { reason: _, ...wished } = status;
      return wished;
    });
    const moves = await Promise.all(this.#daemon.moves(vgId).map((id) => this.#moveAsVolume(id)));
    const volumes = await Promise.all(statuses.map((status) => this.#withSnapshot(status)));
    const all = [...volumes, ...moves.filter((status) => status !== null)];
    return new Map(all.map((status) => [status.id, status]));
  }

  /** The LV of a move has no volume of its own: it is in those that move. */
  async #moveAsVolume(id: VolumeId): Promise<LiveStatus | null> {
    const known = await this.#volumesOf(groupOf(id));
    const statuses = known.map(({ status }) => status);
    const copied = copiedBytes(statuses, this.#daemon.nameOf(id) ?? '');
    if (copied === null) return null;
    return { id, active: true, suspended: false, readOnly: false, openCount: 1, inactiveTable: false, copied };
  }

  /** How full it is, only the worker of a snapshot knows. */
  async #withSnapshot(status: LiveStatus): Promise<LiveStatus> {
    const host = status.active ? this.#daemon.volumes.snapshotHost(status.id) : null;
    const volume = host === null ? null : await statusAt(host, status.id);
    const snapshot = volume === null ? null : snapshotStatusOf(volume.lines);
    return snapshot === null ? status : { ...status, snapshot };
  }

  async moveStatus(pvmoveLv: VolumeId): Promise<MoveStatus | null> {
    const layer = this.#daemon.nameOf(pvmoveLv);
    if (layer === null) return null;
    const known = await this.#volumesOf(groupOf(pvmoveLv));
    return moveStatusOf(
      known.map(({ status }) => status),
      layer,
      async (index, sector) => {
        const volume = known[index];
        if (volume !== undefined) await volume.host.message({ id: volume.id, sector, words: ['seal'] });
      },
    );
  }

  /**
   * Takes back what `moveStatus` did for a commit: nobody asks any more, and what is left of the move goes on as a mirror that can lose
   * a leg. Where the commit came, nothing is sealed.
   */
  async unseal(pvmoveLv: VolumeId): Promise<void> {
    const layer = this.#daemon.nameOf(pvmoveLv);
    if (layer === null) return;
    for (const { host, id, status } of await this.#volumesOf(groupOf(pvmoveLv))) {
      const sealed = mirrorStates(status, layer).filter((state) => state.sealed);
      for (const { sector } of sealed) await host.message({ id, sector, words: ['unseal'] }).catch(ignoreGone);
    }
  }

  async #volumesOf(
    vgId: string,
  ): Promise<readonly { readonly host: WorkerHost; readonly id: VolumeId; readonly status: WorkerVolume }[]> {
    const found = await Promise.all(
      [...this.#daemon.volumes.hostsOf(vgId)].flatMap(([host, ids]) =>
        ids.map(async (id) => ({ host, id, status: await statusAt(host, id) })),
      ),
    );
    return found.flatMap(({ host, id, status }) => (status === null ? [] : [{ host, id, status }]));
  }

  rescan(): Promise<void> {
    return this.#daemon.rescan('asked for by a command');
  }
}

/** The LVs of moves under way in these groups. */
export function movesOf(groups: readonly VolumeGroup[], vgId?: string): readonly VolumeId[] {
  return groups
    .filter(({ vg }) => vgId === undefined || vg.id === vgId)
    .flatMap(({ vg }) => vg.logicalVolumes.filter((lv) => isPvmove(lv)).map((lv) => volumeId(vg, lv)));
}

/** Null: it is not there, or its worker has just gone. */
async function statusAt(host: WorkerHost, id: VolumeId): Promise<WorkerVolume | null> {
  try {
    return await host.volumeStatus(id);
  } catch (error) {
    ignoreGone(error);
    return null;
  }
}

function idsOf(refs: readonly { readonly id: VolumeId }[]): readonly VolumeId[] {
  return refs.map(({ id }) => id);
}

function onlyReads(): CommandError {
  return new CommandError('Devices are open for reading only by orion-lvmd (--read-only): nothing is changed.');
}
