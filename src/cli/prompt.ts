/**
 * Questions with y or n, asked and answered as LVM2 does: the question goes to stderr, the answer comes as a line of stdin, and
 * anything else is asked again.
 *
 * Invariants
 *  - -y answers yes and -qq answers no without reading; the end of stdin is a no.
 *  - Answers that were piped in for later questions are not lost.
 */
import { readSync } from 'node:fs';
import { plainLines } from '../ondisk/plain-text.ts';
import type { Output } from './messages.ts';
import type { ProgressSink } from './progress.ts';

export interface PromptOptions extends Terminal {
  readonly yes: boolean;
  readonly silent: boolean;
  readonly output: Output;
}

/** Where questions go and answers come from, and where it is shown how far long work is. */
export interface Terminal {
  /** Lines without their newline; null at the end. */
  readonly readLine: () => string | null | Promise<string | null>;
  /** Writes to stderr without a newline. */
  readonly write: (text: string) => void;
  /** Absent: nobody looks. Done and total are in `unit`. */
  readonly progress?: ProgressSink;
}

/** Asks until it has an answer. `question` ends in "[y/n]: ". */
export async function ask(question: string, options: PromptOptions): Promise<boolean> {
  const { yes, silent, output, readLine, write } = options;
  if (yes) return true;
  for (;;) {
    write(plainLines(question));
    const line = silent ? null : await readLine();
    if (line === null) {
      write('[n]\n');
      return false;
    }
    const answer = line.trim().toLowerCase();
    if (answer !== '' && 'yes'.startsWith(answer)) return true;
    if (answer !== '' && 'no'.startsWith(answer)) return false;
    output.error(`WARNING: Invalid input '${line}'.`);
  }
}

/**
 * The next line of stdin, read byte by byte so that what follows is left for the next question; null at the end. It blocks, as
 * nothing else is going on while a question waits.
 */
export function readStdinLine(): string | null {
  const byte = Buffer.alloc(1);
  const line: number[] = [];
  for (;;) {
    const count = readSync(0, byte);
    if (count === 0) return line.length === 0 ? null : Buffer.from(line).toString();
    if (byte[0] === 0x0a) return Buffer.from(line).toString();
    line.push(byte[0] ?? 0);
  }
}

/** The process's own. */
export function ownTerminal(progress: ProgressSink): Terminal {
  return { readLine: readStdinLine, write: (text) => void process.stderr.write(text), progress };
}
