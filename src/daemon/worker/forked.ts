/**
 * A worker in a process of its own, as its supervisor sees it.
 *
 * Invariants
 *  - Each call is settled once: by the answer, or rejected when the process has ended.
 *  - A socket that was handed over is closed here when the worker has it; it goes on there.
 *  - `gone` is told once, when the process has ended, however that came about.
 *  - Of a client that the worker has given away it is told by `client`, or, if it was lost on its way, that it has ended.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Socket } from 'node:net';
import type { VolumeId } from '../../lvm/live.ts';
import { closeHandle, handleOf } from '../../nbd/socket-handle.ts';
import { withBytesOf } from './handles.ts';
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
  WorkerHost,
  WorkerStats,
  WorkerVolume,
} from './host.ts';
import { type CommandName, type FromWorker, type ToWorker, WorkerError } from './protocol.ts';
import type { WorkerSettings } from './worker.ts';

const MAIN = fileURLToPath(new URL('main.ts', import.meta.url));

export interface ForkOptions {
  readonly index: number;
  readonly settings: WorkerSettings;
  readonly events: WorkerEvents;
  /** A file descriptor that the worker inherits, and so keeps open as long as it lives. */
  readonly lockFd: number | null;
}

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** The channel's `send` with a bare handle, which its types don't know. */
interface HandleSender {
  send(message: ToWorker, handle: object, options: object, sent: (error: Error | null) => void): boolean;
}

export class ForkedWorker implements WorkerHost {
  readonly index: number;
  readonly #child: ChildProcess;
  readonly #events: WorkerEvents;
  readonly #pending = new Map<number, Pending>();
  /** Clients that the worker has given away, until they are where they are to be. */
  readonly #passing = new Map<number, Promise<void>>();
  /** The last of them. */
  #passedLast = -1;
  readonly #started = Promise.withResolvers<void>();
  #nextId = 1;
  #ended = false;

  private constructor(options: ForkOptions) {
    const { index, lockFd } = options;
    this.index = index;
    this.#events = options.events;
    // In a session of its own: Ctrl-C, and whatever else is sent to the daemon's process group, is for the supervisor alone, also before
    // the worker can ignore it.
    this.#child = fork(MAIN, {
      detached: true,
      serialization: 'advanced',
      stdio: ['ignore', 'inherit', 'inherit', 'ipc', ...(lockFd === null ? [] : [lockFd])],
    });
    this.#child.on('message', (message: FromWorker, handle: unknown) => {
      if (message.kind === 'client') this.#client(message.request, handle);
      else this.#receive(message);
    });
    this.#child.once('exit', (code, signal) => {
      this.#gone(signal === null ? `it ended with code ${code}` : `it was ended by ${signal}`);
    });
    this.#child.once('error', (error) => {
      this.#gone(error.message);
    });
    this.#send({ kind: 'start', index, settings: options.settings });
  }

  /** Starts a worker process; resolves when it takes commands. Throws a WorkerError. */
  static async start(options: ForkOptions): Promise<ForkedWorker> {
    const worker = new ForkedWorker(options);
    await worker.#started.promise;
    return worker;
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  ping(): Promise<void> {
    return this.#call('ping', undefined);
  }

  configure(settings: { readonly logLevel: string }): Promise<void> {
    return this.#call('configure', settings);
  }

  load(volumes: readonly VolumeSpec[]): Promise<readonly (Outcome<object> | Failure)[]> {
    return this.#call('load', volumes);
  }

  clear(ids: readonly VolumeId[]): Promise<void> {
    return this.#call('clear', ids);
  }

  loseFlushes(lost: LostFlushes): Promise<void> {
    return this.#call('loseFlushes', lost);
  }

  openDevices(devices: readonly DeviceSpec[]): Promise<void> {
    return this.#call('openDevices', devices);
  }

  quiesce(request: QuietRequest): Promise<string | null> {
    return this.#call('quiesce', request);
  }

  goOn(): Promise<void> {
    return this.#call('goOn', undefined);
  }

  release(): Promise<readonly string[]> {
    return this.#call('release', undefined);
  }

  suspend(request: SuspendRequest): Promise<readonly (Outcome<object> | Failure)[]> {
    return this.#call('suspend', request);
  }

  resume(ids: readonly VolumeId[]): Promise<readonly (Resumed | Failure)[]> {
    return this.#call('resume', ids);
  }

  swap(request: SwapRequest): Promise<readonly (Resumed | Failure)[]> {
    return this.#call('swap', request);
  }

  describe(description: VolumeDescription): Promise<void> {
    return this.#call('describe', description);
  }

  wipe(id: VolumeId): Promise<void> {
    return this.#call('wipe', id);
  }

  disconnect(id: VolumeId): Promise<void> {
    return this.#call('disconnect', id);
  }

  async give(request: GiveRequest): Promise<readonly number[]> {
    const staying = await this.#call('give', request);
    // All that were given have come before the answer.
    await Promise.all(this.#passing.values());
    return staying;
  }

  disconnectAll(): Promise<void> {
    return this.#call('disconnectAll', undefined);
  }

  retire(id: VolumeId): Promise<Outcome<object> | Failure> {
    return this.#call('retire', id);
  }

  keepDevices(keys: readonly DeviceKey[]): Promise<void> {
    return this.#call('keepDevices', keys);
  }

  message(request: {
    readonly id: VolumeId;
    readonly sector: number;
    readonly words: readonly string[];
  }): Promise<string> {
    return this.#call('message', request);
  }

  volumeStatus(id: VolumeId): Promise<WorkerVolume | null> {
    return this.#call('volumeStatus', id);
  }

  stats(): Promise<WorkerStats> {
    return this.#call('stats', undefined);
  }

  /** The process ends after its answer. */
  async drain(): Promise<readonly string[]> {
    const problems = await this.#call('drain', undefined);
    if (this.#child.connected) this.#child.disconnect();
    return problems;
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  async adopt(request: AdoptRequest, socket: Socket): Promise<void> {
    const whole = withBytesOf(socket, request);
    const handle = handleOf(socket);
    if (handle === null || socket.destroyed) throw new WorkerError('FAILED', this.index, 'the client has gone');
    try {
      await this.#handOver(whole, handle);
    } finally {
      socket.destroy();
    }
  }

  async resumeClient(request: AdoptRequest, handle: object): Promise<void> {
    try {
      await this.#handOver(request, handle);
    } finally {
      closeHandle(handle);
    }
  }

  async #handOver(request: AdoptRequest, handle: object): Promise<void> {
    await this.#ask((id, failed) => {
      const channel = this.#child as ChildProcess & HandleSender;
      channel.send({ kind: 'adopt', id, request }, handle, {}, failed);
      this.#send({ kind: 'adopting', id });
    });
  }

  async #call<Name extends CommandName>(
    name: Name,
    argument: Parameters<WorkerCommands[Name]>[0],
  ): Promise<Awaited<ReturnType<WorkerCommands[Name]>>> {
    const value = await this.#ask((id, failed) => this.#send({ kind: 'call', id, name, argument }, failed));
    return value as Awaited<ReturnType<WorkerCommands[Name]>>;
  }

  /**
   * Sends a question by `send`, which calls `failed` with what kept it from leaving, and waits for the answer. A worker that can't be
   * asked any more is made to end, and the question fails when it has: whoever asks again then asks the next one.
   */
  async #ask(send: (id: number, failed: (error: Error | null) => void) => void): Promise<unknown> {
    if (this.#ended) throw new WorkerError('GONE', this.index, 'it has ended');
    const id = this.#nextId++;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#pending.set(id, { resolve, reject });
    if (this.#child.connected) send(id, (error) => void (error !== null && this.kill()));
    else this.kill();
    return promise;
  }

  #send(message: ToWorker, sent: (error: Error | null) => void = (): void => undefined): void {
    this.#child.send(message, undefined, undefined, sent);
  }

  #client(request: AdoptRequest, handle: unknown): void {
    // It was lost on its way: the system closed it. `given` follows.
    if (typeof handle !== 'object' || handle === null) return;
    // With its worker everybody was lost who was there.
    if (this.#ended) {
      closeHandle(handle);
      return;
    }
    const { connection } = request;
    this.#passedLast = connection;
    const passing = this.#pass(request, handle).finally(() => {
      if (this.#passing.get(connection) === passing) this.#passing.delete(connection);
    });
    this.#passing.set(connection, passing);
  }

  async #pass(request: AdoptRequest, handle: object): Promise<void> {
    try {
      await this.#events.client(request, handle);
    } catch {
      this.#events.connectionClosed(request.connection);
    } finally {
      closeHandle(handle);
    }
  }

  /** What the worker has sent before was that client; if not, that is lost. */
  #given(connection: number): void {
    if (this.#passedLast !== connection) this.#events.connectionClosed(connection);
    this.#passedLast = -1;
  }

  #receive(message: Exclude<FromWorker, { readonly kind: 'client' }>): void {
    if (message.kind === 'ready') this.#started.resolve();
    else if (message.kind === 'given') this.#given(message.connection);
    else if (message.kind === 'flushLost') this.#events.flushLost(message.lost);
    else if (message.kind === 'connectionClosed') this.#events.connectionClosed(message.connection);
    else if (message.kind === 'answer') this.#settle(message.id)?.resolve(message.value);
    else this.#settle(message.id)?.reject(new WorkerError('FAILED', this.index, message.message));
  }

  #settle(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    return pending;
  }

  #gone(reason: string): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#events.gone(reason);
    const error = new WorkerError('GONE', this.index, reason);
    this.#started.reject(error);
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }
}
