/**
 * The clients of a process that are in the transmission phase, and their orderly end.
 *
 * Invariants
 *  - Every connection is here from its adoption until it holds nothing more, in the volume or in memory.
 *  - No timer per connection: one coarse one looks at all deadlines, and runs only while there are connections.
 *  - `close` and `disconnect` end each connection after its accepted commands are finished and answered; a client that
 *    does not take its answers is waited for at most `drainTimeoutMs`.
 */
import type { Socket } from 'node:net';
import { RequestPool } from '../dm/io.ts';
import { BufferPool } from './buffer-pool.ts';
import { openNodeStream, type StreamOpener } from './byte-stream.ts';
import {
  Connection,
  type ConnectionContext,
  type ConnectionInfo,
  type ConnectionStart,
  type NbdLog,
} from './connection.ts';
import { cacheScratch } from './executor.ts';
import type { NbdExport } from './exports.ts';
import { PayloadBudget } from './payload-budget.ts';
import { TurnQueue } from './turn-queue.ts';

export interface SessionLimits {
  /** Commands of one connection that are carried out at once. */
  readonly maxRequestsPerConnection: number;
  /** Bytes of payload and unsent replies of one connection. */
  readonly maxBytesPerConnection: number;
  /** The same of all connections together; besides, each may have a small request. */
  readonly maxBytes: number;
  /** How long a client that is let go may take for its last replies, all of them, after the volume's work is done. */
  readonly drainTimeoutMs: number;
}

export interface NbdSessionsOptions {
  readonly limits: SessionLimits;
  readonly log: NbdLog;
  /** Payload memory; default its own pool. */
  readonly buffers?: BufferPool;
  /** How sockets are read and written; default: by Node's streams. */
  readonly openStream?: StreamOpener;
  /** A connection has ended and holds nothing more. */
  readonly onClosed: (connection: Connection) => void;
}

const MIN_TICK_MS = 10;
const MAX_TICK_MS = 250;
/** Of the memory budget, what is kept for reuse when nobody needs it. */
const IDLE_SHARE = 1 / 8;

export class NbdSessions {
  readonly #context: ConnectionContext;
  readonly #budget: PayloadBudget;
  readonly #connections = new Set<Connection>();
  /** Those who wait for connections to end. */
  #waiters: { readonly done: () => boolean; readonly resolve: () => void }[] = [];
  #timer: NodeJS.Timeout | null = null;

  constructor(options: NbdSessionsOptions) {
    const { limits, log } = options;
    this.#budget = new PayloadBudget(limits.maxBytes);
    this.#context = {
      shared: {
        buffers: options.buffers ?? new BufferPool({ maxIdleBytes: Math.floor(limits.maxBytes * IDLE_SHARE) }),
        budget: this.#budget,
        turns: new TurnQueue(),
        requests: new RequestPool(),
        scratch: cacheScratch(),
        limits: { maxRequests: limits.maxRequestsPerConnection, maxBytes: limits.maxBytesPerConnection },
      },
      openStream: options.openStream ?? openNodeStream,
      log,
      drainTimeoutMs: limits.drainTimeoutMs,
      onClosed: (connection) => {
        this.#closed(connection);
        options.onClosed(connection);
      },
    };
  }

  /** Takes a client over, whose socket nobody else reads any more, and gives it the final reply of its handshake. */
  adopt(start: ConnectionStart, socket: Socket): void {
    this.#connections.add(new Connection(start, socket, this.#context));
    this.#timer ??= this.#startTimer();
  }

  /** All connections as they are now. */
  connections(): readonly ConnectionInfo[] {
    return [...this.#connections].map((connection) => connection.info());
  }

  /** Bytes of payload and unsent replies of all connections. */
  get payloadBytes(): number {
    return this.#budget.used;
  }

  /** Lets go of every client of the exports that `isOne` names; resolves when none of them holds anything of it. */
  disconnect(isOne: (export_: NbdExport) => boolean): Promise<void> {
    const concerned = [...this.#connections].filter((connection) => isOne(connection.export));
    for (const connection of concerned) connection.drain();
    return this.#until(() => concerned.every((connection) => !this.#connections.has(connection)));
  }

  /**
   * Stops reading from every client, and carries out and answers what was read. Settles when all is quiet, or after `workMs`: gives
   * how many commands are not finished. Clients that have not taken their answers after `answerMs` are let go, if that is all.
   */
  async quiesce({ workMs, answerMs }: { readonly workMs: number; readonly answerMs: number }): Promise<number> {
    const loud = new Set(this.#connections);
    for (const connection of loud) {
      connection.quiesce(() => {
        loud.delete(connection);
        this.#wake();
      });
    }
    const isQuiet = (): boolean => {
      for (const connection of loud) if (this.#connections.has(connection)) return false;
      return true;
    };
    const unfinished = (): number => {
      return [...loud].reduce((sum, connection) => sum + connection.info().requestsInFlight, 0);
    };
    const quiet = this.#until(isQuiet);
    await atMost(quiet, answerMs);
    if (unfinished() > 0) await atMost(quiet, workMs - answerMs);
    if (unfinished() === 0) for (const connection of loud) connection.destroy();
    return unfinished();
  }

  /** Reads again, after a `quiesce`. */
  goOn(): void {
    for (const connection of this.#connections) connection.goOn();
  }

  /**
   * The clients that can go on in another process, of which everything is quiet, with their sockets; the others are left. The caller
   * destroys each socket when it has given its handle away.
   */
  *release(): Iterable<{ readonly id: number; readonly socket: Socket; readonly leftover: Buffer }> {
    for (const connection of this.#connections) {
      const released = connection.leaving ? null : connection.release();
      if (released !== null) yield { id: connection.id, ...released };
    }
  }

  /** Lets go of every client, and resolves when all are gone. */
  close(): Promise<void> {
    for (const connection of this.#connections) connection.drain();
    return this.#until(() => this.#connections.size === 0);
  }

  #until(done: () => boolean): Promise<void> {
    if (done()) return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiters.push({ done, resolve });
    });
  }

  #startTimer(): NodeJS.Timeout {
    const everyMs = Math.min(Math.max(this.#context.drainTimeoutMs / 4, MIN_TICK_MS), MAX_TICK_MS);
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
    this.#wake();
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = waiters.filter(({ done }) => !done());
    for (const waiter of waiters) if (!this.#waiters.includes(waiter)) waiter.resolve();
  }
}

async function atMost(work: Promise<void>, milliseconds: number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, milliseconds);
  await Promise.race([work, promise]);
  clearTimeout(timer);
}
