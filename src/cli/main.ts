/**
 * The entry of orion-lvm and of the commands in bin/: `main.ts COMMAND ARGUMENTS…`, or without arguments, commands from a pipe.
 *
 * Invariant: the process ends by itself with the command's exit code once all output is written; a reader that closes its
 * end of a pipe early ends it silently, as every command of a shell.
 */
import { type ExitCode, StreamOutput } from './messages.ts';
import { TERMINAL } from './prompt.ts';
import { run } from './run.ts';
import { runLines } from './shell.ts';

function endQuietly(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EPIPE') throw error;
  process.exit(0);
}

process.stdout.on('error', endQuietly);
process.stderr.on('error', endQuietly);

const output = new StreamOutput(process.stdout, process.stderr);

async function runOne(argv: readonly string[]): Promise<ExitCode> {
  const code = await run(argv, output, {
    env: process.env,
    cwd: process.cwd(),
    uid: process.geteuid?.() ?? -1,
    now: Math.floor(Date.now() / 1000),
    terminal: TERMINAL,
  });
  output.flush();
  return code;
}

const argv = process.argv.slice(2);
const piped = argv.length === 0 && !process.stdin.isTTY;
process.exitCode = (piped ? await runLines(process.stdin, runOne) : null) ?? (await runOne(argv));
