/**
 * The transmission phase of one connection as a pure state machine: bytes in; accepted commands out to the host; replies
 * of finished commands out as pieces of memory.
 *
 * Invariants
 *  - Bytes may arrive split anywhere. Every complete command in them is accepted in one pass, as far as the limits allow;
 *    the rest is held and goes on with `proceed`. Nothing is dropped while the connection lives.
 *  - `requestsInFlight` counts accepted commands that the host has not finished; `bytesInFlight` their payloads and the
 *    replies not yet taken by the system. A command is accepted only if both stay within the limits, or nothing is in
 *    flight: so memory is bounded, and a client that sends without reading stops only itself.
 *  - Each accepted command is handed to the host once, finished once, and answered once while the client is there.
 *  - A WRITE is handed over when its whole payload is here: in place if it came in one chunk (the chunk is never written
 *    to again), else gathered in a pooled buffer. The payload of a refused one is read and dropped before its answer.
 *  - After DISC, the end of the client's stream, or bytes that are not a request, nothing more is parsed; what was accepted
 *    is finished and answered.
 */
import assert from 'node:assert/strict';
import type { BufferPool } from './buffer-pool.ts';
import { type Command, CommandPool } from './command.ts';
import {
  CommandType,
  MAX_DRAINED_BYTES,
  type NbdErrno,
  NbdErrno as Errno,
  REQUEST_BYTES,
  SIMPLE_REPLY_BYTES,
} from './constants.ts';
import type { NbdExport } from './exports.ts';
import { ReplyQueue } from './reply-queue.ts';
import { judge } from './validate.ts';

/** Who carries out commands. */
export interface CommandHost {
  /** Starts a command: in range, permitted, of nonzero length but for FLUSH. `finish` follows, never from inside this call. */
  execute(command: Command): void;
}

export interface TransmissionLimits {
  /** Commands being carried out at once. */
  readonly maxRequests: number;
  /** Bytes of payload and unsent replies; one larger command is accepted when it is alone. */
  readonly maxBytes: number;
}

const NO_CHUNK: Buffer = Buffer.alloc(0);

export class Transmission {
  readonly #export: NbdExport;
  readonly #pool: BufferPool;
  readonly #limits: TransmissionLimits;
  readonly #host: CommandHost;
  readonly #commands = new CommandPool();
  readonly #replies: ReplyQueue;
  /** What has arrived and is not parsed: from `#at` to the end. */
  #chunk: Buffer = NO_CHUNK;
  #at = 0;
  /** The first bytes of a request that was cut. */
  readonly #header = Buffer.allocUnsafeSlow(REQUEST_BYTES);
  #headerBytes = 0;
  /** Parsed, but over the limits. */
  #held: Command | null = null;
  /** The WRITE whose payload is arriving: `progress` bytes of it are here, gathered, or dropped if it is refused. */
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

  constructor(export_: NbdExport, pool: BufferPool, limits: TransmissionLimits, host: CommandHost) {
    this.#export = export_;
    this.#pool = pool;
    this.#limits = limits;
    this.#host = host;
    this.#replies = new ReplyQueue(pool);
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

  /** Takes the client's next bytes, which nobody changes from now on. Not to be called while `holding`. */
  receive(chunk: Buffer): void {
    if (this.#stopped) return;
    assert(this.#held === null && this.#at === this.#chunk.length, 'bytes while earlier ones are held');
    this.#chunk = chunk;
    this.#at = 0;
    this.#parse();
  }

  /** Goes on with what was held, if there is room now. */
  proceed(): void {
    const held = this.#held;
    if (held === null) return;
    // The volume may have another size than when this arrived.
    held.refusal = judge(held, this.#export);
    if (!this.#admits(held)) return;
    this.#held = null;
    this.#accept(held);
    this.#parse();
    if (this.#ended && this.#held === null) this.stop();
  }

  /** The client's stream has ended. What arrived before is still carried out and answered. */
  end(): void {
    this.#ended = true;
    if (this.#held === null) this.stop();
  }

  /** Nothing more will come, or be listened to. A WRITE whose payload is not all here is dropped: it never was a request. */
  stop(): void {
    this.#stopped = true;
    if (this.#receiving !== null) this.#forget(this.#receiving);
    if (this.#held !== null) this.#commands.release(this.#held);
    this.#receiving = null;
    this.#held = null;
    this.#chunk = NO_CHUNK;
    this.#at = 0;
    this.#headerBytes = 0;
  }

  /** The host has carried out the command. */
  finish(command: Command, error: NbdErrno): void {
    assert(this.#requestsInFlight > 0);
    this.#requestsInFlight--;
    const isRead = command.segment !== null;
    if (this.#abandoned) {
      this.#forget(command);
    } else if (isRead && error === Errno.ok) {
      this.#replies.addRead(command);
    } else {
      this.#bytesInFlight -= command.payloadBytes;
      this.#forgetPayload(command);
      this.#answer(command, error);
    }
  }

  /** Appends the memory of all replies so far to `pieces`; if any were appended, one `sent` must follow when they left. */
  collect(pieces: Buffer[]): void {
    if (!this.#abandoned) this.#replies.collect(pieces, this.#free);
  }

  /** The system has taken the pieces of the oldest `collect`. */
  sent(): void {
    if (!this.#abandoned) this.#bytesInFlight -= this.#replies.sent();
  }

  /** The client is gone: replies are dropped, commands in flight end unanswered. */
  abandon(): void {
    if (this.#abandoned) return;
    this.stop();
    this.#abandoned = true;
    this.#replies.abandon(this.#free);
  }

  #parse(): void {
    while (this.#at < this.#chunk.length && this.#held === null) {
      if (this.#receiving !== null) this.#receivePayload(this.#receiving);
      else this.#receiveHeader();
    }
    // The chunk belongs to the payloads in it alone, and is not kept alive by this.
    if (this.#at === this.#chunk.length) {
      this.#chunk = NO_CHUNK;
      this.#at = 0;
    }
  }

  #receiveHeader(): void {
    const available = this.#chunk.length - this.#at;
    if (this.#headerBytes === 0 && available >= REQUEST_BYTES) {
      this.#at += REQUEST_BYTES;
      this.#request(this.#chunk, this.#at - REQUEST_BYTES);
      return;
    }
    const count = Math.min(REQUEST_BYTES - this.#headerBytes, available);
    this.#chunk.copy(this.#header, this.#headerBytes, this.#at, this.#at + count);
    this.#headerBytes += count;
    this.#at += count;
    if (this.#headerBytes < REQUEST_BYTES) return;
    this.#headerBytes = 0;
    this.#request(this.#header, 0);
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
    command.refusal = judge(command, this.#export);
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
    return this.#bytesInFlight === 0 || this.#bytesInFlight + SIMPLE_REPLY_BYTES + payload <= this.#limits.maxBytes;
  }

  #accept(command: Command): void {
    this.#bytesInFlight += SIMPLE_REPLY_BYTES;
    if (command.type === CommandType.write && command.length > 0) {
      if (command.refusal === Errno.ok) this.#acceptWrite(command);
      else this.#refuseWrite(command);
    } else if (command.refusal !== Errno.ok || (command.length === 0 && command.type !== CommandType.flush)) {
      this.#answer(command, command.refusal);
    } else {
      if (command.type === CommandType.read) this.#replies.reserve(command);
      this.#bytesInFlight += command.payloadBytes;
      this.#execute(command);
    }
  }

  #acceptWrite(command: Command): void {
    this.#bytesInFlight += command.length;
    if (this.#chunk.length - this.#at >= command.length) {
      command.buffer = this.#chunk;
      command.bufferOffset = this.#at;
      this.#at += command.length;
      this.#execute(command);
    } else {
      command.buffer = this.#pool.acquire(command.length);
      command.pooled = true;
      this.#receiving = command;
    }
  }

  /** Its payload comes all the same, and is dropped: unless that much of it must be malice. */
  #refuseWrite(command: Command): void {
    if (command.length <= MAX_DRAINED_BYTES) {
      this.#receiving = command;
      return;
    }
    this.#bytesInFlight -= SIMPLE_REPLY_BYTES;
    const { length } = command;
    this.#commands.release(command);
    this.#break(`a WRITE of ${length} bytes`);
  }

  #receivePayload(command: Command): void {
    const count = Math.min(command.length - command.progress, this.#chunk.length - this.#at);
    if (command.pooled) this.#chunk.copy(command.buffer, command.progress, this.#at, this.#at + count);
    command.progress += count;
    this.#at += count;
    if (command.progress < command.length) return;
    this.#receiving = null;
    command.progress = 0;
    if (command.pooled) this.#execute(command);
    else this.#answer(command, command.refusal);
  }

  #execute(command: Command): void {
    this.#requestsInFlight++;
    this.#host.execute(command);
  }

  /** Answers without data, and forgets the command. */
  #answer(command: Command, error: NbdErrno): void {
    this.#replies.addHeader(command, error);
    this.#commands.release(command);
  }

  #forgetPayload(command: Command): void {
    if (command.pooled) this.#pool.release(command.buffer);
    if (command.segment !== null) this.#replies.unreserve(command);
  }

  #forget(command: Command): void {
    this.#forgetPayload(command);
    this.#commands.release(command);
  }
}
