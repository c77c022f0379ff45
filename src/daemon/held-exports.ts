/**
 * Exports that one connection has for itself for as long as somebody asks for that over the control socket: a restore keeps others away
 * until it is done.
 *
 * Invariants
 *  - An export is held by one at a time, and only while no more than the holder's one connection uses it.
 *  - Connections that are there stay; no new one is admitted before the hold has ended, which it has when its holder is gone.
 */
import type { ExportUse } from './configured-exports.ts';
import { Refusal } from './control/http.ts';

export class HeldExports {
  readonly #uses: (name: string) => Iterable<ExportUse>;
  /** Who, by name. */
  readonly #holders = new Map<string, string>();

  /** `uses`: connections that use the export of that name now. */
  constructor(uses: (name: string) => Iterable<ExportUse>) {
    this.#uses = uses;
  }

  /** Holds an export that the caller has connected to; gives what ends that. Throws a Refusal. */
  hold(name: string, who: string): () => void {
    const holder = this.holder(name);
    if (holder !== null) throw new Refusal(409, 'IN_USE', `${name} is held by ${holder}`);
    const others = [...this.#uses(name)].length - 1;
    if (others < 0) throw new Refusal(404, 'NO_SUCH_RESOURCE', `nobody is connected to ${name}`);
    if (others > 0)
      throw new Refusal(409, 'IN_USE', `${others} ${others === 1 ? 'client has' : 'clients have'} it open`);
    this.#holders.set(name, who);
    return () => this.#holders.delete(name);
  }

  /** Null: nobody. */
  holder(name: string): string | null {
    return this.#holders.get(name) ?? null;
  }
}
