/**
 * From a command line to an exit code: finds the command, parses its options, runs it, prints what it failed with.
 *
 * Invariants
 *  - Exit codes are LVM2's: 0, 2 no such command, 3 bad usage, 5 failed.
 *  - A fault of ours (an exception that no one expected) is reported as such with its stack, and ends with 5.
 */
import type { Command, CommandContext } from './command.ts';
import { COMMANDS } from './commands/table.ts';
import { COMMON_OPTIONS } from './common-options.ts';
import { everyCommand } from './every-command.ts';
import { CommandError as Refusal } from '../lvm/edit/errors.ts';
import { NO_LIVE_VOLUMES } from '../lvm/live.ts';
import { applyHabits, sayTest } from './habits.ts';
import { CommandError, EXIT, type ExitCode, type Output, UnmatchedSyntax } from './messages.ts';
import { OfflineAudit } from './offline-audit.ts';
import { parseOptions } from './options.ts';
import { readToml, settingsForCommand } from './settings.ts';
import { type CommandName, printUsage } from './usage.ts';
import { printVersion } from './version.ts';

/** What a run depends on besides its arguments. */
export type Surroundings = Pick<CommandContext, 'env' | 'cwd' | 'uid' | 'now' | 'terminal'> &
  Partial<Pick<CommandContext, 'live' | 'signal' | 'background'>> & {
    /** False: lvm.toml is read only where it is named. */
    readonly searchConfig?: boolean;
  };

const NEVER_ABORTED = new AbortController().signal;

function listCommands(output: Output): void {
  output.print('Available commands:');
  output.print("Use 'orion-lvm COMMAND --help' for more information");
  output.print(' ');
  for (const [name, { summary }] of COMMANDS) output.print(`${name.padEnd(16)}${summary}`);
}

async function runCommand(
  called: CommandName,
  command: Command,
  argv: readonly string[],
  streams: Output,
  around: Surroundings,
): Promise<ExitCode> {
  const { name, typed } = called;
  let output = streams;
  const options = parseOptions(name, [...command.options, ...COMMON_OPTIONS], argv, output);
  if (options.has('help') || options.has('longhelp')) {
    printUsage(called, command, options.has('longhelp'), output);
    return EXIT.ok;
  }
  if (options.has('version')) {
    printVersion(output);
    return EXIT.ok;
  }
  if (options.has('test')) {
    sayTest(output);
  }
  let pointToHelp = true;
  const code = await guarded(output, async () => {
    const toml = await readToml(options, around);
    const settings = settingsForCommand(name, options, around.env, output, toml);
    process.umask(settings.int('global/umask'));
    output.indentBy?.(settings.string('log/prefix'));
    output = applyHabits(name, options, settings, output);
    const given = { name, argv, options, args: options.args };
    const { live = NO_LIVE_VOLUMES, signal = NEVER_ABORTED } = around;
    const audit = around.live === undefined ? new OfflineAudit([name, ...argv]) : null;
    const writing = audit === null ? {} : { writing: audit.writing };
    const context: CommandContext = {
      ...around,
      ...given,
      ...writing,
      live,
      signal,
      output,
      settings,
      toml,
      everyCommand,
    };
    await recover(context);
    let code: ExitCode = EXIT.failed;
    try {
      code = await command.run(context);
      return code;
    } catch (error) {
      if (error instanceof UnmatchedSyntax) pointToHelp = false;
      throw error;
    } finally {
      await audit?.record(toml, code, output);
    }
  });
  if (code === EXIT.badUsage && pointToHelp) output.error(`Run \`${typed} --help' for more information.`);
  return code;
}

/** The commands' machinery for changes is loaded only where it may be needed: start-up time is the user's. */
async function recover(context: CommandContext): Promise<void> {
  if (context.toml?.config.auto_recovery === true) await (await import('./recover.ts')).recoverAtOnce(context);
}

async function guarded(output: Output, body: () => Promise<ExitCode>): Promise<ExitCode> {
  try {
    return await body();
  } catch (error) {
    if (error instanceof CommandError || error instanceof Refusal) {
      for (const line of error.lines) output.error(line);
      return error.exitCode;
    }
    output.error(`Internal error: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
    return EXIT.failed;
  }
}

/** Runs `argv`: a command's name and what follows it. */
export async function run(argv: readonly string[], output: Output, around: Surroundings): Promise<ExitCode> {
  const [name = 'help', ...rest] = argv;
  if (['help', '--help', '-h', '-?'].includes(name) && rest.length === 0) {
    listCommands(output);
    return argv.length === 0 ? EXIT.badUsage : EXIT.ok;
  }
  if (name === '--version') {
    printVersion(output);
    return EXIT.ok;
  }
  if (name.startsWith('-')) {
    output.error('Specify options after a command: orion-lvm [command] [options].');
    return EXIT.badUsage;
  }
  const wanted = name === 'help' ? (rest[0] ?? '') : name;
  const args = name === 'help' ? ['--help'] : rest;
  const entry = COMMANDS.get(wanted);
  if (entry === undefined) {
    output.error("No such command.  Try 'orion-lvm help'.");
    return EXIT.noSuchCommand;
  }
  const { command } = await entry.load();
  const called = { name: wanted, typed: entry.inner === true ? `orion-lvm ${wanted}` : wanted };
  return guarded(output, () => runCommand(called, command, args, output, around));
}
