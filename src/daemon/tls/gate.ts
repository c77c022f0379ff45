/**
 * TLS for the supervisor: where negotiations take their sockets at STARTTLS, and get sockets with the plain text in return.
 *
 * A connection has two processes then: one that does TLS, for as long as it lives, and the worker that serves the volume, which
 * knows a socket like any other. So encryption takes time neither of the supervisor's loop nor of a worker's, and one that fails in
 * it takes no volume with it.
 *
 *     client ── tcp ── TLS process ── unix socket pair ── supervisor (negotiation), then worker (transmission)
 *
 * Invariants
 *  - Processes are started when a client wants TLS, at most `count`; one that has ended is started again by the next client.
 *  - A connection is with the process that has the fewest.
 *  - Whatever goes wrong with a client closes its sockets; the reason is the rejection's.
 */
import { Socket } from 'node:net';
import { socketPair } from '../../native/sockets.ts';
import type { Secured, Unsecured } from '../../nbd/negotiation.ts';
import type { Logger } from '../log.ts';
import { ForkedTunnels } from './forked.ts';
import type { TunnelHost } from './host.ts';
import { LocalTunnels } from './local.ts';
import type { TunnelSettings } from './tunnels.ts';

export interface TlsGateOptions {
  /** Null: no listener offers TLS. */
  readonly settings: TunnelSettings | null;
  /** Processes; 0: TLS is done in this one. */
  readonly count: number;
  readonly log: Logger;
}

export interface TlsProcessStatus {
  readonly pid: number;
  readonly connections: number;
}

/** A process's place: started, being started, or empty. */
interface Slot {
  host: TunnelHost | null;
  starting: Promise<TunnelHost> | null;
}

/** Of a failure the rejection tells. */
function ignored(): void {
  // Nobody else wants to know.
}

function load({ host, starting }: Slot): number {
  return host?.size ?? (starting === null ? 0 : 1);
}

export class TlsGate {
  readonly #log: Logger;
  readonly #count: number;
  readonly #slots: readonly Slot[];
  #settings: TunnelSettings | null;
  #closing = false;

  constructor({ settings, count, log }: TlsGateOptions) {
    this.#log = log;
    this.#count = count;
    this.#settings = settings;
    this.#slots = Array.from({ length: Math.max(count, 1) }, () => ({ host: null, starting: null }));
  }

  /** The processes that there are. */
  status(): readonly TlsProcessStatus[] {
    return this.#slots.flatMap(({ host }) => (host === null ? [] : [{ pid: host.pid, connections: host.size }]));
  }

  /** Does TLS with a client. Rejects with the reason why there is none, and its socket is closed then. */
  async secure({ id, socket, signal }: Unsecured): Promise<Secured> {
    let host: TunnelHost;
    try {
      host = await this.#host();
    } catch (error) {
      socket.destroy();
      throw error;
    }
    if (signal.aborted || socket.destroyed) {
      socket.destroy();
      throw new Error('the client has gone, or waited too long');
    }
    const [ours, theirs] = socketPair().map(
      (fd) => new Socket({ fd, allowHalfOpen: true, readable: true, writable: true, ...PAUSED }),
    ) as [Socket, Socket];
    const onAbort = (): void => host.cancel(id);
    signal.addEventListener('abort', onAbort, { once: true });
    ours.on('error', ignored);
    try {
      const tls = await host.secure(id, socket, theirs);
      ours.off('error', ignored);
      return { socket: ours, tls };
    } catch (error) {
      ours.destroy();
      throw signal.aborted ? new Error('it took too long, or the daemon is ending', { cause: error }) : error;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** What counts for clients that come from now on. */
  configure(settings: TunnelSettings | null): void {
    this.#settings = settings;
    for (const { host } of this.#slots) if (settings !== null) host?.configure(settings);
  }

  /** Ends when the last client has: workers have let them go. */
  async close(): Promise<void> {
    this.#closing = true;
    await Promise.allSettled(this.#slots.flatMap(({ starting }) => starting ?? []));
    await Promise.all(this.#slots.flatMap(({ host }) => host?.drain() ?? []));
  }

  /**
   * Leaves the processes to themselves, for another supervisor has their plain text now: each ends with its last client. What this process
   * does itself ends with it.
   */
  leave(): void {
    this.#closing = true;
    for (const { host } of this.#slots) host?.leave();
  }

  kill(): void {
    for (const { host } of this.#slots) host?.kill();
  }

  /** The process with the fewest connections; one that is not there yet counts as having none. */
  #host(): Promise<TunnelHost> {
    const slot = this.#slots.reduce((best, each) => (load(each) < load(best) ? each : best));
    if (slot.host !== null) return Promise.resolve(slot.host);
    slot.starting ??= this.#start(slot).finally(() => (slot.starting = null));
    return slot.starting;
  }

  async #start(slot: Slot): Promise<TunnelHost> {
    const settings = this.#settings;
    if (settings === null || this.#closing) throw new Error('TLS is not offered any more');
    const index = this.#slots.indexOf(slot);
    const host =
      this.#count === 0
        ? new LocalTunnels(settings)
        : await ForkedTunnels.start({ index, settings, gone: (reason) => this.#gone(slot, index, reason) });
    // What was changed while it started.
    if (this.#settings !== null && this.#settings !== settings) host.configure(this.#settings);
    slot.host = host;
    return host;
  }

  #gone(slot: Slot, index: number, reason: string): void {
    slot.host = null;
    if (this.#closing) return;
    this.#log.error({ tls: index, reason }, 'a process that does TLS has ended; the next client starts another');
  }
}

/** Nothing is read before somebody asks for it: the socket may go to another process. */
const PAUSED: object = { pauseOnCreate: true };
