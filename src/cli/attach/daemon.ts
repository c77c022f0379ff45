/** What attach and detach ask of the running daemon: where it serves, and what it says of one volume. */
import type { CommandContext } from '../command.ts';
import { CommandError, EXIT } from '../messages.ts';
import { ask, runningDaemon } from '../running-daemon.ts';

/** The parts of `GET /v1/status` that matter here. */
interface Status {
  readonly listening: readonly string[];
  readonly exports: readonly {
    readonly name: string;
    /** VG-uuid, a space, LV-uuid. */
    readonly id: string;
    readonly state: string;
    readonly reason?: string;
    readonly sizeBytes?: number;
    readonly readOnly?: boolean;
  }[];
}

export interface ServedVolume {
  readonly exportName: string;
  /** "VG-uuid/LV-uuid" */
  readonly volume: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** As in --listen; a unix socket if there is one. */
  readonly server: string;
  readonly servers: readonly string[];
}

/** Asks the daemon for a volume. Throws CommandError where there is no daemon, or it does not serve the volume. */
export async function servedVolume(exportName: string, context: CommandContext): Promise<ServedVolume> {
  const status = (await ask(await runningDaemon(context), '/v1/status')) as Status;
  const volume = status.exports.find(({ name }) => name === exportName);
  if (volume === undefined) throw failed(`The daemon has no logical volume ${exportName}.`);
  if (volume.state !== 'active' || volume.sizeBytes === undefined) {
    throw failed(`Logical volume ${exportName} is not served: ${volume.reason ?? volume.state}.`);
  }
  // The kernel's client speaks no TLS, and nobody here reaches it over vsock.
  const open = status.listening.filter((address) => !/^vsock:|\?tls=required$/.test(address));
  const server = open.find((address) => address.startsWith('unix:')) ?? open[0];
  if (server === undefined) throw failed('The daemon listens nowhere for NBD clients without TLS.');
  const { id, sizeBytes, readOnly = false } = volume;
  return { exportName, volume: id.replace(' ', '/'), sizeBytes, readOnly, server, servers: status.listening };
}

function failed(message: string): CommandError {
  return new CommandError(EXIT.failed, [message]);
}
