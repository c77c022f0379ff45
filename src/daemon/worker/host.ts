/**
 * What the supervisor asks of a worker: the data plane, which opens devices, holds volumes and serves clients. A worker is
 * a child process (forked.ts), or the same code in the supervisor's own process (local.ts, `--workers 0`).
 *
 *     load (inactive table, devices opened) → suspend → resume (the new table is live)      a change
 *     adopt → … → disconnect → retire                                                      clients and the end of a volume
 *
 * Invariants
 *  - Every argument and answer is plain data, so that it can cross a process's border; only `adopt` carries a socket.
 *  - What fails for one volume is its entry of the answer. A rejected promise is a WorkerError: the worker has gone, does
 *    not answer in time, or found a mistake in the program.
 *  - A worker keeps no memory of its own: whoever starts another one loads the same tables and has the same volumes.
 *  - Workers don't claim devices. The supervisor holds them exclusively as long as any worker has them open.
 */
import type { Socket } from 'node:net';
import type { CacheSnapshot } from '../../block/cache/stats.ts';
import type { IoSnapshot } from '../../dm/io-stats.ts';
import type { Table } from '../../dm/table.ts';
import type { VolumeStatus } from '../../dm/volume-status.ts';
import type { VolumeId } from '../../lvm/live.ts';
import type { ConnectionInfo } from '../../nbd/connection.ts';
import type { Negotiated } from '../../nbd/option-replies.ts';
import type { ContextSpec } from '../contexts.ts';

/** A device as the supervisor has claimed it. */
export interface DeviceSpec {
  readonly path: string;
  /** OpenedDevice.identity: what is behind the path must still be this. */
  readonly identity: string;
  /** Counts claims of the same identity: a device that went and came back has to be opened anew. */
  readonly generation: number;
  readonly readOnly: boolean;
  /** Bytes as the last scan saw them; a worker that knows less asks the system again. */
  readonly sizeBytes: number;
}

/** What a device is called inside a worker: identity and generation. */
export type DeviceKey = string;

export function deviceKey({ identity, generation }: Pick<DeviceSpec, 'identity' | 'generation'>): DeviceKey {
  return `${identity} ${generation}`;
}

/** A device that has failed a flush: none of its flushes succeeds any more. */
export interface LostFlushes {
  readonly key: DeviceKey;
  readonly errno: number;
}

/** A volume and the table that it is to have. */
export interface VolumeSpec {
  readonly id: VolumeId;
  /** `VG/LV`, for messages. */
  readonly name: string;
  readonly description: string;
  readonly table: Table;
  readonly readOnly: boolean;
  /** Bytes. */
  readonly preferredBlockSize: number;
  /** It is made by this load, and nothing that is live uses what its table names: it may get ready. */
  readonly isNew?: true;
  /** Another worker has this volume, too: it can't be loaded unless every device goes through the page cache, which is the same for both. */
  readonly shared?: true;
  /** Every device that the table names. */
  readonly devices: readonly DeviceSpec[];
  /** Meta contexts besides `base:allocation`. */
  readonly contexts: readonly ContextSpec[];
}

/** What a volume is called, and what can be asked about it: it may change without its table. */
export type VolumeDescription = Pick<VolumeSpec, 'id' | 'name' | 'description' | 'contexts'>;

/** What of a volume its clients are told. */
export interface VolumeFacts {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly canTrim: boolean;
  readonly preferredBlockSize: number;
}

/** Done; or why not, for people: then the volume is as it was before. */
export type Outcome<T> = { readonly id: VolumeId; readonly problem?: never } & T;
export type Failure = {
  readonly id: VolumeId;
  readonly problem: string;
  /** Only one worker can have it (`VolumeSpec.shared`). */
  readonly alone?: true;
};

export interface SuspendRequest {
  readonly ids: readonly VolumeId[];
  /** What is not suspended by then goes on as it was; if the flush before does not end by then, none of them is suspended. */
  readonly timeoutMs: number;
  /** The next tables of all of them are over the devices and extents of the live ones: what was written may be flushed after the resume. */
  readonly keepsDevices?: boolean;
}

export interface SwapRequest extends SuspendRequest {
  /** New volumes, which begin in the moment in which all of `ids` have gone on: not, if one of them could not be suspended. */
  readonly begin: readonly VolumeId[];
}

export interface Resumed extends VolumeFacts {
  readonly id: VolumeId;
  readonly problem?: never;
  /** Milliseconds from the begin of the suspend until all that went on together had done so; null for a volume that is new. */
  readonly suspendedMs: number | null;
}

/** A connection and the volume that it wants. */
export interface AdoptRequest {
  /** Unlike any other connection's, as long as the daemon runs. */
  readonly connection: number;
  readonly id: VolumeId;
  readonly negotiated: Negotiated;
  /** For logs and status. */
  readonly peer: string;
  /** Who it is: the same text for the same client. */
  readonly identity: string;
  /** Writes are refused, whatever the volume allows. */
  readonly readOnly: boolean;
  /**
   * What each of the selected contexts is about, in their order: whoever took the client over first says so, and a context that is about
   * something else later is none of the client's, though it has the name.
   */
  readonly subjects?: readonly string[];
  /** It was served by another process before: `negotiated.leftover` is what that one had read and not accepted. */
  readonly resumed?: boolean;
  /** What the client is to be sent before anything else: the process that served it before could not get rid of it. */
  readonly unsent?: Buffer;
}

/** How long clients may take to be quiet before a daemon is replaced, in ms. */
export interface QuietRequest {
  /** For what they have asked for. */
  readonly workMs: number;
  /** For taking their answers, where these can't be taken along (TLS without a process of its own); who hasn't by then is let go. */
  readonly answerMs: number;
}

/** Clients of a volume that are to be served elsewhere. */
export interface GiveRequest {
  readonly id: VolumeId;
  readonly connections: readonly number[];
  /** How long what they have asked for may take. */
  readonly workMs: number;
}

export interface WorkerVolume extends VolumeStatus {
  readonly id: VolumeId;
  /** What was asked of it since this worker made it; null: nothing. */
  readonly io: IoSnapshot | null;
}

export interface WorkerDevice {
  readonly path: string;
  readonly identity: string;
  readonly sizeBytes: number;
  /** What was asked of it since this worker opened it; null: nothing. */
  readonly io: IoSnapshot | null;
  /** What its cache counted since this worker opened it; null: it has none. */
  readonly cache: CacheSnapshot | null;
}

export interface WorkerStats {
  readonly pid: number;
  /** Bytes. */
  readonly residentBytes: number;
  readonly externalBytes: number;
  /** Microseconds since the process began, as process.cpuUsage(). */
  readonly cpuUser: number;
  readonly cpuSystem: number;
  /** Bytes of payload memory that connections use. */
  readonly payloadBytes: number;
  /** `identity`: as it was told when the client was handed over. */
  readonly connections: readonly (ConnectionInfo & { readonly identity?: string })[];
  readonly volumes: readonly WorkerVolume[];
  readonly devices: readonly WorkerDevice[];
}

/** By name: one argument, one answer. */
export interface WorkerCommands {
  /** Whether it is there. */
  ping(): Promise<void>;
  configure(settings: { readonly logLevel: string }): Promise<void>;
  /** Puts tables into the inactive slots; makes volumes that aren't there, and opens devices. What can't get ready in time has failed. */
  load(volumes: readonly VolumeSpec[]): Promise<readonly (Outcome<object> | Failure)[]>;
  /** Drops inactive tables, and volumes that never had a live one. What a hanging device holds up ends behind our back: `retire` waits for it. */
  clear(ids: readonly VolumeId[]): Promise<void>;
  suspend(request: SuspendRequest): Promise<readonly (Outcome<object> | Failure)[]>;
  /**
   * Makes inactive tables live, where there are any, and lets requests go on. What the suspend has left is flushed before the answer, but
   * no longer than some seconds: an error, then or later, is told to the next flush of a client.
   */
  resume(ids: readonly VolumeId[]): Promise<readonly (Resumed | Failure)[]>;
  /** `suspend` and `resume` without a moment between them: what is new is only resumed. If one can't be suspended, all go on as they were. */
  swap(request: SwapRequest): Promise<readonly (Resumed | Failure)[]>;
  /** Nothing, where the volume has ended. */
  describe(description: VolumeDescription): Promise<void>;
  /**
   * Of a suspended volume that is to end: what waits for a resume fails, and so does what comes, as after `dmsetup wipe_table`; else its
   * clients could not be let go. Any other goes on.
   */
  wipe(id: VolumeId): Promise<void>;
  /** Lets the clients of a volume go; settles when none of them holds anything of it. */
  disconnect(id: VolumeId): Promise<void>;
  /**
   * Gives clients of a volume away (`WorkerEvents.client`), each as soon as what it has asked for is done; all others notice nothing.
   * Settles when everybody who was given is where he is to be, and who leaves, here, needs the volume no more. Gives the connections for which
   * that took too long: they go on here. One that nobody could go on with is let go.
   */
  give(request: GiveRequest): Promise<readonly number[]>;
  /** Flushes and closes a volume that has no clients. */
  retire(id: VolumeId): Promise<Outcome<object> | Failure>;
  /** A flush has failed in another worker. */
  loseFlushes(lost: LostFlushes): Promise<void>;
  /** Opens devices that tables will name. */
  openDevices(devices: readonly DeviceSpec[]): Promise<void>;
  /**
   * Nothing is done any more when this settles: what clients have sent is carried out and answered, volumes are suspended and flushed. Gives
   * why that can't be; then, or after `goOn`, everything goes on.
   */
  quiesce(request: QuietRequest): Promise<string | null>;
  goOn(): Promise<void>;
  /** Gives every client away (`WorkerEvents.client`), and closes volumes and devices. Only while quiet; gives what failed. */
  release(): Promise<readonly string[]>;
  /** Closes every device but these. */
  keepDevices(keys: readonly DeviceKey[]): Promise<void>;
  /** `dmsetup message`. */
  message(request: {
    readonly id: VolumeId;
    readonly sector: number;
    readonly words: readonly string[];
  }): Promise<string>;
  volumeStatus(id: VolumeId): Promise<WorkerVolume | null>;
  stats(): Promise<WorkerStats>;
  /** Lets every client go; settles when all are gone. */
  disconnectAll(): Promise<void>;
  /** Lets every client go, flushes and closes everything; gives what failed. The worker then ends. */
  drain(): Promise<readonly string[]>;
}

/** A worker, wherever it runs. */
export interface WorkerHost extends WorkerCommands {
  /** From 0. */
  readonly index: number;
  readonly pid: number;
  /**
   * Hands a client over: the worker sends the final reply and goes on with `negotiated.leftover`. Settles when it has the socket,
   * which then is not the supervisor's any more; `onConnectionClosed` follows once.
   */
  adopt(request: AdoptRequest, socket: Socket): Promise<void>;
  /** The same for a client that another process has served until now, by its socket's handle. */
  resumeClient(request: AdoptRequest, handle: object): Promise<void>;
  /** Ends it without a flush. */
  kill(): void;
}

/** What a worker tells by itself. */
export interface WorkerEvents {
  /** The connection has ended and holds nothing more. */
  connectionClosed(connection: number): void;
  /**
   * A client that goes on in another process, with its socket's handle; settles when that can be closed here. No `connectionClosed` follows,
   * unless this rejects: then it has ended.
   */
  client(request: AdoptRequest, handle: object): Promise<void>;
  /** A flush has failed, for the first time. */
  flushLost(lost: LostFlushes): void;
  /** The worker has ended; what was pending has been rejected. */
  gone(reason: string): void;
}
