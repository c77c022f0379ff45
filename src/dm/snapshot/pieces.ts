/**
 * Cuts a request into pieces, each for one place, and ends it when all have: what the requests of a snapshot and those of a
 * merging origin have in common.
 *
 * A gather is a pooled request that is never submitted: offset and length are what has not been sent yet, pending counts the
 * pieces outstanding, error is the first that came back.
 *
 * Invariants
 *  - Pieces share the request's buffer. At most MAX_PIECES of a request are out; each that ends makes room for the next.
 *  - A request ends once, with the first error of its pieces, when none is outstanding; never inside `submit`.
 */
import { type IoRequest, Op, type RequestOwner, RequestPool, RequestQueue } from '../../block/request.ts';
import { EndQueue } from '../end-queue.ts';
import type { RequestSink } from '../target.ts';

const MAX_PIECES = 128;

export abstract class Pieces implements RequestSink, RequestOwner {
  readonly #pool = new RequestPool();
  readonly #held = new RequestQueue();
  readonly #ended = new EndQueue();

  /** Whether requests can be cut now; if not, they wait for `goOn`. */
  protected abstract ready(): boolean;
  /** Sends one piece from the gather's offset on, and gives its bytes; or sets the gather's error. */
  protected abstract send(gather: IoRequest, request: IoRequest): number;
  /** A flush: like `send`, as many pieces as it takes. */
  protected abstract flush(gather: IoRequest): void;
  /** A piece has come back. */
  protected returned(_piece: IoRequest): void {}

  submit(request: IoRequest): void {
    if (request.op === Op.discard) this.#ended.end(request, 0);
    else if (this.ready()) this.#start(request);
    else this.#held.push(request);
  }

  /** What was held can go on. */
  goOn(): void {
    for (let count = this.#held.size; count > 0; count--) this.#start(this.#held.shift()!);
  }

  /** A piece has ended. */
  ioDone(piece: IoRequest): void {
    this.returned(piece);
    const gather = piece.parent!;
    const { error } = piece;
    this.#pool.release(piece);
    // A failure weighs more than a piece that could be done again.
    if (error !== 0 && gather.error <= 0) gather.error = error;
    gather.pending--;
    if (gather.length > 0) this.#pump(gather);
    if (gather.pending > 0) return;
    const request = gather.parent!;
    const outcome = gather.error;
    this.#pool.release(gather);
    request.error = outcome;
    request.owner.ioDone(request);
  }

  /** A piece of `length` bytes at the gather's offset for byte `offset` of wherever it goes, `tag` being the caller's own. */
  protected piece(gather: IoRequest, request: IoRequest, offset: number, length: number, tag: number): IoRequest {
    const piece = this.#pool.acquire(this);
    piece.op = request.op;
    piece.flags = request.flags;
    piece.offset = offset;
    piece.length = length;
    piece.buffer = request.buffer;
    piece.bufferOffset = request.bufferOffset + (gather.offset - request.offset);
    piece.parent = gather;
    piece.tag = tag;
    gather.pending++;
    return piece;
  }

  #start(request: IoRequest): void {
    const gather = this.#pool.acquire(this);
    gather.parent = request;
    gather.offset = request.offset;
    gather.length = request.length;
    if (request.op === Op.flush) this.flush(gather);
    else this.#pump(gather);
    if (gather.pending > 0) return;
    const { error } = gather;
    this.#pool.release(gather);
    this.#ended.end(request, error);
  }

  #pump(gather: IoRequest): void {
    const request = gather.parent!;
    while (gather.length > 0 && gather.error === 0 && gather.pending < MAX_PIECES) {
      const sent = this.send(gather, request);
      gather.offset += sent;
      gather.length -= sent;
    }
  }
}
