/**
 * Users and groups of this host by name and by number: /etc/passwd and /etc/group, and where they don't have a name, what
 * `getent` (NSS: LDAP, sssd) says.
 *
 * Invariants
 *  - Files are read once per object: make a new one for every reading of the configuration.
 *  - A name that is all digits is a number, as for chown.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** A field list of passwd(5) or group(5). */
type Entry = readonly string[];

export interface AccountFiles {
  readonly passwd: string;
  readonly group: string;
}

const SYSTEM_FILES: AccountFiles = { passwd: '/etc/passwd', group: '/etc/group' };
const GETENT_MS = 5000;
const MAX_ID = 2 ** 32 - 2;

export class Accounts {
  readonly #users: readonly Entry[];
  readonly #groups: readonly Entry[];
  readonly #useGetent: boolean;

  constructor(files: AccountFiles = SYSTEM_FILES) {
    this.#users = entriesOf(files.passwd);
    this.#groups = entriesOf(files.group);
    this.#useGetent = files === SYSTEM_FILES;
  }

  /** Null: there is no such user. */
  uid(name: string): number | null {
    return numberOf(name) ?? idOf(this.#find(this.#users, 'passwd', name));
  }

  gid(name: string): number | null {
    return numberOf(name) ?? idOf(this.#find(this.#groups, 'group', name));
  }

  /** The name of a user; undefined where the files have none. */
  userName(uid: number): string | undefined {
    return this.#users.find((entry) => entry[2] === String(uid))?.[0];
  }

  /** Groups that the files count a user in; for a peer whose own are not known. */
  groupsOf(uid: number): readonly number[] {
    const user = this.#users.find((entry) => entry[2] === String(uid));
    const name = user?.[0];
    if (name === undefined) return [];
    const listed = this.#groups.filter((entry) => entry[3]?.split(',').includes(name) === true);
    return [user?.[3], ...listed.map((entry) => entry[2])].flatMap((id) => numberOf(id ?? '') ?? []);
  }

  #find(entries: readonly Entry[], database: 'passwd' | 'group', name: string): Entry | undefined {
    const known = entries.find((entry) => entry[0] === name);
    if (known !== undefined || !this.#useGetent || name.startsWith('-')) return known;
    try {
      const output = execFileSync('getent', [database, name], {
        timeout: GETENT_MS,
        stdio: ['ignore', 'pipe', 'ignore'],
      });
      return output.toString().trim().split(':');
    } catch {
      // Exit code 2: no such name; or there is no getent. Either way nobody is known by it.
      return undefined;
    }
  }
}

function entriesOf(path: string): Entry[] {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    // A system without the file has no accounts but numbers.
    return [];
  }
  return text
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => line.split(':'));
}

function idOf(entry: Entry | undefined): number | null {
  return numberOf(entry?.[2] ?? '');
}

function numberOf(text: string): number | null {
  const number = /^\d{1,10}$/.test(text) ? Number(text) : null;
  return number !== null && number <= MAX_ID ? number : null;
}
