/** What attach and detach ask of the running daemon: where it serves, and what it says of one volume. */
import { ControlClient, ControlClientError } from '../../daemon/client/control-client.ts';
import { controlSocketPath } from '../../daemon/client/socket-path.ts';
import type { CommandContext } from '../command.ts';
import { CommandError, EXIT } from '../messages.ts';

/** The parts of `GET /v1/status` that matter here. */
interface Status {
  readonly listening: readonly string[];
  readonly exports: readonly {
    readonly name: string;
    readonly state: string;
    readonly reason?: string;
    readonly sizeBytes?: number;
    readonly readOnly?: boolean;
  }[];
}

export interface ServedVolume {
  readonly exportName: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** As in --listen; a unix socket if there is one. */
  readonly server: string;
  readonly servers: readonly string[];
}

/** Asks the daemon for a volume. Throws CommandError where there is no daemon, or it does not serve the volume. */
export async function servedVolume(exportName: string, context: CommandContext): Promise<ServedVolume> {
  const status = await statusOf(context);
  const volume = status.exports.find(({ name }) => name === exportName);
  if (volume === undefined) throw failed(`The daemon has no logical volume ${exportName}.`);
  if (volume.state !== 'active' || volume.sizeBytes === undefined) {
    throw failed(`Logical volume ${exportName} is not served: ${volume.reason ?? volume.state}.`);
  }
  const server = status.listening.find((address) => address.startsWith('unix:')) ?? status.listening[0];
  if (server === undefined) throw failed('The daemon listens nowhere for NBD clients.');
  const { sizeBytes, readOnly = false } = volume;
  return { exportName, sizeBytes, readOnly, server, servers: status.listening };
}

async function statusOf(context: CommandContext): Promise<Status> {
  const path = controlSocketPath({ ...context, config: context.toml?.config ?? null });
  if (path === null) throw failed('There is no run-time directory in which a daemon could be looked for.');
  try {
    return (await new ControlClient(path).request('GET', '/v1/status')) as Status;
  } catch (error) {
    if (!(error instanceof ControlClientError)) throw error;
    throw failed(`${error.message}: volumes are attached through the running orion-lvmd.`);
  }
}

function failed(message: string): CommandError {
  return new CommandError(EXIT.failed, [message]);
}
