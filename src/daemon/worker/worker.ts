/**
 * The data plane: opened devices, volumes, and the clients that use them. What carries out the commands of host.ts, in a
 * process of its own or in the supervisor's.
 *
 * Invariants
 *  - A device is open once for each key, from the first load that names it until `keepDevices` leaves it out.
 *  - A volume is known from its first load; it has clients only while it has a live table.
 *  - What fails for one volume is told of that one, and the others of the same command are done.
 *  - What is behind a path is the device that the supervisor claimed, or it is not used.
 */
import type { Socket } from 'node:net';
import type { BlockCache } from '../../block/cache/block-cache.ts';
import { CachedDevice } from '../../block/cache/cached-device.ts';
import type { BlockDevice, OpenedDevice } from '../../block/device.ts';
import type { StatusSource } from '../../block/extents.ts';
import { openBlockDevice } from '../../block/open.ts';
import { flush } from '../../block/sync-io.ts';
import { deviceStats } from '../../dm/measured-device.ts';
import { targets } from '../../dm/targets.ts';
import { Volume } from '../../dm/volume.ts';
import type { VolumeId } from '../../lvm/live.ts';
import type { NbdLog } from '../../nbd/connection.ts';
import type { NbdExport } from '../../nbd/exports.ts';
import { NbdSessions, type SessionLimits } from '../../nbd/sessions.ts';
import { handleOf } from '../../nbd/socket-handle.ts';
import { ALLOCATION_CONTEXT } from '../../nbd/constants.ts';
import type { ContextSpec } from '../contexts.ts';
import { cacheOf, directOf, dressed, type EngineSettings } from '../engine.ts';
import { singleErrors } from '../errors.ts';
import { Patience } from '../patience.ts';
import { clientStreams } from '../streams.ts';
import { contextSource } from './context-sources.ts';
import {
  type AdoptRequest,
  type DeviceKey,
  deviceKey,
  type DeviceSpec,
  type Failure,
  type Outcome,
  type Resumed,
  type SuspendRequest,
  type SwapRequest,
  type VolumeDescription,
  type VolumeFacts,
  type VolumeSpec,
  type QuietRequest,
  type WorkerCommands,
  type WorkerEvents,
  type WorkerStats,
  type WorkerVolume,
} from './host.ts';

/** How long opening a device, or asking for its size, may take. */
const DEVICE_TIMEOUT_MS = 10_000;

/** What a worker is started with; plain data. */
export interface WorkerSettings {
  readonly limits: SessionLimits;
  readonly engine: EngineSettings;
  readonly logLevel: string;
  readonly logFormat: 'auto' | 'json' | 'text';
}

export interface WorkerLog extends NbdLog {
  level: string;
}

/** A volume with what its clients are told of it. */
class HeldVolume {
  readonly id: VolumeId;
  name: string;
  readonly volume: Volume;
  preferredBlockSize: number;
  /** That of the inactive table. */
  nextBlockSize: number;
  /** By the context's name. */
  contexts: ReadonlyMap<string, StatusSource> = new Map();
  /** performance.now() when the suspend in force began; null: it is not suspended. */
  suspendedAt: number | null = null;

  constructor(spec: VolumeSpec) {
    this.id = spec.id;
    this.name = spec.name;
    this.preferredBlockSize = spec.preferredBlockSize;
    this.nextBlockSize = spec.preferredBlockSize;
    this.volume = new Volume(spec.name, { targets });
  }

  setContexts(contexts: readonly ContextSpec[]): void {
    this.contexts = new Map(contexts.map((context) => [context.name, contextSource(context, this.volume)]));
  }

  get canTrim(): boolean {
    return this.volume.limits.canDiscard;
  }

  facts(): VolumeFacts {
    const { sizeBytes, readOnly } = this.volume.limits;
    return { sizeBytes, readOnly, canTrim: this.canTrim, preferredBlockSize: this.preferredBlockSize };
  }

  /** Holds requests back. Throws what `Volume.suspend` throws; one that is suspended stays so. */
  async suspend(timeoutMs: number): Promise<void> {
    if (this.volume.state === 'suspended') return;
    const begun = performance.now();
    await this.volume.suspend(AbortSignal.timeout(timeoutMs));
    this.suspendedAt = begun;
  }

  resume(): Resumed {
    this.volume.resume();
    this.preferredBlockSize = this.nextBlockSize;
    const suspendedMs = this.suspendedAt === null ? null : performance.now() - this.suspendedAt;
    this.suspendedAt = null;
    return { id: this.id, ...this.facts(), suspendedMs };
  }
}

/** The volume as one client has it. */
class ClientExport implements NbdExport {
  readonly held: HeldVolume;
  readonly #onlyReading: boolean;

  constructor(held: HeldVolume, onlyReading: boolean) {
    this.held = held;
    this.#onlyReading = onlyReading;
  }

  get name(): string {
    return this.held.name;
  }

  get volume(): Volume {
    return this.held.volume;
  }

  get readOnly(): boolean {
    return this.#onlyReading || this.held.volume.limits.readOnly;
  }

  get canTrim(): boolean {
    return this.held.canTrim;
  }

  statusSource(context: string): StatusSource | null {
    return context === ALLOCATION_CONTEXT ? this.held.volume : (this.held.contexts.get(context) ?? null);
  }
}

export class Worker implements WorkerCommands {
  readonly #log: WorkerLog;
  readonly #engine: EngineSettings;
  readonly #cache: BlockCache | null;
  readonly #sessions: NbdSessions;
  readonly #volumes = new Map<VolumeId, HeldVolume>();
  readonly #devices = new Map<DeviceKey, Promise<OpenedDevice>>();
  readonly #events: Pick<WorkerEvents, 'connectionClosed' | 'client'>;
  /** Who was adopted, by connection. */
  readonly #clients = new Map<number, AdoptRequest>();
  readonly #patience = new Patience(DEVICE_TIMEOUT_MS);

  constructor(settings: WorkerSettings, log: WorkerLog, events: Pick<WorkerEvents, 'connectionClosed' | 'client'>) {
    this.#log = log;
    this.#events = events;
    this.#engine = settings.engine;
    this.#cache = cacheOf(settings.engine);
    const { limits } = settings;
    this.#sessions = new NbdSessions({
      limits,
      log,
      openStream: clientStreams(),
      onClosed: ({ id }) => {
        this.#clients.delete(id);
        events.connectionClosed(id);
      },
    });
  }

  ping(): Promise<void> {
    return Promise.resolve();
  }

  configure({ logLevel }: { readonly logLevel: string }): Promise<void> {
    this.#log.level = logLevel;
    return Promise.resolve();
  }

  load(volumes: readonly VolumeSpec[]): Promise<readonly (Outcome<object> | Failure)[]> {
    return Promise.all(
      volumes.map((spec) =>
        attempt(spec.id, async () => {
          await this.#loadOne(spec);
          return { id: spec.id };
        }),
      ),
    );
  }

  async #loadOne(spec: VolumeSpec): Promise<void> {
    const devices = new Map<string, BlockDevice>();
    await Promise.all(spec.devices.map(async (device) => devices.set(device.path, await this.#device(device))));
    const held = this.#volumes.get(spec.id) ?? new HeldVolume(spec);
    const resolve = (path: string): BlockDevice => {
      const device = devices.get(path);
      if (device === undefined) throw new Error(`${path} is not among the devices of ${spec.name}`);
      return device;
    };
    held.volume.load(spec.table, resolve, { readOnly: spec.readOnly });
    held.nextBlockSize = spec.preferredBlockSize;
    held.setContexts(spec.contexts);
    this.#volumes.set(spec.id, held);
    if (spec.isNew === true) await held.volume.prepare();
  }

  async #device(spec: DeviceSpec): Promise<OpenedDevice> {
    const key = deviceKey(spec);
    let opening = this.#devices.get(key);
    if (opening === undefined) {
      opening = this.#open(spec);
      this.#devices.set(key, opening);
      opening.catch(() => this.#devices.delete(key));
    }
    const opened = opening;
    const device = (await this.#patience.with(`open ${key}`, () => opened, ignoreLate))?.value;
    if (device === undefined) throw new Error(`${spec.path} does not answer`);
    if (spec.sizeBytes > device.limits.sizeBytes) {
      const measured = await this.#patience.with(`measure ${key}`, async () => device.remeasure?.(), ignoreLate);
      if (measured === null) throw new Error(`${spec.path} does not answer`);
    }
    return device;
  }

  async #open({ path, identity, readOnly }: DeviceSpec): Promise<OpenedDevice> {
    const device = await openBlockDevice(path, {
      readOnly,
      engine: this.#engine.engine,
      direct: directOf(this.#engine.direct, path),
    });
    if (device.identity === identity) return dressed(device, this.#cache, this.#engine);
    await device.close();
    throw new Error(`${path} is another device now than the one that was scanned`);
  }

  clear(ids: readonly VolumeId[]): Promise<void> {
    for (const id of ids) {
      const held = this.#volumes.get(id);
      held?.volume.clear();
      if (held?.volume.state === 'empty') this.#volumes.delete(id);
    }
    return Promise.resolve();
  }

  suspend({ ids, timeoutMs }: SuspendRequest): Promise<readonly (Outcome<object> | Failure)[]> {
    return Promise.all(
      ids.map((id) =>
        attempt(id, async () => {
          await this.#held(id).suspend(timeoutMs);
          return { id };
        }),
      ),
    );
  }

  resume(ids: readonly VolumeId[]): Promise<readonly (Resumed | Failure)[]> {
    // Not one after the other with a wait between them: all of them go on in this turn.
    return Promise.all(ids.map((id) => attempt(id, () => this.#held(id).resume())));
  }

  async swap({ ids, timeoutMs, begin }: SwapRequest): Promise<readonly (Resumed | Failure)[]> {
    const own = ids.filter((id) => this.#volumes.get(id)?.volume.state !== 'empty');
    const suspended = await this.suspend({ ids: own, timeoutMs });
    const stuck = new Map(suspended.flatMap((answer) => (answer.problem === undefined ? [] : [[answer.id, answer]])));
    // In one turn: what begins may be what the others wait for.
    const going = ids.filter((id) => !stuck.has(id));
    const resumed = this.resume(stuck.size === 0 ? [...going, ...begin] : going);
    return [...stuck.values(), ...(await resumed)];
  }

  describe({ id, name, contexts }: VolumeDescription): Promise<void> {
    const held = this.#held(id);
    held.name = name;
    held.setContexts(contexts);
    return Promise.resolve();
  }

  disconnect(id: VolumeId): Promise<void> {
    return this.#sessions.disconnect((export_) => export_ instanceof ClientExport && export_.held.id === id);
  }

  disconnectAll(): Promise<void> {
    return this.#sessions.close();
  }

  async retire(id: VolumeId): Promise<Outcome<object> | Failure> {
    const held = this.#volumes.get(id);
    if (held === undefined) return { id };
    this.#volumes.delete(id);
    return attempt(id, async () => {
      await held.volume.close();
      return { id };
    });
  }

  async keepDevices(keys: readonly DeviceKey[]): Promise<void> {
    const keep = new Set(keys);
    const dropped = [...this.#devices].filter(([key]) => !keep.has(key));
    for (const [key] of dropped) this.#devices.delete(key);
    await Promise.all(
      dropped.map(async ([, opening]) => {
        await (await opening).close();
      }),
    );
  }

  message(request: {
    readonly id: VolumeId;
    readonly sector: number;
    readonly words: readonly string[];
  }): Promise<string> {
    return this.#held(request.id).volume.message(request.sector, request.words);
  }

  volumeStatus(id: VolumeId): Promise<WorkerVolume | null> {
    const held = this.#volumes.get(id);
    return Promise.resolve(held === undefined ? null : statusOf(held));
  }

  async stats(): Promise<WorkerStats> {
    const { rss, external } = process.memoryUsage();
    const { user, system } = process.cpuUsage();
    const opened = await Promise.allSettled(this.#devices.values());
    return {
      pid: process.pid,
      residentBytes: rss,
      externalBytes: external,
      cpuUser: user,
      cpuSystem: system,
      payloadBytes: this.#sessions.payloadBytes,
      connections: this.#sessions.connections().map((info) => {
        const client = this.#clients.get(info.id);
        return client === undefined ? info : { ...info, identity: client.identity };
      }),
      volumes: [...this.#volumes.values()].map(statusOf),
      devices: opened.flatMap((outcome) => {
        if (outcome.status === 'rejected') return [];
        const { name, identity, limits } = outcome.value;
        const io = deviceStats(outcome.value)?.snapshotIfUsed() ?? null;
        const cache = outcome.value instanceof CachedDevice ? outcome.value.cacheStats : null;
        return [{ path: name, identity, sizeBytes: limits.sizeBytes, io, cache }];
      }),
    };
  }

  /** Takes a client over; rejects when its volume is not here. */
  adopt(request: AdoptRequest, socket: Socket): Promise<void> {
    const { connection, id, negotiated, peer, readOnly, resumed = false } = request;
    return Promise.try(() => {
      const held = this.#held(id);
      const start = { id: connection, peer, export: new ClientExport(held, readOnly), negotiated, resumed };
      this.#sessions.adopt(start, socket);
      this.#clients.set(connection, { ...request, negotiated: { ...negotiated, leftover: Buffer.alloc(0) } });
    });
  }

  async openDevices(devices: readonly DeviceSpec[]): Promise<void> {
    await Promise.all(devices.map((device) => this.#device(device)));
  }

  async quiesce(patience: QuietRequest): Promise<string | null> {
    const unfinished = await this.#sessions.quiesce(patience);
    if (unfinished > 0) {
      await this.goOn();
      return `${unfinished} requests are not finished after ${patience.workMs} ms`;
    }
    const suspended = await this.suspend({ ids: [...this.#volumes.keys()], timeoutMs: patience.workMs });
    const problem = suspended.find((answer) => answer.problem !== undefined)?.problem ?? null;
    if (problem !== null) await this.goOn();
    return problem;
  }

  async goOn(): Promise<void> {
    await this.resume([...this.#volumes.keys()]);
    this.#sessions.goOn();
  }

  async release(): Promise<readonly string[]> {
    const given = [...this.#sessions.release()].map(({ id, socket, leftover }) => this.#give(id, socket, leftover));
    const [problems] = await Promise.all([this.#closeVolumes(), ...given]);
    return problems;
  }

  async #give(connection: number, socket: Socket, leftover: Buffer): Promise<void> {
    const request = this.#clients.get(connection);
    const handle = handleOf(socket);
    try {
      if (request === undefined || handle === null) return;
      const negotiated = { ...request.negotiated, leftover };
      await this.#events.client({ ...request, negotiated, resumed: true }, handle);
    } finally {
      socket.destroy();
    }
  }

  async drain(): Promise<readonly string[]> {
    await this.#sessions.close();
    return this.#closeVolumes();
  }

  async #closeVolumes(): Promise<readonly string[]> {
    const volumes = [...this.#volumes.values()].map(({ volume }) => volume);
    this.#volumes.clear();
    const problems = await problemsOf(volumes.map((volume) => volume.close()));
    const devices = [...this.#devices.values()];
    this.#devices.clear();
    return [...problems, ...(await problemsOf(devices.map(closeDevice)))];
  }

  #held(id: VolumeId): HeldVolume {
    const held = this.#volumes.get(id);
    if (held === undefined) throw new Error(`there is no volume ${id} here`);
    return held;
  }
}

function statusOf(held: HeldVolume): WorkerVolume {
  return { ...held.volume.status(), id: held.id, name: held.name, io: held.volume.stats.snapshotIfUsed() };
}

async function closeDevice(opening: Promise<OpenedDevice>): Promise<void> {
  const device = await opening;
  try {
    if (!device.limits.readOnly) await flush(device);
  } finally {
    await device.close();
  }
}

/** It is in its place by now: the next load finds it there. */
function ignoreLate(): void {}

/** Waits for all, and gives the messages of what failed. */
async function problemsOf(work: readonly Promise<unknown>[]): Promise<readonly string[]> {
  const outcomes = await Promise.allSettled(work);
  return outcomes.flatMap((outcome) =>
    outcome.status === 'rejected' ? singleErrors(outcome.reason).map(messageOf) : [],
  );
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

async function attempt<T>(id: VolumeId, work: () => T | Promise<T>): Promise<T | Failure> {
  try {
    return await work();
  } catch (error) {
    return { id, problem: messageOf(error) };
  }
}
