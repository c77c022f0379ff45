/** Daemons that hand over to their next process (SIGUSR2), which is nobody's child here: found by what it says of itself. */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { statusOf } from '../daemon/status-of.ts';
import { type RunningDaemon, waitFor } from './daemon.ts';

/** The process that serves now. */
export async function pidOf(daemon: Pick<RunningDaemon, 'socket'>): Promise<number> {
  return (await statusOf(daemon)).pid;
}

/** Has it replaced; resolves when the next process serves. */
export async function handOver(daemon: Pick<RunningDaemon, 'socket'>): Promise<void> {
  const before = await pidOf(daemon);
  process.kill(before, 'SIGUSR2');
  await waitFor('the next process', async () => (await pidOf(daemon)) !== before);
}

/** SIGTERM to whoever serves; waits until nobody does. */
export async function stopLast(daemon: Pick<RunningDaemon, 'socket'>): Promise<void> {
  const control = join(dirname(daemon.socket), 'control.sock');
  if (!existsSync(control)) return;
  process.kill(await pidOf(daemon), 'SIGTERM');
  await waitFor('the end of the last process', () => !existsSync(control));
}
