/**
 * Volumes that several workers serve at once: more clients than one of them are there, so more cores than one have work.
 *
 *     home ── a client comes, another worker has less to do ──> home and branches ── a change of the VG ──> home
 *
 * Invariants
 *  - Only a volume without state has branches: its lines are linear, striped, zero or error, it shares nothing with other volumes, and
 *    its devices go through the page cache, which is the same for all (a worker refuses others).
 *  - It has them only while nothing of its VG changes: whoever changes its table, suspends it or lets it go, gathers it first.
 *  - To gather is to lose nobody: clients go on at home, with what they have asked for carried out and every byte in its place.
 */
import type { LinearParams, StripedParams, Table } from '../dm/table.ts';
import type { VolumeId } from '../lvm/live.ts';
import { addIo } from '../observe/stats.ts';
import { ignoreGone } from './group-change.ts';
import type { Logger } from './log.ts';
import { Patience } from './patience.ts';
import type { Placement } from './placement.ts';
import { groupOf, type ServedVolume } from './served-volume.ts';
import type { WorkerHost } from './worker/host.ts';
import type { WorkerSlot } from './worker/pool.ts';

/** How long clients may take to be moved: what they have asked for has to be done. */
const MOVE_TIMEOUT_MS = 20_000;

/** Who moves clients. */
export interface Movers {
  /** Moves those of these connections that a volume has at `from`; settles when they are served at `to`. Gives how many stay. */
  move(
    served: ServedVolume,
    way: { readonly from: WorkerSlot; readonly to: WorkerSlot },
    connections: readonly number[],
    workMs: number,
  ): Promise<number>;
  /** Connections of a volume that a worker serves. */
  at(served: ServedVolume, slot: WorkerSlot): readonly number[];
}

export interface BranchesOptions {
  readonly served: ReadonlyMap<VolumeId, ServedVolume>;
  readonly slots: () => readonly WorkerSlot[];
  readonly placement: Placement;
  readonly movers: () => Movers;
  /** Whether a command changes the VG. */
  readonly isChanging: (vgId: string) => boolean;
  /** Whether its volumes follow something, or get other workers. */
  readonly hasTurn: (vgId: string) => boolean;
  /** Does the work when nothing of the VG changes, and keeps changes waiting. */
  readonly inTurn: <T>(vgId: string, work: () => Promise<T>) => Promise<T>;
  readonly log: Logger;
}

/** Connections that are to be at a worker. */
type Places = ReadonlyMap<WorkerSlot, readonly number[]>;

export class Branches {
  readonly #options: BranchesOptions;
  readonly #patience = new Patience(MOVE_TIMEOUT_MS);
  #stopped = false;
  /** Volumes that are being brought to one more worker. */
  readonly #opening = new Map<VolumeId, Promise<boolean>>();
  /** Where clients of volumes are to be, when nothing of the VG changes: where they were before the volume was gathered. */
  readonly #places = new Map<VolumeId, Places>();

  constructor(options: BranchesOptions) {
    this.#options = options;
  }

  /** The daemon ends, or hands everything over: clients stay where they are. */
  stop(): void {
    this.#stopped = true;
  }

  /** After a `stop`, when everything stays here. Returns at once. */
  goOn(): void {
    this.#stopped = false;
    // Who came meanwhile is at the volume's home.
    this.spread();
    for (const vgId of new Set([...this.#places.keys()].map(groupOf))) this.again(vgId);
  }

  /** Where a volume's next client is to be: with `grow`, maybe where the volume is not yet. */
  choose(served: ServedVolume, grow: boolean): WorkerSlot {
    const { slots, placement, isChanging, hasTurn } = this.#options;
    const vgId = groupOf(served.id);
    if (this.#stopped || isChanging(vgId) || hasTurn(vgId)) return served.slot;
    const grows = grow && served.clients.size > 0 && mayBranch(served);
    const possible = slots().filter((slot) => served.hostAt(slot) !== null || (grows && slot.host !== null));
    const isThere = (slot: WorkerSlot): boolean => served.hostAt(slot) !== null;
    return leastOf(
      possible,
      served.slot,
      costOf((slot) => placement.loadOf(slot), isThere),
    );
  }

  /** Whether the volume comes to the worker to which somebody is bringing it now; null: nobody is. */
  opening({ id }: ServedVolume): Promise<boolean> | null {
    return this.#opening.get(id) ?? null;
  }

  /** Makes the volume live at another worker, too. Gives whether it is. Not while it is `opening`. */
  async open(served: ServedVolume, slot: WorkerSlot): Promise<boolean> {
    const { id } = served;
    const opening = this.#options.inTurn(groupOf(id), () => this.#open(served, slot));
    this.#opening.set(
      id,
      opening.catch(() => false),
    );
    try {
      return await opening;
    } finally {
      this.#opening.delete(id);
    }
  }

  async #open(served: ServedVolume, slot: WorkerSlot): Promise<boolean> {
    const { isChanging, placement, log } = this.#options;
    const { id, load } = served;
    const { host } = slot;
    const stays = (): boolean => served.shown && served.live && !served.held;
    if (served.hostAt(slot) !== null) return true;
    if (this.#stopped || isChanging(groupOf(id)) || !stays() || host === null || !mayBranch(served)) return false;
    // From here on its devices are kept open there.
    served.branches.set(slot, host);
    placement.loaded(slot, 1);
    try {
      const [loaded] = await host.load([{ ...load.spec, shared: true }]);
      const [answer] = loaded?.problem === undefined ? await host.resume([id]) : [loaded];
      if (answer?.problem === undefined && answer !== undefined && served.branches.get(slot) === host) {
        log.debug({ lv: served.name, worker: slot.index }, 'served by one more worker');
        return true;
      }
      log.debug({ lv: served.name, worker: slot.index, reason: answer?.problem }, 'served by one worker');
      if (loaded?.problem !== undefined && loaded.alone === true) served.aloneWith = load;
      await host.retire(id);
    } catch (err) {
      log.debug({ err, lv: served.name, worker: slot.index }, 'served by one worker');
    }
    this.#close(served, slot, host);
    return false;
  }

  #close(served: ServedVolume, slot: WorkerSlot, host: WorkerHost): void {
    if (served.branches.get(slot) !== host) return;
    served.branches.delete(slot);
    this.#options.placement.loaded(slot, -1);
  }

  /** The slot's worker has ended. */
  lost(served: ServedVolume, slot: WorkerSlot): void {
    const host = served.branches.get(slot);
    if (host !== undefined) this.#close(served, slot, host);
  }

  /**
   * Moves all clients of a volume to its home, and lets the other workers have it no longer. Gives why that can't be: then some are
   * still there. Not to be called beside `open` of the same volume.
   */
  async gather(served: ServedVolume): Promise<string | null> {
    if (served.branches.size === 0) return null;
    const { movers } = this.#options;
    const before = new Map([...served.branches.keys()].map((slot) => [slot, movers().at(served, slot)]));
    const problems = await Promise.all([...served.branches].map(([slot, host]) => this.#gatherOne(served, slot, host)));
    // Also of one that is stuck: some have been moved.
    this.#places.set(served.id, before);
    return problems.find((problem) => problem !== null) ?? null;
  }

  async #gatherOne(served: ServedVolume, slot: WorkerSlot, host: WorkerHost): Promise<string | null> {
    const { id, name } = served;
    try {
      if (served.live && !served.held) {
        const way = { from: slot, to: served.slot };
        const movers = this.#options.movers();
        const left = await movers.move(served, way, movers.at(served, slot), MOVE_TIMEOUT_MS);
        if (left > 0) return `what ${left} clients have asked of ${name} is not done after ${MOVE_TIMEOUT_MS} ms`;
      } else {
        // Home has no worker now: who is here comes again.
        const quiet = await this.#patience.with(`end ${id} ${slot.index}`, () => host.disconnect(id), ignoreLate);
        if (quiet === null) return `its device does not answer worker ${slot.index}`;
      }
      const status = await host.volumeStatus(id);
      // Nothing is written any more. A flush that takes longer is covered by that of home.
      const retired = await this.#patience.with(`flush ${id} ${slot.index}`, () => host.retire(id), ignoreLate);
      this.#tell(served, slot, retired === null ? 'its device does not answer' : retired.value.problem);
      served.pastIo = addIo(served.pastIo, status?.io ?? null);
    } catch (error) {
      ignoreGone(error);
    }
    this.#close(served, slot, host);
    return null;
  }

  #tell({ name }: ServedVolume, { index }: WorkerSlot, reason: string | undefined): void {
    if (reason === undefined) return;
    const fields = { reason, lv: name, worker: index };
    this.#options.log.error(fields, 'a volume could not be flushed when one of its workers let it go');
  }

  /** A volume that leaves is let go everywhere; its clients are told. Takes as long as its devices do. */
  async end(served: ServedVolume): Promise<void> {
    this.#places.delete(served.id);
    await Promise.all(
      [...served.branches].map(async ([slot, host]) => {
        try {
          await host.disconnect(served.id);
          this.#tell(served, slot, (await host.retire(served.id)).problem);
        } catch (error) {
          ignoreGone(error);
        }
        this.#close(served, slot, host);
      }),
    );
  }

  /**
   * Clients go where new ones would, without those that stay: they have come all to one worker from another process, or a worker has
   * come back whose clients came to others. Returns at once.
   */
  spread(): void {
    const { placement, slots } = this.#options;
    const loads = new Map(slots().map((slot) => [slot, placement.loadOf(slot)]));
    const concerned = new Set<string>();
    for (const served of this.#options.served.values()) {
      // Of those who were gathered it is known where they belong.
      if (!served.live || !mayBranch(served) || this.#isNoted(served)) continue;
      const places = this.#placesOf(served, loads);
      if (places.size === 0) continue;
      this.#places.set(served.id, places);
      concerned.add(groupOf(served.id));
    }
    for (const vgId of concerned) this.again(vgId);
  }

  #isNoted({ id, clients }: ServedVolume): boolean {
    const places = [...(this.#places.get(id)?.values() ?? [])];
    return places.flat().some((connection) => clients.has(connection));
  }

  /** Who would be where others are, if all came now; `loads` then are those of the workers. */
  #placesOf(served: ServedVolume, loads: Map<WorkerSlot, number>): Places {
    const { slots, movers } = this.#options;
    const possible = slots().filter((slot) => slot.host !== null && (served.hostAt(slot) !== null || !slot.isFailing));
    const there = new Set(possible.filter((slot) => served.hostAt(slot) !== null));
    const places = new Map<WorkerSlot, number[]>();
    const loaded = (slot: WorkerSlot, by: number): void => void loads.set(slot, (loads.get(slot) ?? 0) + by);
    for (const from of there) {
      // Whoever comes first is where the volume is anyway.
      for (const connection of movers()
        .at(served, from)
        .slice(from === served.slot ? 1 : 0)) {
        loaded(from, -1);
        const cost = costOf(
          (slot) => loads.get(slot) ?? 0,
          (slot) => there.has(slot),
        );
        const to = leastOf(possible, from, cost);
        loaded(to, there.has(to) ? 1 : 2);
        there.add(to);
        if (to !== from) places.set(to, [...(places.get(to) ?? []), connection]);
      }
    }
    return places;
  }

  /** The VG's changes have ended: clients go to where they are to be. Returns at once. */
  again(vgId: string): void {
    const { isChanging, inTurn, log } = this.#options;
    if (this.#stopped || isChanging(vgId)) return;
    for (const [id, places] of this.#places) {
      if (groupOf(id) !== vgId) continue;
      const served = this.#options.served.get(id);
      if (served === undefined || !served.shown) this.#places.delete(id);
      // A volume that is held, or something else meanwhile, waits until it is what it was.
      if (served === undefined || !served.live || served.held || !mayBranch(served)) continue;
      this.#places.delete(id);
      inTurn(vgId, () => this.#bring(served, places)).catch((err: unknown) => {
        log.error({ err, lv: served.name }, 'clients were not spread');
      });
    }
  }

  async #bring(served: ServedVolume, places: Places): Promise<void> {
    for (const [slot, connections] of places) {
      const own = connections.filter((connection) => served.clients.has(connection));
      if (this.#stopped || this.#options.isChanging(groupOf(served.id))) {
        // Later, then: unless a gather has noted since where they are.
        if (!this.#places.has(served.id)) this.#places.set(served.id, places);
        return;
      }
      if (own.length === 0 || !(await this.#open(served, slot))) continue;
      const others = [served.slot, ...served.branches.keys()].filter((from) => from !== slot);
      for (const from of others) await this.#move(served, { from, to: slot }, own);
    }
  }

  async #move(served: ServedVolume, way: Parameters<Movers['move']>[1], connections: readonly number[]): Promise<void> {
    await this.#options.movers().move(served, way, connections, MOVE_TIMEOUT_MS).catch(ignoreGone);
  }
}

/** What it takes to be the next at a worker: a volume that is not there yet costs it as much as a client does. */
function costOf(
  load: (slot: WorkerSlot) => number,
  isThere: (slot: WorkerSlot) => boolean,
): (slot: WorkerSlot) => number {
  return (slot) => load(slot) + (isThere(slot) ? 0 : 1);
}

/** Where that is least; where it is no more elsewhere, `first`. */
function leastOf(possible: readonly WorkerSlot[], first: WorkerSlot, cost: (slot: WorkerSlot) => number): WorkerSlot {
  return possible.reduce((best, slot) => (cost(slot) < cost(best) ? slot : best), first);
}

/** What ends late has done what it was to do. */
function ignoreLate(): void {}

/** Whether several workers may have it, as far as its table says. */
function mayBranch({ shareKey, load, aloneWith }: ServedVolume): boolean {
  return shareKey === null && aloneWith !== load && isStateless(load.spec.table);
}

function isStateless(table: Table): boolean {
  return table.every(({ target, params }) => {
    if (target === 'linear') return typeof (params as LinearParams).device === 'string';
    if (target === 'striped') {
      return (params as StripedParams).stripes.every(({ device }) => typeof device === 'string');
    }
    return target === 'zero' || target === 'error';
  });
}
