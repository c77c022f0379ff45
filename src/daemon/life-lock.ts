/**
 * The lock by which a daemon knows that another one's workers are still there: its supervisor may have been killed while they
 * finish what their clients had sent. A file beside the control socket, locked by the supervisor; workers inherit the descriptor,
 * and with it the lock (flock belongs to the open file), so it is free when the last of them has ended.
 *
 * Invariants
 *  - Who has taken the lock is alone: no process of a former daemon writes to its devices any more. Who inherits it shares it, and is
 *    told when that is so (handover/).
 *  - The file stays: it has no contents, and removing it would let two daemons lock two files of one name.
 */
import { closeSync, constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { flock, Lock } from '../native/addon.ts';
import { answers } from '../nbd/listener.ts';
import { codeOf, DaemonError, reasonOf } from './errors.ts';
import type { Logger } from './log.ts';

const { O_WRONLY, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants;
/** The directory may be one where others make links and pipes: neither is followed, nor waited for. */
const LOCK_FLAGS = O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK;
const POLL_MS = 20;
/** Whoever has the lock for so long is no worker that finishes, but a daemon. */
const TIMEOUT_MS = 90_000;

export interface LifeLock {
  readonly fd: number;
  close(): Promise<void>;
}

/** The lock that the process before has left us, by its descriptor. */
export function inheritedLifeLock(fd: number): LifeLock {
  return {
    fd,
    close: () => {
      closeSync(fd);
      return Promise.resolve();
    },
  };
}

/** Waits for the lock and takes it. Throws a DaemonError. */
export async function holdLifeLock(controlPath: string, log: Logger): Promise<LifeLock> {
  const path = `${controlPath}.lock`;
  let file: FileHandle;
  try {
    file = await open(path, LOCK_FLAGS, 0o600);
  } catch (error) {
    throw new DaemonError(
      {
        code: 'LISTEN_FAILED',
        reason: `unix:${controlPath}: ${missingDirectory(error, controlPath) ?? reasonOf(error)}`,
      },
      { cause: error },
    );
  }
  const begun = performance.now();
  for (let told = false; flock(file.fd, Lock.exclusive | Lock.nonBlocking) !== 0; told = true) {
    const answered = await answers(controlPath);
    if (answered || performance.now() - begun > TIMEOUT_MS) {
      await file.close();
      const who = answered ? 'another daemon uses' : 'workers of another daemon, which do not end, use';
      throw new DaemonError({ code: 'LISTEN_FAILED', reason: `unix:${controlPath}: ${who} it` });
    }
    if (!told) log.warn({ lock: path }, 'waiting for the workers of a former daemon to end');
    await delay(POLL_MS);
  }
  return { fd: file.fd, close: () => file.close() };
}

function missingDirectory(error: unknown, path: string): string | null {
  return codeOf(error) === 'ENOENT' ? `there is no directory ${dirname(path)}` : null;
}
