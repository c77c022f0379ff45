/**
 * One I/O request on its way down the layers and back up, and the pools that hold them.
 *
 * Invariants
 *  - A request belongs to whoever acquired it. From `submit` until `owner.ioDone(request)` it belongs to the device.
 *  - Every submitted request is completed exactly once, never inside `submit` (so nobody re-enters a loop of its own).
 *  - The buffer is the caller's and stays untouched by him until completion; devices never keep a reference after it.
 *  - Offsets and lengths are bytes, safe integers, inside the device. `length > 0`, except for flush, which has neither.
 *  - No promise, closure, BigInt or Buffer is made per request on this path.
 */
import assert from 'node:assert/strict';

export const Op = { read: 0, write: 1, flush: 2, discard: 3, writeZeroes: 4 } as const;
export type Op = (typeof Op)[keyof typeof Op];

/** Request flags, a bit set. */
export const RequestFlag = {
  /** Complete only when this request's data is durable (write, discard, writeZeroes). */
  fua: 1,
  /** writeZeroes must leave the space allocated (NBD_CMD_FLAG_NO_HOLE). */
  noUnmap: 2,
} as const;

/** Who is told that a request has ended. */
export interface RequestOwner {
  /** Called once for each submitted request; `request.error` is 0 or a positive errno. The request is the owner's again. */
  ioDone(request: IoRequest): void;
}

const NO_BUFFER: Buffer = Buffer.alloc(0);
const NOBODY: RequestOwner = {
  ioDone(): void {
    assert.fail('a request without an owner was completed');
  },
};

export class IoRequest {
  op: Op = Op.read;
  /** Bits of RequestFlag. */
  flags = 0;
  /** Byte offset on the device that it is submitted to. */
  offset = 0;
  /** Bytes. */
  length = 0;
  /** Payload of reads (filled whole on success) and writes. */
  buffer: Buffer = NO_BUFFER;
  /** Where the payload starts in `buffer`. */
  bufferOffset = 0;
  /** The payload begins on a page of memory that is made of whole ones: a device past the page cache takes it as it is. */
  aligned = false;
  /** 0, or a positive errno (os.constants.errno). */
  error = 0;
  /** Of a request that failed: bytes of its range before the first one that is known to have failed; 0 where nothing is known. */
  failedAt = 0;
  owner: RequestOwner = NOBODY;
  /** The owner's own: the request that this one is a piece of. */
  parent: IoRequest | null = null;
  /** The owner's own: pieces still outstanding. */
  pending = 0;
  /** The owner's own: an index or id. */
  tag = 0;
  /** When it came, for who counts (dm/turn-clock.ts). Set by the volume that it is submitted to. */
  startedAt = 0;
  /** Link of the one list that the request is on (a free list, a queue). */
  next: IoRequest | null = null;

  /** Forgets payload and links, so that a pooled request keeps no memory alive. */
  reset(): void {
    this.op = Op.read;
    this.flags = 0;
    this.offset = 0;
    this.length = 0;
    this.buffer = NO_BUFFER;
    this.bufferOffset = 0;
    this.aligned = false;
    this.error = 0;
    this.failedAt = 0;
    this.owner = NOBODY;
    this.parent = null;
    this.pending = 0;
    this.tag = 0;
    this.startedAt = 0;
    this.next = null;
  }
}

/** A free list of requests; grows on demand and never shrinks (its size is bounded by the callers' own limits). */
export class RequestPool {
  #free: IoRequest | null = null;
  #outstanding = 0;

  /** Requests taken and not yet given back. */
  get outstanding(): number {
    return this.#outstanding;
  }

  acquire(owner: RequestOwner): IoRequest {
    const request = this.#free ?? new IoRequest();
    this.#free = request.next;
    request.next = null;
    request.owner = owner;
    this.#outstanding++;
    return request;
  }

  release(request: IoRequest): void {
    assert(this.#outstanding > 0);
    request.reset();
    request.next = this.#free;
    this.#free = request;
    this.#outstanding--;
  }
}

/** A first-in first-out list of requests through their `next` links. */
export class RequestQueue {
  #head: IoRequest | null = null;
  #tail: IoRequest | null = null;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  push(request: IoRequest): void {
    assert(request.next === null);
    if (this.#tail === null) this.#head = request;
    else this.#tail.next = request;
    this.#tail = request;
    this.#size++;
  }

  shift(): IoRequest | null {
    const request = this.#head;
    if (request === null) return null;
    this.#head = request.next;
    if (this.#head === null) this.#tail = null;
    request.next = null;
    this.#size--;
    return request;
  }
}
