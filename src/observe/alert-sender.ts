/**
 * Takes alerts to where the configuration wants them: a program (JSON on its standard input) and a webhook (JSON by POST).
 *
 * Invariants
 *  - `send` only queues. Nothing of the daemon waits for a program or a server, and at most MAX_WAITING alerts wait: then the
 *    oldest is dropped, which is told.
 *  - One alert at a time and in order; an attempt has `timeoutMs`, and is repeated `retries` times after 1, 2, 4 … seconds.
 *  - `configure` loses nothing and tells nobody twice: what waits goes to where it is to go from then on, at once. An attempt under way
 *    ends as it began. What a way has that is no longer wished goes that way still, as when everything is closed.
 *  - `close` gives what waits one last attempt each, all of it at most CLOSE_MS, and ends what is running.
 */
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Alert } from './health.ts';

const MAX_WAITING = 100;
const CLOSE_MS = 5000;
const FIRST_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 60_000;

export interface AlertTarget {
  /** Program and arguments; null: none. */
  readonly command: readonly string[] | null;
  /** Null: none. */
  readonly webhook: string | null;
  /** Milliseconds, of one attempt. */
  readonly timeoutMs: number;
  /** Attempts after the first. */
  readonly retries: number;
}

export interface SenderLog {
  warn(fields: object, message: string): void;
}

type Deliver = (alert: Alert, signal: AbortSignal) => Promise<void>;

/** The ways that alerts take, each with a queue of its own, so that a dead server doesn't hold up the program. */
export class AlertSender {
  readonly #log: SenderLog;
  readonly #ways = new Map<string, Way>();
  /** Ways that are no longer wished, as long as they have something. */
  readonly #ending = new Set<Promise<void>>();

  constructor(target: AlertTarget, log: SenderLog) {
    this.#log = log;
    this.configure(target);
  }

  /** Where alerts go from now on. */
  configure(target: AlertTarget): void {
    const { command, webhook } = target;
    this.#set('command', command === null ? null : (alert, signal) => runCommand(command, alert, signal), target);
    this.#set('webhook', webhook === null ? null : (alert, signal) => post(webhook, alert, signal), target);
  }

  #set(name: string, deliver: Deliver | null, target: AlertTarget): void {
    const way = this.#ways.get(name);
    if (deliver !== null) {
      if (way === undefined) this.#ways.set(name, new Way(name, deliver, target, this.#log));
      else way.configure(deliver, target);
    } else if (way !== undefined) {
      this.#ways.delete(name);
      const ending = way.close().finally(() => this.#ending.delete(ending));
      this.#ending.add(ending);
    }
  }

  send(alert: Alert): void {
    for (const way of this.#ways.values()) way.send(alert);
  }

  /** Settles when nothing waits or runs any more. */
  async close(): Promise<void> {
    await Promise.all([...[...this.#ways.values()].map((way) => way.close()), ...this.#ending]);
  }
}

class Way {
  readonly #name: string;
  readonly #log: SenderLog;
  #deliver: Deliver;
  #target: AlertTarget;
  readonly #waiting: Alert[] = [];
  readonly #closing = new AbortController();
  readonly #end = new AbortController();
  /** Ends a pause between attempts: there is another target. */
  #changed = new AbortController();
  #running: Promise<void> | null = null;

  constructor(name: string, deliver: Deliver, target: AlertTarget, log: SenderLog) {
    this.#name = name;
    this.#deliver = deliver;
    this.#target = target;
    this.#log = log;
  }

  configure(deliver: Deliver, target: AlertTarget): void {
    this.#deliver = deliver;
    this.#target = target;
    this.#changed.abort();
    this.#changed = new AbortController();
  }

  send(alert: Alert): void {
    this.#waiting.push(alert);
    if (this.#waiting.length > MAX_WAITING) this.#dropped(this.#waiting.shift(), 'too many alerts wait');
    this.#running ??= this.#run();
  }

  async close(): Promise<void> {
    this.#closing.abort();
    const timer = setTimeout(() => this.#end.abort(), CLOSE_MS);
    await this.#running;
    clearTimeout(timer);
  }

  async #run(): Promise<void> {
    for (let alert = this.#waiting.shift(); alert !== undefined; alert = this.#waiting.shift()) {
      await this.#deliverWithRetries(alert);
    }
    this.#running = null;
  }

  async #deliverWithRetries(alert: Alert): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      const { retries, timeoutMs } = this.#target;
      const changed = this.#changed.signal;
      try {
        await this.#deliver(alert, AbortSignal.any([AbortSignal.timeout(timeoutMs), this.#end.signal]));
        return;
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        if ((attempt >= retries && !changed.aborted) || this.#closing.signal.aborted) {
          this.#dropped(alert, reason);
          return;
        }
        this.#log.warn(
          { way: this.#name, reason, attempt: attempt + 1 },
          'an alert could not be delivered; trying again',
        );
        await this.#pause(Math.min(FIRST_PAUSE_MS * 2 ** attempt, MAX_PAUSE_MS), changed);
        // Another target has its own.
        if (changed.aborted) attempt = -1;
      }
    }
  }

  /** Ends early when the sender is closed, or has another target. */
  async #pause(milliseconds: number, changed: AbortSignal): Promise<void> {
    const signal = AbortSignal.any([this.#closing.signal, changed]);
    try {
      await sleep(milliseconds, undefined, { ref: false, signal });
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }

  #dropped(alert: Alert | undefined, reason: string): void {
    this.#log.warn({ way: this.#name, alert, reason }, 'an alert was not delivered');
  }
}

/** Throws if the program can't be run, fails, or is not ready in time. */
async function runCommand(command: readonly string[], alert: Alert, signal: AbortSignal): Promise<void> {
  const [program = '', ...args] = command;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const child = spawn(program, args, { stdio: ['pipe', 'ignore', 'ignore'], signal, killSignal: 'SIGKILL' });
  child.once('error', (error) => {
    reject(signal.aborted ? new Error(`${program} was not ready in time`, { cause: error }) : error);
  });
  child.once('close', (code, killed) => {
    if (code === 0) resolve();
    else reject(new Error(`${program} ended with ${killed ?? `exit code ${code}`}`));
  });
  // A program that doesn't read its input closes the pipe early: its exit code tells how it went.
  child.stdin.once('error', () => undefined);
  child.stdin.end(`${JSON.stringify(alert)}\n`);
  return promise;
}

/** Throws unless the answer is 2xx. What is thrown says nothing of the URL but its host: there may be secrets in it. */
async function post(url: string, alert: Alert, signal: AbortSignal): Promise<void> {
  const { bare, host, authorization } = partsOf(url);
  const body = JSON.stringify(alert);
  const headers = { 'Content-Type': 'application/json', ...authorization };
  let response: Response;
  try {
    // A redirected POST would become a GET, which nobody takes for an alert.
    response = await fetch(bare, { method: 'POST', headers, body, signal, redirect: 'manual' });
  } catch (error) {
    const { cause } = error as Error;
    throw cause instanceof Error ? new Error(`${host} cannot be reached: ${cause.message}`, { cause }) : error;
  }
  await response.body?.cancel();
  if (!response.ok) throw new Error(`${host} answered with status ${response.status}`);
}

/** A URL without user and password, which go into a header. */
function partsOf(text: string): {
  readonly bare: URL;
  readonly host: string;
  readonly authorization: { readonly Authorization?: string };
} {
  const bare = new URL(text);
  const { username, password, host } = bare;
  bare.username = '';
  bare.password = '';
  if (username === '' && password === '') return { bare, host, authorization: {} };
  const pair = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return { bare, host, authorization: { Authorization: `Basic ${Buffer.from(pair).toString('base64')}` } };
}
