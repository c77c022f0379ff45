/**
 * Following a daemon that hands over: what the process that follows does until everything is its own, and for the clients that come
 * with it.
 *
 * Invariants
 *  - Until `take` nothing is written, and no table is loaded: reading and opening is all.
 *  - A volume that was served, with whatever was decided for it, is served again, on the same devices, or the hand-over does not take place.
 */
import { closeSync, rmSync } from 'node:fs';
import type { NbdServer } from '../../nbd/server.ts';
import { closeHandle, socketOf } from '../../nbd/socket-handle.ts';
import type { Settings } from '../config.ts';
import type { OpenControl } from '../control/open.ts';
import type { DeviceSet } from '../devices.ts';
import { DaemonError } from '../errors.ts';
import type { Inventory } from '../inventory.ts';
import { holdLifeLock, inheritedLifeLock, type LifeLock } from '../life-lock.ts';
import { formatListenUri, type ListenAddress } from '../listen-uri.ts';
import type { DaemonVolumes } from '../live.ts';
import type { Logger } from '../log.ts';
import { exchangedDisk } from '../served-volume.ts';
import type { Stock } from '../stock.ts';
import type { VolumeSet } from '../volumes.ts';
import type { AdoptRequest } from '../worker/host.ts';
import type { WorkerPool } from '../worker/pool.ts';
import type { Estate, Knowledge, Taken } from './messages.ts';
import type { Predecessor } from './predecessor.ts';

export interface Followers {
  readonly settings: Settings;
  readonly devices: DeviceSet;
  readonly workers: WorkerPool;
  readonly stock: Stock;
  readonly live: DaemonVolumes;
  readonly log: Logger;
}

/** The predecessor's lock, or a new one; null: none is needed. Throws a DaemonError where settings don't let this one follow. */
export async function lifeLock(settings: Settings, estate: Estate | null, log: Logger): Promise<LifeLock | null> {
  const { controlPath, workers } = settings;
  if (estate === null) return workers > 0 ? holdLifeLock(controlPath, log) : null;
  if (controlPath !== estate.controlPath) {
    throw notFollowing(`the control socket changes from ${estate.controlPath} to ${controlPath}: stop and start it`);
  }
  if (workers > 0 !== (estate.lock !== null)) throw notFollowing('workers changes from or to 0: stop and start it');
  return estate.lock === null ? null : inheritedLifeLock(estate.lock);
}

/** Looks at what there is, and waits until the predecessor has let go of it. Gives what is to be served. Throws a DaemonError. */
export async function follow(
  { settings, devices, workers, stock, live, log }: Followers,
  predecessor: Predecessor,
): Promise<{ readonly inventory: Inventory; readonly taken: Taken }> {
  const knowledge = await predecessor.look();
  live.inherit(knowledge.decisions);
  stock.inherit(knowledge.added);
  const inventory = await stock.take({
    settings,
    starting: true,
    before: knowledge.inventory,
    served: (id) => knowledge.served.get(id) ?? null,
  });
  await Promise.all(
    workers.hosts().map(async (host) => {
      // What can't be opened is told when it is needed.
      await host
        .openDevices(devices.specs())
        .catch((err: unknown) => log.warn({ err }, 'a device cannot be opened yet'));
    }),
  );
  const taken = await predecessor.take(lostOf(knowledge, inventory));
  return { inventory, taken };
}

/** What is served now, and would not be, with the reason. */
export function lostOf({ served, inventory }: Knowledge, next: Inventory): readonly { name: string; reason: string }[] {
  const plans = new Map(next.volumes.map(({ id, plan }) => [id, plan]));
  return inventory.volumes.flatMap(({ id, name, plan: before }) => {
    const plan = plans.get(id);
    if (!served.has(id)) return [];
    if (plan?.active !== true) {
      return [{ name, reason: plan?.reason ?? 'no metadata that was found has such a logical volume' }];
    }
    const disk = before.active ? exchangedDisk(before.disks, plan.disks) : null;
    return disk === null ? [] : [{ name, reason: `physical volume ${disk} is another device now` }];
  });
}

/** Serves the clients that come from the predecessor, who have waited since `quietSince`. */
export function serveClients(
  parts: { readonly volumes: VolumeSet; readonly nbd: NbdServer; readonly log: Logger },
  predecessor: Predecessor,
  { quietSince }: Taken,
): void {
  const { volumes, nbd, log } = parts;
  const resume = async (request: AdoptRequest, handle: object): Promise<void> => {
    const { connection, peer } = request;
    nbd.follow([connection], connection + 1);
    try {
      await volumes.clients.resumeClient(request, handle);
      log.info({ connection, peer, pauseMs: Date.now() - quietSince }, 'a client was taken over');
    } catch (err) {
      nbd.ended(connection);
      closeHandle(handle);
      log.warn({ err, connection, peer }, 'a client had to be dropped');
    }
  };
  const resumed: Promise<void>[] = [];
  // All have come before `take`; none waits for another worker.
  predecessor.clients((request, handle) => void resumed.push(resume(request, handle)));
  void Promise.all(resumed).then(() => volumes.branches.spread());
}

/** Serves those who have only connected to the predecessor; to be called when everything listens here. */
export function acceptNewcomers(
  { nbd, control }: { readonly nbd: NbdServer; readonly control: OpenControl | null },
  predecessor: Predecessor,
): void {
  predecessor.accepted((address, handle) => {
    const socket = socketOf(handle).resume();
    if (address !== null) nbd.acceptAt(socket, address);
    else control?.accept(socket);
  });
}

/** The descriptor on which the predecessor listened there; null: it did not. */
export function listenerLeft(estate: Estate | null, address: ListenAddress): number | null {
  return estate?.listeners.find(({ uri }) => uri === formatListenUri(address))?.fd ?? null;
}

/** Ends the listening where the settings no longer name it. */
export function dropListeners({ listeners }: Estate, { listen }: Settings): void {
  const wanted = new Set(listen.map(formatListenUri));
  for (const { uri, fd } of listeners) {
    if (wanted.has(uri)) continue;
    if (uri.startsWith('unix:')) rmSync(uri.slice('unix:'.length), { force: true });
    closeSync(fd);
  }
}

function notFollowing(reason: string): DaemonError {
  return new DaemonError({ code: 'HAND_OVER', reason });
}
