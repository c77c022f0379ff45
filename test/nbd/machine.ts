/**
 * The transmission machine on a workbench: a host that keeps a Buffer as its disk and finishes commands when, and in the
 * order in which, the test says; every reply is copied out and checked to be sent once.
 */
import assert from 'node:assert/strict';
import type { ExtentList } from '../../src/block/extents.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { BufferPool } from '../../src/nbd/buffer-pool.ts';
import type { Command } from '../../src/nbd/command.ts';
import type { NbdErrno } from '../../src/nbd/constants.ts';
import { PLAIN_TERMS, type Terms } from '../../src/nbd/features.ts';
import { PayloadBudget } from '../../src/nbd/payload-budget.ts';
import { type CommandHost, Transmission, type TransmissionLimits } from '../../src/nbd/transmission.ts';
import { makeExport, type TestExport } from './exports.ts';
import { type Answer, answers, chunks, CMD, EIO, replies, type Reply } from './wire.ts';

/** Buffers that a connection has as long as it lives, to read into, and their bytes while it is idle. */
export const INLETS = 1;
export const INLET_BYTES: number = 16 * 1024 + 64;

export interface MachineOptions {
  readonly export?: Partial<TestExport>;
  readonly limits?: Partial<TransmissionLimits>;
  /** Bytes of payload of all machines that share it; default: no bound. */
  readonly budget?: PayloadBudget;
  /** Default: none. */
  readonly features?: Partial<Terms>;
  /** Bytes of the disk; default 1 MiB. */
  readonly sizeBytes?: number;
}

export class Machine implements CommandHost {
  readonly disk: Buffer;
  readonly pool: BufferPool = new BufferPool({ poison: true });
  readonly budget: PayloadBudget;
  readonly transmission: Transmission;
  /** Commands accepted and not finished. */
  readonly pending: Command[] = [];
  /** Every command accepted so far, as text. */
  readonly seen: string[] = [];
  readonly #readLengths = new Map<bigint, number>();
  readonly #sent: Buffer[] = [];
  #entered = false;

  constructor(options: MachineOptions = {}) {
    const { export: fields = {}, limits = {}, sizeBytes = 2 ** 20, budget, features = {} } = options;
    this.budget = budget ?? new PayloadBudget(2 ** 40);
    this.disk = Buffer.alloc(sizeBytes);
    const export_ = makeExport({ volume: new MemoryDevice({ sizeBytes }), ...fields });
    const all = { maxRequests: 256, maxBytes: 64 * 2 ** 20, ...limits };
    const memory = { buffers: this.pool, budget: this.budget, waiter: this };
    this.transmission = new Transmission(export_, memory, all, this, { ...PLAIN_TERMS, ...features });
  }

  /** How often it was told that there may be room. */
  told = 0;
  roomForPayload(): void {
    this.told++;
  }

  execute(command: Command): void {
    assert(!this.#entered, 'execute is not re-entered');
    const { type, flags, offset, length } = command;
    this.seen.push(`${Object.keys(CMD)[type]} ${offset}+${length} flags ${flags}`);
    this.pending.push(command);
    if (type === CMD.read) this.#readLengths.set(cookieOf(command), length);
  }

  /** What a BLOCK_STATUS is told, about the `index`th of its contexts. */
  status: (command: Command, extents: ExtentList, index: number) => void = (command, extents) =>
    void extents.add(command.length, 0);

  /** Finishes one accepted command; good ones take effect now. */
  finish(command: Command | undefined, error: NbdErrno = 0): void {
    assert(command !== undefined);
    this.pending.splice(this.pending.indexOf(command), 1);
    const { type, offset, length, buffer, bufferOffset } = command;
    if (error === 0 && type === CMD.read) this.disk.copy(buffer, bufferOffset, offset, offset + length);
    if (error === 0 && type === CMD.write) buffer.copy(this.disk, offset, bufferOffset, bufferOffset + length);
    if (error === 0) command.statuses.forEach((list, index) => this.status(command, list, index));
    const end = Math.min(offset + length, this.disk.length);
    if (error === 0 && type === CMD.writeZeroes) this.disk.fill(0, offset, end);
    this.transmission.finish(command, error);
  }

  /** Feeds chunks, each as its own copy, as a socket would; goes on after a pause by finishing the oldest commands. */
  feed(...chunks: readonly Buffer[]): void {
    for (const chunk of chunks) {
      while (this.transmission.holding) this.turn();
      this.transmission.receive(Buffer.from(chunk));
    }
  }

  /** Feeds `bytes` in pieces, and finishes commands between them in any order, some with EIO, as the numbers say; then everything. */
  converse(bytes: Buffer, next: () => number): void {
    for (let at = 0; at < bytes.length;) {
      const count = 1 + (next() % 500);
      this.feed(bytes.subarray(at, at + count));
      at += count;
      while (this.pending.length > 0 && next() % 3 > 0)
        this.finish(this.pending[next() % this.pending.length], next() % 5 === 0 ? EIO : 0);
      this.flush();
    }
    this.settle();
  }

  /** An event-loop turn in which the oldest commands end. */
  turn(count: number = this.pending.length): void {
    for (let i = 0; i < count; i++) this.finish(this.pending[0]);
    this.transmission.proceed();
    this.flush();
  }

  /** Sends what there is to send, and lets the system take it. */
  flush(): void {
    const pieces: Buffer[] = [];
    this.transmission.collect(pieces);
    if (pieces.length === 0) return;
    this.#sent.push(...pieces.map((piece) => Buffer.from(piece)));
    this.transmission.sent();
  }

  /** Finishes everything until nothing is left. */
  settle(): void {
    do this.turn();
    while (this.pending.length > 0 || this.transmission.holding);
  }

  /** All replies so far. */
  replies(): Reply[] {
    return replies(Buffer.concat(this.#sent), this.#readLengths);
  }

  /** All replies so far of a connection with structured replies. */
  answers(): Answer[] {
    return answers(Buffer.concat(this.#sent));
  }

  /** The same where a reply may have several chunks, or has extended headers. */
  chunks(style?: 'extended'): Answer[] {
    return chunks(Buffer.concat(this.#sent), style);
  }

  /** The error numbers of all replies so far, by cookie. */
  errors(): Record<string, number> {
    return Object.fromEntries(this.replies().map(({ cookie, error }) => [String(cookie), error]));
  }

  /** Ends it as a lost connection would, and checks that nothing leaked. */
  dispose(): void {
    this.transmission.abandon();
    while (this.pending.length > 0) this.finish(this.pending[0]);
    assert.equal(this.pool.outstanding, 0, 'buffers that were not released');
    assert.equal(this.transmission.requestsInFlight, 0);
    assert.equal(this.transmission.bytesInFlight, 0);
  }
}

export function cookieOf(command: Command): bigint {
  return (BigInt(command.cookieHigh) << 32n) | BigInt(command.cookieLow);
}
