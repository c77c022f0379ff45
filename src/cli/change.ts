/**
 * What a command that changes something gives to lvm/command.ts: devices, locks, files, prompts and streams, from its options
 * and surroundings.
 *
 * Invariants
 *  - As root the locks and the archive are LVM2's own, so that both can be used on one host; without root they are the user's.
 *  - -An switches archive and backup off together, as in LVM2.
 */
import { existsSync } from 'node:fs';
import { hostname, machine, release, tmpdir, type, version } from 'node:os';
import { join } from 'node:path';
import type { ArchiveOptions } from '../lvm/archive.ts';
import type { ChangeContext } from '../lvm/command.ts';
import { EFFECTS } from '../lvm/effects.ts';
import { HINTS_DIRECTORY } from '../lvm/hints.ts';
import type { LockOptions } from '../lvm/locks.ts';
import type { CommandContext } from './command.ts';
import { ask, TERMINAL } from './prompt.ts';
import { commandDevices } from './scan.ts';
import { VERSION } from './version.ts';

/** LVM2's defaults. */
const RETAIN_MIN = 10;
const RETAIN_DAYS = 30;

/** Surroundings for changes to the user's devices, and to `added` ones (PVs named as arguments). */
export async function changeContext(context: CommandContext, added: readonly string[] = []): Promise<ChangeContext> {
  const { paths, systemId, extraSystemIds } = await commandDevices(context, added);
  const { options, output } = context;
  const yes = options.count('yes');
  return {
    devices: paths,
    host: { systemId, extraSystemIds, allowForeign: false, allowShared: false },
    locking: options.has('nolocking') ? null : lockOptions(context),
    writer: {
      commandLine: [context.name, ...context.argv].join(' '),
      generator: `Orion LVM version ${VERSION}`,
      hostName: hostname(),
      uname: `${type()} ${hostname()} ${release()} ${version()} ${machine()}`,
    },
    backup: archiveOptions(context),
    hintsDirectory: context.uid === 0 ? HINTS_DIRECTORY : null,
    effects: EFFECTS,
    test: options.has('test'),
    yes,
    force: options.count('force'),
    prompt(question) {
      const silent = options.count('quiet') > 1;
      return Promise.resolve(ask(question, { yes: yes > 0, silent, output, ...TERMINAL }));
    },
    out: (line) => output.print(line),
    err: (line) => output.error(line),
    now: () => Math.floor(Date.now() / 1000),
  };
}

function lockOptions(context: CommandContext): LockOptions {
  const directory = context.uid === 0 ? '/run/lock/lvm' : join(userDirectory(context), 'lock');
  return { directory, wait: true, prioritiseWriters: true };
}

/** Where a user without root keeps what lasts as long as the machine runs. */
function userDirectory({ env, uid }: CommandContext): string {
  const runtime = env['XDG_RUNTIME_DIR'] ?? '';
  return runtime === '' ? join(tmpdir(), `orion-lvm-${uid}`) : join(runtime, 'orion-lvm');
}

function archiveOptions(context: CommandContext): ArchiveOptions {
  const choice = context.options.value('autobackup');
  if (choice !== undefined && ['n', '0'].includes(choice.toLowerCase())) return { archive: null, backup: null };
  const root = stateDirectory(context);
  return {
    archive: { directory: join(root, 'archive'), retainMin: RETAIN_MIN, retainDays: RETAIN_DAYS },
    backup: { directory: join(root, 'backup') },
  };
}

function stateDirectory({ env, uid }: CommandContext): string {
  if (uid === 0) return existsSync('/etc/lvm') ? '/etc/lvm' : '/var/lib/orion-lvm';
  const state = env['XDG_STATE_HOME'] ?? '';
  return join(state === '' ? join(env['HOME'] ?? tmpdir(), '.local', 'state') : state, 'orion-lvm');
}
