/**
 * The entry of a process in which orion-lvmd runs one command for somebody: the same commands, with the caller's directory, streams,
 * terminal and settings at the other end of an IPC channel, and with the daemon's live volumes.
 *
 * Invariants
 *  - It runs one command, then it ends; a command that was begun is never cut off, not by signals to the daemon's process group
 *    nor by the end of the daemon. Cancelled, it ends at its next safe point.
 *  - Commands that have to do with no volumes, or read and write where their caller is, are not run here.
 *  - Nothing of the caller's environment counts but what the request brings; of the daemon's only what it gave to this process.
 */
import type { CommandRequest, FromHosted, ProgressEvent, ToHosted } from '../daemon/client/messages.ts';
import { COMMANDS } from './commands/table.ts';
import { HostedLive } from './hosted-live.ts';
import { EXIT, StreamOutput } from './messages.ts';
import type { ProgressSink } from './progress.ts';
import type { Terminal } from './prompt.ts';
import { systemWords } from '../lvm/system-error.ts';

const PROGRESS_INTERVAL_MS = 100;

function send(message: FromHosted): void {
  if (process.connected) process.send?.(message, undefined, {}, () => undefined);
}

function sendText(type: 'stdout' | 'stderr', text: string): void {
  send({ kind: 'event', event: { type, text } });
}

/** The caller's terminal: a question is sent when its answer is wanted. */
class RemoteTerminal implements Terminal {
  readonly #waiting = new Map<number, (line: string | null) => void>();
  readonly progress: ProgressSink;
  #question = '';
  #lastId = 0;
  #closed = false;

  constructor() {
    let last = 0;
    this.progress = {
      update(label, done, total, unit) {
        const now = Date.now();
        if (now - last < PROGRESS_INTERVAL_MS && done < total) return;
        last = now;
        const event: ProgressEvent = { type: 'progress', label, done, total, unit };
        send({ kind: 'event', event });
      },
      // What is written next takes the caller's line away.
      end: () => undefined,
    };
  }

  readonly write = (text: string): void => {
    if (!text.endsWith('\n')) {
      this.#question += text;
      return;
    }
    sendText('stderr', this.#question + text);
    this.#question = '';
  };

  readonly readLine = (): Promise<string | null> => {
    const question = this.#question;
    this.#question = '';
    if (this.#closed) {
      sendText('stderr', question);
      return Promise.resolve(null);
    }
    const { promise, resolve } = Promise.withResolvers<string | null>();
    const id = ++this.#lastId;
    this.#waiting.set(id, resolve);
    send({ kind: 'event', event: { type: 'prompt', id, question } });
    return promise;
  };

  answered(id: number, line: string | null): void {
    this.#waiting.get(id)?.(line);
    this.#waiting.delete(id);
  }

  /** Nobody is there to answer any more. */
  close(): void {
    this.#closed = true;
    for (const resolve of this.#waiting.values()) resolve(null);
    this.#waiting.clear();
  }
}

/** Loaded while nobody waits yet: what every command needs, then what most of them do. */
const runner = import('./run.ts');
void runner.then(() => Promise.all([import('./change.ts'), import('./report/run.ts')]));
const live = new HostedLive(send);
const terminal = new RemoteTerminal();
const cancelled = new AbortController();

function cancel(): void {
  cancelled.abort();
  terminal.close();
}

async function runRequest(request: CommandRequest): Promise<number> {
  const output = new StreamOutput(
    { write: (text) => sendText('stdout', text) },
    { write: (text) => sendText('stderr', text) },
  );
  if (COMMANDS.get(request.name)?.local === true) {
    output.error(`orion-lvmd does not run ${request.name}: it works where its caller is.`);
    return EXIT.badUsage;
  }
  try {
    process.chdir(request.cwd);
  } catch (error) {
    output.error(`orion-lvmd cannot work in ${request.cwd}: ${systemWords(error)}`);
    return EXIT.failed;
  }
  if (request.env['TZ'] !== undefined) process.env['TZ'] = request.env['TZ'];
  const { run } = await runner;
  const code = await run([request.name, ...request.argv], output, {
    env: { ...process.env, ...request.env },
    cwd: request.cwd,
    uid: process.geteuid?.() ?? -1,
    now: Math.floor(Date.now() / 1000),
    terminal,
    live,
    signal: cancelled.signal,
    background() {
      output.flush();
      send({ kind: 'background' });
    },
    searchConfig: false,
  });
  output.flush();
  return code;
}

/** The channel is let go when the last message is out: then nothing keeps the process. */
function leave(code: number): void {
  const message: FromHosted = { kind: 'exit', code };
  if (process.connected)
    process.send?.(message, undefined, {}, () => {
      process.disconnect?.();
    });
}

process.on('message', (message) => {
  const received = message as ToHosted;
  if (received.kind === 'run') void runRequest(received.request).then(leave);
  else if (received.kind === 'answer') terminal.answered(received.answer.id, received.answer.line);
  else if (received.kind === 'cancel') cancel();
  else live.answered(received);
});
process.on('disconnect', () => {
  live.lost();
  cancel();
});
// Ctrl-C at the daemon's terminal goes to every process there; the daemon decides what ends.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR2'] as const) process.on(signal, () => undefined);
