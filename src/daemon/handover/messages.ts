/**
 * What a daemon and the one that follows it say to each other, over the channel between a process and its child:
 *
 *     daemon (predecessor)                         the one that follows (successor)
 *     → estate    descriptors, inherited           settings, workers
 *                                                  ← ready
 *     no command runs, none begins
 *     → look      what is served, and as what      scan, devices opened
 *                                                  ← looked
 *     clients are quiet, volumes are flushed and closed
 *     → client + socket, for each                  (kept)
 *     → take                                       volumes active, clients served
 *     → accepted + socket, for who came meanwhile  ← serving
 *
 * Invariants
 *  - Until `take` the daemon can go on as if nothing had been, and the successor changes nothing outside itself.
 *  - The two may be different versions: FORMAT counts the shapes of what is said, and another one is refused at the beginning.
 */
import type { VolumeId } from '../../lvm/live.ts';
import type { NbdAddress } from '../../nbd/listener.ts';
import type { DeviceClaim } from '../devices.ts';
import type { Decisions, Inventory } from '../inventory.ts';
import type { InheritedSocket } from '../systemd.ts';
import type { AdoptRequest } from '../worker/host.ts';

/** To be raised with every change of these messages, or of what is in them. */
export const FORMAT = 3;

/** Descriptors, by their numbers in the successor. */
export interface Estate {
  readonly format: number;
  readonly controlPath: string;
  /** The life lock; null: there is none. */
  readonly lock: number | null;
  readonly claims: readonly DeviceClaim[];
  /** By what the settings say of them: `formatListenUri`. */
  readonly listeners: readonly { readonly uri: string; readonly fd: number }[];
  /** Null: it is one of systemd's. */
  readonly control: number | null;
  readonly metrics: { readonly host: string; readonly port: number; readonly fd: number } | null;
  /** Sockets that systemd listened on first. */
  readonly systemd: readonly InheritedSocket[];
}

/** What can't be read from the devices. */
export interface Knowledge {
  readonly decisions: Decisions;
  /** Devices that commands added to those of the settings. */
  readonly added: readonly string[];
  readonly inventory: Inventory;
  readonly served: ReadonlyMap<VolumeId, { readonly id: VolumeId; readonly key: string; readonly readOnly: boolean }>;
}

/** What is known when everything was let go. */
export interface Taken {
  /** Date.now() when clients began to wait. */
  readonly quietSince: number;
  /** The next connection's number. */
  readonly nextId: number;
}

export type ToSuccessor =
  | { readonly kind: 'estate'; readonly estate: Estate }
  | { readonly kind: 'look'; readonly knowledge: Knowledge }
  | { readonly kind: 'take'; readonly taken: Taken }
  | WithHandle;

export type WithHandle =
  | { readonly kind: 'client'; readonly request: AdoptRequest }
  /** Who has connected, and not a byte more. `address`: of the NBD listener; null: the control socket. */
  | { readonly kind: 'accepted'; readonly address: NbdAddress | null };

export type FromSuccessor =
  | { readonly kind: 'ready' }
  /** What it would not serve that is served now. */
  | { readonly kind: 'looked'; readonly lost: readonly { readonly name: string; readonly reason: string }[] }
  | { readonly kind: 'serving' };
