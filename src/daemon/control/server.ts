/**
 * The control socket: HTTP with JSON on a unix socket, `curl --unix-socket PATH http://localhost/v1/status`.
 *
 * Invariants
 *  - Every peer is known by the kernel's word (SO_PEERCRED) before a byte of it is looked at; one that isn't is let go.
 *  - Every answer ends its connection; an error has `code` and `message`.
 *  - A client that sends or takes nothing for IDLE_MS is let go, and so is one whose request is not whole after REQUEST_MS, so that
 *    nobody holds the daemon up; only the stream of a command may be silent.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket, Server as SocketServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { Gate } from '../../nbd/gate.ts';
import { openListener, type NbdAddress } from '../../nbd/listener.ts';
import { listeningFd } from '../../nbd/socket-handle.ts';
import type { Role } from '../access.ts';
import type { Logger } from '../log.ts';
import { Refusal, sendRefusal } from './http.ts';
import { type Peer, peerOf } from './peer.ts';
import { type ControlledDaemon, permission, routeOf } from './routes.ts';

const IDLE_MS = 10_000;
const REQUEST_MS = 30_000;
/** Between looks at answers that are waited for. */
const ANSWERED_POLL_MS = 10;

export interface ControlOptions {
  readonly daemon: ControlledDaemon;
  readonly log: Logger;
  /** What a peer may do; null: nothing. */
  readonly roleOf: (peer: Peer) => Role | null;
  /** Told of every peer that may not do what it asked for. */
  readonly refused: (peer: Peer, what: readonly string[], reason: string) => void;
  /** How long a request may take to arrive; default REQUEST_MS. */
  readonly requestMs?: number;
}

export class ControlServer {
  readonly #options: ControlOptions;
  readonly #http: Server;
  readonly #peers = new WeakMap<Socket, Peer>();
  readonly #sockets = new Set<Socket>();
  /** Of sockets whose request has not arrived: the HTTP server's own does not run, as it does not listen itself. */
  readonly #deadlines = new WeakMap<Socket, NodeJS.Timeout>();
  readonly #listeners: SocketServer[] = [];
  /** Where peers are held while this process is replaced. */
  readonly gate: Gate<null> = new Gate();

  constructor(options: ControlOptions) {
    this.#options = options;
    this.#http = createServer((request, response) => void this.#answer(request, response));
  }

  /** Binds a socket; a stale one is replaced. Throws an NbdError. */
  async listen(address: NbdAddress): Promise<void> {
    const { log } = this.#options;
    const { server } = await openListener(
      address,
      (socket) => this.gate.pass(socket, null, (accepted) => this.accept(accepted)),
      (error) => log.warn({ error: error.message }, 'a control connection could not be accepted'),
    );
    this.#listeners.push(server);
  }

  /** The descriptor on which it listens; null: on none. */
  get fd(): number | null {
    const [listener] = this.#listeners;
    return listener === undefined ? null : listeningFd(listener);
  }

  /** Resolves when every peer that is there has its answer, or that long after. */
  async answered(timeoutMs: number): Promise<void> {
    const end = performance.now() + timeoutMs;
    while (this.#sockets.size > 0 && performance.now() < end) await delay(ANSWERED_POLL_MS);
  }

  /** Serves a peer who has connected, and said nothing yet. */
  accept(socket: Socket): void {
    this.#sockets.add(socket);
    const deadline = setTimeout(() => socket.destroy(), this.#options.requestMs ?? REQUEST_MS);
    this.#deadlines.set(socket, deadline);
    socket.once('close', () => {
      clearTimeout(deadline);
      this.#sockets.delete(socket);
    });
    // Until HTTP takes over, a peer that is gone is just gone.
    socket.once('error', () => socket.destroy());
    socket.setTimeout(IDLE_MS, () => socket.destroy());
    const peer = peerOf(socket);
    if (peer === null) {
      this.#options.log.warn('a control connection without an identity is let go');
      socket.destroy();
      return;
    }
    this.#peers.set(socket, peer);
    if (!socket.destroyed) this.#http.emit('connection', socket);
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const arrived = (): void => clearTimeout(this.#deadlines.get(request.socket));
    if (request.method === 'POST') request.once('end', arrived);
    else arrived();
    try {
      await this.#handle(request, response);
    } catch (error) {
      // A client that went away in the middle of its request is its own affair.
      if (!(error instanceof Refusal) && request.destroyed && !request.complete) return;
      if (!(error instanceof Refusal)) this.#options.log.error({ err: error, url: request.url }, 'a request failed');
      const refusal = error instanceof Refusal ? error : new Refusal(500, 'FAILED', messageOf(error));
      if (response.headersSent) response.destroy();
      else sendRefusal(response, refusal);
    }
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { daemon, roleOf, refused } = this.#options;
    const peer = this.#peers.get(request.socket);
    if (peer === undefined) throw new Refusal(403, 'FORBIDDEN', 'your identity is not known');
    const path = (request.url ?? '').split('?', 1)[0] ?? '';
    const { route, params } = routeOf(request.method ?? '', path);
    const role = roleOf(peer);
    const allowed = permission(route, role);
    if (!allowed.allowed) {
      refused(peer, [route.method, path], allowed.reason);
      throw new Refusal(403, 'FORBIDDEN', allowed.reason);
    }
    await route.handle({ request, response, peer, role, params }, daemon);
  }

  /** Stops accepting, and resolves when the last answer is out. */
  async close(): Promise<void> {
    const closing = this.#listeners.map((listener) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      listener.close(() => resolve());
      return promise;
    });
    this.gate.drop();
    for (const socket of this.#sockets) socket.destroySoon();
    await Promise.all(closing);
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
