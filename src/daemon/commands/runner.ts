/**
 * Runs commands for those who ask over the control socket, each in a process of its own, so that heavy work delays no I/O and
 * a fault of a command is its own.
 *
 * Invariants
 *  - At most MAX_RUNNING commands run; MAX_WAITING more wait for their turn, in order. Locks are taken by running ones only.
 *    A user who is no administrator has at most three quarters of either: nobody keeps the others from their turn.
 *  - A command's exit is told once, and last; a process that ends without one failed.
 *  - A change that was prepared is always ended: if the command's process dies first, its VGs are read again here, whichever
 *    state the commit left them in.
 *  - A move is told when nobody asks about it any more: nothing stays as it was made for a commit that does not come.
 *  - What a process asks for is carried out in the order of its asking, and its exit is told after all of it.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { CommandError } from '../../lvm/edit/errors.ts';
import type { LiveChange, LiveVolumes, VolumeId } from '../../lvm/live.ts';
import type { CommandEvent, CommandRequest, FromHosted, LiveMethod, PromptAnswer } from '../client/messages.ts';
import type { Logger } from '../log.ts';
import { HostedProcess, type ProcessEnd } from './process.ts';

const MAX_RUNNING = 16;
const MAX_WAITING = 256;
/** A process stands ready this long after the last command. */
const IDLE_MS = 60_000;
/** Between looks at commands that are waited for. */
const HOLD_POLL_MS = 10;
const SHARE_OF_ONE = 3 / 4;
const FAILED = 5;

/** What became of a command, for the audit log. */
export interface CommandOutcome {
  readonly id: string;
  readonly request: CommandRequest;
  readonly exitCode: number;
  /** In the order in which they were committed. */
  readonly changes: readonly LiveChange[];
}

export interface RunnerOptions {
  readonly live: LiveVolumes;
  readonly log: Logger;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Told before the exit event, which waits for it. */
  readonly finished?: (outcome: CommandOutcome) => Promise<void>;
  /** Told of a move whose state a command has asked for, when that command has ended and no other is asking. */
  readonly moveLeft?: (pvmoveLv: VolumeId) => Promise<void>;
  /** Default MAX_RUNNING. */
  readonly maxRunning?: number;
}

/** Moves that commands ask about, and how many do. */
type Moves = Map<VolumeId, number>;

export interface RunningCommand {
  readonly id: string;
  answer(answer: PromptAnswer): void;
  /** Ends the command at its next safe point, or before it begins. */
  cancel(): void;
}

export class CommandRunner {
  readonly #options: RunnerOptions;
  readonly #running = new Set<Command>();
  readonly #waiting: Command[] = [];
  #idle: HostedProcess | null = null;
  #idleTimer: NodeJS.Timeout | undefined;
  #lastId = 0;
  #drained: (() => void) | null = null;
  #closing = false;
  #held = false;
  readonly #maxRunning: number;
  readonly #moves: Moves = new Map();

  constructor(options: RunnerOptions) {
    this.#options = options;
    this.#maxRunning = options.maxRunning ?? MAX_RUNNING;
  }

  /**
   * Null: too many commands are waiting already, or the daemon is about to end. `listener` gets `exit` last. `user`: whose share
   * of the turns it takes; null: it may have all.
   */
  start(
    request: CommandRequest,
    listener: (event: CommandEvent) => void,
    user: number | null = null,
  ): RunningCommand | null {
    if (this.#closing || this.#held || this.#waiting.length >= MAX_WAITING) return null;
    if (!hasRoom(user, this.#waiting, MAX_WAITING)) return null;
    const command = new Command(
      String(++this.#lastId),
      request,
      listener,
      { ...this.#options, moves: this.#moves },
      user,
    );
    listener({ type: 'started', id: command.id });
    this.#waiting.push(command);
    this.#next();
    return command;
  }

  /** It takes no more commands for now. */
  get held(): boolean {
    return this.#held;
  }

  /**
   * Takes no more commands, and waits that long for those that there are, and for what runs besides. Gives the names of the ones that
   * don't end.
   */
  async hold(timeoutMs: number, besides: () => readonly string[] = () => []): Promise<readonly string[]> {
    this.#held = true;
    const end = performance.now() + timeoutMs;
    for (;;) {
      const left = [...[...this.#running, ...this.#waiting].map(({ name }) => name), ...besides()];
      if (left.length === 0 || performance.now() > end) return left;
      await delay(HOLD_POLL_MS);
    }
  }

  /** Takes commands again. */
  goOn(): void {
    this.#held = false;
  }

  /** Cancels everything and resolves when the last command has ended. */
  close(): Promise<void> {
    this.#closing = true;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#drained = resolve;
    for (const command of [...this.#running, ...this.#waiting]) command.cancel();
    this.#dropIdle();
    this.#tellIfDrained();
    return promise;
  }

  #next(): void {
    while (this.#running.size < this.#maxRunning) {
      const command = this.#waiting.find(({ user }) => hasRoom(user, this.#running, this.#maxRunning));
      if (command === undefined) return;
      this.#waiting.splice(this.#waiting.indexOf(command), 1);
      this.#running.add(command);
      void command.run(() => this.#takeProcess()).finally(() => this.#ended(command));
    }
  }

  #ended(command: Command): void {
    this.#running.delete(command);
    this.#next();
    if (!this.#closing && this.#running.size === 0) this.#keepReady();
    this.#tellIfDrained();
  }

  #tellIfDrained(): void {
    if (this.#running.size === 0 && this.#waiting.length === 0) this.#drained?.();
  }

  #takeProcess(): HostedProcess {
    const idle = this.#idle;
    clearTimeout(this.#idleTimer);
    this.#idle = null;
    if (idle?.usable !== true) return new HostedProcess(this.#options.env);
    idle.ref();
    return idle;
  }

  /** The next command, which comes soon after this one, will not wait for a process to start. */
  #keepReady(): void {
    if (this.#idle?.usable !== true) {
      this.#idle = new HostedProcess(this.#options.env);
      this.#idle.unref();
    }
    clearTimeout(this.#idleTimer);
    this.#idleTimer = setTimeout(() => this.#dropIdle(), IDLE_MS);
    this.#idleTimer.unref();
  }

  #dropIdle(): void {
    clearTimeout(this.#idleTimer);
    this.#idle?.kill();
    this.#idle = null;
  }
}

/** Whether a user may have one more of `room` turns, of which these are taken. */
function hasRoom(user: number | null, taken: Iterable<Command>, room: number): boolean {
  return (
    user === null || [...taken].filter((command) => command.user === user).length < Math.floor(room * SHARE_OF_ONE)
  );
}

class Command implements RunningCommand {
  readonly id: string;
  readonly user: number | null;
  readonly #request: CommandRequest;
  readonly #listener: (event: CommandEvent) => void;
  readonly #options: RunnerOptions & { readonly moves: Moves };
  readonly #asked = new Set<VolumeId>();
  readonly #open = new Map<string, LiveChange>();
  readonly #changes: LiveChange[] = [];
  readonly #prompts = new Set<number>();
  #process: HostedProcess | null = null;
  #cancelled = false;
  /** The caller has been told of a success, and is told nothing more. */
  #inBackground = false;
  #exitCode: number | null = null;
  /** Calls of the live interface, one after the other. */
  #calls: Promise<void> = Promise.resolve();

  constructor(
    id: string,
    request: CommandRequest,
    listener: (event: CommandEvent) => void,
    options: RunnerOptions & { readonly moves: Moves },
    user: number | null,
  ) {
    this.id = id;
    this.user = user;
    this.#request = request;
    this.#listener = listener;
    this.#options = options;
  }

  get name(): string {
    return this.#request.name;
  }

  answer(answer: PromptAnswer): void {
    if (this.#prompts.delete(answer.id)) this.#process?.send({ kind: 'answer', answer });
  }

  cancel(): void {
    this.#cancelled = true;
    this.#process?.send({ kind: 'cancel' });
  }

  async run(takeProcess: () => HostedProcess): Promise<void> {
    const end = this.#cancelled ? null : await this.#inProcess(takeProcess());
    // Whatever the process asked for comes first.
    await this.#calls;
    await this.#endChanges();
    await this.#leaveMoves();
    if (end !== null && this.#exitCode === null) this.#tellOfDeath(end);
    const exitCode = this.#exitCode ?? FAILED;
    try {
      await this.#options.finished?.({ id: this.id, request: this.#request, exitCode, changes: this.#changes });
    } catch (err) {
      this.#options.log.error({ err, command: this.#request.name }, 'the end of a command could not be recorded');
    }
    this.#tell({ type: 'exit', code: exitCode });
  }

  #tell(event: CommandEvent): void {
    if (!this.#inBackground) this.#listener(event);
  }

  /** The daemon's end still cancels the command; its caller's going no longer does. */
  #goToBackground(): void {
    this.#tell({ type: 'exit', code: 0 });
    this.#inBackground = true;
  }

  /** Settles when the process has told its exit, or has died. */
  #inProcess(process: HostedProcess): Promise<ProcessEnd | null> {
    this.#process = process;
    const { promise, resolve } = Promise.withResolvers<ProcessEnd | null>();
    process.attach({
      message: (message) => {
        this.#message(message);
        if (message.kind === 'exit') resolve(null);
      },
      ended: resolve,
    });
    process.send({ kind: 'run', request: this.#request });
    return promise;
  }

  #message(message: FromHosted): void {
    if (message.kind === 'event') {
      if (message.event.type === 'prompt') this.#prompts.add(message.event.id);
      this.#tell(message.event);
    } else if (message.kind === 'background') this.#goToBackground();
    else if (message.kind === 'exit') this.#exitCode = message.code;
    else this.#calls = this.#calls.then(() => this.#call(message));
  }

  async #call({ id, method, args }: Extract<FromHosted, { readonly kind: 'live' }>): Promise<void> {
    try {
      const value = await this.#live(method, args);
      this.#process?.send({ kind: 'live-result', id, value });
    } catch (error) {
      if (!(error instanceof CommandError)) this.#options.log.error({ err: error, method }, 'a command was let down');
      const lines = error instanceof CommandError ? error.lines : [`orion-lvmd: ${String(error)}`];
      const exitCode = error instanceof CommandError ? error.exitCode : FAILED;
      this.#process?.send({ kind: 'live-refused', id, lines, exitCode });
    }
  }

  /** The process is of our own making: what it sends is what `LiveVolumes` says. */
  async #live(method: LiveMethod, args: readonly unknown[]): Promise<unknown> {
    const { live } = this.#options;
    const [argument] = args;
    if (method === 'prepare') {
      const change = argument as LiveChange;
      await live.prepare(change);
      this.#open.set(change.key, change);
      return undefined;
    }
    if (method === 'committed') {
      const change = argument as LiveChange;
      const problems = await live.committed(change);
      this.#open.delete(change.key);
      this.#changes.push(change);
      return problems;
    }
    if (method === 'abandoned') {
      const change = argument as LiveChange;
      await live.abandoned(change);
      this.#open.delete(change.key);
      return undefined;
    }
    if (method === 'moveStatus') this.#askAbout(argument as VolumeId);
    const call = live[method] as (...given: readonly unknown[]) => Promise<unknown>;
    return call.apply(live, [...args]);
  }

  /** The process died between prepare and committed: the disks say which of the two states holds. */
  async #endChanges(): Promise<void> {
    for (const change of this.#open.values()) {
      const vgs = change.groups.map(({ name }) => name);
      this.#options.log.warn(
        { command: this.#request.name, vgs },
        'a command died during a change; reading its VGs again',
      );
      try {
        await this.#options.live.committed(change);
        this.#changes.push(change);
      } catch (err) {
        this.#options.log.error({ err, vgs }, 'volumes could not follow a change whose command died');
      }
    }
    this.#open.clear();
  }

  #askAbout(pvmoveLv: VolumeId): void {
    const { moves } = this.#options;
    if (this.#asked.has(pvmoveLv)) return;
    this.#asked.add(pvmoveLv);
    moves.set(pvmoveLv, (moves.get(pvmoveLv) ?? 0) + 1);
  }

  async #leaveMoves(): Promise<void> {
    const { moves, moveLeft, log } = this.#options;
    for (const pvmoveLv of this.#asked) {
      const others = (moves.get(pvmoveLv) ?? 1) - 1;
      if (others > 0) moves.set(pvmoveLv, others);
      else moves.delete(pvmoveLv);
      if (others > 0) continue;
      try {
        await moveLeft?.(pvmoveLv);
      } catch (err) {
        log.error({ err, pvmoveLv }, 'a move whose command has ended could not be let go on by itself');
      }
    }
  }

  #tellOfDeath({ exitCode, signal, lastWords }: ProcessEnd): void {
    const how = signal === null ? `with exit code ${exitCode ?? 'unknown'}` : `by ${signal}`;
    this.#options.log.error({ command: this.#request.name, how, lastWords }, "a command's process died");
    this.#tell({
      type: 'stderr',
      text: `  Internal error: the process of ${this.#request.name} was ended ${how}; what it had committed stays.\n`,
    });
  }
}
