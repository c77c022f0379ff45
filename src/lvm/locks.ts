/**
 * LVM2's own advisory locks, so that both can work on one host: flock on files in the locking directory
 * (`global/locking_dir`; facts: LVM2 lib/misc/lvm-flock.c, observed with 2.03.16).
 *
 *     P_global      orphan PVs and the set of VGs       V_<vg>   one volume group
 *     <file>:aux    the queue: who wants a lock takes it first; a writer keeps it while waiting, a reader lets it go
 *
 * Invariants
 *  - Locks are taken in one order: P_global first, then VGs by name. Who holds several took them in this order.
 *  - A lock file may be unlinked by its last user, so a lock counts only if the path still names the locked inode.
 *  - Waiting polls (flock in this process must not block the event loop); an abort ends it, and nothing stays locked.
 */
import assert from 'node:assert/strict';
import { constants } from 'node:fs';
import { type FileHandle, mkdir, open, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { flock, Lock } from '../native/addon.ts';
import { CommandError } from './edit/errors.ts';
import { systemWords } from './system-error.ts';

export type LockMode = 'read' | 'write';

/** `P_global`, or `V_` and a volume group's name. */
export interface LockRequest {
  readonly resource: string;
  readonly mode: LockMode;
}

export const GLOBAL_LOCK = 'P_global';
const VG_PREFIX = 'V_';

export function vgLock(vgName: string, mode: LockMode): LockRequest {
  return { resource: VG_PREFIX + vgName, mode };
}

export interface LockOptions {
  /** `global/locking_dir`. Made if it is missing. */
  readonly directory: string;
  /** `global/wait_for_locks`: false fails at once when somebody else holds a lock. */
  readonly wait: boolean;
  /** `global/prioritise_write_locks`. */
  readonly prioritiseWriters: boolean;
  /** `global/metadata_read_only`: no lock for writing is given. */
  readonly metadataReadOnly?: boolean;
  readonly signal?: AbortSignal;
}

const FIRST_PAUSE_MS = 2;
const LONGEST_PAUSE_MS = 50;
const EWOULDBLOCK = 11;

interface LockedFile {
  readonly path: string;
  readonly handle: FileHandle;
}

interface Held extends LockedFile {
  readonly resource: string;
}

/** Locks held by a command; released together, last first. */
export class HeldLocks {
  readonly #held: Held[] = [];

  /** Takes all `requests` in LVM2's order; on failure none stays. No options: there is nothing to take. Throws CommandError. */
  static async take(requests: readonly LockRequest[], options: LockOptions | null): Promise<HeldLocks> {
    const locks = new HeldLocks();
    if (options === null) return locks;
    try {
      await makeDirectory(options.directory);
      for (const request of inOrder(requests)) await locks.#take(request, options);
    } catch (error) {
      await locks.release();
      throw error;
    }
    return locks;
  }

  /** Takes one more, which must come later in the order than those held. Throws CommandError. */
  async add(request: LockRequest, options: LockOptions): Promise<void> {
    const last = this.#held.at(-1)?.resource;
    assert(last === undefined || rank(last) < rank(request.resource), `lock ${request.resource} after ${last}`);
    await this.#take(request, options);
  }

  /** Lets one lock go before the others; false: it is not held. */
  async letGo(resource: string): Promise<boolean> {
    const index = this.#held.findIndex((held) => held.resource === resource);
    const [held] = index < 0 ? [] : this.#held.splice(index, 1);
    if (held === undefined) return false;
    await unlockFile(held);
    return true;
  }

  /** Takes a lock again that was let go. It may be out of order by now, so nobody is waited for. Throws CommandError. */
  async retake(request: LockRequest, options: LockOptions): Promise<void> {
    const others = this.#held.splice(0);
    try {
      await this.#take(request, { ...options, wait: false });
    } finally {
      this.#held.push(...others);
    }
  }

  async release(): Promise<void> {
    for (let held = this.#held.pop(); held !== undefined; held = this.#held.pop()) await unlockFile(held);
  }

  async #take(request: LockRequest, options: LockOptions): Promise<void> {
    try {
      await this.#wait(request, options);
    } catch (error) {
      if (!(error instanceof CommandError) || !request.resource.startsWith(VG_PREFIX)) throw error;
      const name = request.resource.slice(VG_PREFIX.length);
      const lines = [...error.lines, `Can't get lock for ${name}.`, `Cannot process volume group ${name}`];
      throw new CommandError(lines, 5, { cause: error });
    }
  }

  async #wait({ resource, mode }: LockRequest, options: LockOptions): Promise<void> {
    if (mode === 'write' && options.metadataReadOnly === true) {
      throw new CommandError('Operation prohibited while global/metadata_read_only is set.');
    }
    const path = join(options.directory, resource);
    const aux = options.prioritiseWriters ? await lockFile(`${path}:aux`, 'write', options) : null;
    // As in LVM2, a writer keeps its place in the queue while it waits, a reader does not.
    if (aux !== null && mode === 'read') await unlockFile(aux);
    try {
      this.#held.push({ ...(await lockFile(path, mode, options)), resource });
    } finally {
      if (aux !== null && mode === 'write') await unlockFile(aux);
    }
  }
}

/** P_global, then the VGs by name; a resource asked for twice is taken once, for writing if either wants that. */
function inOrder(requests: readonly LockRequest[]): readonly LockRequest[] {
  const modes = new Map<string, LockMode>();
  for (const { resource, mode } of requests) {
    if (modes.get(resource) !== 'write') modes.set(resource, mode);
  }
  return [...modes]
    .map(([resource, mode]) => ({ resource, mode }))
    .sort((a, b) => (rank(a.resource) < rank(b.resource) ? -1 : 1));
}

function rank(resource: string): string {
  return resource === GLOBAL_LOCK ? '' : resource;
}

async function lockFile(path: string, mode: LockMode, options: LockOptions): Promise<LockedFile> {
  const operation = mode === 'write' ? Lock.exclusive : Lock.shared;
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
    const handle = await openLockFile(path);
    const errno = flock(handle.fd, operation | Lock.nonBlocking);
    if (errno === 0 && (await isStillNamed(path, handle))) return { path, handle };
    await handle.close();
    if (errno === 0) continue;
    if (errno !== EWOULDBLOCK) throw new CommandError(`${path}: locking failed: errno ${errno}`);
    if (!options.wait) throw new CommandError(`${path}: flock failed: Resource temporarily unavailable`);
    await pauseFor(pause, path, options.signal);
  }
}

/** Throws CommandError if the signal ends it. */
async function pauseFor(milliseconds: number, path: string, signal: AbortSignal | undefined): Promise<void> {
  try {
    await delay(milliseconds, undefined, signal === undefined ? {} : { signal });
  } catch (error) {
    throw new CommandError(['Giving up waiting for lock.', `${path}: flock failed: Interrupted`], 5, { cause: error });
  }
}

async function makeDirectory(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw new CommandError(`Can't make the directory for locks: ${systemWords(error)}`, 5, { cause: error });
  }
}

async function openLockFile(path: string): Promise<FileHandle> {
  try {
    return await open(path, constants.O_CREAT | constants.O_APPEND | constants.O_RDWR, 0o777);
  } catch (error) {
    throw new CommandError(`${path}: open failed: ${systemWords(error)}`, 5, { cause: error });
  }
}

async function isStillNamed(path: string, handle: FileHandle): Promise<boolean> {
  const locked = await handle.stat();
  try {
    const named = await stat(path);
    return named.ino === locked.ino && named.dev === locked.dev;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}

/** Unlinks the file if nobody else uses it, then lets it go. */
async function unlockFile({ path, handle }: LockedFile): Promise<void> {
  try {
    const alone = flock(handle.fd, Lock.exclusive | Lock.nonBlocking) === 0;
    if (alone && (await isStillNamed(path, handle))) await unlink(path);
  } finally {
    await handle.close();
  }
}
