/**
 * The data plane: opened devices (devices.ts), volumes (held-volume.ts), and the clients that use them. What carries out the
 * commands of host.ts, in a process of its own or in the supervisor's.
 *
 * Invariants
 *  - A volume is known from its first load; it has clients only while it has a live table.
 *  - What fails for one volume is told of that one, and the others of the same command are done.
 *  - A client that was given away is no longer known: it may come back before its socket is closed here.
 */
import type { Socket } from 'node:net';
import type { BlockDevice } from '../../block/device.ts';
import { lookBeforeSleep } from '../../block/ring.ts';
import { rehearse } from '../../dm/rehearsal.ts';
import type { VolumeId } from '../../lvm/live.ts';
import type { NbdLog, Released } from '../../nbd/connection.ts';
import type { NbdExport } from '../../nbd/exports.ts';
import { NbdSessions, type SessionLimits } from '../../nbd/sessions.ts';
import { closeHandle, detachHandle } from '../../nbd/socket-handle.ts';
import type { EngineSettings } from '../engine.ts';
import { singleErrors } from '../errors.ts';
import { Patience } from '../patience.ts';
import { clientStreams } from '../streams.ts';
import { WorkerDevices } from './devices.ts';
import { ClientExport, HeldVolume } from './held-volume.ts';
import type {
  AdoptRequest,
  DeviceKey,
  DeviceSpec,
  Failure,
  GiveRequest,
  LostFlushes,
  Outcome,
  QuietRequest,
  Resumed,
  SuspendRequest,
  SwapRequest,
  VolumeDescription,
  VolumeSpec,
  WorkerCommands,
  WorkerEvents,
  WorkerStats,
  WorkerVolume,
} from './host.ts';

/** How long the answer of a resume waits for the flush that its suspend has left. */
const SETTLE_MS = 20_000;
/** How long a new volume may take to get ready. */
const PREPARE_MS = 20_000;
/** How long what a suspend has left to be flushed may take when the volume is wiped. */
const WIPE_MS = 20_000;
/** How long the answer of a clear waits for what the dropped tables wrote. */
const CLEAR_MS = 5000;

/** What a worker is started with; plain data. */
export interface WorkerSettings {
  readonly limits: SessionLimits;
  readonly engine: EngineSettings;
  readonly logLevel: string;
  readonly logFormat: 'auto' | 'json' | 'text';
}

/** What a worker tells that can't be gone by itself. */
type Told = Omit<WorkerEvents, 'gone'>;

export interface WorkerLog extends NbdLog {
  level: string;
}

export class Worker implements WorkerCommands {
  readonly #log: WorkerLog;
  readonly #sessions: NbdSessions;
  readonly #volumes = new Map<VolumeId, HeldVolume>();
  readonly #devices: WorkerDevices;
  readonly #events: Told;
  readonly #readying = new Patience(PREPARE_MS);
  readonly #clearing = new Patience(CLEAR_MS);
  /** Who was adopted, by connection. */
  readonly #clients = new Map<number, AdoptRequest>();

  constructor(settings: WorkerSettings, log: WorkerLog, events: Told) {
    this.#log = log;
    this.#events = events;
    this.#devices = new WorkerDevices(settings.engine, (lost) => events.flushLost(lost));
    if (settings.engine.engine === 'uring') lookBeforeSleep(settings.engine.busyPoll);
    const { limits } = settings;
    this.#sessions = new NbdSessions({
      limits,
      log,
      openStream: clientStreams(),
      onClosed: ({ id, released }) => {
        if (released) return;
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

  async load(volumes: readonly VolumeSpec[]): Promise<readonly (Outcome<object> | Failure)[]> {
    // The first time, nobody waits yet; later, what has been forgotten since is ready again before something is suspended.
    if (this.#volumes.size === 0 || volumes.some(({ id }) => this.#volumes.has(id))) await rehearse();
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
    await Promise.all(spec.devices.map(async (device) => devices.set(device.path, await this.#devices.get(device))));
    const held = this.#volumes.get(spec.id) ?? new HeldVolume(spec);
    if (spec.shared === true) mustShare(devices);
    const resolve = (path: string): BlockDevice => {
      const device = devices.get(path);
      if (device === undefined) throw new Error(`${path} is not among the devices of ${spec.name}`);
      return device;
    };
    held.volume.load(spec.table, resolve, { readOnly: spec.readOnly });
    held.nextBlockSize = spec.preferredBlockSize;
    held.setContexts(spec.contexts);
    this.#volumes.set(spec.id, held);
    if (spec.isNew !== true) return;
    if ((await this.#readying.with(spec.id, () => held.volume.prepare(), ignoreLate)) === null) {
      throw new Error(`${spec.name} can't get ready: a device that it names does not answer`);
    }
  }

  async clear(ids: readonly VolumeId[]): Promise<void> {
    await Promise.all(ids.map((id) => this.#clearing.with(id, () => this.#clear(id), ignoreLate)));
  }

  /** A volume that was never live is known until nothing of it is written any more: `retire` waits for that, too. */
  async #clear(id: VolumeId): Promise<void> {
    const held = this.#volumes.get(id);
    if (held === undefined) return;
    await held.volume.clear();
    const { volume } = held;
    const isUnused = volume.state === 'empty' && volume.table('inactive') === null;
    if (isUnused && this.#volumes.get(id) === held) this.#volumes.delete(id);
  }

  async suspend(request: SuspendRequest): Promise<readonly (Outcome<object> | Failure)[]> {
    const { ids, timeoutMs, keepsDevices = false } = request;
    const signal = AbortSignal.timeout(timeoutMs);
    const all = (work: (held: HeldVolume) => Promise<void>): Promise<readonly (Outcome<object> | Failure)[]> =>
      Promise.all(
        ids.map((id) =>
          attempt(id, async () => {
            await work(this.#held(id));
            return { id };
          }),
        ),
      );
    // None stands still while another one's device takes its time.
    const flushed = await all((held) => held.flushBefore(signal));
    const stuck = flushed.find((answer) => answer.problem !== undefined)?.problem;
    if (stuck === undefined) return all((held) => held.suspend(signal, keepsDevices));
    return flushed.map(({ id, problem = stuck }) => ({ id, problem }));
  }

  async resume(ids: readonly VolumeId[]): Promise<readonly (Resumed | Failure)[]> {
    // Not one after the other with a wait between them: all of them go on in this turn.
    const going = ids.map((id) => attempt(id, () => this.#held(id).resume()));
    const now = performance.now();
    const failures = await Promise.all(going);
    await Promise.all(ids.map((id) => this.#volumes.get(id)?.settle(SETTLE_MS) ?? Promise.resolve()));
    return ids.map((id, i) => failures[i] ?? this.#held(id).resumed(now));
  }

  async swap(request: SwapRequest): Promise<readonly (Resumed | Failure)[]> {
    const { ids, begin } = request;
    const own = ids.filter((id) => this.#volumes.get(id)?.volume.state !== 'empty');
    const suspended = await this.suspend({ ...request, ids: own });
    const stuck = suspended.find((answer) => answer.problem !== undefined);
    // In one turn: what begins may be what the others wait for.
    if (stuck === undefined) return this.resume([...ids, ...begin]);
    await this.clear(own);
    await this.resume(own.filter((id) => this.#volumes.get(id)?.volume.state === 'suspended'));
    return ids.map((id) => ({ id, problem: stuck.problem ?? '' }));
  }

  describe({ id, name, contexts }: VolumeDescription): Promise<void> {
    const held = this.#volumes.get(id);
    // It may have ended while this was on its way: nobody waits for an answer.
    if (held === undefined) return Promise.resolve();
    held.name = name;
    held.setContexts(contexts);
    return Promise.resolve();
  }

  async wipe(id: VolumeId): Promise<void> {
    await this.#volumes.get(id)?.wipe(WIPE_MS);
  }

  disconnect(id: VolumeId): Promise<void> {
    return this.#sessions.disconnect((export_) => isOf(export_, id));
  }

  disconnectAll(): Promise<void> {
    return this.#sessions.close();
  }

  async give({ id, connections, workMs }: GiveRequest): Promise<readonly number[]> {
    const wanted = new Set(connections);
    const given: Promise<void>[] = [];
    const staying = await this.#sessions.give(
      (connection) => isOf(connection.export, id) && wanted.has(connection.id),
      workMs,
      (connection, released) => given.push(this.#give(connection, released)),
    );
    await Promise.all(given);
    return staying;
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

  keepDevices(keys: readonly DeviceKey[]): Promise<void> {
    return this.#devices.keep(keys);
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
    return Promise.resolve(held?.status() ?? null);
  }

  async stats(): Promise<WorkerStats> {
    const { rss, external } = process.memoryUsage();
    const { user, system } = process.cpuUsage();
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
      volumes: [...this.#volumes.values()].map((held) => held.status()),
      devices: await this.#devices.stats(),
    };
  }

  /** Takes a client over; rejects when its volume is not here. */
  adopt(request: AdoptRequest, socket: Socket): Promise<void> {
    const { unsent, ...kept } = request;
    const { connection, id, negotiated, peer, readOnly, resumed = false } = kept;
    return Promise.try(() => {
      const held = this.#held(id);
      const { contexts } = negotiated.features;
      const { subjects = held.subjectsOf(contexts) } = kept;
      const export_ = new ClientExport(held, readOnly, contexts, subjects);
      const start = { id: connection, peer, export: export_, negotiated, resumed };
      this.#sessions.adopt(unsent === undefined ? start : { ...start, unsent }, socket);
      this.#clients.set(connection, { ...kept, subjects, negotiated: { ...negotiated, leftover: Buffer.alloc(0) } });
    });
  }

  loseFlushes(lost: LostFlushes): Promise<void> {
    this.#devices.loseFlushes(lost);
    return Promise.resolve();
  }

  async openDevices(devices: readonly DeviceSpec[]): Promise<void> {
    await Promise.all(devices.map((device) => this.#devices.get(device)));
  }

  async quiesce(patience: QuietRequest): Promise<string | null> {
    const unfinished = await this.#sessions.quiesce(patience);
    if (unfinished > 0) {
      await this.goOn();
      return `${unfinished} requests are not finished after ${patience.workMs} ms`;
    }
    const suspended = await this.suspend({ ids: [...this.#volumes.keys()], timeoutMs: patience.workMs });
    // Who has the volumes next would tell clients that what is lost is durable.
    const lost = [...this.#volumes.values()].find(({ volume }) => volume.lostFlushes !== 0);
    const loss = lost === undefined ? null : `what was written to ${lost.name} is lost: its flushes fail`;
    const problem = suspended.find((answer) => answer.problem !== undefined)?.problem ?? loss;
    if (problem !== null) await this.goOn();
    return problem;
  }

  async goOn(): Promise<void> {
    await this.resume([...this.#volumes.keys()]);
    this.#sessions.goOn();
  }

  async release(): Promise<readonly string[]> {
    const given = [...this.#sessions.release()].map(({ id, released }) => this.#give(id, released));
    const [problems] = await Promise.all([this.#closeVolumes(), ...given]);
    return problems;
  }

  /** Gives a client away; one that can't be has ended. */
  async #give(connection: number, { socket, leftover, unsent }: Released): Promise<void> {
    const request = this.#clients.get(connection);
    this.#clients.delete(connection);
    const handle = detachHandle(socket);
    if (request === undefined || handle === null) {
      this.#events.connectionClosed(connection);
      return;
    }
    try {
      const negotiated = { ...request.negotiated, leftover };
      const owed = unsent.length > 0 ? { unsent } : {};
      await this.#events.client({ ...request, negotiated, resumed: true, ...owed }, handle);
    } catch (err) {
      this.#log.warn({ err, connection }, 'a client was lost on its way to another worker');
      this.#events.connectionClosed(connection);
    } finally {
      closeHandle(handle);
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
    return [...problems, ...(await problemsOf(this.#devices.closeAll()))];
  }

  #held(id: VolumeId): HeldVolume {
    const held = this.#volumes.get(id);
    if (held === undefined) throw new Error(`there is no volume ${id} here`);
    return held;
  }
}

function isOf(export_: NbdExport, id: VolumeId): boolean {
  return export_ instanceof ClientExport && export_.held.id === id;
}

/** Throws if the devices can't be used by two workers: past the page cache each reads, modifies and writes blocks for itself. */
class NotShared extends Error {}

function mustShare(devices: ReadonlyMap<string, BlockDevice>): void {
  for (const [path, { limits }] of devices) {
    if (limits.requestAlignment === 1) continue;
    throw new NotShared(`${path} is used past the page cache: only one worker can have a volume on it`);
  }
}

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

/** What ends late has done what it was to do. */
function ignoreLate(): void {}

async function attempt<T>(id: VolumeId, work: () => T | Promise<T>): Promise<T | Failure> {
  try {
    return await work();
  } catch (error) {
    const problem = messageOf(error);
    return error instanceof NotShared ? { id, problem, alone: true } : { id, problem };
  }
}
