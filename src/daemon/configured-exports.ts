/**
 * The exports as configuration and their use make them: the default export, read-only ones, block sizes, how many clients one may have,
 * and one writer at a time. Before what each client may see at all (guarded-exports.ts).
 *
 * Invariants
 *  - Settings and use are looked at for every option, and once more when the client is taken: what it is shown is what it gets.
 *  - Who is refused because of others (they write, or are too many) still sees the export listed: it may have it later.
 *  - An export that one client identity at a time may write has at most one such identity, from its first connection that may write to the
 *    end of its last; connections that may only read hold nothing.
 */
import type { ClientIdentity, ExportDirectory, ExportRefusal, ExportView, ListedExport } from '../nbd/exports.ts';
import { comparableIdentity } from './client-identity.ts';
import { type ExportRules, exportRules, type ExportsSettings } from './export-settings.ts';

/** One connection that uses an export. */
export interface ExportUse {
  /** Who (`identityText`). */
  readonly identity: string;
  readonly writes: boolean;
}

export interface ConfiguredOptions {
  readonly directory: ExportDirectory;
  readonly settings: () => ExportsSettings;
  /** Connections that use the export of that name now. */
  readonly uses: (name: string) => Iterable<ExportUse>;
  /** Who has an export for himself; null: nobody. Absent: nobody ever. */
  readonly holder?: (name: string) => string | null;
}

export class ConfiguredExports implements ExportDirectory {
  readonly #options: ConfiguredOptions;

  constructor(options: ConfiguredOptions) {
    this.#options = options;
  }

  viewFor(client: ClientIdentity): ExportView {
    const { directory, settings } = this.#options;
    const view = directory.viewFor(client);
    const own = comparableIdentity(client);
    const named = (name: string): string | null => {
      if (name !== '') return name;
      const { defaultExport } = settings();
      if (defaultExport !== null) return defaultExport;
      const [only, ...more] = view.list();
      return more.length === 0 && only !== undefined ? only.name : null;
    };
    return {
      list: () => view.list().map((found) => configured(found, exportRules(settings(), found.name))),
      find: (asked) => {
        const name = named(asked);
        const found = name === null ? null : view.find(name);
        return found === null ? null : this.#shown(found, own);
      },
      explain: (asked) => {
        const name = named(asked);
        if (name === null) return noDefault(view.list().length);
        const found = view.find(name);
        return found === null ? view.explain(name) : this.#taken(found.name, own);
      },
      admit: (name) => this.#refusal(name),
    };
  }

  /** As the client gets it; null: somebody else writes it. */
  #shown(found: ListedExport, own: string | null): ListedExport | null {
    const rules = exportRules(this.#options.settings(), found.name);
    const shown = configured(found, rules);
    if (rules.besidesWriter === null || shown.readOnly || this.#otherWriter(found.name, own) === null) return shown;
    return rules.besidesWriter === 'refused' ? null : { ...shown, readOnly: true };
  }

  /** `own` null: nobody is the same client. */
  #otherWriter(name: string, own: string | null): string | null {
    for (const { identity, writes } of this.#options.uses(name)) if (writes && identity !== own) return identity;
    return null;
  }

  #taken(name: string, own: string | null): ExportRefusal {
    const writer = this.#otherWriter(name, own) ?? 'another client';
    return { kind: 'policy', text: `${name} is open to one writer at a time, which is ${writer}` };
  }

  /** Why no client more can be taken; null: one can. */
  #refusal(name: string): ExportRefusal | null {
    const holder = this.#options.holder?.(name);
    if (typeof holder === 'string') return { kind: 'policy', text: `${name} is in use by ${holder} alone` };
    const { maxConnections } = exportRules(this.#options.settings(), name);
    if (maxConnections === null) return null;
    const count = [...this.#options.uses(name)].length;
    if (count < maxConnections) return null;
    return { kind: 'policy', text: `${name} has ${count} connections, at most ${maxConnections} are allowed` };
  }
}

function noDefault(exports: number): ExportRefusal {
  const text =
    exports === 0
      ? 'there is no default export: no export is open to this client'
      : `there is no default export, and there are ${exports} exports: name one as VG/LV`;
  return { kind: 'unknown', text };
}

function configured(found: ListedExport, rules: ExportRules): ListedExport {
  const { minimumBlockSize, maximumBlockSize } = rules;
  const preferred = rules.preferredBlockSize ?? found.preferredBlockSize;
  return {
    ...found,
    readOnly: found.readOnly || rules.readOnly,
    minimumBlockSize,
    preferredBlockSize: Math.min(Math.max(preferred, minimumBlockSize), powerUpTo(maximumBlockSize)),
    maximumBlockSize,
  };
}

/** The largest power of two that is no more. */
function powerUpTo(bytes: number): number {
  return 2 ** Math.floor(Math.log2(bytes));
}
