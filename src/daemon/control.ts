/**
 * The control socket: HTTP with JSON on a unix socket, `curl --unix-socket PATH http://localhost/v1/status`.
 *
 * Invariants
 *  - Every answer is JSON and ends its connection; an error has `code` and `message`.
 *  - A client that sends or takes nothing for IDLE_MS is let go, so that nobody holds the daemon up.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket, Server as SocketServer } from 'node:net';
import { openListener } from '../nbd/listener.ts';
import type { Logger } from './log.ts';

const IDLE_MS = 10_000;

export interface ControlOptions {
  readonly path: string;
  /** A file descriptor on which somebody listens for us, in the place of the path; null: none. */
  readonly inherited: number | null;
  /** Permission bits. */
  readonly mode: number;
  readonly status: () => unknown;
  readonly log: Logger;
}

export class ControlServer {
  readonly #options: ControlOptions;
  readonly #http: Server;
  readonly #sockets = new Set<Socket>();
  #listener: SocketServer | null = null;

  constructor(options: ControlOptions) {
    this.#options = options;
    this.#http = createServer((request, response) => {
      answer(request, response, options.status);
    });
  }

  /** Binds the socket; a stale one is replaced. Throws an NbdError. */
  async listen(): Promise<void> {
    const { path, inherited, mode, log } = this.#options;
    const { server } = await openListener(
      inherited === null ? { kind: 'unix', path, mode } : { kind: 'inherited', fd: inherited },
      (socket) => this.#accept(socket),
      (error) => log.warn({ path, error: error.message }, 'a control connection could not be accepted'),
    );
    this.#listener = server;
  }

  #accept(socket: Socket): void {
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    socket.setTimeout(IDLE_MS, () => socket.destroy());
    this.#http.emit('connection', socket);
  }

  /** Stops accepting, and resolves when the last answer is out. */
  close(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    if (this.#listener === null) resolve();
    else this.#listener.close(() => resolve());
    for (const socket of this.#sockets) socket.destroySoon();
    return promise;
  }
}

function answer(request: IncomingMessage, response: ServerResponse, status: () => unknown): void {
  const path = (request.url ?? '').split('?', 1)[0];
  if (path !== '/v1/status') {
    send(response, 404, { code: 'NO_SUCH_RESOURCE', message: `there is no ${path}; try /v1/status` });
  } else if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.setHeader('Allow', 'GET, HEAD');
    send(response, 405, { code: 'BAD_METHOD', message: `${request.method} is not possible on ${path}; use GET` });
  } else {
    send(response, 200, status());
  }
}

function send(response: ServerResponse, statusCode: number, body: unknown): void {
  const text = `${JSON.stringify(body, null, 2)}\n`;
  response.writeHead(statusCode, {
    'Content-Type': 'application/json',
    'Content-Length': Buffer.byteLength(text),
    Connection: 'close',
  });
  response.end(text);
}
