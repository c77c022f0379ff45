/**
 * Volumes that one connection has for itself for as long as somebody asks for that over the control socket: a restore keeps others away
 * until it is done.
 *
 * Invariants
 *  - A volume is held by one at a time, whatever it is called meanwhile, and only while no more than the holder's one connection uses it.
 *  - Connections that are there stay; no new one is admitted before the hold has ended, which it has when its holder is gone.
 */
import type { VolumeId } from '../lvm/live.ts';
import { Refusal } from './control/http.ts';
import type { VolumeClients } from './volume-clients.ts';

export interface Hold {
  readonly id: VolumeId;
  readonly release: () => void;
}

export class HeldExports {
  readonly #clients: Pick<VolumeClients, 'idOf' | 'uses'>;
  /** Who, and what it was called then. */
  readonly #holders = new Map<VolumeId, { readonly name: string; readonly who: string }>();

  constructor(clients: Pick<VolumeClients, 'idOf' | 'uses'>) {
    this.#clients = clients;
  }

  /** Holds the volume of an export that the caller has connected to. Throws a Refusal. */
  hold(name: string, who: string): Hold {
    const holder = this.holder(name);
    if (holder !== null) throw new Refusal(409, 'IN_USE', `${name} is held by ${holder}`);
    const id = this.#clients.idOf(name);
    const others = [...this.#clients.uses(name)].length - 1;
    if (id === null || others < 0) throw new Refusal(404, 'NO_SUCH_RESOURCE', `nobody is connected to ${name}`);
    if (others > 0)
      throw new Refusal(409, 'IN_USE', `${others} ${others === 1 ? 'client has' : 'clients have'} it open`);
    this.#holders.set(id, { name, who });
    return { id, release: () => void this.#holders.delete(id) };
  }

  /** Who has the volume that is called so now; null: nobody. */
  holder(name: string): string | null {
    const id = this.#clients.idOf(name);
    return id === null ? null : (this.#holders.get(id)?.who ?? null);
  }

  /** What goes on under the holds. */
  running(): readonly string[] {
    return [...this.#holders.values()].map(({ name }) => `restore of ${name}`);
  }
}
