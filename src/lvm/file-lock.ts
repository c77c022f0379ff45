/** A lock between processes on an open file, waited for without blocking this one. */
import { setTimeout as delay } from 'node:timers/promises';
import { flock, Lock } from '../native/addon.ts';

const POLL_MS = 5;

/** Does the work while no other process has the lock. Throws an error if it is not to be had for `timeoutMs`. */
export async function withFileLock<T>(fd: number, timeoutMs: number, work: () => Promise<T>): Promise<T> {
  const end = performance.now() + timeoutMs;
  while (flock(fd, Lock.exclusive | Lock.nonBlocking) !== 0) {
    if (performance.now() > end) throw new Error(`another process has had it locked for ${timeoutMs} ms`);
    await delay(POLL_MS);
  }
  try {
    return await work();
  } finally {
    flock(fd, Lock.unlock);
  }
}
