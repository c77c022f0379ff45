/** A whole NBD server in one process: front and sessions, as the daemon has them with `--workers 0`. */
import { clientStreams } from '../../src/daemon/streams.ts';
import type { BufferPool } from '../../src/nbd/buffer-pool.ts';
import type { StreamOpener } from '../../src/nbd/byte-stream.ts';
import type { ConnectionInfo } from '../../src/nbd/connection.ts';
import type { NbdAddress } from '../../src/nbd/listener.ts';
import { DEFAULT_LIMITS, NbdServer, type NbdServerLimits, SILENT } from '../../src/nbd/server.ts';
import { NbdSessions } from '../../src/nbd/sessions.ts';
import type { TestDirectory } from './exports.ts';

export interface LocalServerOptions {
  readonly directory: TestDirectory;
  readonly limits?: Partial<NbdServerLimits>;
  readonly buffers?: BufferPool;
  /** Default: the daemon's. */
  readonly openStream?: StreamOpener;
}

export class LocalServer {
  readonly sessions: NbdSessions;
  readonly #front: NbdServer;

  constructor({ directory, limits = {}, buffers, openStream = clientStreams() }: LocalServerOptions) {
    this.sessions = new NbdSessions({
      limits: { ...DEFAULT_LIMITS, ...limits },
      log: SILENT,
      openStream,
      ...(buffers === undefined ? {} : { buffers }),
      onClosed: (connection) => {
        directory.closed(connection.export);
        this.#front.ended(connection.id);
      },
    });
    this.#front = new NbdServer({
      directory,
      limits,
      adopt: ({ id, peer, negotiated, socket }) => {
        const found = directory.export(negotiated.exportName);
        if (found === null) return Promise.resolve({ kind: 'unknown', text: 'it is gone' });
        directory.opened(found);
        this.sessions.adopt({ id, peer, export: found, negotiated }, socket);
        return Promise.resolve(null);
      },
    });
  }

  listen(address: NbdAddress): Promise<NbdAddress> {
    return this.#front.listen(address);
  }

  /** Oldest first. */
  connections(): readonly ConnectionInfo[] {
    const served = this.sessions.connections();
    const ids = new Set(served.map(({ id }) => id));
    const negotiating = this.#front
      .negotiations()
      .filter(({ id }) => !ids.has(id))
      .map(({ id, peer, closing }): ConnectionInfo => {
        const phase = closing ? ('closing' as const) : ('handshake' as const);
        const nothing = { exportName: null, readOnly: false, requestsInFlight: 0, bytesInFlight: 0, counters: null };
        return { id, peer, phase, ...nothing };
      });
    return [...served, ...negotiating].toSorted((a, b) => a.id - b.id);
  }

  disconnect(exportName: string): Promise<void> {
    return this.sessions.disconnect(({ name }) => name === exportName);
  }

  async close(): Promise<void> {
    await Promise.all([this.#front.close(), this.sessions.close()]);
    await this.#front.stopped();
  }
}
