/** A control socket with a command runner behind it and live volumes that only note what they are asked. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Role } from '../../src/daemon/access.ts';
import { type CommandOutcome, CommandRunner } from '../../src/daemon/commands/runner.ts';
import { CommandResource, type CommandSurroundings } from '../../src/daemon/control/commands.ts';
import { Refusal } from '../../src/daemon/control/http.ts';
import type { ControlledDaemon } from '../../src/daemon/control/routes.ts';
import { ControlServer } from '../../src/daemon/control/server.ts';
import { createLog } from '../../src/daemon/log.ts';
import { identityAt } from '../../src/lvm/devices.ts';
import { CHECKOUT } from './shared.ts';
import { type LiveStatus, type LiveVolumes } from '../../src/lvm/live.ts';

/** Notes every call; `refuse` may throw in its place. */
export class NotingLive implements LiveVolumes {
  readonly present: boolean = true;
  readonly calls: { readonly method: string; readonly argument: unknown }[] = [];
  readonly statuses: Map<string, LiveStatus> = new Map();
  readonly identities: ReadonlySet<string>;
  /** Called with every method before it answers. */
  before: (method: string, argument: unknown) => void | Promise<void> = () => undefined;

  constructor(identities: Iterable<string> = []) {
    this.identities = new Set(identities);
  }

  async #note<Result>(method: string, argument: unknown, result: Result): Promise<Result> {
    this.calls.push({ method, argument });
    await this.before(method, argument);
    return result;
  }

  readonly holds: LiveVolumes['holds'] = (identity) => Promise.resolve(this.identities.has(identity));
  readonly prepare: LiveVolumes['prepare'] = (change) => this.#note('prepare', change, undefined);
  readonly committed: LiveVolumes['committed'] = (change) => this.#note('committed', change, []);
  readonly abandoned: LiveVolumes['abandoned'] = (change) => this.#note('abandoned', change, undefined);
  readonly activate: LiveVolumes['activate'] = (activation) => this.#note('activate', activation, []);
  readonly status: LiveVolumes['status'] = () => this.#note('status', undefined, this.statuses);
  readonly moveStatus: LiveVolumes['moveStatus'] = () => Promise.resolve(null);
  readonly flushLost: LiveVolumes['flushLost'] = (identity) => this.#note('flushLost', identity, undefined);
  readonly rescan: LiveVolumes['rescan'] = () => this.#note('rescan', undefined, undefined);
}

export interface ControlStand extends AsyncDisposable {
  readonly socket: string;
  readonly live: NotingLive;
  readonly runner: CommandRunner;
  readonly outcomes: CommandOutcome[];
  readonly refusals: (readonly string[])[];
  /** What was logged as an error. */
  readonly errors: readonly unknown[];
  /** What peers may do. */
  role: Role | null;
}

/** A control socket of a daemon that holds `devices`; `fake` takes the place of its runner. */
export async function startControl(
  devices: readonly string[],
  fake?: CommandSurroundings['runner'],
): Promise<ControlStand> {
  const folder = await mkdtemp(join(tmpdir(), 'orion-control-'));
  const identities = new Set<string>();
  for (const path of devices) identities.add((await identityAt(path)) ?? '');
  const live = new NotingLive(identities);
  const log = createLog({ level: 'silent', format: 'json' });
  const errors: unknown[] = [];
  log.error = (...said: readonly unknown[]): void => void errors.push(said);
  const outcomes: CommandOutcome[] = [];
  const refusals: (readonly string[])[] = [];
  const runner = new CommandRunner({
    live,
    log,
    env: { NODE_COMPILE_CACHE: join(CHECKOUT, 'node_modules/.cache/compile'), ...process.env },
    finished(outcome) {
      outcomes.push(outcome);
      return Promise.resolve();
    },
  });
  const refused = (_peer: unknown, what: readonly string[], reason: string): void => {
    refusals.push([...what, reason]);
  };
  const commands = new CommandResource({
    runner: fake ?? runner,
    known: () => ({ identities, paths: new Set(devices) }),
    settings: () => ({ devices, configFile: null, controlPath: join(folder, 'control.sock') }),
    refused,
    begun: () => undefined,
  });
  const daemon: ControlledDaemon = {
    status: () => ({ state: 'serving' }),
    segments: () => null,
    hold() {
      throw new Refusal(404, 'NO_SUCH_RESOURCE', 'nobody is connected');
    },
    rescan: () => live.rescan(),
    metrics: () => '# no metrics\n',
    numbers: () => ({}),
    commands,
  };
  const stand = { role: 'administrator' as Role | null };
  const server = new ControlServer({ daemon, log, roleOf: () => stand.role, refused, requestMs: 1000 });
  const socket = join(folder, 'control.sock');
  await server.listen({ kind: 'unix', path: socket, mode: 0o600 });
  return Object.assign(stand, {
    socket,
    live,
    runner,
    outcomes,
    refusals,
    errors,
    async [Symbol.asyncDispose](): Promise<void> {
      await runner.close();
      await server.close();
      await rm(folder, { recursive: true, force: true });
    },
  });
}
