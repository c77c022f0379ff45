/**
 * The daemon that is running, for commands that are about it and not about volumes: where its control socket is, what it answers.
 *
 * Invariant: a daemon that isn't there, or refuses, ends the command with its reason and exit code 5.
 */
import type { ControlClient } from '../daemon/client/control-client.ts';
import { findControlSocket, socketPlaces } from '../daemon/client/socket-path.ts';
import type { CommandContext } from './command.ts';
import { CommandError, EXIT } from './messages.ts';

/** A client of the daemon's control socket. Throws CommandError (5) if there is no socket. */
export async function runningDaemon(context: CommandContext): Promise<ControlClient> {
  const { env, cwd, uid, toml } = context;
  const around = { env, cwd, uid, config: toml?.config ?? null };
  const path = findControlSocket(around);
  if (path === null) {
    const places = socketPlaces(around);
    const where =
      places.length === 0 ? '$ORION_LVM_CONTROL is empty' : `there is no socket ${places.join(', and no ')}`;
    // Whoever has said where it is knows how to say so.
    const out = env['ORION_LVM_CONTROL'] === undefined ? '; $ORION_LVM_CONTROL or lvm.toml can name another' : '';
    throw new CommandError(EXIT.failed, [`No orion-lvmd is running: ${where}${out}.`]);
  }
  const { ControlClient } = await import('../daemon/client/control-client.ts');
  return new ControlClient(path, context.signal);
}

/** The JSON of a resource. Throws CommandError (5). */
export async function ask(client: ControlClient, resource: string): Promise<unknown> {
  const { ControlClientError } = await import('../daemon/client/control-client.ts');
  try {
    return await client.request('GET', resource);
  } catch (error) {
    if (!(error instanceof ControlClientError)) throw error;
    throw new CommandError(EXIT.failed, [`${error.message}.`]);
  }
}
