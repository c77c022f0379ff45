/**
 * Hands a command to the daemon that holds its devices, and is its streams and its terminal meanwhile.
 *
 *     no socket, nobody answers, another daemon's devices → null: the command works on the devices itself
 *     else events, until `exit`                           → the command's exit code
 *
 * Invariants
 *  - Without a daemon this costs a look whether a socket is there; nothing else is loaded.
 *  - A command that was handed over is never also run here: what became of it is the daemon's to say, and a daemon that goes
 *    away meanwhile is an error.
 *  - Ctrl-C asks the command to end; the second one ends us.
 */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { ControlClient } from '../daemon/client/control-client.ts';
import {
  type CommandEvent,
  type CommandRequest,
  PASSED_VARIABLES,
  type PromptAnswer,
} from '../daemon/client/messages.ts';
import { findControlSocket, SYSTEM_CONFIG } from '../daemon/client/socket-path.ts';
import { COMMANDS } from './commands/table.ts';
import { EXIT, type ExitCode } from './messages.ts';
import type { ProgressLine } from './progress.ts';
import type { readToml } from './settings.ts';

/** The caller's surroundings. */
export interface Caller {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  readonly uid: number;
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  readonly readLine: () => string | null | Promise<string | null>;
  readonly progress: ProgressLine;
  readonly terminal: CommandRequest['terminal'];
  /** Calls back at every Ctrl-C until it is told to stop, which what it gives does. */
  readonly onInterrupt: (interrupted: () => void) => () => void;
}

/** Runs `argv` through a daemon; null: no daemon is concerned. */
export async function handOver(argv: readonly string[], caller: Caller): Promise<ExitCode | null> {
  const [name = '', ...rest] = argv;
  const entry = COMMANDS.get(name);
  if (entry === undefined || entry.local === true || asksForHelp(rest)) return null;
  if (entry.rootIsLocal === true && caller.uid === 0) return null;
  const named = namedOptions(rest);
  const config = await configOf(named, caller);
  if (config === undefined) return null;
  const socket = findControlSocket({ ...caller, config: config?.config ?? null });
  if (socket === null) return null;
  const { devicesOf } = await import('./client-devices.ts');
  const { devices, configDevices } = await devicesOf(named.devices, config, caller);
  const { env, cwd, terminal } = caller;
  const request: CommandRequest = {
    name,
    argv: rest,
    cwd,
    env: Object.fromEntries(
      PASSED_VARIABLES.flatMap((variable) => (env[variable] === undefined ? [] : [[variable, env[variable]]])),
    ),
    terminal,
    devices,
    configFile: config?.path ?? null,
    configDevices,
  };
  return converse(socket, request, caller);
}

function asksForHelp(words: readonly string[]): boolean {
  return words.some((word) => /^(-h|--help|--longhelp|--version)$/.test(word));
}

interface NamedOptions {
  /** The values of --devices. */
  readonly devices: readonly string[];
  readonly config: string | undefined;
}

/**
 * What decides where a command runs. The command itself parses its options; where a word could be the value of another
 * option, the worst that follows is a question to a daemon that says no.
 */
function namedOptions(words: readonly string[]): NamedOptions {
  const devices: string[] = [];
  let config: string | undefined;
  for (const [at, word] of words.entries()) {
    if (word === '--') break;
    const match = /^--(?<name>[a-z]+)(?:=(?<value>.*))?$/s.exec(word);
    const name = match?.groups?.['name'] ?? '';
    const value = match?.groups?.['value'] ?? words[at + 1] ?? '';
    if ('devices'.startsWith(name) && name.length > 2) devices.push(...value.split(','));
    if ('config'.startsWith(name) && name.length > 3) config = value;
  }
  return { devices: devices.filter((path) => path !== ''), config };
}

type FoundConfig = Awaited<ReturnType<typeof readToml>>;

/** The lvm.toml that the command goes by; undefined: it can't be read, which the command itself will say. */
async function configOf(named: NamedOptions, caller: Caller): Promise<FoundConfig | undefined> {
  // In LVM2's grammar it is settings, else the path of a file (lvm/settings/load.ts).
  const flag = named.config === undefined || /[={]/.test(named.config) ? undefined : named.config;
  const stated = flag ?? caller.env['ORION_LVM_CONFIG'] ?? '';
  if (stated === '' && ![resolve(caller.cwd, 'lvm.toml'), SYSTEM_CONFIG].some((path) => existsSync(path))) return null;
  const { readConfigFile } = await import('../daemon/config.ts');
  try {
    return readConfigFile(flag, { ...caller, systemConfigFile: SYSTEM_CONFIG });
  } catch (error) {
    if (error instanceof Error) return undefined;
    throw error;
  }
}

async function converse(socket: string, request: CommandRequest, caller: Caller): Promise<ExitCode | null> {
  const { ControlClient, ControlClientError } = await import('../daemon/client/control-client.ts');
  const client = new ControlClient(socket);
  let begun = false;
  try {
    const stream = await client.stream<CommandEvent>('POST', '/v1/commands', request);
    begun = true;
    return await follow(client, stream.events, caller);
  } catch (error) {
    if (!(error instanceof ControlClientError)) throw error;
    // Nobody behind the socket, or a daemon that has nothing to do with these devices, or with commands at all.
    const notForUs = error.code === 'UNREACHABLE' || error.reason === 'NOT_OURS' || error.status === 404;
    if (!begun && notForUs) {
      // A daemon that would have known devices is of no use to who names none himself: say why it was not asked.
      if (request.devices === null && error.denied) caller.err(`  WARNING: ${error.message}.\n`);
      return null;
    }
    caller.progress.end();
    caller.err(`  ${error.message}.\n`);
    if (begun || error.code === 'LOST') {
      caller.err('  What the command had committed stays; look at the result before it is repeated.\n');
    }
    return EXIT.failed;
  }
}

/** Passes an answer on. A command, or a daemon, that has ended meanwhile says so in the stream. */
async function answer(client: ControlClient, id: string, given: PromptAnswer): Promise<void> {
  const { ControlClientError } = await import('../daemon/client/control-client.ts');
  try {
    await client.request('POST', `/v1/commands/${id}/answers`, given);
  } catch (error) {
    if (!(error instanceof ControlClientError)) throw error;
  }
}

async function follow(client: ControlClient, events: AsyncIterable<CommandEvent>, caller: Caller): Promise<ExitCode> {
  const { ControlClientError } = await import('../daemon/client/control-client.ts');
  let id = '';
  let interrupts = 0;
  const interrupted = (): void => {
    if (++interrupts > 1) process.exit(EXIT.failed);
    caller.err('  Interrupted...\n');
    // A daemon that is gone is noticed by the stream.
    void client.request('DELETE', `/v1/commands/${id}`).catch((error: unknown) => caller.err(`  ${String(error)}\n`));
  };
  let stop = caller.onInterrupt(interrupted);
  try {
    for await (const event of events) {
      if (event.type === 'started') ({ id } = event);
      else if (event.type === 'progress') {
        caller.progress.update(event.label, event.done, event.total);
      } else {
        caller.progress.end();
        if (event.type === 'exit') return event.code as ExitCode;
        if (event.type === 'prompt') {
          caller.err(event.question);
          // Reading blocks: an interrupt ends us at once, and our going is the command's no.
          stop();
          const line = await caller.readLine();
          stop = caller.onInterrupt(interrupted);
          await answer(client, id, { id: event.id, line });
        } else if (event.type === 'stdout') caller.out(event.text);
        else caller.err(event.text);
      }
    }
  } finally {
    stop();
  }
  throw new ControlClientError('LOST', 'orion-lvmd went away while the command ran');
}
