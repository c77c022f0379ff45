/**
 * Commands from standard input, a line each, as `lvm` without arguments takes them: `echo "lvcreate -l1 vg" | orion-lvm`.
 *
 * Invariants
 *  - A line is split at blanks; quotes and backslashes keep them; # starts a comment.
 *  - Every line runs as a command of its own, whatever became of those before; quit and exit end.
 *
 * Source: lvm(8).
 */
import { createInterface } from 'node:readline';
import { EXIT, type ExitCode } from './messages.ts';

/** Runs every command of `input` and gives the last one's exit code; null if there was none. */
export async function runLines(
  input: NodeJS.ReadableStream,
  run: (argv: readonly string[]) => Promise<ExitCode>,
): Promise<ExitCode | null> {
  let code: ExitCode | null = null;
  const lines = createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY });
  for await (const line of lines) {
    const argv = splitLine(line);
    if (argv[0] === 'lvm') argv.shift();
    const [name] = argv;
    if (name === undefined) continue;
    if (name === 'quit' || name === 'exit') return code ?? EXIT.ok;
    code = await run(argv);
  }
  return code;
}

/** The words of a line. */
export function splitLine(line: string): string[] {
  const words: string[] = [];
  for (const match of line.matchAll(/#.*|(?:"(?:[^"\\]|\\.)*"?|'[^']*'?|\\.|[^\s"'\\#]#*)+/g)) {
    const [word] = match;
    if (word.startsWith('#')) break;
    words.push(word.replaceAll(/"((?:[^"\\]|\\.)*)"?|'([^']*)'?|\\(.)/g, unquoted));
  }
  return words;
}

function unquoted(_: string, inDouble?: string, inSingle?: string, escaped?: string): string {
  return inDouble?.replaceAll(/\\(["\\])/g, '$1') ?? inSingle ?? escaped ?? '';
}
