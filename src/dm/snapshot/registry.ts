/**
 * How the volumes of an origin and its snapshots find each other, as the kernel's do by the block devices that they share.
 *
 * The key of an origin or of a COW store is the id that the tables give it, or else the device itself: tables whose devices
 * are layers (each volume has its own) name what is behind them by ids.
 *
 * Invariant: there is one origin and one snapshot per key in a process; both are forgotten when nobody holds them.
 */
import type { BlockDevice } from '../../block/device.ts';
import { Origin } from './origin.ts';
import { Snapshot } from './snapshot.ts';

export type SharedKey = BlockDevice | string;

const origins = new Map<SharedKey, Origin>();
const snapshots = new Map<SharedKey, Snapshot>();

/** The origin of that key; who gets it opens it or attaches to it. */
export function originOf(key: SharedKey): Origin {
  let origin = origins.get(key);
  if (origin === undefined) {
    origin = new Origin(() => origins.delete(key));
    origins.set(key, origin);
  }
  return origin;
}

/** The snapshot with that id, if a table of this process has it. */
export function knownSnapshot(id: string): Snapshot | undefined {
  return snapshots.get(id);
}

/** The snapshot whose COW store has that key; who gets it adopts it. */
export function snapshotOf(key: SharedKey): Snapshot {
  let snapshot = snapshots.get(key);
  if (snapshot === undefined) {
    snapshot = new Snapshot(typeof key === 'string' ? key : null, () => snapshots.delete(key));
    snapshots.set(key, snapshot);
  }
  return snapshot;
}
