/**
 * Who may do what over the control socket: the roles of its peers, and the commands that a role may run. Pure: settings, an
 * identity and a command line in, a decision with its reason out. (NBD's clients are export-access.ts's.)
 *
 *     observer        reports and status
 *     operator        also: create, extend, rename, snapshot, attach, activate
 *     administrator   everything
 *
 * Invariants
 *  - Without settings the daemon's own user and root are administrators, and nobody else is anything.
 *  - What is not known here is refused: a new command is an administrator's until it is listed.
 *  - Options that make the daemon's host read or write a file, or take other settings, are an administrator's, however they are
 *    abbreviated or bundled. Where a word may be an option or the value of one it counts as both, so that no order of words
 *    hides an option: at worst too much is refused.
 */

export const ROLES = ['observer', 'operator', 'administrator'] as const;
export type Role = (typeof ROLES)[number];

/** Whom the kernel says is at the other end of a unix socket. */
export interface Identity {
  readonly uid: number;
  readonly gid: number;
  /** Supplementary groups; `gid` may be among them. */
  readonly groups: readonly number[];
  readonly pid?: number;
}

/** Users and groups that a setting names, resolved. */
export type Principal =
  | { readonly kind: 'user'; readonly uid: number }
  | { readonly kind: 'group'; readonly gid: number };

/** Whom each role was given to. */
export type RoleSettings = Readonly<Record<Role, readonly Principal[]>>;

export const NO_ROLES: RoleSettings = { observer: [], operator: [], administrator: [] };

export type Permission = { readonly allowed: true } | { readonly allowed: false; readonly reason: string };

/** Whether an identity is a principal's. */
export function isPrincipal(principal: Principal, { uid, gid, groups }: Identity): boolean {
  if (principal.kind === 'user') return principal.uid === uid;
  return principal.gid === gid || groups.includes(principal.gid);
}

/** The strongest role of a peer; null: none. `ownUid` is the daemon's effective user id. */
export function roleOf(identity: Identity, roles: RoleSettings, ownUid: number): Role | null {
  if (identity.uid === 0 || identity.uid === ownUid) return 'administrator';
  return ROLES.findLast((role) => roles[role].some((principal) => isPrincipal(principal, identity))) ?? null;
}

/** Whether `role` reaches `needed`. */
export function hasRole(role: Role | null, needed: Role): boolean {
  return role !== null && ROLES.indexOf(role) >= ROLES.indexOf(needed);
}

/**
 * Whether a role may run a command: its name, and the words after it. `daemonDevices` are the paths that the daemon holds:
 * `--devices` with only those is anybody's.
 */
export function mayRun(
  role: Role | null,
  name: string,
  argv: readonly string[],
  daemonDevices: ReadonlySet<string> = new Set(),
): Permission {
  if (role === null) return { allowed: false, reason: `${name} is refused: your user has no role here` };
  const needed = roleFor(name, argv);
  const option = hostOption(name, argv, daemonDevices) ?? lockOption(needed, argv);
  if (option !== null && needed !== 'administrator' && role !== 'administrator') {
    return refusal(`${name} with --${option}`, role, 'administrator');
  }
  return hasRole(role, needed) ? { allowed: true } : refusal(name, role, needed);
}

/** Whether a command line is a report: an observer's. */
export function changesNothing(name: string, argv: readonly string[]): boolean {
  return roleFor(name, argv) === 'observer';
}

function refusal(what: string, role: Role, needed: Role): Permission {
  return { allowed: false, reason: `${what} needs the role ${needed}, yours is ${role}` };
}

const OBSERVER_COMMANDS: ReadonlySet<string> = new Set(
  (
    'lvs vgs pvs fullreport lvdisplay vgdisplay pvdisplay lvscan vgscan pvscan lvmdiskscan vgck lvmconfig dumpconfig ' +
    'status top help version formats segtypes systemid tags man completion'
  ).split(' '),
);

const OPERATOR_COMMANDS: ReadonlySet<string> = new Set(
  'lvcreate lvextend lvrename lvchange vgcfgbackup attach detach rescan'.split(' '),
);

/** Options that make a report a change, by command. */
const CHANGING_OPTIONS: Readonly<Record<string, readonly string[]>> = {
  pvscan: ['activate', 'cache', 'vgonline'],
  vgck: ['updatemetadata'],
};

/** Options that name files or settings of the daemon's host. */
const HOST_OPTIONS = ['config', 'file', 'profile', 'commandprofile', 'metadataprofile', 'devices', 'devicesfile'];

/** Commands in which -f is --file. */
const SHORT_FILE: ReadonlySet<string> = new Set(['vgcfgbackup', 'lvmconfig', 'dumpconfig']);

/** Options of vgchange that (de)activate, or change nothing. */
const ACTIVATING_OPTIONS = [
  'activate',
  'refresh',
  'ignoreactivationskip',
  'sysinit',
  'yes',
  'verbose',
  'quiet',
  'test',
];

/** The least role for a command line, files and settings apart. */
function roleFor(name: string, argv: readonly string[]): Role {
  if (OBSERVER_COMMANDS.has(name)) {
    const changing = CHANGING_OPTIONS[name] ?? [];
    return longOptions(argv).some((option) => isOneOf(changing, option)) ? 'administrator' : 'observer';
  }
  if (OPERATOR_COMMANDS.has(name)) return 'operator';
  if (name === 'lvresize') return onlyGrows(argv) ? 'operator' : 'administrator';
  if (name === 'vgchange') return onlyActivates(argv) ? 'operator' : 'administrator';
  return 'administrator';
}

/** Whether every size given to lvresize is an addition, and there is one. */
function onlyGrows(argv: readonly string[]): boolean {
  const long = longOptions(argv).filter((option) => isOneOf(['size', 'extents'], option));
  const short = shortWords(argv).flatMap(({ letters, next }) => {
    const at = letters.search(/[lL]/);
    return at === -1 ? [] : [{ value: letters.slice(at + 1) || next }];
  });
  const sizes = [...long, ...short];
  return sizes.length > 0 && sizes.every(({ value }) => value.startsWith('+'));
}

function onlyActivates(argv: readonly string[]): boolean {
  // What follows an "a" is its value.
  if (!shortWords(argv).every(({ letters }) => /^[Kvqty]*(a.*)?$/.test(letters))) return false;
  return longOptions(argv).every((option) => isOneOf(ACTIVATING_OPTIONS, option));
}

/** The first option of the line that only an administrator may use; null: there is none. */
function hostOption(name: string, argv: readonly string[], daemonDevices: ReadonlySet<string>): string | null {
  for (const option of longOptions(argv)) {
    const host = HOST_OPTIONS.find((known) => isOneOf([known], option));
    if (host === undefined) continue;
    const { value } = option;
    const own = option.name === 'devices' && value !== '' && value.split(',').every((path) => daemonDevices.has(path));
    if (!own) return host;
  }
  return SHORT_FILE.has(name) && shortWords(argv).some(({ letters }) => letters.includes('f')) ? 'file' : null;
}

/** --nolocking where it would let a change pass those of others by. */
function lockOption(needed: Role, argv: readonly string[]): string | null {
  if (needed === 'observer') return null;
  return longOptions(argv).some((option) => isOneOf(['nolocking'], option)) ? 'nolocking' : null;
}

interface LongOption {
  /** Without hyphens, as the commands' parser compares; possibly cut short. */
  readonly name: string;
  /** After "=", else the next word. */
  readonly value: string;
}

/** Every word that the parser may take for a long option. After "--" it would not, but that word may itself be a value. */
function longOptions(argv: readonly string[]): LongOption[] {
  return argv.flatMap((word, i) => {
    if (!word.startsWith('--') || word === '--') return [];
    const equals = word.indexOf('=');
    const name = (equals < 0 ? word : word.slice(0, equals)).replaceAll('-', '');
    return [{ name, value: equals < 0 ? (argv[i + 1] ?? '') : word.slice(equals + 1) }];
  });
}

/** Whether an option may be one of these, written out or abbreviated. */
function isOneOf(known: readonly string[], { name }: LongOption): boolean {
  return known.some((long) => long.startsWith(name));
}

/** The words of bundled short options, without their hyphen, and what follows each. */
function shortWords(argv: readonly string[]): { readonly letters: string; readonly next: string }[] {
  return argv.flatMap((word, i) => (/^-[^-]/.test(word) ? [{ letters: word.slice(1), next: argv[i + 1] ?? '' }] : []));
}
