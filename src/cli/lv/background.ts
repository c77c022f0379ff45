/**
 * Going on in the background with what a command began: in the daemon that runs it, or in a process of its own, which is the same
 * command again, told by its environment what is its own.
 *
 * Invariant: the process in the background never begins anything; without what it was told of it does nothing.
 */
import { spawn } from 'node:child_process';
import type { CommandContext } from '../command.ts';

/** Starts this command again with a variable; it outlives us. `advice`: what to run if that fails. */
export function goOnInBackground(
  { env, cwd, output }: CommandContext,
  variable: { readonly name: string; readonly value: string },
  advice: string,
): void {
  const environment = { ...env, [variable.name]: variable.value };
  const command = [...process.execArgv, ...process.argv.slice(1)];
  const child = spawn(process.execPath, command, { cwd, env: environment, detached: true, stdio: 'ignore' });
  child.on('error', (error) => output.error(`Failed to go on in the background: ${error.message}. Run ${advice}.`));
  child.unref();
}
