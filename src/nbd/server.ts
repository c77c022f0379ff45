/**
 * The NBD server's front: listeners, the negotiations that came through them, and their hand-over to whoever serves the
 * export that was chosen (sessions.ts, in this process or another).
 *
 * Invariants
 *  - Every connection counts against `maxConnections` from its accept until it was told that it has ended.
 *  - No timer per connection: one coarse one looks at all deadlines, and runs only while there are negotiations.
 *  - `close` ends every negotiation; it does not touch clients that were handed over.
 */
import { once } from 'node:events';
import type { Server, Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import type { NbdLog } from './connection.ts';
import { Crowd } from './crowd.ts';
import { NbdError } from './errors.ts';
import type { ClientIdentity, ExportDirectory } from './exports.ts';
import { Gate } from './gate.ts';
import { formatAddress, type NbdAddress, openListener, type OtherAddress } from './listener.ts';
import { type Adopt, Negotiation, type NegotiationContext, type NegotiationStart, type Secure } from './negotiation.ts';
import type { SessionLimits } from './sessions.ts';
import { listeningFd } from './socket-handle.ts';

export interface NbdServerLimits extends SessionLimits {
  /** Clients at once, on all listeners; more are closed at once. */
  readonly maxConnections: number;
  /** Clients that negotiate at once: beyond it the oldest of who has the most gives way (crowd.ts). */
  readonly maxHandshakes: number;
  readonly handshakeTimeoutMs: number;
}

export const DEFAULT_LIMITS: NbdServerLimits = {
  maxConnections: 1024,
  maxRequestsPerConnection: 256,
  maxBytesPerConnection: 64 * 2 ** 20,
  maxBytes: 512 * 2 ** 20,
  maxHandshakes: 256,
  handshakeTimeoutMs: 10_000,
  drainTimeoutMs: 10_000,
};

export interface NbdServerOptions {
  readonly directory: ExportDirectory;
  /** Takes clients that have chosen; `ended` is owed for each one that was taken. */
  readonly adopt: Adopt;
  /** Does TLS. Needed by listeners that offer it. */
  readonly secure?: Secure;
  readonly limits?: Partial<NbdServerLimits>;
  readonly log?: NbdLog;
  /** Who is behind a socket. Default: nobody knows. */
  readonly identify?: (socket: Socket, address: NbdAddress | OtherAddress) => ClientIdentity;
}

function nothing(): void {
  // The log of a server that was given none.
}
export const SILENT: NbdLog = { debug: nothing, info: nothing, warn: nothing };
const UNKNOWN: ClientIdentity = { kind: 'unknown' };
const MIN_TICK_MS = 10;
const MAX_TICK_MS = 250;
/** Between looks at negotiations that are waited for. */
const SETTLE_MS = 5;

/** What clients of a listener may, or must, do. */
export type ListenerTls = NegotiationStart['tls'];

function withoutTls(): ListenerTls {
  return 'off';
}

function noTls(): Promise<never> {
  return Promise.reject(new Error('nobody here does TLS'));
}

export class NbdServer {
  readonly #limits: NbdServerLimits;
  readonly #log: NbdLog;
  readonly #identify: (socket: Socket, address: NbdAddress | OtherAddress) => ClientIdentity;
  readonly #context: NegotiationContext;
  readonly #listeners: { readonly server: Server; readonly address: NbdAddress; readonly tls: ListenerTls }[] = [];
  /** Where clients of listeners are held while this process is replaced. */
  readonly gate: Gate<NbdAddress> = new Gate();
  readonly #negotiations = new Set<Negotiation>();
  readonly #crowd: Crowd<Negotiation>;
  readonly #adopted = new Set<number>();
  #onIdle: (() => void) | null = null;
  #onEmpty: PromiseWithResolvers<void> | null = null;
  #nextId = 1;
  #timer: NodeJS.Timeout | null = null;
  #closing: Promise<void> | null = null;

  constructor(options: NbdServerOptions) {
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#log = options.log ?? SILENT;
    this.#crowd = new Crowd(this.#limits.maxHandshakes);
    this.#identify = options.identify ?? ((): ClientIdentity => UNKNOWN);
    this.#context = {
      log: this.#log,
      handshakeTimeoutMs: this.#limits.handshakeTimeoutMs,
      drainTimeoutMs: this.#limits.drainTimeoutMs,
      viewFor: (client) => options.directory.viewFor(client),
      secure: options.secure ?? noTls,
      adopt: async (handover) => {
        this.#adopted.add(handover.id);
        try {
          const refusal = await options.adopt(handover);
          if (refusal !== null) this.#adopted.delete(handover.id);
          return refusal;
        } catch (error) {
          this.#adopted.delete(handover.id);
          throw error;
        }
      },
      onEnded: (negotiation) => this.#negotiated(negotiation),
    };
  }

  /**
   * Opens one more listener; `tls` is what its clients may, or must, do, decided when it is known what it is bound to. Returns its
   * address as it was bound. Throws an NbdError.
   */
  async listen(address: NbdAddress, tls: (bound: NbdAddress) => ListenerTls = withoutTls): Promise<NbdAddress> {
    const name = formatAddress(address);
    if (this.#closing !== null) throw new NbdError('CLOSED', name, 'the server is closing');
    const listener = await openListener(
      address,
      (socket, at) => this.gate.pass(socket, at, (accepted) => this.accept(accepted, at, tls(at))),
      (error) => this.#log.warn({ address: name, error: error.message }, 'a connection could not be accepted'),
    );
    this.#listeners.push({ ...listener, tls: tls(listener.address) });
    this.#log.info({ address: formatAddress(listener.address) }, 'listening');
    return listener.address;
  }

  /** Clients, negotiating or handed over and not ended. */
  get connections(): number {
    return [...this.#negotiations].filter(({ id }) => !this.#adopted.has(id)).length + this.#adopted.size;
  }

  /** Clients that negotiate. */
  negotiations(): readonly Negotiation[] {
    return [...this.#negotiations];
  }

  /** The listeners' descriptors, in the order in which they were opened. */
  descriptors(): readonly (number | null)[] {
    return this.#listeners.map(({ server }) => listeningFd(server));
  }

  /** Every later connection gets a number from this one on. */
  get nextId(): number {
    return this.#nextId;
  }

  /** Goes on where the process that we follow has stopped: with these clients, which it had handed over, and numbers from `nextId`. */
  follow(ids: readonly number[], nextId: number): void {
    for (const id of ids) this.#adopted.add(id);
    this.#nextId = Math.max(this.#nextId, nextId);
  }

  /** Serves a client that the process that we follow has accepted at `address`, and nothing more. */
  acceptAt(socket: Socket, address: NbdAddress): void {
    const name = formatAddress(address);
    const listener = this.#listeners.find((each) => formatAddress(each.address) === name);
    if (listener === undefined) socket.destroy();
    else this.accept(socket, listener.address, listener.tls);
  }

  /** Waits for clients that negotiate to have chosen, but not for long. */
  async settled(timeoutMs: number): Promise<void> {
    const end = performance.now() + timeoutMs;
    while (this.#negotiations.size > 0 && performance.now() < end) await delay(SETTLE_MS);
  }

  /** Ends every negotiation; listeners go on. Resolves when all are gone. */
  async endNegotiations(): Promise<void> {
    for (const negotiation of this.#negotiations) negotiation.finish();
    if (this.#negotiations.size > 0) await new Promise<void>((resolve) => (this.#onIdle = resolve));
  }

  /** Settles when there is no client, or no client any more. */
  empty(): Promise<void> {
    if (this.connections === 0) return Promise.resolve();
    this.#onEmpty ??= Promise.withResolvers();
    return this.#onEmpty.promise;
  }

  #tellEmpty(): void {
    if (this.#onEmpty === null || this.connections > 0) return;
    this.#onEmpty.resolve();
    this.#onEmpty = null;
  }

  /** A client that was handed over has ended. */
  ended(id: number): void {
    this.#adopted.delete(id);
    this.#tellEmpty();
  }

  /** Stops listening, ends every negotiation, and resolves when all are gone. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const listenersClosed = this.#listeners.map(({ server }) => once(server.close(), 'close'));
    this.gate.drop();
    await this.endNegotiations();
    // Sockets that were handed over within this process are the listener's until they close.
    this.#stopped = Promise.all(listenersClosed);
  }

  /** Settles when the sockets of every client are closed; after `close`, and after those who were handed over were let go. */
  async stopped(): Promise<void> {
    await this.#stopped;
  }

  #stopped: Promise<unknown> = Promise.resolve();

  /** Serves a client on a socket that came by itself, or by a listener. */
  accept(socket: Socket, address: NbdAddress | OtherAddress, tls: ListenerTls = 'off'): void {
    const { remoteAddress = '', remotePort = 0 } = socket;
    const peer = formatAddress(
      address.kind === 'tcp' ? { kind: 'tcp', host: remoteAddress, port: remotePort } : address,
    );
    if (this.#closing !== null || this.connections >= this.#limits.maxConnections) {
      this.#log.warn({ peer, maxConnections: this.#limits.maxConnections }, 'too many connections: one was refused');
      socket.destroy();
      return;
    }
    const client = this.#identify(socket, address);
    const start: NegotiationStart = { id: this.#nextId++, peer, client, tls };
    const negotiation = new Negotiation(start, socket, this.#context);
    this.#crowd.add(negotiation);
    this.#negotiations.add(negotiation);
    this.#timer ??= this.#startTimer();
  }

  #startTimer(): NodeJS.Timeout {
    const shortest = Math.min(this.#limits.handshakeTimeoutMs, this.#limits.drainTimeoutMs);
    const everyMs = Math.min(Math.max(shortest / 4, MIN_TICK_MS), MAX_TICK_MS);
    return setInterval(() => {
      const now = performance.now();
      for (const negotiation of this.#negotiations) negotiation.tick(now);
    }, everyMs).unref();
  }

  #negotiated(negotiation: Negotiation): void {
    this.#negotiations.delete(negotiation);
    this.#crowd.delete(negotiation);
    this.#tellEmpty();
    if (this.#negotiations.size > 0) return;
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
    this.#onIdle?.();
  }
}
