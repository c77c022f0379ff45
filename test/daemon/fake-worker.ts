/** A worker that only remembers what it was asked, and that fails, hangs and dies when the test says so. */
import type {
  AdoptRequest,
  DeviceKey,
  Failure,
  GiveRequest,
  LostFlushes,
  Outcome,
  Resumed,
  SuspendRequest,
  SwapRequest,
  VolumeDescription,
  VolumeSpec,
  WorkerEvents,
  WorkerHost,
  WorkerStats,
  WorkerVolume,
} from '../../src/daemon/worker/host.ts';
import { WorkerError } from '../../src/daemon/worker/protocol.ts';
import type { VolumeId } from '../../src/lvm/live.ts';

const SECTOR_BYTES = 512;

interface FakeVolume {
  live: VolumeSpec | null;
  next: VolumeSpec | null;
  suspended: boolean;
}

/** What the test decides for all workers of a pool. */
export interface FakeRules {
  /** What was asked of any worker, in order: "0 load a". */
  readonly log: string[];
  /** Volumes that can't be suspended. */
  readonly unsuspendable: Set<VolumeId>;
  /** Volumes whose tables can't be loaded. */
  readonly unloadable: Set<VolumeId>;
  /** Volumes whose loaded tables can't go live. */
  readonly unresumable: Set<VolumeId>;
  /** Connections that can't be given away: what they asked for is not done. */
  readonly busy: Set<number>;
  /** Volumes that only one worker can have. */
  readonly alone: Set<VolumeId>;
  /** Volumes that can't be let go: their devices do not answer. */
  readonly endless: Set<VolumeId>;
  /** The worker dies when it is asked this: "0 swap a", once. */
  deadly: string | null;
}

export function noRules(): FakeRules {
  return {
    log: [],
    unsuspendable: new Set(),
    unloadable: new Set(),
    unresumable: new Set(),
    endless: new Set(),
    busy: new Set(),
    alone: new Set(),
    deadly: null,
  };
}

export class FakeWorker implements WorkerHost {
  readonly index: number;
  readonly pid = 1;
  readonly volumes: Map<VolumeId, FakeVolume> = new Map();
  readonly adopted: number[] = [];
  /** What is adopted, by connection. */
  readonly requests: Map<number, AdoptRequest> = new Map();
  /** Of those, who may not write. */
  readonly readers: Set<number> = new Set();
  readonly #rules: FakeRules;
  readonly #events: WorkerEvents;
  #ended = false;
  /** Rejects what waits for the worker when it dies. */
  readonly #death = Promise.withResolvers<never>();

  constructor(index: number, rules: FakeRules, events: WorkerEvents) {
    this.index = index;
    this.#rules = rules;
    this.#events = events;
    this.#death.promise.catch(() => undefined);
  }

  /** Table sizes of live volumes, in sectors; a suspended one in brackets. */
  state(): Record<string, string> {
    const states = [...this.volumes].map(([id, { live, suspended }]): [string, string] => {
      const text = live === null ? 'none' : String(live.table[0]?.length);
      return [live?.name ?? id, suspended ? `[${text}]` : text];
    });
    return Object.fromEntries(states);
  }

  die(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.volumes.clear();
    this.requests.clear();
    this.#death.reject(new WorkerError('GONE', this.index, 'told so by the test'));
    this.#events.gone('told so by the test');
  }

  #asked(what: string): void {
    const line = `${this.index} ${what}`;
    if (!this.#ended && this.#rules.deadly === line) {
      this.#rules.deadly = null;
      this.die();
    }
    if (this.#ended) throw new WorkerError('GONE', this.index, 'told so by the test');
    this.#rules.log.push(line);
  }

  #each<T extends { readonly id: VolumeId }>(
    what: string,
    ids: readonly VolumeId[],
    work: (volume: FakeVolume, id: VolumeId) => T | Failure,
  ): Promise<readonly (T | Failure)[]> {
    return Promise.try(() => {
      this.#asked(`${what} ${ids.map(shortOf).join(' ')}`.trimEnd());
      return ids.map((id) => {
        const volume = this.volumes.get(id);
        return volume === undefined ? { id, problem: 'no such volume' } : work(volume, id);
      });
    });
  }

  ping(): Promise<void> {
    return Promise.resolve();
  }

  configure(): Promise<void> {
    return Promise.resolve();
  }

  load(specs: readonly VolumeSpec[]): Promise<readonly (Outcome<object> | Failure)[]> {
    const byId = new Map(specs.map((spec) => [spec.id, spec]));
    for (const { id } of specs) {
      if (!this.volumes.has(id)) this.volumes.set(id, { live: null, next: null, suspended: false });
    }
    return this.#each('load', [...byId.keys()], (volume, id) => {
      const problem = 'told so by the test';
      if (byId.get(id)?.shared === true && this.#rules.alone.has(id)) return { id, problem, alone: true };
      if (this.#rules.unloadable.has(id)) return { id, problem };
      volume.next = byId.get(id) ?? null;
      return { id };
    });
  }

  async clear(ids: readonly VolumeId[]): Promise<void> {
    await this.#each('clear', ids, (volume, id) => {
      volume.next = null;
      if (volume.live === null) this.volumes.delete(id);
      return { id };
    });
  }

  suspend({ ids }: SuspendRequest): Promise<readonly (Outcome<object> | Failure)[]> {
    return this.#each('suspend', ids, (volume, id) => this.#suspend(volume, id));
  }

  #suspend(volume: FakeVolume, id: VolumeId): Outcome<object> | Failure {
    if (this.#rules.unsuspendable.has(id)) return { id, problem: 'its device hangs' };
    volume.suspended = true;
    return { id };
  }

  resume(ids: readonly VolumeId[]): Promise<readonly (Resumed | Failure)[]> {
    return this.#each('resume', ids, (volume, id) => this.#resume(volume, id));
  }

  #resume(volume: FakeVolume, id: VolumeId): Resumed | Failure {
    if (volume.next !== null && this.#rules.unresumable.has(id)) return { id, problem: 'told so by the test' };
    volume.live = volume.next ?? volume.live;
    volume.next = null;
    const suspendedMs = volume.suspended ? 1 : null;
    volume.suspended = false;
    const sizeBytes = (volume.live?.table[0]?.length ?? 0) * SECTOR_BYTES;
    const readOnly = volume.live?.readOnly ?? false;
    return { id, sizeBytes, readOnly, canTrim: true, preferredBlockSize: 4096, suspendedMs };
  }

  swap({ ids, begin }: SwapRequest): Promise<readonly (Resumed | Failure)[]> {
    const stuck = ids.some((id) => this.volumes.get(id)?.live !== null && this.#rules.unsuspendable.has(id));
    return this.#each('swap', [...ids, ...begin], (volume, id): Resumed | Failure => {
      if (stuck) return { id, problem: 'its device hangs' };
      if (volume.live !== null) this.#suspend(volume, id);
      return this.#resume(volume, id);
    });
  }

  describe({ id, name }: VolumeDescription): Promise<void> {
    return Promise.try(() => this.#asked(`describe ${shortOf(id)} ${name}`));
  }

  wipe(id: VolumeId): Promise<void> {
    return Promise.try(() => {
      if (this.volumes.get(id)?.suspended === true) this.#asked(`wipe ${shortOf(id)}`);
    });
  }

  disconnect(id: VolumeId): Promise<void> {
    return Promise.try(() => this.#asked(`disconnect ${shortOf(id)}`));
  }

  disconnectAll(): Promise<void> {
    return Promise.resolve();
  }

  retire(id: VolumeId): Promise<Outcome<object> | Failure> {
    return Promise.try(() => {
      this.#asked(`retire ${shortOf(id)}`);
      if (this.#rules.endless.has(id)) return this.#death.promise;
      this.volumes.delete(id);
      return { id };
    });
  }

  keepDevices(_keys: readonly DeviceKey[]): Promise<void> {
    return Promise.resolve();
  }

  message(): Promise<string> {
    return Promise.resolve('');
  }

  volumeStatus(): Promise<WorkerVolume | null> {
    return Promise.resolve(null);
  }

  stats(): Promise<WorkerStats> {
    return Promise.reject(new WorkerError('FAILED', this.index, 'it counts nothing'));
  }

  drain(): Promise<readonly string[]> {
    this.#ended = true;
    return Promise.resolve([]);
  }

  adopt(request: AdoptRequest): Promise<void> {
    return Promise.try(() => {
      const { connection, readOnly } = request;
      this.#asked('adopt');
      this.adopted.push(connection);
      this.requests.set(connection, request);
      if (readOnly) this.readers.add(connection);
    });
  }

  /** Tells of a device whose flushes are lost. */
  loses(key: DeviceKey): void {
    this.#events.flushLost({ key, errno: 5 });
  }

  loseFlushes({ key }: LostFlushes): Promise<void> {
    return Promise.try(() => this.#asked(`loseFlushes ${key}`));
  }

  openDevices(): Promise<void> {
    return Promise.resolve();
  }

  quiesce(): Promise<string | null> {
    return Promise.resolve(null);
  }

  goOn(): Promise<void> {
    return Promise.resolve();
  }

  release(): Promise<readonly string[]> {
    return Promise.resolve([]);
  }

  resumeClient(request: AdoptRequest): Promise<void> {
    return this.adopt(request);
  }

  give({ id, connections }: GiveRequest): Promise<readonly number[]> {
    return Promise.try(async () => {
      const own = [...this.requests.values()].filter((request) => request.id === id);
      const going = own.filter(({ connection }) => connections.includes(connection));
      this.#asked(`give ${shortOf(id)} ${going.map(({ connection }) => connection).join()}`);
      const staying = going.filter(({ connection }) => this.#rules.busy.has(connection));
      for (const request of going) {
        if (staying.includes(request)) continue;
        this.requests.delete(request.connection);
        await this.#events.client(request, {});
      }
      return staying.map(({ connection }) => connection);
    });
  }

  kill(): void {
    this.die();
  }
}

/** The LV's part of an id. */
function shortOf(id: VolumeId): string {
  return id.split(' ')[1] ?? id;
}
