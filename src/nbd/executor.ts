/**
 * Carries out the commands of one connection on its export's volume.
 *
 * Invariants
 *  - One pooled request for each command at a time; it goes back to its pool before the command is finished.
 *  - A FLUSH is one flush of the volume, which all connections of the export share: so it covers every write that was
 *    answered before it, whoever sent it.
 *  - CACHE reads in pieces, all into the command's own memory, which does not grow with its length.
 */
import { constants } from 'node:os';
import {
  blockStatusOf,
  Op,
  type BlockDevice,
  type IoRequest,
  RequestFlag,
  type RequestOwner,
  type RequestPool,
} from '../dm/io.ts';
import type { Command } from './command.ts';
import { ALLOCATION_CONTEXT, CommandFlag, CommandType, NbdErrno } from './constants.ts';
import { replyErrno } from './errors.ts';
import type { NbdExport } from './exports.ts';
import type { CommandHost } from './transmission.ts';

/** What a connection has done: plain numbers, read by whoever shows them. */
export interface TransferCounters {
  reads: number;
  writes: number;
  flushes: number;
  trims: number;
  writeZeroes: number;
  caches: number;
  /** Commands that failed on the volume. */
  errors: number;
  /** Bytes. */
  readBytes: number;
  /** Bytes. */
  writtenBytes: number;
}

export class Executor implements CommandHost, RequestOwner {
  readonly counters: TransferCounters = {
    reads: 0,
    writes: 0,
    flushes: 0,
    trims: 0,
    writeZeroes: 0,
    caches: 0,
    errors: 0,
    readBytes: 0,
    writtenBytes: 0,
  };
  readonly #export: NbdExport;
  readonly #volume: BlockDevice;
  readonly #requests: RequestPool;
  readonly #ended: (command: Command, error: NbdErrno) => void;
  /** By index: the command that a request's tag stands for. */
  readonly #commands: Command[] = [];
  #abandoned = false;

  /** `ended` is called once for each command, never from inside `execute`. */
  constructor(export_: NbdExport, requests: RequestPool, ended: (command: Command, error: NbdErrno) => void) {
    this.#export = export_;
    this.#volume = export_.volume;
    this.#requests = requests;
    this.#ended = ended;
  }

  /** Nobody waits for answers any more: commands in pieces end with their current piece. */
  abandon(): void {
    this.#abandoned = true;
  }

  execute(command: Command): void {
    if (command.type === CommandType.blockStatus) {
      this.#blockStatus(command, 0);
      return;
    }
    this.#commands[command.index] = command;
    const request = this.#requests.acquire(this);
    request.tag = command.index;
    request.offset = command.offset;
    request.length = command.length;
    if ((command.flags & CommandFlag.fua) !== 0) request.flags = RequestFlag.fua;
    switch (command.type) {
      case CommandType.read:
        request.op = Op.read;
        request.flags = 0;
        request.buffer = command.buffer;
        request.bufferOffset = command.bufferOffset;
        this.counters.reads++;
        this.counters.readBytes += command.length;
        break;
      case CommandType.write:
        request.op = Op.write;
        request.buffer = command.buffer;
        request.bufferOffset = command.bufferOffset;
        this.counters.writes++;
        this.counters.writtenBytes += command.length;
        break;
      case CommandType.trim:
        request.op = Op.discard;
        this.counters.trims++;
        break;
      case CommandType.writeZeroes:
        request.op = Op.writeZeroes;
        if ((command.flags & CommandFlag.noHole) !== 0) request.flags |= RequestFlag.noUnmap;
        this.counters.writeZeroes++;
        break;
      case CommandType.cache:
        this.#cachePiece(request, command);
        this.counters.caches++;
        break;
      default:
        request.op = Op.flush;
        request.flags = 0;
        request.offset = 0;
        request.length = 0;
        this.counters.flushes++;
    }
    this.#volume.submit(request);
  }

  ioDone(request: IoRequest): void {
    const command = this.#commands[request.tag]!;
    const { error } = request;
    if (error === 0 && command.type === CommandType.cache && this.#continueCache(request, command)) return;
    if (error !== 0) {
      this.counters.errors++;
      command.failedAt = command.progress + request.failedAt;
    }
    this.#requests.release(request);
    this.#ended(command, error === 0 ? NbdErrno.ok : replyErrno(error));
  }

  #blockStatus(command: Command, index: number): void {
    const context = command.contexts[index];
    const extents = command.statuses[index];
    if (context === undefined || extents === undefined) {
      this.#ended(command, NbdErrno.ok);
      return;
    }
    const ended = (errno: number): void => {
      let error = errno;
      if (error === 0 && extents.count === 0) {
        // To call it data is always true; of other contexts nothing is.
        if (context.name === ALLOCATION_CONTEXT) extents.add(command.length, 0);
        else error = constants.errno.EIO;
      }
      if (error === 0) {
        this.#blockStatus(command, index + 1);
      } else {
        this.counters.errors++;
        this.#ended(command, replyErrno(error));
      }
    };
    const source = this.#export.statusSource(context.name);
    if (source === null) setImmediate(ended, constants.errno.EINVAL);
    else blockStatusOf(source, command.offset, command.length, extents, ended);
  }

  /** Submits the next piece of a CACHE; false if there is none, or nobody who wants it, or the volume has become smaller. */
  #continueCache(request: IoRequest, command: Command): boolean {
    command.progress += request.length;
    if (command.progress === command.length || this.#abandoned) return false;
    if (command.offset + command.length > this.#volume.limits.sizeBytes) return false;
    this.#cachePiece(request, command);
    this.#volume.submit(request);
    return true;
  }

  #cachePiece(request: IoRequest, command: Command): void {
    request.op = Op.read;
    request.flags = 0;
    request.offset = command.offset + command.progress;
    request.length = Math.min(command.length - command.progress, command.payloadBytes);
    request.buffer = command.buffer;
    request.bufferOffset = command.bufferOffset;
    request.error = 0;
  }
}
