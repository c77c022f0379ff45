/**
 * From [access] of lvm.toml to settings with numbers: names of users and groups looked up, networks parsed.
 *
 * Invariant: a name that this host doesn't know is a problem of the configuration, never a rule that silently matches nobody.
 */
import { NO_ROLES, type Principal, type RoleSettings } from './access.ts';
import type { Accounts } from './accounts.ts';
import type { AccessConfig } from './config-tables.ts';
import { type ClientMatcher, type ExportRule, parseNetwork } from './export-access.ts';

/** Who may do what, names resolved. */
export interface AccessSettings {
  readonly roles: RoleSettings;
  readonly exports: readonly ExportRule[];
}

export const NO_ACCESS: AccessSettings = { roles: NO_ROLES, exports: [] };

/** Adds what is wrong to `problems`, each a sentence. */
export function settleAccess(access: AccessConfig, accounts: () => Accounts, problems: string[]): AccessSettings {
  const resolver = new Resolver(accounts, problems);
  const principals = (key: keyof AccessConfig & `${string}s`, names: readonly string[]): readonly Principal[] =>
    names.flatMap((text) => resolver.principal(`access.${key}`, text) ?? []);
  return {
    roles: {
      observer: principals('observers', access.observers),
      operator: principals('operators', access.operators),
      administrator: principals('administrators', access.administrators),
    },
    exports: (access.exports ?? []).map((rule) => ({
      volumes: rule.volumes,
      allow: rule.allow.flatMap((text) => resolver.client('access.exports.allow', text) ?? []),
      allowReadOnly: rule.allow_read_only.flatMap(
        (text) => resolver.client('access.exports.allow_read_only', text) ?? [],
      ),
    })),
  };
}

class Resolver {
  readonly #accounts: () => Accounts;
  readonly #problems: string[];

  constructor(accounts: () => Accounts, problems: string[]) {
    this.#accounts = accounts;
    this.#problems = problems;
  }

  principal(key: string, text: string): Principal | null {
    const [kind = '', name = ''] = text.split(':', 2);
    const id = kind === 'user' ? this.#accounts().uid(name) : this.#accounts().gid(name);
    if (id === null) {
      this.#problems.push(`${key}: "${text}" is not allowed: this host has no ${kind} ${name}`);
      return null;
    }
    return kind === 'user' ? { kind, uid: id } : { kind: 'group', gid: id };
  }

  client(key: string, text: string): ClientMatcher | null {
    if (text === 'unix' || text === 'tcp' || text === 'tls' || text === 'any') return { kind: text };
    if (text.startsWith('dn:')) return { kind: 'dn', name: text.slice('dn:'.length) };
    if (text.startsWith('psk:')) return { kind: 'psk', name: text.slice('psk:'.length) };
    if (!text.startsWith('net:')) return this.principal(key, text);
    const networks = parseNetwork(text.slice('net:'.length));
    if (networks === null) {
      this.#problems.push(`${key}: "${text}" is not allowed: it must be "net:" with 10.0.0.0/8 or 2001:db8::/32`);
      return null;
    }
    return { kind: 'net', text, networks };
  }
}
