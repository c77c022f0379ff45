/**
 * Where NBD is served: the listeners of the settings, new ones and those that another process leaves.
 *
 * Invariants
 *  - An address that can't be had ends a start, but no hand-over: clients that were taken over are worth more than a new address.
 *  - Listeners that are the NBD server's are closed with it; the others here.
 */
import type { NbdServer } from '../nbd/server.ts';
import type { Settings } from './config.ts';
import { DaemonError } from './errors.ts';
import { listenerLeft } from './handover/follow.ts';
import type { Estate } from './handover/messages.ts';
import { formatListenUri, type ListenAddress } from './listen-uri.ts';
import { listenAt, listenOverVsock } from './listening.ts';
import type { Logger } from './log.ts';

export class Listeners {
  readonly #nbd: NbdServer;
  readonly #log: Logger;
  readonly #addresses: ListenAddress[] = [];
  readonly #places: { readonly uri: string; readonly fd: number }[] = [];
  readonly #own = new AsyncDisposableStack();

  constructor(nbd: NbdServer, log: Logger) {
    this.#nbd = nbd;
    this.#log = log;
  }

  /** Ports as they were bound. */
  get addresses(): readonly ListenAddress[] {
    return this.#addresses;
  }

  /** As the settings name them. */
  get places(): Estate['listeners'] {
    return this.#places;
  }

  /** Listens there, on what the predecessor left if it has. Throws a DaemonError. */
  async listen(address: ListenAddress, settings: Settings, estate: Estate | null): Promise<void> {
    try {
      const left = listenerLeft(estate, address);
      if (address.kind === 'vsock') {
        const listener = listenOverVsock(this.#nbd, address, settings, { fd: left, log: this.#log });
        this.#own.defer(() => listener.close());
        this.#addresses.push(listener.address);
        this.#places.push({ uri: formatListenUri(address), fd: listener.fd });
        return;
      }
      this.#addresses.push(await listenAt(this.#nbd, address, settings, left));
      this.#places.push({ uri: formatListenUri(address), fd: this.#nbd.descriptors().at(-1) ?? -1 });
    } catch (error) {
      if (estate === null || !(error instanceof DaemonError)) throw error;
      this.#log.error({ reason: error.message }, 'an address of the settings is left out');
    }
  }

  close(): Promise<void> {
    return this.#own.disposeAsync();
  }
}
