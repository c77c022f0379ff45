/**
 * The process of one command: `src/cli/hosted.ts`, forked with an IPC channel and without the daemon's standard streams.
 *
 * Invariants
 *  - A process runs one command and ends. One that is idle has read nothing of anybody's.
 *  - Its environment is the daemon's, reduced to what programs and paths need; what the caller passes travels in the request.
 *  - `ended` is told once, after the last message, however the process ended.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { FromHosted, ToHosted } from '../client/messages.ts';

/** Sources run as they are; a package has them compiled. */
const ENTRY = fileURLToPath(new URL(`../../cli/hosted${extname(import.meta.filename)}`, import.meta.url));

const INHERITED = [
  'HOME',
  'LANG',
  'LC_ALL',
  'LVM_SYSTEM_DIR',
  'NODE_COMPILE_CACHE',
  'PATH',
  'TMPDIR',
  'TZ',
  'XDG_CACHE_HOME',
  'XDG_RUNTIME_DIR',
  'XDG_STATE_HOME',
];
/** What a process says before it dies is worth this much. */
const MAX_LAST_WORDS = 4096;

export interface ProcessEnd {
  readonly exitCode: number | null;
  readonly signal: string | null;
  /** The end of what it wrote to its stderr: nothing, but for a fault of ours. */
  readonly lastWords: string;
}

export interface ProcessOwner {
  message(message: FromHosted): void;
  ended(end: ProcessEnd): void;
}

export class HostedProcess {
  readonly #child: ChildProcess;
  #owner: ProcessOwner | null = null;
  #end: ProcessEnd | null = null;
  #lastWords = '';

  constructor(environment: Readonly<Record<string, string | undefined>>) {
    const env = Object.fromEntries(INHERITED.map((name) => [name, environment[name]]));
    this.#child = fork(ENTRY, [], {
      cwd: '/',
      // As workers are.
      detached: true,
      env,
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#lastWords = (this.#lastWords + text).slice(-MAX_LAST_WORDS);
    });
    this.#child.on('message', (message) => this.#owner?.message(message as FromHosted));
    this.#child.on('error', (error) => this.#ended(null, error.message));
    this.#child.once('close', (exitCode, signal) => this.#ended(exitCode, signal));
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** False: it has ended, or can't be given a command any more. */
  get usable(): boolean {
    return this.#end === null && this.#child.connected;
  }

  /** From now on `owner` is told everything. */
  attach(owner: ProcessOwner): void {
    this.#owner = owner;
    if (this.#end !== null) owner.ended(this.#end);
  }

  /** A process that has gone is told nothing; its end is noticed by itself. */
  send(message: ToHosted): void {
    if (this.#child.connected) this.#child.send(message, () => undefined);
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  /** An idle process keeps nobody from ending. */
  unref(): void {
    this.#child.unref();
    this.#child.channel?.unref();
  }

  ref(): void {
    this.#child.ref();
    this.#child.channel?.ref();
  }

  #ended(exitCode: number | null, signal: string | null): void {
    if (this.#end !== null) return;
    this.#end = { exitCode, signal, lastWords: this.#lastWords };
    this.#owner?.ended(this.#end);
  }
}
