/**
 * Those who negotiate, by who they are: a user of this machine, an address. When there are too many, the one who has the most
 * gives way with his oldest, so that nobody is kept out by others who connect and never choose.
 *
 * Invariants
 *  - There are never more than `most`, but for those who wait for their volume: these are not sent away.
 *  - Who has fewer than others is not sent away; an honest client chooses in milliseconds, and is rarely anybody's oldest.
 */
import type { ClientIdentity } from './exports.ts';

/** Somebody who negotiates. */
export interface Negotiator {
  readonly client: ClientIdentity;
  /** He has chosen. */
  readonly hasChosen: boolean;
  giveWay(): void;
}

export class Crowd<T extends Negotiator> {
  readonly #most: number;
  /** In the order in which they came. */
  readonly #byOrigin = new Map<string, Set<T>>();
  readonly #origins = new Map<T, string>();

  constructor(most: number) {
    this.#most = most;
  }

  /** Takes one more, for whom another may have to go. */
  add(newcomer: T): void {
    if (this.#origins.size >= this.#most) this.#oldestOfMost()?.giveWay();
    const origin = originOf(newcomer.client);
    this.#origins.set(newcomer, origin);
    const own = this.#byOrigin.get(origin);
    if (own === undefined) this.#byOrigin.set(origin, new Set([newcomer]));
    else own.add(newcomer);
  }

  delete(one: T): void {
    const origin = this.#origins.get(one);
    if (origin === undefined) return;
    this.#origins.delete(one);
    const own = this.#byOrigin.get(origin);
    own?.delete(one);
    if (own?.size === 0) this.#byOrigin.delete(origin);
  }

  #oldestOfMost(): T | null {
    let most: ReadonlySet<T> = new Set();
    for (const own of this.#byOrigin.values()) if (own.size > most.size) most = own;
    for (const one of most) if (!one.hasChosen) return one;
    return null;
  }
}

/** The same for all connections of one who may be one: ports are no difference. */
function originOf(client: ClientIdentity): string {
  if (client.kind === 'unix') return `uid ${client.uid}`;
  if (client.kind === 'vsock') return `vsock ${client.cid}`;
  return client.kind === 'tcp' ? client.address : client.kind;
}
