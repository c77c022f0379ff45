/**
 * The workers of a daemon: started together, started again when one dies, ended together.
 *
 * Invariants
 *  - A slot has a worker that does its work, or none: whoever needs one waits for the slot, within bounds.
 *  - A worker that took its place gets its tables (`restore`) before anybody else gets at it.
 *  - A flush that fails in one worker, or in the control plane, fails in all workers that have its device, and in those to come.
 *  - A worker that keeps dying is started again ever more slowly, and never given up.
 */
import { DaemonError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { DeviceKey, LostFlushes, QuietRequest, WorkerEvents, WorkerHost, WorkerStats } from './host.ts';
import { WorkerError } from './protocol.ts';

/** A worker that lived this long died of something new. */
const LONG_LIFE_MS = 10_000;
const FIRST_DELAY_MS = 100;
const LONGEST_DELAY_MS = 30_000;
/** Numbers of a worker that does not answer are not waited for. */
const STATS_TIMEOUT_MS = 2000;

export interface PoolOptions {
  readonly count: number;
  readonly start: (index: number, events: WorkerEvents) => Promise<WorkerHost>;
  /** Gives a new worker the tables of the slot's volumes. */
  readonly restore: (slot: WorkerSlot, host: WorkerHost) => Promise<void>;
  /** The slot's worker has ended, with everything that it held. */
  readonly lost: (slot: WorkerSlot) => void;
  readonly connectionClosed: (connection: number) => void;
  readonly client: WorkerEvents['client'];
  /** Where a claimed device is, for people; null, or absent: not known. */
  readonly pathOf?: (device: DeviceKey) => string | null;
  readonly log: Logger;
}

export interface WorkerStatus {
  readonly index: number;
  /** null: it is being started again. */
  readonly pid: number | null;
  /** How often it was started again. */
  readonly restarts: number;
  /** Why it ended the last time. */
  readonly lastEnd?: string;
}

/** Devices whose flushes are lost. */
interface Losses {
  readonly all: () => Iterable<LostFlushes>;
  readonly tell: (lost: LostFlushes, from: WorkerSlot) => void;
}

/** One worker's place. */
export class WorkerSlot {
  readonly index: number;
  readonly #options: PoolOptions;
  readonly #losses: Losses;
  #host: WorkerHost | null = null;
  /** Null when there will be none any more. */
  #ready = Promise.withResolvers<WorkerHost | null>();
  #restarts = 0;
  #delayMs = 0;
  #startedAt = 0;
  #lastEnd: string | null = null;
  #timer: NodeJS.Timeout | null = null;
  #ending = false;
  /** The last start. */
  #opening: Promise<void> = Promise.resolve();

  constructor(index: number, options: PoolOptions, losses: Losses) {
    this.index = index;
    this.#options = options;
    this.#losses = losses;
  }

  /** The worker, once it has its tables; null while there is none. */
  get host(): WorkerHost | null {
    return this.#host;
  }

  /** The worker as soon as there is one. Throws a WorkerError after `timeoutMs`, or when the daemon is ending. */
  async within(timeoutMs: number): Promise<WorkerHost> {
    if (this.#host !== null) return this.#host;
    const { promise, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      reject(new WorkerError('TIMEOUT', this.index, `it could not be started again: ${this.#lastEnd ?? 'no reason'}`));
    }, timeoutMs);
    try {
      const host = await Promise.race([this.#ready.promise, promise]);
      if (host === null) throw new WorkerError('FAILED', this.index, 'the daemon is ending');
      return host;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Whether it has ended again soon after a start: who is served elsewhere is better off there. */
  get isFailing(): boolean {
    return this.#restarts > 1 && this.#delayMs > 0 && performance.now() - this.#startedAt < LONG_LIFE_MS;
  }

  status(): WorkerStatus {
    return {
      index: this.index,
      pid: this.#host?.pid ?? null,
      restarts: this.#restarts,
      ...(this.#lastEnd === null ? {} : { lastEnd: this.#lastEnd }),
    };
  }

  /** Starts the worker. Throws a WorkerError. */
  open(): Promise<void> {
    this.#opening = this.#open();
    return this.#opening;
  }

  async #open(): Promise<void> {
    this.#startedAt = performance.now();
    const events: WorkerEvents = {
      connectionClosed: this.#options.connectionClosed,
      client: this.#options.client,
      flushLost: (lost) => this.#losses.tell(lost, this),
      gone: (reason) => this.#gone(reason),
    };
    const host = await this.#options.start(this.index, events);
    for (const lost of this.#losses.all()) await host.loseFlushes(lost);
    await this.#options.restore(this, host);
    this.#host = host;
    this.#ready.resolve(host);
    // What was lost meanwhile was told to those who were there.
    for (const lost of this.#losses.all()) await host.loseFlushes(lost);
  }

  #gone(reason: string): void {
    this.#lastEnd = reason;
    if (this.#ending) return;
    const lived = performance.now() - this.#startedAt;
    this.#delayMs = lived > LONG_LIFE_MS ? 0 : Math.min(Math.max(this.#delayMs * 2, FIRST_DELAY_MS), LONGEST_DELAY_MS);
    const fields = { worker: this.index, reason, againInMs: this.#restarts === 0 ? 0 : this.#delayMs };
    this.#options.log.error(fields, 'a worker has ended, it is started again');
    if (this.#host !== null) this.#ready = Promise.withResolvers();
    this.#host = null;
    this.#options.lost(this);
    // The first time at once: a single accident should cost no more than the start of a process.
    this.#timer = setTimeout(() => void this.#again(), this.#restarts++ === 0 ? 0 : this.#delayMs);
  }

  async #again(): Promise<void> {
    this.#timer = null;
    try {
      await this.open();
      this.#options.log.warn(
        { worker: this.index, pid: this.#host?.pid },
        'a worker was started again with its tables',
      );
    } catch (err) {
      // If its process ended, `gone` has seen to the next try.
      this.#options.log.error({ err, worker: this.index }, 'a worker could not be started again');
    }
  }

  /** Lets its clients go, flushes, closes; gives what failed. */
  async drain(): Promise<readonly string[]> {
    this.#ending = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    // One that is about to be there has to be ended too.
    await Promise.allSettled([this.#opening]);
    const host = this.#host;
    if (host === null) {
      this.#ready.resolve(null);
      return this.#lastEnd === null ? [] : [`worker ${this.index} was not there any more: ${this.#lastEnd}`];
    }
    try {
      return await host.drain();
    } catch (error) {
      return [error instanceof Error ? error.message : String(error)];
    }
  }

  /** Gives its clients away and closes everything; gives what failed. It is not started again. */
  async release(): Promise<readonly string[]> {
    this.#ending = true;
    // One that is about to be there would have the volumes beside those who follow.
    if (this.#timer !== null) clearTimeout(this.#timer);
    await Promise.allSettled([this.#opening]);
    try {
      return (await this.#host?.release()) ?? [`worker ${this.index} was not there any more`];
    } catch (error) {
      return [error instanceof Error ? error.message : String(error)];
    }
  }

  kill(): void {
    this.#ending = true;
    this.#host?.kill();
  }
}

export class WorkerPool {
  readonly slots: readonly WorkerSlot[];
  readonly #options: PoolOptions;
  readonly #log: Logger;
  /** By device; who has one open for the first time is as concerned as who had it then. */
  readonly #lost = new Map<DeviceKey, LostFlushes>();

  constructor(options: PoolOptions) {
    this.#options = options;
    this.#log = options.log;
    const losses: Losses = {
      all: () => this.#lost.values(),
      tell: (lost, from) => this.#loseFlushes(lost, from),
    };
    this.slots = Array.from({ length: options.count }, (_, index) => new WorkerSlot(index, options, losses));
  }

  /** Starts all of them. Throws a WorkerError. */
  async open(): Promise<void> {
    // Even if one fails the others are waited for, so that they can be ended.
    const outcomes = await Promise.allSettled(this.slots.map((slot) => slot.open()));
    const failed = outcomes.find((outcome) => outcome.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  /** Why not everything that was written to these devices is durable after a flush; null: it is. */
  lossAmong(keys: Iterable<DeviceKey>): string | null {
    for (const key of keys) {
      if (this.#lost.has(key)) return `a flush of ${this.#options.pathOf?.(key) ?? key} has failed`;
    }
    return null;
  }

  /** A flush of these devices has failed here. */
  loseFlushes(keys: readonly DeviceKey[], errno: number): void {
    for (const key of keys) this.#loseFlushes({ key, errno }, null);
  }

  /** Tells all workers but this one that a flush has failed. */
  #loseFlushes(lost: LostFlushes, from: WorkerSlot | null): void {
    if (!this.#lost.has(lost.key)) {
      const device = this.#options.pathOf?.(lost.key) ?? lost.key;
      this.#log.error(
        { device, errno: lost.errno },
        'a flush has failed: every flush of this device will, until its volume group is deactivated (vgchange -an) and activated again',
      );
    }
    this.#lost.set(lost.key, lost);
    for (const other of this.slots) {
      if (other === from) continue;
      // With a worker that has ended its clients have, too.
      other.host?.loseFlushes(lost).catch((err: unknown) => this.#log.debug({ err }, 'a worker was not told'));
    }
  }

  /** The workers that are there. */
  hosts(): readonly WorkerHost[] {
    return this.slots.flatMap(({ host }) => host ?? []);
  }

  /** Sees to it that nothing is done any more; gives why that can't be, and then lets everything go on. */
  async quiesce(request: QuietRequest): Promise<string | null> {
    const asked = this.slots.map(({ host }) => host);
    const answers = await Promise.all(
      this.slots.map(async ({ host, index }) => {
        if (host === null) return `worker ${index} is being started again`;
        try {
          return await host.quiesce(request);
        } catch (error) {
          return error instanceof Error ? error.message : String(error);
        }
      }),
    );
    const problem = answers.find((answer) => answer !== null) ?? null;
    if (problem !== null) return problem;
    // One that was quiet may have ended while others were waited for, and what took its place is not quiet.
    const lost = this.slots.find(({ host }, index) => host === null || host !== asked[index]);
    return lost === undefined ? null : `worker ${lost.index} has ended meanwhile`;
  }

  /** After a `quiesce`. */
  async goOn(): Promise<void> {
    await Promise.allSettled(this.hosts().map((host) => host.goOn()));
  }

  /** Gives every client away and closes everything; gives what failed. Only while all are quiet. */
  async release(): Promise<readonly string[]> {
    return (await Promise.all(this.slots.map((slot) => slot.release()))).flat();
  }

  /** Lets every client go; a worker that dies meanwhile has done so too, in its way. */
  async disconnectAll(): Promise<void> {
    await Promise.allSettled(this.hosts().map((host) => host.disconnectAll()));
  }

  /** Ends all of them in an orderly way; gives what failed. */
  async drain(): Promise<readonly string[]> {
    return (await Promise.all(this.slots.map((slot) => slot.drain()))).flat();
  }

  /** `drain`. Throws an AggregateError of DaemonErrors if something could not be flushed and closed. */
  async close(): Promise<void> {
    const problems = await this.drain();
    if (problems.length === 0) return;
    const errors = problems.map((reason) => new DaemonError({ code: 'CLOSE_FAILED', reason }));
    throw new AggregateError(errors, 'some volumes could not be flushed and closed');
  }

  /** What the workers count; null for one that is not there, or does not answer. */
  stats(): Promise<readonly (WorkerStats | null)[]> {
    return Promise.all(
      this.slots.map(async ({ host }) => {
        if (host === null) return null;
        const { promise, resolve } = Promise.withResolvers<null>();
        const timer = setTimeout(() => resolve(null), STATS_TIMEOUT_MS);
        try {
          return await Promise.race([host.stats(), promise]);
        } catch {
          // It has ended meanwhile, and is being started again.
          return null;
        } finally {
          clearTimeout(timer);
        }
      }),
    );
  }

  /** Ends all of them at once. */
  kill(): void {
    for (const slot of this.slots) slot.kill();
  }
}
