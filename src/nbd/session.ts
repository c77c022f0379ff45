/**
 * One client in the transmission phase: its protocol state, its commands on the volume, and when to read, write and end.
 * It knows no socket; a transport brings bytes and takes them.
 *
 * Invariants
 *  - Reading pauses while the limits hold commands back and goes on when there is room; nothing that was read is dropped.
 *  - All replies of one event-loop turn are one `send`.
 *  - However the client leaves (DISC, half-close, garbage, a drain from our side), what was accepted is finished and
 *    answered first; only a vanished client gets no answers, and even then its accepted commands end.
 *  - A session that is paused reads nothing more, accepts nothing more, and tells once when it is still: all that it had accepted is carried
 *    out, and the transport has every answer. One that leaves goes on to its end, and is still when it needs the volume no more.
 *  - `released` is called once: the transport is gone and no command is in flight, so nothing refers to the volume.
 */
import assert from 'node:assert/strict';
import type { RequestPool } from '../dm/io.ts';
import type { BufferPool } from './buffer-pool.ts';
import { Executor, type TransferCounters } from './executor.ts';
import type { NbdExport } from './exports.ts';
import type { Terms } from './features.ts';
import type { BudgetWaiter, PayloadBudget } from './payload-budget.ts';
import { Transmission, type TransmissionLimits } from './transmission.ts';
import type { TurnQueue, TurnTaker } from './turn-queue.ts';

export interface SessionTransport {
  /** Sends the pieces in order as one write; one `session.sent()` follows when the system has taken all of them. */
  send(pieces: readonly Buffer[]): void;
  /** No more `receive` until `resume`. Both may be called again without need. */
  pause(): void;
  resume(): void;
  /** Everything is said: the stream towards the client ends. */
  finish(): void;
  /** Whether somebody else can go on with what it was given to send. */
  readonly movable: boolean;
}

/** What the sessions of a server share. */
export interface SessionShared {
  readonly requests: RequestPool;
  readonly buffers: BufferPool;
  /** Of the payload memory of all sessions. */
  readonly budget: PayloadBudget;
  readonly turns: TurnQueue;
  readonly limits: TransmissionLimits;
}

export class Session implements TurnTaker, BudgetWaiter {
  readonly export: NbdExport;
  scheduled = false;
  readonly #transport: SessionTransport;
  readonly #turns: TurnQueue;
  readonly #transmission: Transmission;
  readonly #executor: Executor;
  readonly #onReleased: () => void;
  readonly #pieces: Buffer[] = [];
  /** Told when it is still. */
  #onStill: (() => void) | null = null;
  #paused = false;
  #finished = false;
  #gone = false;
  #released = false;

  constructor(
    subject: { readonly export: NbdExport; readonly terms: Terms },
    shared: SessionShared,
    transport: SessionTransport,
    onReleased: () => void,
  ) {
    const { export: export_, terms } = subject;
    this.export = export_;
    this.#transport = transport;
    this.#turns = shared.turns;
    this.#onReleased = onReleased;
    this.#executor = new Executor(export_, shared.requests, (command, error) => {
      this.#transmission.finish(command, error);
      if (this.#gone) this.#releaseWhenDone();
      else this.#turns.schedule(this);
    });
    const memory = { buffers: shared.buffers, budget: shared.budget, waiter: this };
    this.#transmission = new Transmission(export_, memory, shared.limits, this.#executor, terms);
  }

  get counters(): Readonly<TransferCounters> {
    return this.#executor.counters;
  }

  get requestsInFlight(): number {
    return this.#transmission.requestsInFlight;
  }

  get bytesInFlight(): number {
    return this.#transmission.bytesInFlight;
  }

  /** Whether the client has said all that it will. */
  get leaving(): boolean {
    return this.#transmission.leaving;
  }

  /** Whether nothing more is heard from the client, and only its last answers are being seen to. */
  get draining(): boolean {
    return this.#transmission.stopped;
  }

  /** Whether what was read waits for room in the limits, so that no more should be. */
  get holding(): boolean {
    return this.#transmission.holding;
  }

  /** How the client broke the protocol; '' if it did not. */
  get problem(): string {
    return this.#transmission.problem;
  }

  /** Where the client's next bytes are to be put; to be asked for again after each `received`. */
  space(): Buffer {
    return this.#transmission.space();
  }

  /** So many of the client's bytes are in what `space` gave. */
  received(bytes: number): void {
    this.#transmission.received(bytes);
    this.#parsed();
  }

  /** Bytes of the client that were read elsewhere: before the transport reads, and has asked for space. */
  receive(chunk: Buffer): void {
    this.#transmission.receive(chunk);
    if (this.#transmission.pending) this.#turns.schedule(this);
  }

  #parsed(): void {
    if (!this.#transmission.pending) return;
    if (this.#transmission.holding) this.#transport.pause();
    this.#turns.schedule(this);
  }

  /** The client's stream has ended; ours has not. */
  ended(): void {
    this.#transmission.end();
    this.#turns.schedule(this);
  }

  /** Listens no more; finishes and answers what was accepted, then ends the stream. */
  drain(): void {
    this.#transmission.stop();
    this.#turns.schedule(this);
  }

  /** Reads and accepts nothing more until `goOn`; `onStill` is told, later, when everything that was accepted is answered. */
  pause(onStill: () => void): void {
    this.#onStill = onStill;
    // Of one that leaves, the end has to be heard.
    this.#paused = !this.leaving;
    if (this.#paused) {
      this.#transport.pause();
      this.#transmission.standBack();
    }
    this.#turns.schedule(this);
  }

  /** Reads again. */
  goOn(): void {
    this.#paused = false;
    this.#onStill = null;
    this.#turns.schedule(this);
  }

  /** What the client sent and was not accepted; null: nobody can go on from it. Only when it is paused and still. */
  unparsed(): Buffer | null {
    return this.#transmission.unparsed();
  }

  /** The client is sent so many bytes before the first reply, answers of who served it before; `paid` follows when the system has taken them. */
  owe(bytes: number): void {
    this.#transmission.owe(bytes);
  }

  paid(): void {
    this.#transmission.paid();
    // Also for who waits for what the transport sends by itself.
    this.#turns.schedule(this);
  }

  /** The system has taken the pieces of the oldest `send`. */
  sent(): void {
    this.#transmission.sent();
    if (this.#transmission.pending || this.#paused) this.#turns.schedule(this);
  }

  roomForPayload(): void {
    if (!this.#gone) this.#turns.schedule(this);
  }

  /** The transport is gone: nothing can be sent or received any more. */
  vanished(): void {
    assert(!this.#gone);
    this.#gone = true;
    this.#executor.abandon();
    this.#transmission.abandon();
    this.#releaseWhenDone();
  }

  turn(): void {
    if (this.#gone) return;
    const transmission = this.#transmission;
    // Who leaves goes on to the end.
    if (transmission.leaving) this.#paused = false;
    if (!this.#paused) transmission.proceed();
    transmission.collect(this.#pieces);
    if (this.#pieces.length > 0) {
      this.#transport.send(this.#pieces);
      // Setting the length would give up the array's memory in each turn.
      while (this.#pieces.length > 0) this.#pieces.pop();
    }
    if (transmission.holding || this.#paused) this.#transport.pause();
    else this.#transport.resume();
    if (this.#onStill !== null && transmission.still) {
      if (this.#paused ? this.#transport.movable : !transmission.holding) this.#tellStill(this.#onStill);
    }
    if (transmission.stopped && transmission.idle && !this.#finished) {
      this.#finished = true;
      this.#transport.finish();
    }
  }

  #tellStill(onStill: () => void): void {
    this.#onStill = null;
    onStill();
  }

  #releaseWhenDone(): void {
    if (this.#released || this.#transmission.requestsInFlight > 0) return;
    this.#released = true;
    this.#onReleased();
  }
}
