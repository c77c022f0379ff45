/**
 * The daemon's numbers put together (observe/stats.ts): what each worker counts, the supervisor's own part, and what the last scan
 * knows of the volume groups. Pure.
 *
 * Invariants
 *  - What several workers have, a device or a volume, is one, its counts added up.
 *  - A worker in the supervisor's own process (`--workers 0`) is not counted as a process twice.
 */
import { addCache, type CacheSnapshot } from '../block/cache/stats.ts';
import type { IoSnapshot } from '../dm/io-stats.ts';
import { allocationMapOf } from '../lvm/allocation-map.ts';
import type { Scan, VolumeGroup } from '../lvm/model.ts';
import { snapshotPercent, snapshotStatusOf } from '../lvm/snapshot-status.ts';
import { addIo, type GroupNumbers, type Numbers, processNumbers, type SnapshotNumbers } from '../observe/stats.ts';
import { packageVersion } from './version.ts';
import type { WorkerStats } from './worker/host.ts';

const SECTOR_BYTES = 512;

export interface NumbersParts {
  readonly startedAt: Date;
  readonly connections: number;
  /** `stats` null: there is none now, or it does not answer. */
  readonly workers: readonly {
    readonly index: number;
    readonly restarts: number;
    readonly stats: WorkerStats | null;
  }[];
  readonly exports: readonly {
    readonly name: string;
    readonly state: 'active' | 'inactive';
    readonly sizeBytes?: number;
    readonly clients: number;
  }[];
  readonly devices: readonly {
    readonly path: string;
    readonly sizeBytes: number;
    readonly state: 'open' | 'failed';
  }[];
  /** What volumes have counted with workers that have them no longer, by name. */
  readonly pastIo: ReadonlyMap<string, IoSnapshot>;
  /** The last scan; null before the first. */
  readonly scan: Scan | null;
  readonly alerts: Readonly<Record<string, number>>;
  /** Bytes per second by which the store of a snapshot fills up. */
  readonly fillRateOf: (name: string) => number;
}

export function numbersOf(parts: NumbersParts): Numbers {
  const volumes = new Map<string, IoSnapshot | null>(parts.pastIo);
  const devices = new Map<string, IoSnapshot | null>();
  const caches = new Map<string, CacheSnapshot | null>();
  for (const { stats } of parts.workers) {
    for (const { name, io } of stats?.volumes ?? []) volumes.set(name, addIo(volumes.get(name) ?? null, io));
    for (const { path, io, cache } of stats?.devices ?? []) {
      devices.set(path, addIo(devices.get(path) ?? null, io));
      caches.set(path, addCache(caches.get(path) ?? null, cache));
    }
  }
  return {
    time: Date.now(),
    startedAt: parts.startedAt.getTime(),
    version: packageVersion(),
    connections: parts.connections,
    supervisor: processNumbers(),
    workers: parts.workers.flatMap(({ index, restarts, stats }) => workerNumbers(index, restarts, stats)),
    volumes: parts.exports.flatMap(({ name, state, sizeBytes, clients }) =>
      state === 'active' ? [{ name, sizeBytes: sizeBytes ?? 0, clients, io: volumes.get(name) ?? null }] : [],
    ),
    devices: parts.devices.map(({ path, sizeBytes, state }) => {
      const cache = caches.get(path) ?? null;
      const rest = cache === null ? {} : { cache };
      return { path, sizeBytes, up: state === 'open', io: devices.get(path) ?? null, ...rest };
    }),
    groups: parts.scan?.volumeGroups.map(groupNumbers) ?? [],
    snapshots: snapshotStores(parts).map((store) => withRate(store, parts.fillRateOf(store.name))),
    clients: parts.workers.flatMap(({ index, stats }) => clientNumbers(index, stats)),
    alerts: parts.alerts,
  };
}

/** Whether the workers' numbers have every volume that is served: none of them is being started again, or does not answer. */
export function isComplete({ workers, exports }: Pick<NumbersParts, 'workers' | 'exports'>): boolean {
  const known = new Set(workers.flatMap(({ stats }) => stats?.volumes.map(({ name }) => name) ?? []));
  return exports.every(({ name, state }) => state !== 'active' || known.has(name));
}

/** The stores of COW snapshots that are served, by volume. */
export function snapshotStores({
  workers,
}: Pick<NumbersParts, 'workers'>): readonly Omit<SnapshotNumbers, 'bytesPerSecond' | 'secondsToFull'>[] {
  return workers.flatMap(({ stats }) =>
    (stats?.volumes ?? []).flatMap(({ name, lines }) => {
      const status = snapshotStatusOf(lines);
      if (status === null || status.state === 'unknown') return [];
      const details = lines.find(({ target }) => target.startsWith('snapshot'))?.details ?? {};
      const number = (key: string): number => (typeof details[key] === 'number' ? details[key] : 0);
      const copiedChunks = number('copiedChunks');
      return [
        {
          name,
          valid: status.state !== 'invalid',
          usedBytes: status.usedSectors * SECTOR_BYTES,
          totalBytes: status.totalSectors * SECTOR_BYTES,
          metadataBytes: status.metadataSectors * SECTOR_BYTES,
          percent: snapshotPercent(status),
          exceptions: number('exceptions'),
          exceptionBytes: number('exceptionBytes'),
          copiedChunks,
          copiedBytes: copiedChunks * number('chunkSectors') * SECTOR_BYTES,
        },
      ];
    }),
  );
}

function withRate(
  store: Omit<SnapshotNumbers, 'bytesPerSecond' | 'secondsToFull'>,
  bytesPerSecond: number,
): SnapshotNumbers {
  const left = Math.max(0, store.totalBytes - store.usedBytes);
  const fills = store.valid && bytesPerSecond > 0;
  return { ...store, bytesPerSecond, secondsToFull: fills ? left / bytesPerSecond : null };
}

/** COW snapshots that became invalid, with the reason. */
export function invalidSnapshots({
  workers,
}: Pick<NumbersParts, 'workers'>): readonly { readonly name: string; readonly reason: string }[] {
  return workers.flatMap(({ stats }) =>
    (stats?.volumes ?? []).flatMap(({ name, lines }) => {
      const snapshot = snapshotStatusOf(lines);
      if (snapshot?.state !== 'invalid') return [];
      return [{ name, reason: snapshot.problem ?? 'its store says so' }];
    }),
  );
}

function workerNumbers(index: number, restarts: number, stats: WorkerStats | null): Numbers['workers'] {
  if (stats === null || stats.pid === process.pid) return [];
  return [
    {
      index,
      pid: stats.pid,
      residentBytes: stats.residentBytes,
      cpuUserMs: stats.cpuUser / 1000,
      cpuSystemMs: stats.cpuSystem / 1000,
      restarts,
      volumes: stats.volumes.length,
      connections: stats.connections.length,
    },
  ];
}

function clientNumbers(worker: number, stats: WorkerStats | null): Numbers['clients'] {
  return (stats?.connections ?? []).flatMap(
    ({ exportName, peer, identity = '', readOnly, requestsInFlight, counters }) => {
      if (exportName === null || counters === null) return [];
      const { readBytes, writtenBytes, errors } = counters;
      return [
        {
          volume: exportName,
          peer,
          identity,
          readOnly,
          worker,
          inFlight: requestsInFlight,
          readBytes,
          writtenBytes,
          errors,
        },
      ];
    },
  );
}

function groupNumbers({ vg, pvs, staleAreas, outdated }: VolumeGroup): GroupNumbers {
  const { total, free } = allocationMapOf(vg);
  return {
    name: vg.name,
    extentBytes: vg.extentSizeSectors * SECTOR_BYTES,
    extents: total,
    freeExtents: free,
    seqno: vg.seqno,
    physicalVolumes: pvs.length,
    missingPhysicalVolumes: pvs.filter(({ missing }) => missing).length,
    staleCopies: staleAreas.length + outdated.length,
  };
}
