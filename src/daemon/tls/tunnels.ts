/**
 * The tunnels of a process: TLS on sockets that negotiations hand over, in a process of its own (main.ts) or in the supervisor's
 * (`--workers 0`).
 *
 * Invariants
 *  - Each `secure` is answered once, by `secured` or `failed`, and `ended` follows once `secured` was told, when both of its sockets are closed.
 *  - A tunnel that failed or was cancelled has closed both.
 *  - `drain` waits until every tunnel has ended: where workers have let their clients go, at the latest after the drain timeout.
 */
import type { Socket } from 'node:net';
import type { TlsPeer } from '../../nbd/exports.ts';
import { TlsEndpoint } from './endpoint.ts';
import type { TlsMaterial } from './material.ts';
import { Tunnel } from './tunnel.ts';

/** What tunnels are started with; plain data. */
export interface TunnelSettings {
  readonly material: TlsMaterial;
  readonly handshakeTimeoutMs: number;
  readonly drainTimeoutMs: number;
  readonly logLevel: string;
  readonly logFormat: 'auto' | 'json' | 'text';
}

export interface TunnelEvents {
  secured(id: number, peer: TlsPeer): void;
  failed(id: number, reason: string): void;
  ended(id: number): void;
}

interface Pending {
  readonly client: Socket;
  readonly inner: Socket;
}

export class Tunnels {
  readonly #endpoint: TlsEndpoint;
  readonly #drainTimeoutMs: number;
  readonly #events: TunnelEvents;
  readonly #pending = new Map<number, Pending>();
  readonly #tunnels = new Map<number, Tunnel>();
  #onEmpty: (() => void) | null = null;

  constructor({ material, handshakeTimeoutMs, drainTimeoutMs }: TunnelSettings, events: TunnelEvents) {
    this.#endpoint = new TlsEndpoint(material, handshakeTimeoutMs);
    this.#drainTimeoutMs = drainTimeoutMs;
    this.#events = events;
  }

  configure({ material }: Pick<TunnelSettings, 'material'>): void {
    this.#endpoint.configure(material);
  }

  /** Tunnels, and handshakes under way. */
  get size(): number {
    return this.#pending.size + this.#tunnels.size;
  }

  /** Does TLS on `client`; `inner` gets the plain text. */
  secure(id: number, client: Socket, inner: Socket): void {
    const fail = (reason: string): void => {
      if (!this.#pending.delete(id)) return;
      client.destroy();
      inner.destroy();
      this.#events.failed(id, reason);
      this.#settle();
    };
    this.#pending.set(id, { client, inner });
    inner.once('close', () => fail('it was given up'));
    inner.on('error', () => undefined);
    this.#endpoint.secure(client, {
      failed: fail,
      secured: (stream, peer) => {
        if (!this.#pending.delete(id)) {
          stream.destroy();
          return;
        }
        const onClosed = (): void => {
          this.#tunnels.delete(id);
          this.#events.ended(id);
          this.#settle();
        };
        this.#tunnels.set(id, new Tunnel(stream, inner, { drainTimeoutMs: this.#drainTimeoutMs, onClosed }));
        this.#events.secured(id, peer);
      },
    });
  }

  /** Ends a handshake that nobody waits for any more. */
  cancel(id: number): void {
    const pending = this.#pending.get(id);
    pending?.client.destroy();
    pending?.inner.destroy();
    this.#tunnels.get(id)?.destroy();
  }

  /** Settles when there is no tunnel any more; `abandoned`: workers have let all clients go. */
  drain(abandoned: boolean): Promise<void> {
    for (const id of this.#pending.keys()) this.cancel(id);
    if (abandoned) for (const tunnel of this.#tunnels.values()) tunnel.expire();
    if (this.size === 0) return Promise.resolve();
    return new Promise((resolve) => (this.#onEmpty = resolve));
  }

  #settle(): void {
    if (this.size === 0) this.#onEmpty?.();
  }
}
