/**
 * The daemon's numbers at one moment, as plain data: what workers count, put together by the supervisor, given out over the control
 * socket (`GET /v1/numbers`), printed by `orion-lvm top` and as Prometheus text.
 *
 * Invariants
 *  - Everything survives JSON. Sizes are bytes, times milliseconds, names as people know them (VG/LV, a device's path).
 *  - Counts begin at 0 when the worker that counts starts; whoever looks for rates takes a smaller number for a new beginning.
 */
import type { CacheSnapshot } from '../dm/io.ts';
import { type IoSnapshot, LATENCY_BUCKETS, OP_NAMES, type OpSnapshot } from '../dm/io-stats.ts';

export interface VolumeNumbers {
  /** VG/LV */
  readonly name: string;
  readonly sizeBytes: number;
  /** Connections in the transmission phase. */
  readonly clients: number;
  /** Null: it has not been served yet. */
  readonly io: IoSnapshot | null;
}

export interface DeviceNumbers {
  readonly path: string;
  readonly sizeBytes: number;
  /** False: it can't be opened, or has vanished. */
  readonly up: boolean;
  readonly io: IoSnapshot | null;
  /** Of the block cache before it; absent: it has none. */
  readonly cache?: CacheSnapshot;
}

export interface WorkerNumbers {
  readonly index: number;
  readonly pid: number;
  readonly residentBytes: number;
  /** Since the process began. */
  readonly cpuUserMs: number;
  readonly cpuSystemMs: number;
  /** How often it was started again after it had died. */
  readonly restarts: number;
  readonly volumes: number;
  readonly connections: number;
}

export interface GroupNumbers {
  readonly name: string;
  readonly extentBytes: number;
  readonly extents: number;
  readonly freeExtents: number;
  readonly seqno: number;
  readonly physicalVolumes: number;
  readonly missingPhysicalVolumes: number;
  /** Copies of the metadata that are stale or can't be read. */
  readonly staleCopies: number;
}

/** The store of a COW snapshot, or of one that its origin takes in. */
export interface SnapshotNumbers {
  /** VG/LV */
  readonly name: string;
  readonly valid: boolean;
  readonly usedBytes: number;
  readonly totalBytes: number;
  /** Of `usedBytes`, header and records. */
  readonly metadataBytes: number;
  /** As LVM2 counts it; null: not known. */
  readonly percent: number | null;
  /** Chunks that differ from the origin. */
  readonly exceptions: number;
  /** Memory of their table. */
  readonly exceptionBytes: number;
  /** What was copied for it since its worker began to serve it. */
  readonly copiedBytes: number;
  readonly copiedChunks: number;
  /** At which it fills up now; 0: it doesn't. */
  readonly bytesPerSecond: number;
  /** Until it is full at this rate; null: never. */
  readonly secondsToFull: number | null;
}

/** One NBD client in the transmission phase. */
export interface ClientNumbers {
  /** VG/LV */
  readonly volume: string;
  /** `unix:/path` of the listener, or `tcp:address:port` of the client. */
  readonly peer: string;
  /** Who it is: what it has shown over TLS, or its user or address. */
  readonly identity: string;
  readonly readOnly: boolean;
  /** Of the worker that serves it. */
  readonly worker: number;
  readonly inFlight: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
  /** Commands that failed on the volume. */
  readonly errors: number;
}

export interface Numbers {
  /** Milliseconds since 1970. */
  readonly time: number;
  readonly startedAt: number;
  readonly version: string;
  readonly connections: number;
  /** The control plane's own process. */
  readonly supervisor: Pick<WorkerNumbers, 'pid' | 'residentBytes' | 'cpuUserMs' | 'cpuSystemMs'>;
  readonly workers: readonly WorkerNumbers[];
  readonly volumes: readonly VolumeNumbers[];
  readonly devices: readonly DeviceNumbers[];
  readonly groups: readonly GroupNumbers[];
  readonly snapshots: readonly SnapshotNumbers[];
  readonly clients: readonly ClientNumbers[];
  /** Alerts raised since the start, by kind. */
  readonly alerts: Readonly<Record<string, number>>;
}

/** A process's own part: CPU and memory. */
export function processNumbers(): Numbers['supervisor'] {
  const { user, system } = process.cpuUsage();
  return {
    pid: process.pid,
    residentBytes: process.memoryUsage.rss(),
    cpuUserMs: user / 1000,
    cpuSystemMs: system / 1000,
  };
}

/** Two workers' counts of one device. */
export function addIo(a: IoSnapshot | null, b: IoSnapshot | null): IoSnapshot | null {
  if (a === null || b === null) return a ?? b;
  return combined(a, b, (x, y) => x + y);
}

/** What happened between two snapshots; from 0 where the counter began anew. In flight is that of the later one. */
export function ioSince(before: IoSnapshot | null, after: IoSnapshot): IoSnapshot {
  const begunAnew = before === null || OP_NAMES.some((op) => after.ops[op].ended < before.ops[op].ended);
  if (begunAnew) return after;
  return { ...combined(after, before, (x, y) => x - y), inFlight: after.inFlight };
}

function combined(a: IoSnapshot, b: IoSnapshot, merge: (x: number, y: number) => number): IoSnapshot {
  const op = (name: (typeof OP_NAMES)[number]): OpSnapshot => combinedOp(a.ops[name], b.ops[name], merge);
  return {
    inFlight: merge(a.inFlight, b.inFlight),
    ops: {
      read: op('read'),
      write: op('write'),
      flush: op('flush'),
      discard: op('discard'),
      write_zeroes: op('write_zeroes'),
    },
  };
}

function combinedOp(a: OpSnapshot, b: OpSnapshot, merge: (x: number, y: number) => number): OpSnapshot {
  return {
    ended: merge(a.ended, b.ended),
    bytes: merge(a.bytes, b.bytes),
    failed: merge(a.failed, b.failed),
    milliseconds: merge(a.milliseconds, b.milliseconds),
    latency: a.latency.map((count, i) => merge(count, b.latency[i] ?? 0)),
  };
}

/** Requests of all kinds together. */
export function allOps({ ops }: IoSnapshot): OpSnapshot {
  return OP_NAMES.map((op) => ops[op]).reduce((a, b) => combinedOp(a, b, (x, y) => x + y));
}

/** Requests of all kinds that failed. */
export function failures(io: IoSnapshot | null): number {
  return io === null ? 0 : OP_NAMES.reduce((sum, op) => sum + io.ops[op].failed, 0);
}

/** The upper end of a latency bucket, in seconds; Infinity for the last. */
export function bucketEnd(bucket: number): number {
  return bucket === LATENCY_BUCKETS - 1 ? Infinity : 2 ** bucket / 1e6;
}

/** The latency, in milliseconds, that a share of requests stayed below; to within its bucket, by linear interpolation. */
export function quantile(latency: readonly number[], share: number): number {
  const total = latency.reduce((sum, count) => sum + count, 0);
  if (total === 0) return 0;
  let left = share * total;
  for (const [bucket, count] of latency.entries()) {
    if (count > 0 && left <= count) {
      const low = bucket === 0 ? 0 : 2 ** (bucket - 1);
      return (low + (2 ** bucket - low) * (left / count)) / 1000;
    }
    left -= count;
  }
  return 2 ** (LATENCY_BUCKETS - 1) / 1000;
}
