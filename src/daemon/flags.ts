/**
 * orion-lvmd's command line (the names are fixed by the design) as plain data.
 *
 * Invariants
 *  - A flag that was not given is absent, so that the config file decides.
 *  - Mistakes are reported by commander in its own words, as a `UsageError` for exit code 3; nothing here ends the process.
 */
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { ENGINES, LOG_LEVELS } from './config-schema.ts';
import { LISTEN_URI_FORM } from './listen-uri.ts';
import { TLS_MODES, type TlsMode } from './tls/mode.ts';

export interface Flags {
  readonly config?: string;
  readonly devices?: readonly string[];
  readonly listen?: readonly string[];
  readonly control?: string;
  readonly engine?: (typeof ENGINES)[number];
  readonly workers?: number;
  readonly readOnly?: boolean;
  readonly stdio?: boolean;
  readonly tls?: TlsMode;
  readonly tlsCertificates?: string;
  readonly tlsPsk?: string;
  readonly tlsVerifyClients?: boolean;
  readonly logLevel?: string;
  readonly checkConfig?: boolean;
}

/** What to print and how to exit, where the command line asks for text (--help) or is wrong. */
export interface FlagsText {
  readonly output: string;
  readonly exitCode: 0 | 3;
}

/** Parses the arguments after the program's name. */
export function parseFlags(args: readonly string[], version: string): { readonly flags: Flags } | FlagsText {
  let output = '';
  const command = buildCommand(version).configureOutput({
    writeOut: (text) => void (output += text),
    writeErr: (text) => void (output += text),
    outputError: (text, write) => {
      write(text.replace(/^error:/, 'orion-lvmd:'));
      write("Run 'orion-lvmd --help' for more information.\n");
    },
  });
  try {
    command.parse(args, { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return { output, exitCode: error.exitCode === 0 ? 0 : 3 };
  }
  return { flags: command.opts<Flags>() };
}

/** What orion-lvmd's command line is made of, for its manual page. */
export interface FlagDescription {
  /** "--listen <uri>" */
  readonly flags: string;
  readonly description: string;
  /** What it may be; empty: whatever is given. */
  readonly choices: readonly string[];
}

/** The daemon's summary and its flags, in the order of --help. */
export function describeFlags(): { readonly summary: string; readonly flags: readonly FlagDescription[] } {
  const command = buildCommand('');
  const flags = command.options
    .filter(({ long }) => long !== '--version')
    .map(({ flags: names, description, argChoices = [] }) => ({ flags: names, description, choices: argChoices }));
  return { summary: command.description(), flags };
}

function buildCommand(version: string): Command {
  return new Command('orion-lvmd')
    .description('Serves the logical volumes of LVM2 volume groups over NBD, without device-mapper.')
    .version(version)
    .option('--config <file>', 'read FILE (else $ORION_LVM_CONFIG, ./lvm.toml, /etc/orion-lvm/lvm.toml)')
    .option('--devices <path,...>', 'devices, image files, directories or globs to look for volume groups', addPaths)
    .option('--listen <uri>', `serve NBD at ${LISTEN_URI_FORM}`, addOne)
    .option('--stdio', 'serve one client on standard input and output, and end with it')
    .addOption(
      new Option('--tls <mode>', 'whether clients come over TLS, where --listen does not say').choices(TLS_MODES),
    )
    .option('--tls-certificates <dir>', 'the directory of server-cert.pem, server-key.pem and ca-cert.pem')
    .option('--tls-psk <file>', 'the file of pre-shared keys')
    .option(
      '--tls-verify-clients',
      'let in only clients whose certificate is signed by ca-cert.pem, or with a pre-shared key',
    )
    .option('--control <path>', "the control socket's path")
    .addOption(new Option('--engine <name>', 'how devices are read and written').choices(ENGINES))
    .option('--workers <n>', 'I/O worker processes; 0: everything in one process', wholeNumber)
    .option('--read-only', 'open devices for reading only and refuse every write')
    .addOption(new Option('--log-level <level>', 'how much to log').choices(LOG_LEVELS))
    .option('--check-config', 'check the config file and the flags, then exit')
    .allowExcessArguments(false)
    .exitOverride();
}

function addPaths(value: string, previous: readonly string[] = []): string[] {
  return [...previous, ...splitPaths(value)];
}

function addOne(value: string, previous: readonly string[] = []): string[] {
  return [...previous, value];
}

function wholeNumber(value: string): number {
  if (!/^\d{1,6}$/.test(value)) throw new InvalidArgumentError('It must be a whole number.');
  return Number(value);
}

/** The paths of a comma-separated list, as --devices and $ORION_LVM_DEVICES hold them. */
export function splitPaths(list: string): string[] {
  return list.split(',').filter((path) => path !== '');
}
