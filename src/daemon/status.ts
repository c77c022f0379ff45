/**
 * What `GET /v1/status` answers: everything that an operator asks first, as plain JSON data.
 *
 * Invariant: fields are only added within /v1; sizes are bytes, times are ISO 8601.
 */
import type { Scan } from '../lvm/model.ts';
import type { Settings } from './config.ts';
import type { DeviceStatus } from './devices.ts';
import { formatListenUri, type ListenAddress } from './listen-uri.ts';
import type { ExportStatus } from './served-volume.ts';
import type { TlsProcessStatus } from './tls/gate.ts';
import type { WorkerStatus } from './worker/pool.ts';

export type DaemonState = 'starting' | 'serving' | 'draining';

export interface VolumeGroupStatus {
  readonly name: string;
  readonly uuid: string;
  /** Absent when the metadata can't be used. */
  readonly seqno?: number;
  /** Physical volumes are missing. */
  readonly partial: boolean;
  /** Why nothing of it can be used. */
  readonly reason?: string;
}

export interface DaemonStatus {
  readonly state: DaemonState;
  readonly pid: number;
  readonly startedAt: string;
  readonly configFile: string | null;
  readonly engine: 'uring' | 'threads';
  readonly readOnly: boolean;
  readonly listening: readonly string[];
  /** Clients connected, in negotiation or with an export. */
  readonly connections: number;
  readonly workers: readonly WorkerStatus[];
  /** Processes that do TLS, as far as they were needed. */
  readonly tls: readonly TlsProcessStatus[];
  readonly devices: readonly DeviceStatus[];
  readonly volumeGroups: readonly VolumeGroupStatus[];
  readonly exports: readonly ExportStatus[];
  /** What the last scan complained of. */
  readonly warnings: readonly string[];
}

/** What a status is made of. */
export interface StatusParts {
  readonly state: DaemonState;
  readonly startedAt: Date;
  readonly settings: Settings;
  readonly listening: readonly ListenAddress[];
  readonly connections: number;
  readonly workers: readonly WorkerStatus[];
  readonly tls: readonly TlsProcessStatus[];
  readonly devices: readonly DeviceStatus[];
  readonly exports: readonly ExportStatus[];
  /** The last scan; null before the first. */
  readonly scan: Scan | null;
}

export function statusOf(parts: StatusParts): DaemonStatus {
  const { state, startedAt, settings, listening, connections, workers, tls, devices, exports, scan } = parts;
  return {
    state,
    pid: process.pid,
    startedAt: startedAt.toISOString(),
    configFile: settings.configFile,
    engine: settings.engine.engine,
    readOnly: settings.readOnly,
    listening: listening.map(formatListenUri),
    connections,
    workers,
    tls,
    devices,
    volumeGroups: scan === null ? [] : volumeGroups(scan),
    exports,
    warnings: scan?.warnings.map(({ message }) => message) ?? [],
  };
}

function volumeGroups(scan: Scan): readonly VolumeGroupStatus[] {
  const readable = scan.volumeGroups.map(({ vg, partial }) => ({
    name: vg.name,
    uuid: vg.id,
    seqno: vg.seqno,
    partial,
  }));
  const unreadable = scan.unreadable.map(({ name, id, reason }) => ({ name, uuid: id, partial: false, reason }));
  return [...readable, ...unreadable];
}
