/**
 * TLS in the supervisor's own process (`--workers 0`).
 *
 * Invariant: as host.ts says, without a process that could end.
 */
import type { Socket } from 'node:net';
import type { TlsPeer } from '../../nbd/exports.ts';
import { detachHandle, socketOf } from '../../nbd/socket-handle.ts';
import type { TunnelHost } from './host.ts';
import { Tunnels, type TunnelSettings } from './tunnels.ts';

export class LocalTunnels implements TunnelHost {
  readonly pid: number = process.pid;
  readonly #tunnels: Tunnels;
  readonly #pending = new Map<number, PromiseWithResolvers<TlsPeer>>();

  constructor(settings: TunnelSettings) {
    this.#tunnels = new Tunnels(settings, {
      secured: (id, peer) => this.#settle(id)?.resolve(peer),
      failed: (id, reason) => this.#settle(id)?.reject(new Error(reason)),
      ended: () => undefined,
    });
  }

  get size(): number {
    return this.#tunnels.size;
  }

  secure(id: number, client: Socket, inner: Socket): Promise<TlsPeer> {
    const handle = detachHandle(client);
    if (handle === null) {
      inner.destroy();
      return Promise.reject(new Error('the client has gone'));
    }
    const pending = Promise.withResolvers<TlsPeer>();
    this.#pending.set(id, pending);
    // TLS reads what is under a socket, and so needs one that was never paused.
    this.#tunnels.secure(id, socketOf(handle), inner);
    return pending.promise;
  }

  cancel(id: number): void {
    this.#tunnels.cancel(id);
  }

  configure(settings: TunnelSettings): void {
    this.#tunnels.configure(settings);
  }

  drain(): Promise<void> {
    return this.#tunnels.drain(true);
  }

  leave(): void {
    // It can't.
  }

  kill(): void {
    // It ends with the process.
  }

  #settle(id: number): PromiseWithResolvers<TlsPeer> | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    return pending;
  }
}
