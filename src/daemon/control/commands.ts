/**
 * Commands as a resource of the control socket: begun by a POST whose answer is the stream of what they say, answered and
 * cancelled by their id, listed while they run.
 *
 * Invariants
 *  - A command is run if it concerns this daemon's devices and its caller may run it; otherwise nothing of it is begun.
 *  - No answer tells who is no administrator whether a path of this host exists that is no device of ours.
 *  - Settings and files of the daemon's host that a caller's environment or lvm.toml name count as the options that name them.
 *  - Only who began a command, or an administrator, answers and cancels it. A caller that goes away cancels, and so does one
 *    that does not take what it is told: nobody makes the daemon keep more than MAX_UNTAKEN_BYTES for him.
 */
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { mayRun } from '../access.ts';
import type { CommandEvent, CommandRequest } from '../client/messages.ts';
import { PASSED_VARIABLES } from '../client/messages.ts';
import type { CommandRunner, RunningCommand } from '../commands/runner.ts';
import { Refusal } from './http.ts';
import type { Peer } from './peer.ts';
import type { Call } from './routes.ts';

const REQUEST = z.strictObject({
  name: z.string().regex(/^[a-z]+$/),
  argv: z.array(z.string()),
  // As the kernel sees it: what is written relative to it is compared with paths of devices.
  cwd: z.string().refine((path) => resolve(path) === path, 'must be an absolute path without "." and ".."'),
  env: z.partialRecord(z.enum(PASSED_VARIABLES), z.string()),
  terminal: z.strictObject({ isTTY: z.boolean(), columns: z.int().min(0) }),
  devices: z.array(z.string()).nullable(),
  configFile: z.string().nullable(),
  configDevices: z.array(z.string()),
});
const ANSWER = z.strictObject({ id: z.int(), line: z.string().nullable() });

/** What of the daemon commands depend on. */
export interface CommandSurroundings {
  readonly runner: Pick<CommandRunner, 'start'>;
  /** Devices that it holds or looks at: identities and paths. */
  known(): { readonly identities: ReadonlySet<string>; readonly paths: ReadonlySet<string> };
  /** Its configuration: where it looks for devices (empty: everywhere), and the file. */
  settings(): {
    readonly devices: readonly string[];
    readonly configFile: string | null;
    /** Of this very socket: commands about the daemon ask it. */
    readonly controlPath: string;
  };
  /** Told of a command that is refused to its caller. */
  refused(peer: Peer, what: readonly string[], reason: string): void;
  /** Told of a command that begins. */
  begun(id: string, peer: Peer): void;
}

interface Listed {
  readonly command: RunningCommand;
  readonly peer: Peer;
  readonly name: string;
  readonly argv: readonly string[];
  readonly startedAt: string;
}

export interface CommandStatus {
  readonly id: string;
  readonly name: string;
  readonly argv: readonly string[];
  readonly uid: number;
  readonly pid: number;
  readonly startedAt: string;
}

export class CommandResource {
  readonly #around: CommandSurroundings;
  readonly #listed = new Map<string, Listed>();

  constructor(around: CommandSurroundings) {
    this.#around = around;
  }

  list(): { readonly commands: readonly CommandStatus[] } {
    const commands = [...this.#listed.values()].map(({ command, peer, name, argv, startedAt }) => {
      return { id: command.id, name, argv, uid: peer.uid, pid: peer.pid, startedAt };
    });
    return { commands };
  }

  /** Begins a command and streams its events. Throws a Refusal. */
  run(call: Call, body: unknown): void {
    const request = checked(REQUEST, body) as CommandRequest;
    if (!this.#isOurs(request)) {
      throw new Refusal(409, 'NOT_OURS', 'the daemon has none of the devices that the command would use');
    }
    this.#authorise(call, request);
    const { response } = call;
    // Silence is usual while a command works.
    call.request.socket.setTimeout(0);
    let ended = false;
    const listener = (event: CommandEvent): void => {
      if (event.type === 'started') this.#begin(call, event.id);
      // Who does not read has no use for how far it was then.
      if (event.type === 'progress' && response.writableNeedDrain) return;
      response.write(`${JSON.stringify(event satisfies CommandEvent)}\n`);
      if (response.writableLength > MAX_UNTAKEN_BYTES) response.destroy();
      if (event.type !== 'exit') return;
      ended = true;
      this.#listed.delete(command?.id ?? '');
      call.request.socket.setTimeout(TAKING_MS, () => call.request.socket.destroy());
      response.end();
    };
    const user = call.role === 'administrator' ? null : call.peer.uid;
    const command = this.#around.runner.start(this.#completed(request, call.role), listener, user);
    if (command === null) throw new Refusal(503, 'BUSY', 'orion-lvmd runs too many commands, or is about to end');
    const { name, argv } = request;
    this.#listed.set(command.id, { command, peer: call.peer, name, argv, startedAt: new Date().toISOString() });
    response.once('close', () => {
      if (!ended) command.cancel();
    });
  }

  #begin({ response, peer }: Call, id: string): void {
    this.#around.begun(id, peer);
    response.writeHead(200, { 'Content-Type': 'application/x-ndjson', Connection: 'close' });
  }

  /** Throws a Refusal. */
  cancel(call: Call, id: string): void {
    this.#find(call, id, 'cancel').cancel();
  }

  /** Throws a Refusal. */
  answer(call: Call, id: string, body: unknown): void {
    this.#find(call, id, 'answer').answer(checked(ANSWER, body));
  }

  #find({ peer, role }: Call, id: string, what: 'cancel' | 'answer'): RunningCommand {
    const listed = this.#listed.get(id);
    if (listed === undefined) throw new Refusal(404, 'NO_SUCH_COMMAND', `no command ${id} is running`);
    if (listed.peer.uid === peer.uid || role === 'administrator') return listed.command;
    const reason = `command ${id} is another user's`;
    this.#around.refused(peer, [what, listed.name, ...listed.argv], reason);
    throw new Refusal(403, 'FORBIDDEN', reason);
  }

  /** A command that names devices goes by those; one that names none, by the configuration that it would read. */
  #isOurs(request: CommandRequest): boolean {
    if (KERNEL_COMMANDS.has(request.name) && process.geteuid?.() !== 0) return false;
    if (this.#usesOurDevices(request)) return true;
    const { identities } = this.#around.known();
    return (request.devices ?? request.configDevices).some((identity) => identities.has(identity));
  }

  #usesOurDevices({ devices, configFile }: CommandRequest): boolean {
    return devices === null && (configFile === null || configFile === this.#around.settings().configFile);
  }

  /** Throws a Refusal. */
  #authorise({ peer, role }: Call, request: CommandRequest): void {
    const { name, argv } = request;
    const permission = mayRun(role, name, [...argv, ...this.#impliedOptions(request)], this.#devicePaths(request));
    if (permission.allowed) return;
    this.#around.refused(peer, [name, ...argv], permission.reason);
    throw new Refusal(403, 'FORBIDDEN', permission.reason);
  }

  /** As options: settings and files that the caller names otherwise. */
  #impliedOptions({ env, configFile }: CommandRequest): readonly string[] {
    const { configFile: own } = this.#around.settings();
    const config = env['LVM_SYSTEM_DIR'] !== undefined || (configFile !== null && configFile !== own);
    const devices = env['ORION_LVM_DEVICES'];
    return [
      ...(config ? ['--config='] : []),
      ...(env['LVM_COMMAND_PROFILE'] === undefined ? [] : ['--commandprofile=']),
      ...(env['DM_DEV_DIR'] === undefined ? [] : ['--config=']),
      ...(devices === undefined || devices === '' ? [] : [`--devices=${devices}`]),
    ];
  }

  /** Paths of our devices, as the caller may write them. */
  #devicePaths({ cwd, devices }: CommandRequest): ReadonlySet<string> {
    const { paths, identities } = this.#around.known();
    if (devices === null || !devices.every((identity) => identities.has(identity))) return paths;
    const prefix = join(cwd, '/');
    return new Set([
      ...paths,
      ...[...paths].flatMap((path) => (path.startsWith(prefix) ? path.slice(prefix.length) : [])),
    ]);
  }

  /** With what the command is to take from the daemon. */
  #completed(request: CommandRequest, role: Call['role']): CommandRequest {
    const { devices, configFile, controlPath } = this.#around.settings();
    const env: Record<string, string> = { ...request.env, ORION_LVM_CONTROL: controlPath };
    const config = request.configFile ?? configFile;
    delete env['ORION_LVM_CONFIG'];
    if (config !== null) env['ORION_LVM_CONFIG'] = config;
    // Whatever the caller says of devices, a command that names none must not come to look at all those of this host.
    const named = (env['ORION_LVM_DEVICES'] ?? '') !== '' && request.devices !== null;
    if (config === configFile && !named && devices.length > 0) env['ORION_LVM_DEVICES'] = devices.join(',');
    return { ...request, env, cwd: this.#directory(request.cwd, role) };
  }

  /**
   * Where a command's process may work. It has the daemon's rights, so whether it can go to a directory would tell anybody what there
   * is; others than administrators have theirs only where known devices are, of which they hear anyway.
   */
  #directory(cwd: string, role: Call['role']): string {
    const prefix = join(cwd, '/');
    const known = role === 'administrator' || [...this.#around.known().paths].some((path) => path.startsWith(prefix));
    return known ? cwd : '/';
  }
}

/** They need root, which a daemon that has not got it leaves to their caller. */
const KERNEL_COMMANDS: ReadonlySet<string> = new Set(['attach', 'detach']);

/** A client has this long to take what is left when its command has ended. */
const TAKING_MS = 10_000;
/** What a client may leave unread of what its command says; with more it is taken for gone. */
const MAX_UNTAKEN_BYTES = 64 * 2 ** 20;

function checked<Schema extends z.ZodType>(schema: Schema, body: unknown): z.infer<Schema> {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(({ path, message }) => `${path.join('.') || 'the body'}: ${message}`);
  throw new Refusal(400, 'BAD_BODY', problems.join('; '), { cause: parsed.error });
}
