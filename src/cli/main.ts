/**
 * The entry of orion-lvm and of the commands in bin/: `main.ts COMMAND ARGUMENTS…`, or without arguments, commands from a pipe.
 * A command whose devices a running daemon holds is run by that daemon.
 *
 * Invariants
 *  - The process ends by itself with the command's exit code once all output is written.
 *  - A reader that closes its end of a pipe early ends it silently, as SIGPIPE ends every command of a shell: not with success, for
 *    the work may not be done.
 *  - Output that can't be written for another reason (a full disk) stops no command, but no command succeeds then.
 */
import { constants } from 'node:os';
import { isatty } from 'node:tty';
import { getSystemErrorMessage } from 'node:util';
import { plainLines } from '../ondisk/plain-text.ts';
import { handOver } from './client.ts';
import { EXIT, type ExitCode, StreamOutput } from './messages.ts';
import { ProgressLine } from './progress.ts';
import { ownTerminal } from './prompt.ts';

/** As a shell tells it of a process that SIGPIPE ended; Node ignores the signal. */
const EXIT_BROKEN_PIPE = 128 + constants.signals.SIGPIPE;
let outputLost = false;

function loseOutput(error: NodeJS.ErrnoException): void {
  if (error.code === 'EPIPE') process.exit(EXIT_BROKEN_PIPE);
  if (error.errno === undefined) throw error;
  if (outputLost) return;
  outputLost = true;
  process.on('exit', (code) => {
    process.exitCode = code === 0 ? EXIT.failed : code;
  });
  process.stderr.write(`  The output can't be written: ${getSystemErrorMessage(error.errno)}.\n`);
}

process.stdout.on('error', loseOutput);
process.stderr.on('error', loseOutput);

const progress = new ProgressLine(process.stderr);
const terminal = ownTerminal(progress);
const { env } = process;
const uid = process.geteuid?.() ?? -1;

async function runOne(argv: readonly string[]): Promise<ExitCode> {
  const cwd = process.cwd();
  const handed = await handOver(argv, {
    env,
    cwd,
    uid,
    out: (text) => void process.stdout.write(process.stdout.isTTY ? plainLines(text) : text),
    err: terminal.write,
    readLine: terminal.readLine,
    progress,
    terminal: { isTTY: isatty(2), columns: process.stderr.columns ?? 80 },
    onInterrupt(interrupted) {
      process.on('SIGINT', interrupted);
      return () => void process.off('SIGINT', interrupted);
    },
  });
  if (handed !== null) return handed;
  const { run } = await import('./run.ts');
  const output = new StreamOutput(process.stdout, process.stderr);
  const code = await run(argv, output, { env, cwd, uid, now: Math.floor(Date.now() / 1000), terminal });
  output.flush();
  return code;
}

const argv = process.argv.slice(2);
const piped = argv.length === 0 && !process.stdin.isTTY;
if (piped) {
  const { runLines } = await import('./shell.ts');
  process.exitCode = (await runLines(process.stdin, runOne)) ?? (await runOne(argv));
} else process.exitCode = await runOne(argv);
