/**
 * What the supervisor asks of whoever does TLS for it, and what a process that does it says over the channel.
 *
 *     → start                        once; ← ready
 *     → inner, id + its socket       the socket that gets the plain text
 *     → client, id + its socket      the one on which the client begins TLS; ← taken, then ← secured | failed
 *     → cancel, id · configure · drain; ← drained
 *
 * Invariants
 *  - The channel's end is the process's end, after its tunnels'.
 *  - A process that ends takes its tunnels with it: their clients' connections break, and nobody else's.
 */
import type { Socket } from 'node:net';
import type { TlsPeer } from '../../nbd/exports.ts';
import type { TunnelSettings } from './tunnels.ts';

export type ToTunnels =
  | { readonly kind: 'start'; readonly index: number; readonly settings: TunnelSettings }
  | { readonly kind: 'configure'; readonly settings: TunnelSettings }
  | { readonly kind: 'inner'; readonly id: number }
  | { readonly kind: 'client'; readonly id: number }
  | { readonly kind: 'cancel'; readonly id: number }
  | { readonly kind: 'drain' };

export type FromTunnels =
  | { readonly kind: 'ready' }
  | { readonly kind: 'taken'; readonly id: number }
  | { readonly kind: 'secured'; readonly id: number; readonly peer: TlsPeer }
  | { readonly kind: 'failed'; readonly id: number; readonly reason: string }
  | { readonly kind: 'ended'; readonly id: number }
  | { readonly kind: 'drained' };

/** A process that does TLS, or the supervisor's own. */
export interface TunnelHost {
  readonly pid: number;
  /** Tunnels, and handshakes under way. */
  readonly size: number;
  /** Does TLS on `client`; `inner` gets the plain text. Both are the host's from now on. Rejects with the reason when that fails. */
  secure(id: number, client: Socket, inner: Socket): Promise<TlsPeer>;
  cancel(id: number): void;
  configure(settings: TunnelSettings): void;
  /** Settles when every tunnel has ended; then the process ends. */
  drain(): Promise<void>;
  /** Goes on without us, until its last client has gone. */
  leave(): void;
  kill(): void;
}
