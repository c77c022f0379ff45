/**
 * A device that takes any byte range, over one that takes only whole blocks (`limits.requestAlignment`).
 *
 *     request        |------------------------|
 *     blocks      |--------|--------|--------|--------|
 *     pieces         | head |     middle      | tail |      head and tail: one block each, through a bounce block
 *
 *  - Whole blocks go straight from and to the caller's buffer.
 *  - A head or tail of a read is copied out of its block; one of a write or writeZeroes is read, changed and written back.
 *  - A discard shrinks to the whole blocks inside it.
 *
 * Invariants
 *  - No change of other bytes of a block is lost: a read-modify-write holds its block's range lock (dm/range-locks.ts) from
 *    before its read until its write has ended, against every other change of that block. That only works if all users of
 *    a device share one decorator, so `anyRange` gives the same one for the same device.
 *  - Reads take no lock: a read-modify-write puts back the bytes that it found.
 *  - Bounce blocks are pooled and bounded; pieces wait for one in order of arrival, and who holds one waits for nothing but
 *    the device.
 */
import assert from 'node:assert/strict';
import { assertInLimits, type BlockDevice, type DeviceLimits } from '../block/device.ts';
import { blockStatusOf, type ExtentList, type StatusDone } from '../block/extents.ts';
import { IoRequest, Op, RequestFlag, type RequestOwner, RequestPool } from '../block/request.ts';
import { RangeEntry, RangeLocks } from './range-locks.ts';

/** Bytes of bounce blocks per device. */
const BOUNCE_BYTES = 1 << 20;

/** One piece of a request: a run of whole blocks, or a part of one block. */
class Piece extends RangeEntry implements RequestOwner {
  /** What the device gets; its owner is this piece. */
  readonly io: IoRequest = new IoRequest();
  /** Holds the whole request's outcome; null when this piece is all of it. */
  gather: IoRequest | null = null;
  request: IoRequest | null = null;
  /** The bytes meant: within [start, end). */
  from = 0;
  to = 0;
  bounce: Buffer | null = null;
  nextWaiting: Piece | null = null;
  readonly #device: AlignedDevice;

  constructor(device: AlignedDevice) {
    super();
    this.#device = device;
    this.io.owner = this;
  }

  ioDone(): void {
    this.#device.pieceDone(this);
  }
}

export class AlignedDevice implements BlockDevice {
  readonly name: string;
  readonly #device: BlockDevice;
  readonly #block: number;
  readonly #gathers = new RequestPool();
  readonly #locks = new RangeLocks<Piece>((piece) => this.#start(piece));
  readonly #freePieces: Piece[] = [];
  readonly #freeBounces: Buffer[] = [];
  #bouncesLeft: number;
  #waitingFirst: Piece | null = null;
  #waitingLast: Piece | null = null;
  #outstanding = 0;
  #idle: (() => void) | null = null;
  #closed: Promise<void> | null = null;
  /** Those of the device as it was last looked at, and ours that follow from them: it may grow. */
  #deviceLimits: DeviceLimits;
  #limits: DeviceLimits;
  /** Requests that need no I/O at all, to be completed on the next turn. */
  readonly #nothingToDo: IoRequest[] = [];
  readonly #onTurn = (): void => this.#completeNothing();

  constructor(device: BlockDevice) {
    this.#device = device;
    this.#block = device.limits.requestAlignment;
    this.#bouncesLeft = Math.max(2, Math.floor(BOUNCE_BYTES / this.#block));
    this.name = device.name;
    this.#deviceLimits = device.limits;
    this.#limits = limitsOver(device.limits);
  }

  get limits(): DeviceLimits {
    const { limits } = this.#device;
    if (limits !== this.#deviceLimits) {
      this.#deviceLimits = limits;
      this.#limits = limitsOver(limits);
    }
    return this.#limits;
  }

  /** Pieces taken and not yet given back. */
  get outstanding(): number {
    return this.#outstanding + this.#gathers.outstanding;
  }

  submit(request: IoRequest): void {
    const { op, offset, length } = request;
    assert(this.#closed === null, 'submitted to a closed device');
    assertInLimits(this.limits, request);
    if (op === Op.flush) {
      this.#device.submit(request);
    } else if (offset % this.#block === 0 && length % this.#block === 0) {
      if (op === Op.read) this.#device.submit(request);
      else this.#enter(this.#piece(request, null, offset, offset + length));
    } else {
      this.#split(request);
    }
  }

  /** But for parts of blocks at its ends, which are written. */
  zeroesFast(offset: number, length: number, flags: number): boolean {
    return length >= 2 * this.#block && (this.#device.zeroesFast?.(offset, length, flags) ?? false);
  }

  blockStatus(offset: number, length: number, extents: ExtentList, done: StatusDone): void {
    blockStatusOf(this.#device, offset, length, extents, done);
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    if (this.#outstanding > 0 || this.#nothingToDo.length > 0) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    }
    await this.#device.close();
  }

  /** For Piece: the device has done what `piece.io` asked. */
  pieceDone(piece: Piece): void {
    const { io, bounce } = piece;
    const request = piece.request!;
    if (bounce !== null && io.error === 0 && io.op === Op.read) {
      const inBuffer = request.bufferOffset + (piece.from - request.offset);
      const inBlock = piece.from - piece.start;
      const bytes = piece.to - piece.from;
      if (request.op === Op.read) {
        bounce.copy(request.buffer, inBuffer, inBlock, inBlock + bytes);
      } else {
        if (request.op === Op.write) request.buffer.copy(bounce, inBlock, inBuffer, inBuffer + bytes);
        else bounce.fill(0, inBlock, inBlock + bytes);
        io.op = Op.write;
        io.flags = request.flags & RequestFlag.fua;
        this.#device.submit(io);
        return;
      }
    }
    this.#finish(piece);
  }

  /** Cuts a request at the first and last block border inside it. */
  #split(request: IoRequest): void {
    const block = this.#block;
    const end = request.offset + request.length;
    const wholeFrom = Math.ceil(request.offset / block) * block;
    const wholeTo = end - (end % block);
    const gather = this.#gathers.acquire(NOT_SUBMITTED);
    gather.parent = request;
    // One more than there are pieces: none of them may end the request before all have been counted.
    gather.pending = 1;
    if (wholeTo > wholeFrom) this.#enterPiece(request, gather, wholeFrom, wholeTo);
    if (request.op !== Op.discard) {
      if (wholeFrom > wholeTo) {
        this.#enterPiece(request, gather, request.offset, end);
      } else {
        if (request.offset < wholeFrom) this.#enterPiece(request, gather, request.offset, wholeFrom);
        if (wholeTo < end) this.#enterPiece(request, gather, wholeTo, end);
      }
    }
    gather.pending--;
    if (gather.pending > 0) return;
    this.#gathers.release(gather);
    if (this.#nothingToDo.push(request) === 1) setImmediate(this.#onTurn);
  }

  #enterPiece(request: IoRequest, gather: IoRequest, from: number, to: number): void {
    gather.pending++;
    this.#enter(this.#piece(request, gather, from, to));
  }

  #piece(request: IoRequest, gather: IoRequest | null, from: number, to: number): Piece {
    const piece = this.#freePieces.pop() ?? new Piece(this);
    const block = this.#block;
    this.#outstanding++;
    piece.request = request;
    piece.gather = gather;
    piece.from = from;
    piece.to = to;
    piece.start = from - (from % block);
    piece.end = Math.ceil(to / block) * block;
    piece.partial = piece.start !== from || piece.end !== to;
    return piece;
  }

  /** Puts the piece in line; reads need no lock. */
  #enter(piece: Piece): void {
    if (piece.request!.op === Op.read || this.#locks.add(piece)) this.#start(piece);
  }

  #start(piece: Piece): void {
    const { io } = piece;
    const request = piece.request!;
    if (piece.partial) {
      this.#startPartial(piece);
      return;
    }
    io.op = request.op;
    io.flags = request.flags;
    io.offset = piece.start;
    io.length = piece.end - piece.start;
    io.buffer = request.buffer;
    io.bufferOffset = request.bufferOffset + (piece.from - request.offset);
    this.#device.submit(io);
  }

  #startPartial(piece: Piece): void {
    piece.bounce = this.#takeBounce();
    if (piece.bounce !== null) {
      this.#readBlock(piece, piece.bounce);
    } else {
      if (this.#waitingLast === null) this.#waitingFirst = piece;
      else this.#waitingLast.nextWaiting = piece;
      this.#waitingLast = piece;
    }
  }

  #readBlock(piece: Piece, bounce: Buffer): void {
    const { io } = piece;
    io.op = Op.read;
    io.flags = 0;
    io.offset = piece.start;
    io.length = this.#block;
    io.buffer = bounce;
    io.bufferOffset = 0;
    this.#device.submit(io);
  }

  #takeBounce(): Buffer | null {
    const free = this.#freeBounces.pop();
    if (free !== undefined) return free;
    if (this.#bouncesLeft === 0) return null;
    this.#bouncesLeft--;
    return Buffer.allocUnsafeSlow(this.#block);
  }

  /** Gives the block to the piece that has waited longest. */
  #releaseBounce(bounce: Buffer): void {
    const piece = this.#waitingFirst;
    if (piece === null) {
      this.#freeBounces.push(bounce);
      return;
    }
    this.#waitingFirst = piece.nextWaiting;
    if (this.#waitingFirst === null) this.#waitingLast = null;
    piece.nextWaiting = null;
    piece.bounce = bounce;
    this.#readBlock(piece, bounce);
  }

  #finish(piece: Piece): void {
    const { gather, bounce } = piece;
    const request = piece.request!;
    const { error } = piece.io;
    if (request.op !== Op.read) this.#locks.remove(piece);
    piece.io.reset();
    piece.io.owner = piece;
    piece.request = null;
    piece.gather = null;
    piece.bounce = null;
    this.#freePieces.push(piece);
    this.#outstanding--;
    if (bounce !== null) this.#releaseBounce(bounce);
    if (gather === null) {
      this.#complete(request, error);
      return;
    }
    if (gather.error === 0) gather.error = error;
    gather.pending--;
    if (gather.pending > 0) return;
    const outcome = gather.error;
    this.#gathers.release(gather);
    this.#complete(request, outcome);
  }

  #completeNothing(): void {
    const requests = this.#nothingToDo.splice(0);
    for (const request of requests) this.#complete(request, 0);
  }

  #complete(request: IoRequest, error: number): void {
    request.error = error;
    request.owner.ioDone(request);
    if (this.#outstanding === 0 && this.#nothingToDo.length === 0) this.#idle?.();
  }
}

function limitsOver(limits: DeviceLimits): DeviceLimits {
  return { ...limits, sizeBytes: limits.sizeBytes - (limits.sizeBytes % limits.requestAlignment), requestAlignment: 1 };
}

/** Gathers are records of this file and never go to a device. */
const NOT_SUBMITTED: RequestOwner = {
  ioDone(): void {
    assert.fail('a gather was completed');
  },
};

/**
 * The decorators, by device. It belongs to the process and not to an object, because two decorators of one device would
 * each write back the blocks that the other has changed.
 */
const decorators = new WeakMap<BlockDevice, AlignedDevice>();

/** The device itself if it takes any byte range, else its decorator that does. */
export function anyRange(device: BlockDevice): BlockDevice {
  if (device.limits.requestAlignment === 1) return device;
  let decorator = decorators.get(device);
  if (decorator === undefined) {
    decorator = new AlignedDevice(device);
    decorators.set(device, decorator);
  }
  return decorator;
}
