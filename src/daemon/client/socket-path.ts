/**
 * Where a daemon's control socket is, for those who want to talk to it: $ORION_LVM_CONTROL, else what the configuration says,
 * else the default run-time directory's: the user's own, then root's. Nothing is loaded for it: most commands ask only whether a file is there.
 *
 * Invariant: $ORION_LVM_CONTROL set but empty means no daemon.
 */
import { statSync } from 'node:fs';
import { isAbsolute, join, relative, resolve } from 'node:path';

/** The last lvm.toml of the search. */
export const SYSTEM_CONFIG = '/etc/orion-lvm/lvm.toml';

const DEFAULT_NAME = 'control.sock';
const ROOT_RUN_DIR = '/run/orion-lvm';
/** sockaddr_un's sun_path without its closing NUL. */
const MAX_PATH_BYTES = 107;

export interface SocketSurroundings {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  readonly uid: number;
  /** The keys of lvm.toml; null: there is no such file. */
  readonly config: { readonly control: string; readonly run_dir?: string | null | undefined } | null;
}

/** The path of a control socket that is there; null: none is. Whether somebody answers is not known yet. */
export function findControlSocket(around: SocketSurroundings): string | null {
  const path = socketPlaces(around).find((place) => isSocket(place));
  if (path === undefined) return null;
  if (Buffer.byteLength(path) <= MAX_PATH_BYTES) return path;
  const short = relative(process.cwd(), path);
  return Buffer.byteLength(short) <= MAX_PATH_BYTES ? short : null;
}

/** Where it may be, in the order of looking. */
export function socketPlaces(around: SocketSurroundings): readonly string[] {
  const places = [controlSocketPath(around), systemSocketPath(around)].filter((place) => place !== null);
  return [...new Set(places)];
}

/** Where it would be; null where there is no run-time directory. */
function controlSocketPath({ env, cwd, uid, config }: SocketSurroundings): string | null {
  const stated = env['ORION_LVM_CONTROL'];
  if (stated !== undefined) return stated === '' ? null : resolve(cwd, stated);
  const name = config?.control ?? DEFAULT_NAME;
  if (isAbsolute(name)) return name;
  const directory = config?.run_dir ?? runDirectory(env, uid);
  return directory === null ? null : join(directory, name);
}

/** That of root's daemon, for users who have none of their own; null where something says which one is meant. */
function systemSocketPath({ env, config }: SocketSurroundings): string | null {
  const name = config?.control ?? DEFAULT_NAME;
  if (env['ORION_LVM_CONTROL'] !== undefined || isAbsolute(name) || (config?.run_dir ?? null) !== null) return null;
  return join(ROOT_RUN_DIR, name);
}

function isSocket(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.isSocket() === true;
  } catch (error) {
    // In a directory that is closed to this user there is no daemon for him.
    if ((error as NodeJS.ErrnoException).code === 'EACCES') return false;
    throw error;
  }
}

function runDirectory(env: SocketSurroundings['env'], uid: number): string | null {
  if (uid === 0) return ROOT_RUN_DIR;
  const user = env['XDG_RUNTIME_DIR'] ?? '';
  return isAbsolute(user) ? join(user, 'orion-lvm') : null;
}
