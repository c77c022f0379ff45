/**
 * What commands say and how they end: LVM2's exit codes, results on stdout, messages on stderr, both indented by two spaces.
 *
 * Invariants
 *  - Nothing else in cli/ writes to a stream, so that a command can be run inside a test or by the daemon.
 *  - A command that failed has said why on stderr.
 *  - Whatever a message quotes, nothing of it acts on a terminal: not in messages and lines of results, nor in plain text on a terminal.
 *    Into a file or a pipe plain text goes byte for byte.
 *
 * Source of the codes: lvm(8) "Diagnostics", formats/lvm2.md §5.
 */

import { plainLines } from '../ondisk/plain-text.ts';

export const EXIT = { ok: 0, noSuchCommand: 2, badUsage: 3, failed: 5 } as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** The worse of two results: what a command that went on after an error ends with. */
export function worse(a: ExitCode, b: ExitCode): ExitCode {
  return a > b ? a : b;
}

/** Ends a command: the lines are printed as errors, the code becomes its exit code. */
export class CommandError extends Error {
  override readonly name = 'CommandError';
  readonly exitCode: ExitCode;
  readonly lines: readonly string[];
  constructor(exitCode: ExitCode, lines: readonly string[]) {
    super(lines.join('\n'));
    this.exitCode = exitCode;
    this.lines = lines;
  }
}

/**
 * A command line whose parts belong to no form of the command. LVM2 finds that before the command starts, and does not point
 * to --help once more.
 */
export class UnmatchedSyntax extends CommandError {
  constructor(lines: readonly string[]) {
    super(EXIT.badUsage, lines);
  }
}

/** Where a command's lines go; a line is given without its indent and its newline. */
export interface Output {
  /** A result: stdout. `verbatim`: parts are fit to be shown already, and others are as the user wants them. */
  print(line: string, verbatim?: true): void;
  /** A result as it is, neither indented nor ended: the text of files and devices. */
  printPlain(text: string): void;
  /** An error or a warning: stderr. */
  error(line: string): void;
  /** stderr without the indent: what getopt says. */
  plainError(line: string): void;
  /** Lets out what was gathered: progress is worth nothing later. */
  flush?(): void;
  /** What stands before every line from now on (log/prefix). */
  indentBy?(indent: string): void;
}

interface TextSink {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

/** Writes to a process's streams. Lines are gathered per stream and written by `flush`, or when there are many. */
export class StreamOutput implements Output {
  readonly #out: TextSink;
  readonly #err: TextSink;
  #pending = '';
  #indent = '  ';
  constructor(out: TextSink, err: TextSink) {
    this.#out = out;
    this.#err = err;
  }
  print(line: string, verbatim?: true): void {
    this.#gather(`${this.#indent}${verbatim === true ? line : plainLines(line)}\n`);
  }
  printPlain(text: string): void {
    this.#gather(this.#out.isTTY === true ? plainLines(text) : text);
  }
  #gather(text: string): void {
    this.#pending += text;
    if (this.#pending.length > 1 << 16) this.flush();
  }
  error(line: string): void {
    this.plainError(`${this.#indent}${line}`);
  }
  plainError(line: string): void {
    // Keep the order of what both streams show on one terminal.
    this.flush();
    this.#err.write(`${plainLines(line)}\n`);
  }
  indentBy(indent: string): void {
    this.#indent = indent;
  }
  flush(): void {
    if (this.#pending === '') return;
    this.#out.write(this.#pending);
    this.#pending = '';
  }
}

/** What LVM2 says when arguments or options are missing. */
export function noSuchSyntax(name: string): UnmatchedSyntax {
  return new UnmatchedSyntax([
    `No command with matching syntax recognised.  Run '${name} --help' for more information.`,
  ]);
}
