/**
 * The NBD server: listeners, the connections that came through them, and their orderly end.
 *
 * Invariants
 *  - Every connection is in `#connections` from its accept until it holds nothing more, in the volume or in memory.
 *  - No timer per connection: one coarse one looks at all deadlines, and runs only while there are connections.
 *  - `close` and `disconnect` end each connection after its accepted commands are finished and answered; a client that
 *    does not take its answers is waited for at most `drainTimeoutMs`.
 */
import { once } from 'node:events';
import type { Server, Socket } from 'node:net';
import { RequestPool } from '../dm/io.ts';
import { BufferPool } from './buffer-pool.ts';
import { Connection, type ConnectionContext, type ConnectionInfo, type NbdLog } from './connection.ts';
import { NbdError } from './errors.ts';
import { cacheScratch } from './executor.ts';
import type { ExportDirectory } from './exports.ts';
import { formatAddress, type NbdAddress, openListener } from './listener.ts';
import { TurnQueue } from './turn-queue.ts';

export interface NbdServerLimits {
  /** Clients at once, on all listeners; more are closed at once. */
  readonly maxConnections: number;
  /** Commands of one connection that are carried out at once. */
  readonly maxRequestsPerConnection: number;
  /** Bytes of payload and unsent replies of one connection. */
  readonly maxBytesPerConnection: number;
  readonly handshakeTimeoutMs: number;
  /** How long a client that is let go may take for its last replies, all of them, after the volume's work is done. */
  readonly drainTimeoutMs: number;
}

export const DEFAULT_LIMITS: NbdServerLimits = {
  maxConnections: 1024,
  maxRequestsPerConnection: 256,
  maxBytesPerConnection: 64 * 2 ** 20,
  handshakeTimeoutMs: 10_000,
  drainTimeoutMs: 10_000,
};

export interface NbdServerOptions {
  readonly directory: ExportDirectory;
  readonly limits?: Partial<NbdServerLimits>;
  readonly log?: NbdLog;
  /** Payload memory; default its own pool. */
  readonly buffers?: BufferPool;
}

function nothing(): void {
  // The log of a server that was given none.
}
const SILENT: NbdLog = { debug: nothing, info: nothing, warn: nothing };
const MIN_TICK_MS = 10;
const MAX_TICK_MS = 250;

export class NbdServer {
  readonly #limits: NbdServerLimits;
  readonly #log: NbdLog;
  readonly #context: ConnectionContext;
  readonly #listeners: Server[] = [];
  readonly #connections = new Set<Connection>();
  /** Those who wait for connections to end. */
  #waiters: { readonly done: () => boolean; readonly resolve: () => void }[] = [];
  #nextId = 1;
  #timer: NodeJS.Timeout | null = null;
  #closing: Promise<void> | null = null;

  constructor(options: NbdServerOptions) {
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#log = options.log ?? SILENT;
    this.#context = {
      directory: options.directory,
      shared: {
        buffers: options.buffers ?? new BufferPool(),
        turns: new TurnQueue(),
        requests: new RequestPool(),
        scratch: cacheScratch(),
        limits: {
          maxRequests: this.#limits.maxRequestsPerConnection,
          maxBytes: this.#limits.maxBytesPerConnection,
        },
      },
      log: this.#log,
      handshakeTimeoutMs: this.#limits.handshakeTimeoutMs,
      drainTimeoutMs: this.#limits.drainTimeoutMs,
      onClosed: (connection) => {
        this.#closed(connection);
      },
    };
  }

  /** Opens one more listener. Returns its address with the port that was bound. Throws an NbdError. */
  async listen(address: NbdAddress): Promise<NbdAddress> {
    const name = formatAddress(address);
    if (this.#closing !== null) throw new NbdError('CLOSED', name, 'the server is closing');
    const listener = await openListener(
      address,
      (socket) => this.#accept(socket, address),
      (error) => this.#log.warn({ address: name, error: error.message }, 'a connection could not be accepted'),
    );
    this.#listeners.push(listener.server);
    this.#log.info({ address: formatAddress(listener.address) }, 'listening');
    return listener.address;
  }

  /** All connections as they are now. */
  connections(): readonly ConnectionInfo[] {
    return [...this.#connections].map((connection) => connection.info());
  }

  /** Lets go of every client of an export; resolves when none of them holds anything of it. */
  disconnect(exportName: string): Promise<void> {
    for (const connection of this.#connections) if (connection.exportName === exportName) connection.drain();
    return this.#until(() => [...this.#connections].every((connection) => connection.exportName !== exportName));
  }

  /** Stops listening, lets go of every client, and resolves when all are gone. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const listenersClosed = this.#listeners.map((listener) => once(listener.close(), 'close'));
    for (const connection of this.#connections) connection.drain();
    await this.#until(() => this.#connections.size === 0);
    await Promise.all(listenersClosed);
  }

  #until(done: () => boolean): Promise<void> {
    if (done()) return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiters.push({ done, resolve });
    });
  }

  #accept(socket: Socket, address: NbdAddress): void {
    const { remoteAddress = '', remotePort = 0 } = socket;
    const peer = formatAddress(
      address.kind === 'unix' ? address : { kind: 'tcp', host: remoteAddress, port: remotePort },
    );
    if (this.#closing !== null || this.#connections.size >= this.#limits.maxConnections) {
      this.#log.warn({ peer, maxConnections: this.#limits.maxConnections }, 'too many connections: one was refused');
      socket.destroy();
      return;
    }
    this.#connections.add(new Connection(this.#nextId++, peer, socket, this.#context));
    this.#timer ??= this.#startTimer();
  }

  #startTimer(): NodeJS.Timeout {
    const shortest = Math.min(this.#limits.handshakeTimeoutMs, this.#limits.drainTimeoutMs);
    const everyMs = Math.min(Math.max(shortest / 4, MIN_TICK_MS), MAX_TICK_MS);
    return setInterval(() => {
      const now = performance.now();
      for (const connection of this.#connections) connection.tick(now);
    }, everyMs).unref();
  }

  #closed(connection: Connection): void {
    this.#connections.delete(connection);
    if (this.#connections.size === 0 && this.#timer !== null) {
      clearInterval(this.#timer);
      this.#timer = null;
    }
    const waiters = this.#waiters;
    this.#waiters = waiters.filter(({ done }) => !done());
    for (const waiter of waiters) if (!this.#waiters.includes(waiter)) waiter.resolve();
  }
}
