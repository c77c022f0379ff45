/**
 * GET /metrics on TCP, for a Prometheus that can't reach the control socket. There is nothing else, and whoever connects may
 * read: which address it listens on decides who that is.
 *
 * Invariant: a client that sends or takes nothing for IDLE_MS is let go; nobody sends a body.
 */
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { listeningFd } from '../nbd/socket-handle.ts';
import { DaemonError, reasonOf } from './errors.ts';
import type { Logger } from './log.ts';

const IDLE_MS = 10_000;
const MAX_CONNECTIONS = 64;

export interface MetricsPlace {
  readonly host: string;
  readonly port: number;
  /** The descriptor on which the process before has listened there. */
  readonly fd?: number;
}

export class MetricsServer {
  readonly #server: Server;
  readonly #log: Logger;

  constructor(text: () => Promise<string>, log: Logger) {
    this.#log = log;
    this.#server = createServer({ requestTimeout: IDLE_MS, headersTimeout: IDLE_MS }, (request, response) => {
      response.setHeader('Connection', 'close');
      const path = (request.url ?? '').split('?', 1)[0];
      if (path !== '/metrics') {
        response.writeHead(404, { 'Content-Type': 'text/plain' }).end('there is only /metrics\n');
      } else if (request.method !== 'GET' && request.method !== 'HEAD') {
        response.writeHead(405, { Allow: 'GET, HEAD' }).end();
      } else {
        text().then(
          (body) => {
            response.writeHead(200, { 'Content-Type': 'text/plain; version=0.0.4; charset=utf-8' }).end(body);
          },
          (err: unknown) => {
            log.error({ err }, 'the metrics could not be gathered');
            response.writeHead(500).end();
          },
        );
      }
    });
    this.#server.setTimeout(IDLE_MS);
    this.#server.maxConnections = MAX_CONNECTIONS;
  }

  /** Throws a DaemonError LISTEN_FAILED. */
  async listen({ host, port, fd }: MetricsPlace): Promise<void> {
    this.#server.listen(fd === undefined ? { host, port } : { fd });
    try {
      await once(this.#server, 'listening');
    } catch (error) {
      throw new DaemonError(
        { code: 'LISTEN_FAILED', reason: `metrics.listen tcp:${host}:${port}: ${reasonOf(error)}` },
        { cause: error },
      );
    }
    const address = this.#server.address();
    const bound = typeof address === 'object' && address !== null ? address.port : port;
    this.#log.info({ host, port: bound }, 'metrics on TCP');
  }

  /** The descriptor on which it listens; null: on none. */
  get fd(): number | null {
    return listeningFd(this.#server);
  }

  async close(): Promise<void> {
    if (!this.#server.listening) return;
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }
}
