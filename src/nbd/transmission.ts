/**
 * The transmission phase of one connection as a pure state machine: bytes in; accepted commands out to the host; replies
 * of finished commands out as pieces of memory.
 *
 * Invariants
 *  - Bytes may arrive split anywhere. Every complete command in them is accepted in one pass, as far as the limits allow;
 *    the rest is held and goes on with `proceed`. Nothing is dropped while the connection lives.
 *  - `requestsInFlight` counts accepted commands that the host has not finished; `bytesInFlight` their payloads and the
 *    replies not yet taken by the system. A command is accepted only if both stay within the limits, or nothing is in
 *    flight, and if the budget that all connections share has room: so memory is bounded, and a client that sends without reading
 *    stops only itself.
 *  - What is charged to the budget is `bytesInFlight`, and nothing when the last command of an abandoned connection has ended.
 *  - What the client was owed when the connection began is among its `bytesInFlight` until the system has taken it, whether there is room or
 *    not: so what it does not take does not grow, however often it is moved.
 *  - Each accepted command is handed to the host once, finished once, and answered once while the client is there.
 *  - A command with a payload is handed over when the whole payload is here (intake.ts). That of a refused one is read and dropped
 *    before its answer, unless so much of it must be malice.
 *  - After DISC, the end of the client's stream, or bytes that are not a request, nothing more is parsed; what was accepted
 *    is finished and answered.
 */
import assert from 'node:assert/strict';
import { Answers } from './answers.ts';
import type { BufferPool } from './buffer-pool.ts';
import { type Command, CommandPool } from './command.ts';
import { CommandType, MAX_DRAINED_BYTES, type NbdErrno, NbdErrno as Errno } from './constants.ts';
import type { NbdExport } from './exports.ts';
import { PLAIN_TERMS, type Terms } from './features.ts';
import { Intake } from './intake.ts';
import type { BudgetWaiter, PayloadBudget } from './payload-budget.ts';
import { ReplyQueue } from './reply-queue.ts';
import { applyFilter, StatusLists } from './status-lists.ts';
import { judge, judgeStatus } from './validate.ts';

/** Who carries out commands. */
export interface CommandHost {
  /** Starts a command: in range, permitted, of nonzero length but for FLUSH. `finish` follows, never from inside this call. */
  execute(command: Command): void;
}

/** Where a connection has its memory from. */
export interface TransmissionMemory {
  readonly buffers: BufferPool;
  /** Shared by all connections. */
  readonly budget: PayloadBudget;
  /** Told when there may be room in the budget: to call `proceed` soon. */
  readonly waiter: BudgetWaiter;
}

export interface TransmissionLimits {
  /** Commands being carried out at once. */
  readonly maxRequests: number;
  /** Bytes of payload and unsent replies; one larger command is accepted when it is alone. */
  readonly maxBytes: number;
}

export class Transmission {
  readonly #export: NbdExport;
  readonly #pool: BufferPool;
  readonly #limits: TransmissionLimits;
  readonly #budget: PayloadBudget;
  readonly #waiter: BudgetWaiter;
  readonly #terms: Terms;
  readonly #host: CommandHost;
  readonly #commands = new CommandPool();
  readonly #replies: ReplyQueue;
  readonly #answers: Answers;
  readonly #statusLists = new StatusLists();
  /** What has arrived and is not parsed. */
  readonly #intake: Intake;
  /** Parsed, but over the limits. */
  #held: Command | null = null;
  /** The client's stream has ended; what is held may still be parsed. */
  #ended = false;
  #stopped = false;
  #problem = '';
  #abandoned = false;
  #requestsInFlight = 0;
  #bytesInFlight = 0;
  /** Of those, answers of whoever served the connection before. */
  #owedBytes = 0;
  readonly #free = (command: Command): void => {
    this.#commands.release(command);
  };

  constructor(
    export_: NbdExport,
    memory: TransmissionMemory,
    limits: TransmissionLimits,
    host: CommandHost,
    terms: Terms = PLAIN_TERMS,
  ) {
    this.#terms = terms;
    this.#export = export_;
    this.#pool = memory.buffers;
    this.#budget = memory.budget;
    this.#waiter = memory.waiter;
    this.#limits = limits;
    this.#host = host;
    this.#replies = new ReplyQueue(memory.buffers, terms);
    this.#answers = new Answers(this.#replies, export_, terms);
    this.#intake = new Intake(memory.buffers, terms.extendedHeaders);
  }

  get requestsInFlight(): number {
    return this.#requestsInFlight;
  }

  get bytesInFlight(): number {
    return this.#bytesInFlight;
  }

  /** Whether bytes wait for room in the limits: the host should read no more, and call `proceed` later. */
  get holding(): boolean {
    return this.#held !== null;
  }

  /** Whether the client will be heard no more: it disconnected, its stream ended, or it broke the protocol. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** How the client broke the protocol; '' if it did not. */
  get problem(): string {
    return this.#problem;
  }

  /** Whether the client has said all that it will, though some of it may still wait for room. */
  get leaving(): boolean {
    return this.#stopped || this.#ended;
  }

  /** Whether every accepted command is finished and answered, and every answer taken by the system. */
  get idle(): boolean {
    return this.still && this.#held === null && this.#replies.empty && this.#owedBytes === 0;
  }

  /** Whether every accepted command is finished, and every answer collected. */
  get still(): boolean {
    return this.#requestsInFlight === 0 && !this.#replies.collectable;
  }

  /** Whether `proceed` and `collect` might do something now. */
  get pending(): boolean {
    return this.#held !== null || this.#stopped || this.#replies.collectable;
  }

  /**
   * Where the client's next bytes are to be put. Must be asked for again after each `received`; until then the memory waits for
   * bytes, even if there are none to come.
   */
  space(): Buffer {
    return this.#intake.space(this.#held !== null);
  }

  /** So many of the client's bytes have been put into what `space` gave. Not to be called while `holding`. */
  received(bytes: number): void {
    if (this.#stopped) return;
    assert(this.#held === null, 'bytes while earlier ones are held');
    this.#intake.received(bytes);
    this.#parse();
  }

  /** Takes bytes that were read elsewhere, as `received` those that are read here: before the first of them. */
  receive(chunk: Buffer): void {
    if (this.#stopped) return;
    assert(this.#held === null, 'bytes while earlier ones are held');
    let at = 0;
    while (at < chunk.length && !this.#stopped) {
      // What follows a command that is held waits in the inlet.
      at += this.#intake.copy(chunk, at, this.#held !== null);
      this.#parse();
    }
  }

  /** Goes on with what was held, if there is room now. */
  proceed(): void {
    const held = this.#held;
    if (held === null) return;
    // The volume may have another size than when this arrived.
    held.refusal = judge(held, this.#export, this.#terms);
    if (!this.#admits(held)) return;
    this.#held = null;
    this.#budget.leave(this.#waiter);
    this.#accept(held);
    this.#parse();
    if (this.#ended && this.#held === null) this.stop();
  }

  /** Waits no longer for room, of which others may be in need: what is held stays so, until `proceed`. */
  standBack(): void {
    this.#budget.leave(this.#waiter);
  }

  /**
   * What has arrived and was not carried out, as it came: whoever goes on with the connection gets it first. Null: nobody can go
   * on, as the payload of a refused command was partly dropped. Only while `still`; nothing may be received afterwards.
   */
  unparsed(): Buffer | null {
    assert(this.still, 'commands are under way');
    return this.#intake.unparsed(this.#held);
  }

  /** The client is sent so many bytes by somebody else before the first reply, which `paid` follows. */
  owe(bytes: number): void {
    this.#owedBytes += bytes;
    this.#charge(bytes);
  }

  /** The system has taken what was owed. */
  paid(): void {
    const bytes = this.#owedBytes;
    this.#owedBytes = 0;
    if (!this.#abandoned) this.#discharge(bytes);
  }

  /** The client's stream has ended. What arrived before is still carried out and answered. */
  end(): void {
    this.#ended = true;
    if (this.#held === null) this.stop();
  }

  /** Nothing more will come, or be listened to. A WRITE whose payload is not all here is dropped: it never was a request. */
  stop(): void {
    this.#stopped = true;
    const cut = this.#intake.clear();
    if (cut !== null) {
      this.#discharge(this.#replies.overhead + (cut.refusal === Errno.ok ? cut.payloadBytes : 0));
      this.#commands.release(cut);
    }
    if (this.#held !== null) this.#commands.release(this.#held);
    this.#budget.leave(this.#waiter);
    this.#held = null;
  }

  /** The host has carried out the command. */
  finish(command: Command, error: NbdErrno): void {
    assert(this.#requestsInFlight > 0);
    this.#requestsInFlight--;
    if (this.#abandoned) {
      this.#forget(command);
      this.#settleAbandoned();
    } else if (command.segment !== null && error === Errno.ok) {
      this.#finishRead(command);
    } else {
      this.#discharge(command.payloadBytes);
      this.#forgetPayload(command);
      this.#answer(command, error);
    }
  }

  #finishRead(command: Command): void {
    const sent = this.#answers.addRead(command);
    const charged = this.#replies.overhead + command.length;
    if (sent === charged) return;
    if (sent > 0) {
      this.#discharge(charged - sent);
      return;
    }
    command.hole = true;
    this.#discharge(command.length);
    this.#forgetPayload(command);
    this.#answer(command, Errno.ok);
  }

  /** Appends the memory of all replies so far to `pieces`; if any were appended, one `sent` must follow when they left. */
  collect(pieces: Buffer[]): void {
    if (!this.#abandoned) this.#replies.collect(pieces, this.#free);
  }

  /** The system has taken the pieces of the oldest `collect`. */
  sent(): void {
    if (!this.#abandoned) this.#discharge(this.#replies.sent());
  }

  /** The client is gone: replies are dropped, commands in flight end unanswered. */
  abandon(): void {
    if (this.#abandoned) return;
    this.stop();
    this.#abandoned = true;
    this.#replies.abandon(this.#free);
    this.#intake.dispose();
    this.#settleAbandoned();
  }

  #settleAbandoned(): void {
    if (this.#requestsInFlight === 0) this.#discharge(this.#bytesInFlight);
  }

  #charge(bytes: number): void {
    this.#bytesInFlight += bytes;
    this.#budget.charge(bytes);
  }

  #discharge(bytes: number): void {
    this.#bytesInFlight -= bytes;
    this.#budget.refund(bytes);
  }

  #parse(): void {
    const intake = this.#intake;
    while (this.#held === null && !this.#stopped) {
      if (intake.hasRequest) {
        this.#request();
      } else {
        const command = intake.complete();
        if (command === null) return;
        this.#begin(command);
      }
    }
  }

  #request(): void {
    const command = this.#commands.acquire();
    if (!this.#intake.takeRequest(command)) {
      this.#commands.release(command);
      this.#break(`a request without its magic: 0x${this.#intake.lastMagic}`);
      return;
    }
    if (command.type === CommandType.disc) {
      this.#commands.release(command);
      this.stop();
      return;
    }
    if (command.type === CommandType.blockStatus) command.contexts = this.#terms.contexts;
    command.refusal = judge(command, this.#export, this.#terms);
    if (this.#admits(command)) this.#accept(command);
    else this.#held = command;
  }

  #break(problem: string): void {
    this.#problem = problem;
    this.stop();
  }

  #admits(command: Command): boolean {
    const payload = command.refusal === Errno.ok ? command.payloadBytes : 0;
    const bytes = this.#replies.overhead + payload;
    if (!this.#isWithinLimits(bytes)) {
      // Others are not to wait for what this client takes: while one waited, the text of an error was added to its replies.
      this.#budget.leave(this.#waiter);
      return false;
    }
    if (this.#budget.admits(this.#waiter, this.#bytesInFlight, bytes)) return true;
    this.#budget.wait(this.#waiter);
    return false;
  }

  #isWithinLimits(bytes: number): boolean {
    if (this.#requestsInFlight >= this.#limits.maxRequests) return false;
    return this.#bytesInFlight === 0 || this.#bytesInFlight + bytes <= this.#limits.maxBytes;
  }

  #accept(command: Command): void {
    if (command.payload > 0 && command.payload > this.#mostPayload(command)) {
      const { payload, type } = command;
      this.#commands.release(command);
      this.#break(`a ${type === CommandType.write ? 'WRITE' : `payload of command ${type}`} of ${payload} bytes`);
      return;
    }
    this.#charge(this.#replies.overhead);
    if (command.refusal === Errno.ok) this.#charge(command.payloadBytes);
    if (command.payload === 0 || this.#intake.take(command)) this.#begin(command);
  }

  /** Longer payloads end the connection: with extended headers those that no command may have, else those that nobody would send. */
  #mostPayload({ refusal }: Command): number {
    if (this.#terms.extendedHeaders) return this.#terms.maximumBlockSize;
    return refusal === Errno.ok ? Number.POSITIVE_INFINITY : MAX_DRAINED_BYTES;
  }

  /** Carries out or refuses a command whose payload, if it has one, is here. */
  #begin(command: Command): void {
    const { type } = command;
    if (type === CommandType.blockStatus && command.payload > 0 && command.refusal === Errno.ok) {
      this.#takeFilter(command);
    }
    if (command.refusal !== Errno.ok || (command.length === 0 && type !== CommandType.flush)) {
      this.#answer(command, command.refusal);
      return;
    }
    if (type === CommandType.read) this.#replies.reserve(command);
    else if (type === CommandType.blockStatus) this.#statusLists.prepare(command);
    else if (type === CommandType.cache) this.#prepareCache(command);
    this.#execute(command);
  }

  /** What it reads is kept on its way, by whoever keeps things: so the memory must not be another command's. */
  #prepareCache(command: Command): void {
    command.buffer = this.#pool.acquire(command.payloadBytes);
    command.pooled = true;
  }

  /** What the payload of a BLOCK_STATUS says: about which contexts, and how many bytes. */
  #takeFilter(command: Command): void {
    const before = command.payloadBytes;
    const isGood = applyFilter(command);
    command.refusal = isGood ? judgeStatus(command, this.#export, this.#terms) : Errno.einval;
    this.#discharge(before - (command.refusal === Errno.ok ? command.payloadBytes : 0));
    command.received?.release(1);
    command.received = null;
  }

  #execute(command: Command): void {
    this.#requestsInFlight++;
    this.#host.execute(command);
  }

  /** Answers without data, and forgets the command. */
  #answer(command: Command, error: NbdErrno): void {
    const bytes = this.#answers.add(command, error);
    const { overhead } = this.#replies;
    if (bytes > overhead) this.#charge(bytes - overhead);
    else this.#discharge(overhead - bytes);
    this.#release(command);
  }

  #forgetPayload(command: Command): void {
    if (command.pooled) this.#pool.release(command.buffer);
    if (command.received !== null) command.received.release(1);
    if (command.segment !== null) this.#replies.unreserve(command);
  }

  #forget(command: Command): void {
    this.#forgetPayload(command);
    this.#release(command);
  }

  #release(command: Command): void {
    this.#statusLists.release(command);
    this.#commands.release(command);
  }
}
