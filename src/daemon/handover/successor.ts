/**
 * The process that is to follow this one, as this one sees it: a child with the same arguments, which inherits descriptors.
 *
 * Invariants
 *  - What is waited for comes, or fails with a DaemonError when the child ends or takes too long.
 *  - A handle that was given is closed by the giver when `give` has settled; a message never overtakes one before it.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { DaemonError } from '../errors.ts';
import { sendHandle } from '../worker/handles.ts';
import type { Estate, FromSuccessor, ToSuccessor, WithHandle } from './messages.ts';

/** Tells a process that it follows another. */
export const FOLLOWS = 'ORION_LVM_FOLLOWS';
/** After stdin, stdout, stderr and the channel. */
const FIRST_FD = 4;
const END_MS = 10_000;

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

export class Successor {
  readonly #child: ChildProcess;
  readonly #heard: FromSuccessor[] = [];
  #wake: () => void = () => undefined;
  /** Why it can't follow any more; null: it may. */
  #ended: string | null = null;
  readonly #giving = new Set<Promise<void>>();

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.on('message', (message: FromSuccessor) => {
      this.#heard.push(message);
      this.#wake();
    });
    child.once('exit', (code, signal) => {
      this.#over(signal === null ? `it ended with code ${code}` : `it was ended by ${signal}`);
    });
    child.once('error', (error) => this.#over(error.message));
  }

  /** Starts it with the descriptors, and tells it what they are. */
  static start({ main, args }: Program, { fds }: FdList, estate: Estate): Successor {
    const { WATCHDOG_PID: _, ...env } = process.env;
    const child = fork(main, [...args], {
      serialization: 'advanced',
      stdio: ['inherit', 'inherit', 'inherit', 'ipc', ...fds],
      env: { ...env, [FOLLOWS]: String(process.pid) },
    });
    const successor = new Successor(child);
    successor.say({ kind: 'estate', estate });
    return successor;
  }

  get pid(): number {
    return this.#child.pid ?? -1;
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

  /** Lets it end; it has taken nothing yet. Settles when it has. */
  async end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, 'exit');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), END_MS);
    if (this.#child.connected) this.#child.disconnect();
    await exited;
    clearTimeout(timer);
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }
}

function failed(reason: string): DaemonError {
  return new DaemonError({ code: 'HAND_OVER', reason: `the process that was to follow: ${reason}` });
}
