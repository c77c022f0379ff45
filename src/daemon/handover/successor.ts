/**
 * The process that is to follow this one, as this one sees it: one with the same arguments, which inherits descriptors.
 *
 * It is a grandchild, of a shell that has ended: a child of whoever adopts orphans, as it will be in the end. systemd waits for a main
 * process to stop only if it was a child of its own when it was told of it, and otherwise kills it at once (seen with 252).
 *
 * Invariants
 *  - What is waited for comes, or fails with a DaemonError when the process ends or takes too long.
 *  - A handle that was given is closed by the giver when `give` has settled; a message never overtakes one before it.
 *  - It has ended when nobody holds the other end of a pipe any more, which it never uses.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { Readable } from 'node:stream';
import { DaemonError, reasonOf } from '../errors.ts';
import { sendHandle } from '../worker/handles.ts';
import type { Estate, FromSuccessor, ToSuccessor, WithHandle } from './messages.ts';

/** Tells a process that it follows another. */
export const FOLLOWS = 'ORION_LVM_FOLLOWS';
/** After stdin, stdout, stderr, the channel, and the pipe. */
const FIRST_FD = 5;
/** Starts its arguments, and says which process that is. */
const STARTER = '"$@" & echo $! >&4';

/** How this process was started. */
export interface Program {
  readonly main: string;
  readonly args: readonly string[];
}

/** Descriptors on their way to the successor: each gets its number there. */
export class FdList {
  readonly fds: number[] = [];

  /** Gives the number that it will have. */
  add(fd: number): number {
    return FIRST_FD + this.fds.push(fd) - 1;
  }
}

/** The shell, and the pipe that its child keeps. Throws a DaemonError where this process can't start any. */
function startShell(args: readonly string[], fds: readonly number[]): [ChildProcess, Readable] {
  const { WATCHDOG_PID: _, ...env } = process.env;
  let child: ChildProcess;
  try {
    child = spawn('/bin/sh', args, {
      serialization: 'advanced',
      stdio: ['inherit', 'inherit', 'inherit', 'ipc', 'pipe', ...fds],
      env: { ...env, [FOLLOWS]: String(process.pid) },
    });
  } catch (error) {
    throw failed(reasonOf(error));
  }
  // Without a descriptor for them there are no streams, and the error comes later.
  const pipe = (child as Partial<ChildProcess>).stdio?.[4];
  if (pipe instanceof Readable) return [child, pipe];
  child.once('error', () => undefined);
  throw failed('it can not be started: no descriptor is free (LimitNOFILE, ulimit -n)');
}

export class Successor {
  readonly #child: ChildProcess;
  /** Where it says its number, and its end is seen. */
  readonly #pipe: Readable;
  readonly #heard: FromSuccessor[] = [];
  #wake: () => void = () => undefined;
  #pid: number | null = null;
  /** Why it can't follow any more; null: it may. */
  #ended: string | null = null;
  readonly #giving = new Set<Promise<void>>();

  private constructor(child: ChildProcess, pipe: Readable) {
    this.#child = child;
    this.#pipe = pipe;
    let said = '';
    pipe.on('data', (chunk: Buffer) => {
      said += chunk.toString('latin1');
      if (said.endsWith('\n')) this.#pid = Number(said);
    });
    pipe.once('close', () => this.#over('it has ended, and has said why'));
    // Its 'close' follows.
    pipe.on('error', () => undefined);
    child.on('message', (message: FromSuccessor) => {
      this.#heard.push(message);
      this.#wake();
    });
    child.once('error', (error) => this.#over(error.message));
  }

  /** Starts it with the descriptors, and tells it what they are. Throws a DaemonError. */
  static start({ main, args }: Program, { fds }: FdList, estate: Estate): Successor {
    const command = [process.execPath, ...process.execArgv, main, ...args];
    const successor = new Successor(...startShell(['-c', STARTER, 'sh', ...command], fds));
    successor.say({ kind: 'estate', estate });
    return successor;
  }

  /** Null: not known yet. */
  get pid(): number | null {
    return this.#pid;
  }

  #over(reason: string): void {
    this.#ended ??= reason;
    this.#wake();
  }

  say(message: ToSuccessor): void {
    if (this.#child.connected) this.#child.send(message, undefined, undefined, () => undefined);
  }

  /** Its next word, which is to be of that kind. Throws a DaemonError. */
  async hear<Kind extends FromSuccessor['kind']>(
    kind: Kind,
    timeoutMs: number,
  ): Promise<Extract<FromSuccessor, { readonly kind: Kind }>> {
    const end = performance.now() + timeoutMs;
    for (;;) {
      const message = this.#heard.shift();
      if (message !== undefined) {
        if (message.kind === kind) return message as Extract<FromSuccessor, { readonly kind: Kind }>;
        throw failed(`it said ${message.kind} instead of ${kind}`);
      }
      if (this.#ended !== null) throw failed(this.#ended);
      const leftMs = end - performance.now();
      if (leftMs <= 0) throw failed(`it is not ${kind} after ${timeoutMs} ms`);
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      const timer = setTimeout(resolve, leftMs);
      await promise;
      clearTimeout(timer);
    }
  }

  /** Gives it a socket by its handle; settles when the handle has left and can be closed here. Rejects if that fails. */
  async give(message: WithHandle, handle: object): Promise<void> {
    const giving = sendHandle(this.#child, message, handle);
    const settled = Promise.allSettled([giving]).then(() => undefined);
    this.#giving.add(settled);
    try {
      await giving;
    } finally {
      this.#giving.delete(settled);
    }
  }

  /** Settles when nothing is on its way. */
  async given(): Promise<void> {
    while (this.#giving.size > 0) await Promise.all(this.#giving);
  }

  /** How many sockets are on their way. */
  get giving(): number {
    return this.#giving.size;
  }

  /** Throws a DaemonError if it has ended. */
  mustLive(): void {
    if (this.#ended !== null) throw failed(this.#ended);
  }

  /** Lets it end; it has taken nothing yet. Settles when it has: it is killed where that takes longer than `timeoutMs`. */
  async end(timeoutMs: number): Promise<void> {
    if (this.#pipe.closed) return;
    const closed = once(this.#pipe, 'close');
    const timer = setTimeout(() => this.kill('SIGKILL'), timeoutMs);
    if (this.#child.connected) this.#child.disconnect();
    await closed;
    clearTimeout(timer);
  }

  kill(signal: NodeJS.Signals): void {
    if (this.#pid === null || this.#pipe.closed) return;
    try {
      process.kill(this.#pid, signal);
    } catch {
      // It has ended.
    }
  }
}

function failed(reason: string): DaemonError {
  return new DaemonError({ code: 'HAND_OVER', reason: `the process that was to follow: ${reason}` });
}
