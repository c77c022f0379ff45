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
 *  - Each accepted command is handed to the host once, finished once, and answered once while the client is there.
 *  - A WRITE is handed over when its whole payload is here: in place, where it was received (inlet.ts); a long one in a buffer of
 *    its own that the rest is read into directly. The payload of a refused one is read and dropped before its answer.
 *  - After DISC, the end of the client's stream, or bytes that are not a request, nothing more is parsed; what was accepted
 *    is finished and answered.
 */
import assert from 'node:assert/strict';
import { ExtentList } from '../dm/io.ts';
import type { BufferPool } from './buffer-pool.ts';
import { type Command, CommandPool } from './command.ts';
import {
  CommandFlag,
  CommandType,
  MAX_DRAINED_BYTES,
  MAX_EXTENTS,
  type NbdErrno,
  NbdErrno as Errno,
  REQUEST_BYTES,
} from './constants.ts';
import { failureText } from './errors.ts';
import type { NbdExport } from './exports.ts';
import { type Features, PLAIN } from './features.ts';
import type { BudgetWaiter, PayloadBudget } from './payload-budget.ts';
import { Inlet } from './inlet.ts';
import { ReplyQueue } from './reply-queue.ts';
import { judge, refusalText } from './validate.ts';

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

/** Longer payloads that are not all here get a buffer of their own. */
const MAX_IN_PLACE_BYTES = 64 * 1024;
/** Larger offsets are no exact numbers here, and inside no volume. */
const MAX_OFFSET = Number.MAX_SAFE_INTEGER - 2 ** 32;
/** Lists of extents kept for reuse. */
const MAX_SPARE_LISTS = 4;
/** A hole's length takes 4 bytes: a shorter one is better sent as data. */
const SHORTEST_HOLE_BYTES = 4;
/** Room for what follows a long payload, which may be the next one: little, so that little of that is copied. */
const AFTER_LONG_BYTES = 4096;

export class Transmission {
  readonly #export: NbdExport;
  readonly #pool: BufferPool;
  readonly #limits: TransmissionLimits;
  readonly #budget: PayloadBudget;
  readonly #waiter: BudgetWaiter;
  readonly #features: Features;
  readonly #host: CommandHost;
  readonly #commands = new CommandPool();
  readonly #replies: ReplyQueue;
  /** Lists of extents that nobody uses. */
  readonly #extentLists: ExtentList[] = [];
  /** What has arrived and is not parsed. */
  readonly #inlet: Inlet;
  /** Whether what is read next goes straight into the buffer of the command that is being received. */
  #direct = false;
  #afterLong = false;
  /** Parsed, but over the limits. */
  #held: Command | null = null;
  /** The WRITE whose payload is arriving: in the inlet, or `progress` bytes of it in its own buffer, or dropped if it is refused. */
  #receiving: Command | null = null;
  /** The client's stream has ended; what is held may still be parsed. */
  #ended = false;
  #stopped = false;
  #problem = '';
  #abandoned = false;
  #requestsInFlight = 0;
  #bytesInFlight = 0;
  readonly #free = (command: Command): void => {
    this.#commands.release(command);
  };

  constructor(
    export_: NbdExport,
    memory: TransmissionMemory,
    limits: TransmissionLimits,
    host: CommandHost,
    features: Features = PLAIN,
  ) {
    this.#features = features;
    this.#export = export_;
    this.#pool = memory.buffers;
    this.#budget = memory.budget;
    this.#waiter = memory.waiter;
    this.#limits = limits;
    this.#host = host;
    this.#replies = new ReplyQueue(memory.buffers, features.structuredReplies);
    this.#inlet = new Inlet(memory.buffers);
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

  /** Whether every accepted command is finished and answered, and every answer taken by the system. */
  get idle(): boolean {
    return this.#requestsInFlight === 0 && this.#held === null && this.#replies.empty;
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
    const command = this.#receiving;
    this.#direct = command !== null && command.pooled;
    if (command !== null && this.#direct) return command.buffer.subarray(command.progress, command.length);
    if (this.#held !== null) return this.#inlet.space(1, AFTER_LONG_BYTES);
    const inPlace = command !== null && command.refusal === Errno.ok;
    const missing = (inPlace ? command.length : REQUEST_BYTES) - this.#inlet.available;
    return this.#afterLong
      ? this.#inlet.space(Math.max(missing, 1), AFTER_LONG_BYTES)
      : this.#inlet.roomySpace(missing);
  }

  /** So many of the client's bytes have been put into what `space` gave. Not to be called while `holding`. */
  received(bytes: number): void {
    if (this.#stopped) return;
    assert(this.#held === null, 'bytes while earlier ones are held');
    if (!this.#direct) {
      this.#inlet.received(bytes);
    } else if (this.#receiving !== null) {
      this.#receiving.progress += bytes;
      this.#direct = false;
    }
    this.#parse();
  }

  /** Takes bytes that were read elsewhere, as `received` those that are read here: before the first of them. */
  receive(chunk: Buffer): void {
    if (this.#stopped) return;
    assert(this.#held === null, 'bytes while earlier ones are held');
    let at = 0;
    while (at < chunk.length && !this.#stopped) {
      // What follows a command that is held waits in the inlet.
      const space = this.#held === null ? this.space() : this.#inlet.roomySpace(chunk.length - at);
      const bytes = Math.min(space.length, chunk.length - at);
      chunk.copy(space, 0, at, at + bytes);
      at += bytes;
      if (this.#held === null) this.received(bytes);
      else this.#inlet.received(bytes);
    }
  }

  /** Goes on with what was held, if there is room now. */
  proceed(): void {
    const held = this.#held;
    if (held === null) return;
    // The volume may have another size than when this arrived.
    held.refusal = judge(held, this.#export, this.#features);
    if (!this.#admits(held)) return;
    this.#held = null;
    this.#budget.leave(this.#waiter);
    this.#accept(held);
    this.#parse();
    if (this.#ended && this.#held === null) this.stop();
  }

  /**
   * What has arrived and was not carried out, as it came: whoever goes on with the connection gets it first. Null: nobody can go
   * on, as the payload of a refused WRITE was partly dropped. Only while `idle`; nothing may be received afterwards.
   */
  unparsed(): Buffer | null {
    assert(this.idle, 'commands are under way');
    const inlet = this.#inlet;
    const rest = inlet.buffer.subarray(inlet.at, inlet.end);
    const command = this.#receiving;
    if (command === null) return Buffer.from(rest);
    if (command.refusal !== Errno.ok) return null;
    const payload = command.pooled ? command.buffer.subarray(0, command.progress) : rest.subarray(0, 0);
    return Buffer.concat([command.encode(), payload, rest]);
  }

  /** The client's stream has ended. What arrived before is still carried out and answered. */
  end(): void {
    this.#ended = true;
    if (this.#held === null) this.stop();
  }

  /** Nothing more will come, or be listened to. A WRITE whose payload is not all here is dropped: it never was a request. */
  stop(): void {
    this.#stopped = true;
    if (this.#receiving !== null) this.#drop(this.#receiving);
    if (this.#held !== null) this.#commands.release(this.#held);
    this.#budget.leave(this.#waiter);
    this.#receiving = null;
    this.#held = null;
    this.#inlet.clear();
  }

  /** The host has carried out the command. */
  finish(command: Command, error: NbdErrno): void {
    assert(this.#requestsInFlight > 0);
    this.#requestsInFlight--;
    const isRead = command.segment !== null;
    if (this.#abandoned) {
      this.#forget(command);
      this.#settleAbandoned();
    } else if (isRead && error === Errno.ok && !this.#isHole(command)) {
      this.#replies.addRead(command);
    } else {
      command.hole = isRead && error === Errno.ok;
      this.#discharge(command.payloadBytes);
      this.#forgetPayload(command);
      this.#answer(command, error);
    }
  }

  /** Whether what was read is nothing but zeroes: by the table that it was read through, which can't have been replaced yet. */
  #isHole({ offset, length }: Command): boolean {
    if (!this.#features.structuredReplies || length < SHORTEST_HOLE_BYTES) return false;
    const { volume } = this.#export;
    return volume.readsZeroes?.(offset, length) ?? false;
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
    this.#inlet.dispose();
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

  /** A WRITE whose payload will not come. */
  #drop(command: Command): void {
    this.#discharge(this.#replies.overhead + (command.refusal === Errno.ok ? command.length : 0));
    // The system may still put bytes into it.
    if (this.#direct) this.#pool.discard();
    else if (command.pooled) this.#pool.release(command.buffer);
    this.#direct = false;
    this.#commands.release(command);
  }

  #parse(): void {
    const inlet = this.#inlet;
    while (this.#held === null) {
      if (this.#receiving !== null) {
        if (!this.#receivePayload(this.#receiving)) return;
      } else {
        if (inlet.available < REQUEST_BYTES) return;
        inlet.at += REQUEST_BYTES;
        this.#request(inlet.buffer, inlet.at - REQUEST_BYTES);
      }
    }
  }

  #request(bytes: Buffer, at: number): void {
    const command = this.#commands.acquire();
    if (!command.decode(bytes, at)) {
      this.#commands.release(command);
      this.#break(`a request without its magic: 0x${bytes.readUInt32BE(at).toString(16)}`);
      return;
    }
    if (command.type === CommandType.disc) {
      this.#commands.release(command);
      this.stop();
      return;
    }
    if (command.type === CommandType.blockStatus) command.contexts = this.#features.contexts;
    command.refusal = judge(command, this.#export, this.#features);
    if (this.#admits(command)) this.#accept(command);
    else this.#held = command;
  }

  #break(problem: string): void {
    this.#problem = problem;
    this.stop();
  }

  #admits(command: Command): boolean {
    if (this.#requestsInFlight >= this.#limits.maxRequests) return false;
    const payload = command.refusal === Errno.ok ? command.payloadBytes : 0;
    const bytes = this.#replies.overhead + payload;
    if (this.#bytesInFlight > 0 && this.#bytesInFlight + bytes > this.#limits.maxBytes) return false;
    if (this.#budget.admits(this.#waiter, this.#bytesInFlight, bytes)) return true;
    this.#budget.wait(this.#waiter);
    return false;
  }

  #accept(command: Command): void {
    this.#charge(this.#replies.overhead);
    if (command.type === CommandType.write && command.length > 0) {
      if (command.refusal === Errno.ok) this.#acceptWrite(command);
      else this.#refuseWrite(command);
    } else if (command.refusal !== Errno.ok || (command.length === 0 && command.type !== CommandType.flush)) {
      this.#answer(command, command.refusal);
    } else {
      if (command.type === CommandType.read) this.#replies.reserve(command);
      else if (command.type === CommandType.blockStatus) this.#prepareStatus(command);
      this.#charge(command.payloadBytes);
      this.#execute(command);
    }
  }

  #prepareStatus(command: Command): void {
    const limit = (command.flags & CommandFlag.reqOne) === 0 ? MAX_EXTENTS : 1;
    for (let left = command.contexts.length; left > 0; left--) {
      const list = this.#extentLists.pop() ?? new ExtentList(MAX_EXTENTS);
      list.clear(limit);
      command.statuses.push(list);
    }
  }

  #acceptWrite(command: Command): void {
    this.#charge(command.length);
    this.#afterLong = command.length > MAX_IN_PLACE_BYTES;
    if (this.#afterLong && this.#inlet.available < command.length) {
      command.buffer = this.#pool.acquire(command.length);
      command.pooled = true;
    }
    this.#receiving = command;
  }

  /** Its payload comes all the same, and is dropped: unless that much of it must be malice. */
  #refuseWrite(command: Command): void {
    if (command.length <= MAX_DRAINED_BYTES) {
      this.#receiving = command;
      return;
    }
    this.#discharge(this.#replies.overhead);
    const { length } = command;
    this.#commands.release(command);
    this.#break(`a WRITE of ${length} bytes`);
  }

  /** Whether the payload was all there. */
  #receivePayload(command: Command): boolean {
    const inlet = this.#inlet;
    if (!command.pooled && command.refusal === Errno.ok) {
      if (inlet.available < command.length) return false;
      command.buffer = inlet.buffer;
      command.bufferOffset = inlet.at;
      command.received = inlet.retain();
      inlet.at += command.length;
    } else {
      const count = Math.min(command.length - command.progress, inlet.available);
      if (command.pooled) inlet.buffer.copy(command.buffer, command.progress, inlet.at, inlet.at + count);
      command.progress += count;
      inlet.at += count;
      if (command.progress < command.length) return false;
      command.progress = 0;
    }
    this.#receiving = null;
    if (command.refusal === Errno.ok) this.#execute(command);
    else this.#answer(command, command.refusal);
    return true;
  }

  #execute(command: Command): void {
    this.#requestsInFlight++;
    this.#host.execute(command);
  }

  /** Answers without data, and forgets the command. */
  #answer(command: Command, error: NbdErrno): void {
    const bytes = this.#addReply(command, error);
    const { overhead } = this.#replies;
    if (bytes > overhead) this.#charge(bytes - overhead);
    else this.#discharge(overhead - bytes);
    this.#release(command);
  }

  /** Gives the bytes of the reply. */
  #addReply(command: Command, error: NbdErrno): number {
    const replies = this.#replies;
    if (error === Errno.ok && command.statuses.length > 0) return replies.addStatuses(command);
    if (error === Errno.ok) return command.hole ? replies.addHole(command) : replies.addHeader(command, error);
    if (!this.#features.structuredReplies) return replies.addHeader(command, error);
    const refused = command.refusal !== Errno.ok;
    const text = refused ? refusalText(command, this.#export, this.#features) : failureText(error);
    return replies.addError(command, error, text, this.#failedAt(command));
  }

  /**
   * Where in a command's range it failed: where the volume ends, if that is why, else its first byte, before which nothing was done.
   * Null for commands without a range.
   */
  #failedAt({ type, offset, length }: Command): number | null {
    const { sizeBytes } = this.#export.volume.limits;
    if (length === 0 || type === CommandType.flush || offset > MAX_OFFSET) return null;
    return offset < sizeBytes && offset + length > sizeBytes ? sizeBytes : offset;
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
    for (const list of command.statuses) if (this.#extentLists.length < MAX_SPARE_LISTS) this.#extentLists.push(list);
    this.#commands.release(command);
  }
}
