/**
 * Commands that the daemon itself begins: on its own devices, with its own lvm.toml, as its own user.
 *
 * Invariant: they are commands like those of users: same locks, same archive, same audit record, and the volumes follow them.
 */
import type { CommandEvent, CommandRequest } from '../client/messages.ts';
import type { CommandRunner } from './runner.ts';

/** Where the daemon looks for devices (empty: everywhere), and its lvm.toml. */
export interface OwnSurroundings {
  readonly configFile: string | null;
  readonly devices: readonly string[];
}

export type OwnRunner = Pick<CommandRunner, 'start'>;

export function ownRequest(
  { configFile, devices }: OwnSurroundings,
  name: string,
  argv: readonly string[],
): CommandRequest {
  return {
    name,
    argv: [...argv],
    cwd: '/',
    env: {
      ...(devices.length === 0 ? {} : { ORION_LVM_DEVICES: devices.join(',') }),
      ...(configFile === null ? {} : { ORION_LVM_CONFIG: configFile }),
    },
    terminal: { isTTY: false, columns: 0 },
    devices: null,
    configFile,
    configDevices: [],
  };
}

export interface OwnOutcome {
  readonly code: number;
  /** What it printed as errors. */
  readonly said: readonly string[];
}

/** Runs one to its end; null: not now, as too many are waiting or the daemon is about to end. */
export function runOwn(runner: OwnRunner, request: CommandRequest): Promise<OwnOutcome | null> {
  const said: string[] = [];
  const { promise, resolve } = Promise.withResolvers<OwnOutcome | null>();
  const started = runner.start(request, (event: CommandEvent) => {
    if (event.type === 'stderr') said.push(event.text.trim());
    if (event.type === 'exit') resolve({ code: event.code, said });
  });
  if (started === null) resolve(null);
  return promise;
}
