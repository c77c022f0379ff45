/**
 * What a command is to the dispatcher, and what it gets to work with.
 *
 * Invariants
 *  - A command's options are one table: it drives parsing and help, so that no option is parsed and forgotten.
 *  - A command reads the world only through its context, so that tests can run it in their own.
 */
import type { Plan } from '../lvm/edit/plan.ts';
import type { LiveVolumes } from '../lvm/live.ts';
import type { Settings } from '../lvm/settings.ts';
import type { ExitCode, Output } from './messages.ts';
import type { OptionSpec, ParsedOptions } from './options.ts';
import type { Terminal } from './prompt.ts';
import type { ConfigFile } from './settings.ts';

export interface CommandContext {
  readonly name: string;
  /** What was typed after the command's name. */
  readonly argv: readonly string[];
  readonly options: ParsedOptions;
  /** What follows the options. */
  readonly args: readonly string[];
  readonly output: Output;
  /** LVM2's: lvm.conf, --config, profiles. */
  readonly settings: Settings;
  /** lvm.toml; null: there is none. */
  readonly toml: ConfigFile | null;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  /** The effective user id; -1 where there is none. */
  readonly uid: number;
  /** Unix seconds. */
  readonly now: number;
  /** Where questions are asked and answered, and progress is shown. */
  readonly terminal: Terminal;
  /** The volumes of the daemon that runs this command; NO_LIVE_VOLUMES: none does. */
  readonly live: LiveVolumes;
  /**
   * Told of each plan before anything of it is written; null: of something else that is about to change. Absent: a daemon runs the
   * command, and records it.
   */
  readonly writing?: (plan: Plan | null) => void;
  /** Aborted when the caller is gone, or wants no more: the command ends at its next safe point. */
  readonly signal: AbortSignal;
  /**
   * In a command that the daemon runs: from now on nobody waits for it, and its caller has been told that all is well. What it still
   * says goes nowhere. Absent: a command that is to go on in the background starts a process of its own.
   */
  readonly background?: () => void;
  /** Every command, for what is written from them: manual pages, completion. */
  everyCommand(): Promise<readonly NamedCommand[]>;
}

export interface Command {
  /** "Display information about logical volumes" */
  readonly summary: string;
  /** Its arguments in the usage line: "[ VG|LV|Tag ... ]"; empty: none are taken. */
  readonly argumentsUsage: string;
  /** Without the common options. */
  readonly options: readonly OptionSpec[];
  run(context: CommandContext): Promise<ExitCode>;
}

/** A command as the table has it. */
export interface NamedCommand {
  readonly name: string;
  readonly command: Command;
  /** Only as `orion-lvm NAME`. */
  readonly inner: boolean;
}
