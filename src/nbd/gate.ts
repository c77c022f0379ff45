/**
 * Between listeners and whoever serves their clients: while a daemon is replaced, clients that have just been accepted are held here,
 * and then go to the process that follows, or in again. Nobody is refused meanwhile.
 *
 * Invariants
 *  - Of a client that is held or diverted not a byte has been read or sent.
 *  - Each client goes one way, once.
 */
import type { Socket } from 'node:net';
import { closeHandle, detachHandle, socketOf } from './socket-handle.ts';

/** Takes a client as it was accepted, with the handle of its socket, to another process. */
export type Divert<Place> = (handle: object, place: Place) => void;

interface Held<Place> {
  readonly handle: object;
  readonly place: Place;
  readonly accept: (socket: Socket) => void;
}

export class Gate<Place> {
  #held: Held<Place>[] | null = null;
  #divert: Divert<Place> | null = null;

  /** To be called from a listener's event. `place`: where the client came to. */
  pass(socket: Socket, place: Place, accept: (socket: Socket) => void): void {
    if (this.#held === null && this.#divert === null) {
      accept(socket);
      return;
    }
    const handle = detachHandle(socket);
    if (handle === null) return;
    if (this.#divert !== null) this.#divert(handle, place);
    else this.#held?.push({ handle, place, accept });
  }

  /** From now on clients wait. */
  hold(): void {
    this.#held ??= [];
  }

  /** Those who wait, and all that come, go in. */
  open(): void {
    const held = this.#held ?? [];
    this.#held = null;
    for (const { handle, accept } of held) accept(socketOf(handle).resume());
  }

  /** Those who wait, and all that come, go another way. */
  divert(divert: Divert<Place>): void {
    const held = this.#held ?? [];
    this.#held = null;
    this.#divert = divert;
    for (const { handle, place } of held) divert(handle, place);
  }

  /** Those who wait are let go. */
  drop(): void {
    const held = this.#held ?? [];
    this.#held = null;
    for (const { handle } of held) closeHandle(handle);
  }
}
