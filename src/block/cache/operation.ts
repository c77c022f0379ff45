/**
 * A request of a cached device that could not end at once, and lists of such.
 *
 * Invariants
 *  - An operation is on one list at most, and has at most one request of its own (`io`) at the device.
 *  - Operations are pooled by their device; nothing is made per request once there are enough.
 */
import type { AlignedPiece } from '../aligned-memory.ts';
import { IoRequest, type RequestOwner } from '../request.ts';

/** What an operation's own request at the device is. */
export const Stage = { none: 0, plain: 1, through: 2, tail: 3, flush: 4, range: 5 } as const;
export type Stage = (typeof Stage)[keyof typeof Stage];

/** Who carries an operation on when its own request has ended. */
export interface OperationHost {
  operationDone(operation: Operation): void;
}

export class Operation implements RequestOwner {
  /** What the device below gets; its owner is this operation. */
  readonly io: IoRequest = new IoRequest();
  /** Null: nobody's request (a range that is given up). */
  request: IoRequest | null = null;
  /** The device's byte that comes next. */
  position = 0;
  /** Fills that bring it bytes. */
  pending = 0;
  error = 0;
  stage: Stage = Stage.none;
  /** Every change up to this epoch is to be on the device. */
  stamp = 0;
  /** Blocks that a range or a durable write covers, end exclusive. */
  firstBlock = 0;
  endBlock = 0;
  /** Of a range: nothing of it is in the cache or on its way to the device. */
  settled = false;
  /** Of a durable write: some of it was written without FUA. */
  needsFlush = false;
  /** Of a write-through: nothing of it is in the cache. */
  blind = false;
  /** Of a range: requests that wait for its end. */
  readonly waiters: OperationList = new OperationList();
  /** Of a range that is no request: the byte behind it; `position` is its first one. */
  end = 0;
  /** Of a range that is no request: told of the errno. */
  resolve: ((errno: number) => void) | null = null;
  /** What of it can't be written back is given up. */
  force = false;
  next: Operation | null = null;
  readonly #host: OperationHost;

  constructor(host: OperationHost) {
    this.#host = host;
    this.io.owner = this;
  }

  ioDone(): void {
    this.#host.operationDone(this);
  }

  reset(): void {
    this.io.reset();
    this.io.owner = this;
    this.request = null;
    this.position = 0;
    this.pending = 0;
    this.error = 0;
    this.stage = Stage.none;
    this.stamp = 0;
    this.firstBlock = 0;
    this.endBlock = 0;
    this.settled = false;
    this.needsFlush = false;
    this.blind = false;
    this.end = 0;
    this.resolve = null;
    this.force = false;
    this.next = null;
  }
}

/** First in, first out, through the `next` links. */
export class OperationList {
  first: Operation | null = null;
  last: Operation | null = null;
  size = 0;

  push(operation: Operation): void {
    operation.next = null;
    if (this.last === null) this.first = operation;
    else this.last.next = operation;
    this.last = operation;
    this.size++;
  }

  /** Puts an operation before all others. */
  unshift(operation: Operation): void {
    operation.next = this.first;
    this.first = operation;
    this.last ??= operation;
    this.size++;
  }

  shift(): Operation | null {
    const operation = this.first;
    if (operation === null) return null;
    this.first = operation.next;
    if (this.first === null) this.last = null;
    operation.next = null;
    this.size--;
    return operation;
  }
}

/** Bytes on their way from the device into the cache, and to a read that waits for them. */
export class Fill implements RequestOwner {
  readonly slot: number;
  readonly io: IoRequest = new IoRequest();
  /** The read that gets the bytes; null: read ahead, or for a write of a part of the block. */
  reader: Operation | null = null;
  /** The write that needs the block; it fails if the fill does. */
  writer: Operation | null = null;
  firstBlock = 0;
  blocks = 0;
  /** Where whole blocks are read to; null: straight to the reader. */
  staging: AlignedPiece | null = null;
  ahead = false;
  /** Others that need these blocks. */
  readonly waiters: OperationList = new OperationList();
  readonly #done: (fill: Fill) => void;

  constructor(slot: number, done: (fill: Fill) => void) {
    this.slot = slot;
    this.#done = done;
    this.io.owner = this;
  }

  ioDone(): void {
    this.#done(this);
  }

  reset(): void {
    this.io.reset();
    this.io.owner = this;
    this.reader = null;
    this.writer = null;
    this.staging = null;
    this.ahead = false;
  }
}
