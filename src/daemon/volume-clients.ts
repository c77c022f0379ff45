/**
 * Who uses the served volumes: to the NBD front the directory of exports, and who takes its clients to the volumes' workers.
 *
 * Invariants
 *  - A client gets at a volume only while that has a live table and nobody blocks it; until then it waits, or gives up.
 *  - A client is counted with its volume from before its worker is asked to take it, to its end or its worker's.
 *  - A client that moves from worker to worker is counted all the time.
 *  - What has an export's name, and what that is like, is looked at when the client is taken: it may have changed since it asked.
 */
import type { VolumeId } from '../lvm/live.ts';
import { TransmissionFlag } from '../nbd/constants.ts';
import { describeExport, type ExportDirectory, type ExportRefusal, type ExportView } from '../nbd/exports.ts';
import type { Handover } from '../nbd/negotiation.ts';
import { identityText } from './client-identity.ts';
import type { ExportUse } from './configured-exports.ts';
import type { Branches, Movers } from './branches.ts';
import type { Placement } from './placement.ts';
import { byName, type ExportSegments, type ServedVolume } from './served-volume.ts';
import type { AdoptRequest } from './worker/host.ts';
import type { WorkerSlot } from './worker/pool.ts';

/** What there is to use. */
export interface Usable {
  readonly served: ReadonlyMap<VolumeId, ServedVolume>;
  readonly inactive: ReadonlyMap<VolumeId, { readonly name: string; readonly reason: string }>;
  readonly placement: Pick<Placement, 'loaded'>;
  readonly branches: Pick<Branches, 'choose' | 'open' | 'opening'>;
}

/** Where a connection is served. */
interface Use {
  readonly served: ServedVolume;
  slot: WorkerSlot;
}

export class VolumeClients implements ExportDirectory, Movers {
  readonly #volumes: Usable;
  readonly #connections = new Map<number, Use>();
  /** Where connections are to go that their worker was asked to give. */
  readonly #ways = new Map<number, WorkerSlot>();
  /** How often each volume was blocked and not released. */
  readonly #blocked = new Map<VolumeId, number>();
  /** Resolved at every change that somebody may wait for. */
  #changed = Promise.withResolvers<void>();

  constructor(volumes: Usable) {
    this.#volumes = volumes;
  }

  /** The same for everybody: who may have what is guarded-exports.ts's. */
  viewFor(): ExportView {
    return {
      list: () => {
        const shown = [...this.#volumes.served.values()].filter((served) => served.shown);
        return shown.map((served) => served.listed()).toSorted(byName);
      },
      find: (name) => this.#find(name)?.listed() ?? null,
      explain: (name) => this.#explain(name),
    };
  }

  /** What the numbers of x-orion:segment stand for in an export; null: it is not served. */
  segments(name: string): ExportSegments | null {
    return this.#find(name)?.segments() ?? null;
  }

  /** Connections that use an export. */
  uses(name: string): Iterable<ExportUse> {
    return this.#find(name)?.clients.values() ?? [];
  }

  /** Which volume has an export's name now; null: it is not served. */
  idOf(name: string): VolumeId | null {
    return this.#find(name)?.id ?? null;
  }

  #find(name: string): ServedVolume | undefined {
    for (const served of this.#volumes.served.values()) if (served.name === name && served.shown) return served;
    return undefined;
  }

  #explain(name: string): ExportRefusal {
    if (name === '') return { kind: 'unknown', text: 'there is no default export: name one as VG/LV' };
    const reason = [...this.#volumes.inactive.values()].find((entry) => entry.name === name)?.reason;
    const text = reason === undefined ? `there is no logical volume ${name}` : `${name} is not served: ${reason}`;
    return { kind: 'unknown', text };
  }

  /** Takes a client that has chosen from its view to the volume's worker, waiting while nobody may get at the volume. */
  async adopt(handover: Handover, view: ExportView): Promise<ExportRefusal | null> {
    const { id: connection, peer, client, socket, signal } = handover;
    const { name } = handover.negotiated.info;
    let grow = true;
    for (;;) {
      if (signal.aborted || socket.destroyed) throw new Error('it has gone, or waited too long');
      const served = this.#find(name);
      const listed = view.find(name);
      if (served === undefined || listed === null) return view.explain(name);
      if (!served.live || this.#blocked.has(served.id)) {
        await unlessAborted(this.#changed.promise, signal);
        continue;
      }
      // Many may come at once: they are spread, too.
      const opening = this.#volumes.branches.opening(served);
      if (opening !== null) {
        grow = (await unlessAborted(opening, signal)) === true && grow;
        continue;
      }
      const slot = this.#volumes.branches.choose(served, grow);
      const host = served.hostAt(slot);
      if (host === null) {
        grow = await this.#volumes.branches.open(served, slot);
        continue;
      }
      // What has this name, and what that is like, may have changed since it was asked for.
      const info = describeExport(listed, handover.negotiated.features);
      const negotiated = { ...handover.negotiated, info };
      const refusal = view.admit?.(listed.name) ?? null;
      if (refusal !== null) return refusal;
      // Also one that becomes writable later: he does not count as a writer, and may be one who is to read only.
      const { readOnly } = listed;
      const request = { connection, id: served.id, negotiated, peer, identity: identityText(client), readOnly };
      this.#begin(request, served, slot);
      try {
        await host.adopt(request, socket);
        return null;
      } catch (error) {
        this.closed(connection);
        throw error;
      }
    }
  }

  /** Takes a client that another process has served until now. Throws when its volume is not served. */
  async resumeClient(request: AdoptRequest, handle: object): Promise<void> {
    const { connection, id } = request;
    const served = this.#volumes.served.get(id);
    const host = served?.live === true ? served.liveOn : null;
    if (served === undefined || host === null) throw new Error('its volume is not served');
    this.#begin(request, served, served.slot);
    try {
      await host.resumeClient(request, handle);
    } catch (error) {
      this.closed(connection);
      throw error;
    }
  }

  #begin({ connection, identity, negotiated }: AdoptRequest, served: ServedVolume, slot: WorkerSlot): void {
    const writes = (negotiated.info.flags & TransmissionFlag.readOnly) === 0;
    served.clients.set(connection, { identity, writes });
    this.#connections.set(connection, { served, slot });
    this.#volumes.placement.loaded(slot, 1);
  }

  /** A client has ended, and holds nothing more. */
  closed(connection: number): void {
    const use = this.#connections.get(connection);
    if (use === undefined) return;
    this.#connections.delete(connection);
    use.served.clients.delete(connection);
    this.#volumes.placement.loaded(use.slot, -1);
  }

  at(served: ServedVolume, slot: WorkerSlot): readonly number[] {
    return [...served.clients.keys()].filter((connection) => this.#connections.get(connection)?.slot === slot);
  }

  async move(
    served: ServedVolume,
    { from, to }: { readonly from: WorkerSlot; readonly to: WorkerSlot },
    connections: readonly number[],
    workMs: number,
  ): Promise<number> {
    const going = this.at(served, from).filter((connection) => connections.includes(connection));
    const host = served.hostAt(from);
    if (host === null || going.length === 0) return 0;
    for (const connection of going) this.#ways.set(connection, to);
    try {
      const staying = await host.give({ id: served.id, connections: going, workMs });
      return staying.length;
    } finally {
      for (const connection of going) this.#ways.delete(connection);
    }
  }

  /** Whether a worker was asked to give this connection, for another one. */
  isMoving(connection: number): boolean {
    return this.#ways.has(connection);
  }

  /** Takes a connection that its worker has given to the one where it is to go. Throws when that can't have it: it has ended. */
  async arrive(request: AdoptRequest, handle: object): Promise<void> {
    const { connection } = request;
    const use = this.#connections.get(connection);
    const slot = this.#ways.get(connection);
    try {
      if (use === undefined || slot === undefined) throw new Error('nobody knows where it belongs');
      const { served } = use;
      // A worker that has ended by now has not seen it: then it goes on at home.
      const to = served.hostAt(slot) === null ? served.slot : slot;
      const host = served.hostAt(to);
      if (host === null) throw new Error(`worker ${to.index} does not have its volume any more`);
      this.#volumes.placement.loaded(use.slot, -1);
      use.slot = to;
      this.#volumes.placement.loaded(to, 1);
      await host.resumeClient(request, handle);
    } catch (error) {
      this.closed(connection);
      throw error;
    }
  }

  /** From now on no new client gets at these volumes: they wait. Each `block` needs its `release`. */
  block(ids: readonly VolumeId[]): void {
    for (const id of ids) this.#blocked.set(id, (this.#blocked.get(id) ?? 0) + 1);
  }

  release(ids: readonly VolumeId[]): void {
    for (const id of ids) {
      const count = (this.#blocked.get(id) ?? 1) - 1;
      if (count > 0) this.#blocked.set(id, count);
      else this.#blocked.delete(id);
    }
    this.changed();
  }

  /** Something has changed for which those may wait who want to get at a volume. */
  changed(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}

/** What is waited for; undefined when it takes longer than somebody has time. */
async function unlessAborted<T>(waited: Promise<T>, signal: AbortSignal): Promise<T | undefined> {
  const aborted = Promise.withResolvers<undefined>();
  const onAbort = (): void => aborted.resolve(undefined);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([waited, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
