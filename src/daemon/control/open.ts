/**
 * The control socket with everything behind it, put together for the composition root: server, resources, command runner.
 *
 * Invariant: commands end before the socket does, so that each caller is told what became of his.
 */
import type { Socket } from 'node:net';
import type { NbdAddress } from '../../nbd/listener.ts';
import { roleOf } from '../access.ts';
import type { OwnRunner } from '../commands/own.ts';
import { CommandRunner, type RunnerOptions } from '../commands/runner.ts';
import type { Settings } from '../config.ts';
import type { HeldExports } from '../held-exports.ts';
import type { DaemonVolumes } from '../live.ts';
import type { DeviceSpec } from '../worker/host.ts';
import { CommandResource, type CommandSurroundings } from './commands.ts';
import { Refusal } from './http.ts';
import type { ControlledDaemon } from './routes.ts';
import type { Scan } from '../../lvm/model.ts';
import { MetadataRecovery } from '../recovery.ts';
import { ControlServer } from './server.ts';

/** Who watches what passes over the socket, and knows the numbers. */
export interface ControlObserver
  extends Pick<CommandSurroundings, 'begun' | 'refused'>, Pick<ControlledDaemon, 'metrics' | 'numbers'> {
  finished: NonNullable<RunnerOptions['finished']>;
}

export interface ControlParts
  extends Pick<RunnerOptions, 'log'>, Pick<ControlledDaemon, 'status' | 'segments' | 'rescan'> {
  readonly held: Pick<HeldExports, 'hold' | 'running'>;
  readonly live: DaemonVolumes;
  /** Those in force. */
  readonly settings: () => Settings;
  /** Every device that the daemon claims, or looks at: volumes of it may become active. */
  readonly devices: () => readonly Pick<DeviceSpec, 'identity' | 'path'>[];
  readonly observer: ControlObserver;
  /** The descriptor on which the process before has listened; null: none has. */
  readonly fd: number | null;
}

export interface OpenControl {
  /** Where peers are held while this process is replaced. */
  readonly gate: ControlServer['gate'];
  /** The descriptor on which it listens. */
  readonly fd: number | null;
  /** Serves a peer who has connected to the process before, and said nothing yet. */
  accept(socket: Socket): void;
  /** Begins no more commands and holds, and waits that long for those that run. Gives the names of the ones that don't end. */
  holdCommands(timeoutMs: number): Promise<readonly string[]>;
  admitCommands(): void;
  /** Resolves when every peer has its answer, or that long after. */
  answered(timeoutMs: number): Promise<void>;
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
  const { settings, devices, observer, live, log, status, segments, held, rescan } = parts;
  const runner = new CommandRunner({
    live,
    log,
    env: process.env,
    finished: (outcome) => observer.finished(outcome),
    moveLeft: (pvmoveLv) => live.unseal(pvmoveLv),
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
    daemon: {
      status,
      segments,
      hold(name, who) {
        if (runner.held) throw new Refusal(503, 'BUSY', 'orion-lvmd hands over to the process that follows it');
        return held.hold(name, who);
      },
      rescan,
      commands,
      metrics: () => observer.metrics(),
      numbers: () => observer.numbers(),
    },
    log,
    roleOf: (peer) => roleOf(peer, settings().access.roles, ownUid),
    refused: (peer, what, reason) => observer.refused(peer, what, reason),
  });
  await server.listen(addressOf(settings(), parts.fd));
  return {
    gate: server.gate,
    get fd() {
      return server.fd;
    },
    accept: (socket) => server.accept(socket),
    holdCommands: (timeoutMs) => runner.hold(timeoutMs, () => held.running()),
    admitCommands: () => runner.goOn(),
    answered: (timeoutMs) => server.answered(timeoutMs),
    own,
    scanned: (scan) => recovery.look(scan),
    endCommands: () => runner.close(),
    close: () => server.close(),
  };
}

function addressOf(settings: Settings, fd: number | null): NbdAddress {
  const { inheritedControl, controlPath: path, socketMode: mode, socketGroup: group } = settings;
  if (inheritedControl !== null) return { kind: 'inherited', fd: inheritedControl };
  return { kind: 'unix', path, mode, ...(group === null ? {} : { group }), ...(fd === null ? {} : { fd }) };
}
