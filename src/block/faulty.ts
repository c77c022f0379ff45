/**
 * A device that misbehaves on command, for tests: it wraps any other, and a function of the test decides what becomes of
 * each request.
 *
 * Invariants
 *  - No timers and no randomness: whatever is held back waits until the test releases it, in the order the test chooses.
 *  - The wrapped device sees requests of this device's own; the caller's are only completed, exactly once, never in `submit`.
 *  - `close` waits for what is held back, as it would for a slow disk: a test releases everything before it closes.
 */
import assert from 'node:assert/strict';
import { assertInLimits, type BlockDevice, type DeviceLimits } from './device.ts';
import { Op, RequestPool, RequestQueue, type IoRequest, type RequestOwner } from './request.ts';

/** What becomes of a request. */
export type Fate =
  /** It is carried out. */
  | { readonly kind: 'pass' }
  /** It ends with `errno`, and is not carried out. */
  | { readonly kind: 'fail'; readonly errno: number }
  /** Only its first `bytes` are carried out, and it ends with `errno` (0: the device does not notice). */
  | { readonly kind: 'torn'; readonly bytes: number; readonly errno: number }
  /** It ends well, but is not carried out. */
  | { readonly kind: 'lose' }
  /** It waits, not carried out, until it is released; never released, it hangs. */
  | { readonly kind: 'hold' }
  /** It is carried out, but its completion waits until it is released. */
  | { readonly kind: 'holdReply' };

const PASS: Fate = { kind: 'pass' };

interface Held {
  readonly request: IoRequest;
  readonly carriedOut: boolean;
}

interface Waiter {
  readonly count: number;
  readonly resolve: () => void;
}

export class FaultyDevice implements BlockDevice, RequestOwner {
  readonly name: string;
  readonly limits: DeviceLimits;
  /** Asked once for every submitted request; the test replaces it at will. Default: everything passes. */
  decide: (request: IoRequest) => Fate = () => PASS;
  /** Requests submitted so far, by Op. */
  readonly submitted: number[] = [0, 0, 0, 0, 0];
  readonly #inner: BlockDevice;
  readonly #pool = new RequestPool();
  readonly #held: Held[] = [];
  readonly #ended = new RequestQueue();
  #waiters: Waiter[] = [];
  #outstanding = 0;
  #scheduled = false;
  #closed: Promise<void> | null = null;
  #drained: (() => void) | null = null;

  constructor(inner: BlockDevice) {
    this.#inner = inner;
    this.name = inner.name;
    this.limits = inner.limits;
  }

  submit(request: IoRequest): void {
    assert(this.#closed === null, 'submitted to a closed device');
    assertInLimits(this.limits, request);
    request.error = 0;
    this.#outstanding++;
    this.submitted[request.op]!++;
    const fate = this.decide(request);
    switch (fate.kind) {
      case 'pass':
        this.#forward(request, request.length, 0, false);
        break;
      case 'fail':
        this.#end(request, fate.errno);
        break;
      case 'torn':
        assert(fate.bytes >= 0 && fate.bytes <= request.length);
        if (fate.bytes === 0) this.#end(request, fate.errno);
        else this.#forward(request, fate.bytes, fate.errno, false);
        break;
      case 'lose':
        assert(request.op !== Op.read, 'a read that is lost would leave its buffer unfilled');
        this.#end(request, 0);
        break;
      case 'hold':
        this.#hold(request, false);
        break;
      case 'holdReply':
        this.#forward(request, request.length, 0, true);
        break;
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  /** Requests held back, oldest first. */
  get held(): readonly IoRequest[] {
    return this.#held.map(({ request }) => request);
  }

  /** Resolves when `count` requests or more are held back. */
  whenHeld(count: number): Promise<void> {
    if (this.#held.length >= count) return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiters.push({ count, resolve });
    });
  }

  /** Lets a held request go on: it is carried out, if it was not, and completes; with an errno it just ends so. */
  release(request: IoRequest, errno = 0): void {
    const index = this.#held.findIndex((held) => held.request === request);
    const held = this.#held[index];
    assert(held !== undefined, 'the request is not held');
    this.#held.splice(index, 1);
    if (errno !== 0) this.#end(request, errno);
    else if (held.carriedOut) this.#end(request, request.error);
    else this.#forward(request, request.length, 0, false);
  }

  /** Releases everything held at this moment, oldest first. */
  releaseAll(errno = 0): void {
    for (const request of this.held) this.release(request, errno);
  }

  /** A request to the wrapped device has ended. */
  ioDone(inner: IoRequest): void {
    const request = inner.parent!;
    request.error = inner.error === 0 ? inner.pending : inner.error;
    const holdReply = inner.tag !== 0;
    this.#pool.release(inner);
    if (holdReply) this.#hold(request, true);
    else this.#complete(request);
  }

  async #close(): Promise<void> {
    if (this.#outstanding > 0) {
      await new Promise<void>((resolve) => {
        this.#drained = resolve;
      });
    }
    await this.#inner.close();
  }

  #forward(request: IoRequest, length: number, errno: number, holdReply: boolean): void {
    const inner = this.#pool.acquire(this);
    inner.op = request.op;
    inner.flags = request.flags;
    inner.offset = request.offset;
    inner.length = length;
    inner.buffer = request.buffer;
    inner.bufferOffset = request.bufferOffset;
    inner.parent = request;
    inner.pending = errno;
    inner.tag = holdReply ? 1 : 0;
    this.#inner.submit(inner);
  }

  #hold(request: IoRequest, carriedOut: boolean): void {
    this.#held.push({ request, carriedOut });
    const ready = this.#waiters.filter(({ count }) => this.#held.length >= count);
    this.#waiters = this.#waiters.filter((waiter) => !ready.includes(waiter));
    for (const { resolve } of ready) resolve();
  }

  /** Completes a request that the wrapped device does not, from the next turn. */
  #end(request: IoRequest, errno: number): void {
    request.error = errno;
    this.#ended.push(request);
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      for (let count = this.#ended.size; count > 0; count--) this.#complete(this.#ended.shift()!);
    });
  }

  #complete(request: IoRequest): void {
    this.#outstanding--;
    request.owner.ioDone(request);
    if (this.#outstanding === 0) this.#drained?.();
  }
}
