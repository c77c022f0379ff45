/**
 * The control socket with everything behind it, put together for the composition root: server, resources, command runner.
 *
 * Invariant: commands end before the socket does, so that each caller is told what became of his.
 */
import { roleOf } from '../access.ts';
import type { OwnRunner } from '../commands/own.ts';
import { CommandRunner, type RunnerOptions } from '../commands/runner.ts';
import type { Settings } from '../config.ts';
import type { DeviceSpec } from '../worker/host.ts';
import { CommandResource, type CommandSurroundings } from './commands.ts';
import type { ControlledDaemon } from './routes.ts';
import type { Scan } from '../../lvm/model.ts';
import { MetadataRecovery } from '../recovery.ts';
import { ControlServer } from './server.ts';

/** Who watches what passes over the socket, and knows the numbers. */
export interface ControlObserver
  extends Pick<CommandSurroundings, 'begun' | 'refused'>, Pick<ControlledDaemon, 'metrics' | 'numbers'> {
  finished: NonNullable<RunnerOptions['finished']>;
}

export interface ControlParts extends Pick<RunnerOptions, 'live' | 'log'>, Pick<ControlledDaemon, 'status' | 'rescan'> {
  /** Those in force. */
  readonly settings: () => Settings;
  /** Every device that the daemon claims, or looks at: volumes of it may become active. */
  readonly devices: () => readonly Pick<DeviceSpec, 'identity' | 'path'>[];
  readonly observer: ControlObserver;
}

export interface OpenControl {
  /** Runs commands that the daemon itself begins. */
  readonly own: OwnRunner;
  /** Looks at what a scan found: damaged metadata is repaired by a command, if auto_recovery says so. */
  scanned(scan: Scan): void;
  /** Ends every command at its next safe point; resolves when all have ended. */
  endCommands(): Promise<void>;
  /** Stops listening, and resolves when the last answer is out. */
  close(): Promise<void>;
}

/** Who asks for the commands that the daemon itself begins. */
const OURSELVES = {
  uid: process.geteuid?.() ?? -1,
  gid: process.getegid?.() ?? -1,
  pid: process.pid,
  groups: process.getgroups?.() ?? [],
};

/** Listens. Throws an NbdError. */
export async function openControl(parts: ControlParts): Promise<OpenControl> {
  const { settings, devices, observer, live, log, status, rescan } = parts;
  const runner = new CommandRunner({
    live,
    log,
    env: process.env,
    finished: (outcome) => observer.finished(outcome),
  });
  const commands = new CommandResource({
    runner,
    known() {
      const known = devices();
      return {
        identities: new Set(known.map(({ identity }) => identity)),
        paths: new Set(known.map(({ path }) => path)),
      };
    },
    settings,
    begun: (id, peer) => observer.begun(id, peer),
    refused: (peer, what, reason) => observer.refused(peer, what, reason),
  });
  const own: OwnRunner = {
    start: (request, listener) =>
      runner.start(request, (event) => {
        if (event.type === 'started') observer.begun(event.id, OURSELVES);
        listener(event);
      }),
  };
  const recovery = new MetadataRecovery({
    runner: own,
    own() {
      const { autoRecovery, configFile, devices: named } = settings();
      return autoRecovery && configFile !== null ? { configFile, devices: named } : null;
    },
    log,
  });
  const ownUid = process.geteuid?.() ?? -1;
  const server = new ControlServer({
    daemon: { status, rescan, commands, metrics: () => observer.metrics(), numbers: () => observer.numbers() },
    log,
    roleOf: (peer) => roleOf(peer, settings().access.roles, ownUid),
    refused: (peer, what, reason) => observer.refused(peer, what, reason),
  });
  const { inheritedControl, controlPath, socketMode, socketGroup } = settings();
  await server.listen(
    inheritedControl === null
      ? { kind: 'unix', path: controlPath, mode: socketMode, ...(socketGroup === null ? {} : { group: socketGroup }) }
      : { kind: 'inherited', fd: inheritedControl },
  );
  return {
    own,
    scanned: (scan) => recovery.look(scan),
    endCommands: () => runner.close(),
    close: () => server.close(),
  };
}
