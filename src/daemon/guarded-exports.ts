/**
 * The exports as each NBD client may see them: the directory of what is served, behind the rules of [access].
 *
 * Invariants
 *  - An export that a client may not open is not listed, and its name gives the refusal "policy" and who it is not open to.
 *  - Where the rules only allow reading, the client is shown a read-only export; whoever serves it refuses its writes.
 *  - Rules are looked at again for every option, so that a reload holds for those who negotiate; clients that have an export keep it.
 */
import type { ClientIdentity, ExportDirectory, ExportView, ListedExport } from '../nbd/exports.ts';
import { type ExportAccess, exportAccess, exportRefusal, type ExportRule, mayOpenOverTls } from './export-access.ts';

export interface GuardOptions {
  readonly directory: ExportDirectory;
  readonly rules: () => readonly ExportRule[];
  /** Told of a client that named an export which it may not open. */
  readonly refused?: (client: ClientIdentity, exportName: string, reason: string) => void;
}

export class GuardedExports implements ExportDirectory {
  readonly #options: GuardOptions;

  constructor(options: GuardOptions) {
    this.#options = options;
  }

  viewFor(client: ClientIdentity): ExportView {
    const { directory, rules, refused } = this.#options;
    const view = directory.viewFor(client);
    const access = (found: ListedExport): ExportAccess => exportAccess(rules(), found.name, client);
    return {
      list: () => view.list().flatMap((found) => shown(found, access(found)) ?? []),
      find(name) {
        const found = view.find(name);
        return found === null ? null : shown(found, access(found));
      },
      explain(name) {
        const found = view.find(name);
        if (found === null) return view.explain(name);
        const text = exportRefusal(found.name, client);
        if (mayOpenOverTls(rules(), found.name, client)) return { kind: 'tls', text };
        refused?.(client, found.name, text);
        return { kind: 'policy', text };
      },
    };
  }
}

function shown(found: ListedExport, access: ExportAccess): ListedExport | null {
  if (access === 'none') return null;
  return access === 'read' && !found.readOnly ? { ...found, readOnly: true } : found;
}
