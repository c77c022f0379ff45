/**
 * The clients of a process that are in the transmission phase, and their orderly end.
 *
 * Invariants
 *  - Every connection is here from its adoption until it holds nothing more, in the volume or in memory.
 *  - No timer per connection: one coarse one looks at all deadlines, and runs only while there are connections.
 *  - `close` and `disconnect` end each connection after its accepted commands are finished and answered; a client that
 *    does not take its answers is waited for at most `drainTimeoutMs`.
 *  - A connection that was released is told of once more, when it has ended here: `onClosed`.
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
  type Released,
} from './connection.ts';
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

/** Clients that go elsewhere, and stand still for it. */
interface Leave {
  readonly moving: Set<Connection>;
  readonly staying: Set<Connection>;
  /** To be tried again: those had something to send before they can be moved. */
  readonly again: (() => void)[];
}

/** How long a client may take for the rest of a payload that nobody wants, when it is to be moved. */
const REST_MS = 2000;

const MIN_TICK_MS = 10;
const MAX_TICK_MS = 250;
/** Of the memory budget, what is kept for reuse when nobody needs it. */
const IDLE_SHARE = 1 / 8;

export class NbdSessions {
  readonly #context: ConnectionContext;
  readonly #budget: PayloadBudget;
  readonly #connections = new Set<Connection>();
  readonly #leaves = new Set<Leave>();
  /** Since `quiesce`, until `goOn`. */
  #quiet = false;
  /** Those who wait for connections to end. */
  #waiters: { readonly done: () => boolean; readonly resolve: () => void }[] = [];
  #timer: NodeJS.Timeout | null = null;
  #closing = false;

  constructor(options: NbdSessionsOptions) {
    const { limits, log } = options;
    this.#budget = new PayloadBudget(limits.maxBytes);
    this.#context = {
      shared: {
        buffers: options.buffers ?? new BufferPool({ maxIdleBytes: Math.floor(limits.maxBytes * IDLE_SHARE) }),
        budget: this.#budget,
        turns: new TurnQueue(),
        requests: new RequestPool(),
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
    const connection = new Connection(start, socket, this.#context);
    this.#connections.add(connection);
    if (this.#closing) connection.drain();
    this.#timer ??= this.#startTimer();
  }

  /** All connections as they are now, without those that go on elsewhere. */
  connections(): readonly ConnectionInfo[] {
    return [...this.#connections].filter(({ released }) => !released).map((connection) => connection.info());
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
   * Gives the clients that `isOne` names away, each as soon as what it has asked for is done: they read nothing meanwhile, and all others go
   * on. Settles when each is given, or has left, or leaves and needs its export no more, or after `workMs`: gives the numbers of those for
   * whom that took longer, who go on here. One that nobody can go on with, for it is in the middle of the payload of a refused command, has
   * some time to send the rest, and is let go then.
   */
  async give(
    isOne: (connection: Connection) => boolean,
    workMs: number,
    given: (id: number, released: Released) => void,
  ): Promise<readonly number[]> {
    const leave: Leave = { moving: new Set(), staying: new Set(), again: [] };
    const { moving, staying, again } = leave;
    const until = performance.now() + REST_MS;
    const move = (connection: Connection): void => {
      connection.standStill(() => {
        const released = connection.leaving ? null : connection.release();
        if (released !== null) {
          given(connection.id, released);
        } else if (!connection.leaving) {
          connection.goOn();
          if (performance.now() < until) {
            again.push(() => move(connection));
            return;
          }
          connection.drain();
        }
        moving.delete(connection);
        this.#wake();
      });
    };
    for (const connection of this.#connections) {
      if (connection.released || !isOne(connection)) continue;
      if (this.#quiet || this.#isMoving(connection)) {
        staying.add(connection);
        continue;
      }
      moving.add(connection);
      move(connection);
    }
    this.#leaves.add(leave);
    await atMost(
      this.#until(() => this.#areGone(moving)),
      workMs,
    );
    this.#leaves.delete(leave);
    this.#stay(leave);
    return [...staying].filter((each) => this.#connections.has(each)).map(({ id }) => id);
  }

  #isMoving(connection: Connection): boolean {
    for (const { moving } of this.#leaves) if (moving.has(connection)) return true;
    return false;
  }

  /** Whoever has not been given goes on here. */
  #stay({ moving, staying, again }: Leave): void {
    again.length = 0;
    for (const connection of moving) {
      staying.add(connection);
      connection.goOn();
    }
    moving.clear();
    this.#wake();
  }

  #areGone(connections: ReadonlySet<Connection>): boolean {
    for (const connection of connections) if (this.#connections.has(connection)) return false;
    return true;
  }

  /**
   * Stops reading from every client, and carries out and answers what was accepted. Settles when all is quiet, or after `workMs`: gives
   * how many commands are not finished. Who has not taken his answers goes on elsewhere with them; where nobody can tell what they are he
   * is let go after `answerMs`, if that is all.
   */
  async quiesce({ workMs, answerMs }: { readonly workMs: number; readonly answerMs: number }): Promise<number> {
    this.#quiet = true;
    for (const leave of this.#leaves) this.#stay(leave);
    const loud = new Set([...this.#connections].filter(({ released }) => !released));
    for (const connection of loud) {
      connection.standStill(() => {
        loud.delete(connection);
        this.#wake();
      });
    }
    const unfinished = (): number => {
      return [...loud].reduce((sum, connection) => sum + connection.info().requestsInFlight, 0);
    };
    const quiet = this.#until(() => this.#areGone(loud));
    await atMost(quiet, answerMs);
    if (unfinished() > 0) await atMost(quiet, workMs - answerMs);
    const count = unfinished();
    if (count === 0) for (const connection of loud) connection.destroy();
    loud.clear();
    this.#wake();
    return count;
  }

  /** Reads again, after a `quiesce`. */
  goOn(): void {
    this.#quiet = false;
    for (const connection of this.#connections) connection.goOn();
  }

  /**
   * The clients that can go on in another process, of which everything is quiet, with their sockets; the others are left.
   */
  *release(): Iterable<{ readonly id: number; readonly released: Released }> {
    for (const connection of this.#connections) {
      const released = connection.leaving ? null : connection.release();
      if (released !== null) yield { id: connection.id, released };
    }
  }

  /** Lets go of every client, and of who comes yet, and resolves when all are gone. */
  close(): Promise<void> {
    this.#closing = true;
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
      for (const { again } of this.#leaves) for (const retry of again.splice(0)) retry();
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
