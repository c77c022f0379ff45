/**
 * Requests that have ended where their submitter may still be calling: their owners are told from the next turn of the event loop.
 *
 * Invariants
 *  - They are told in the order in which they ended. One that submits again from there has its turn later.
 *  - Nothing is made per request.
 */
import { type IoRequest, RequestQueue } from '../block/request.ts';

export class EndQueue {
  readonly #queue = new RequestQueue();
  readonly #finish: (request: IoRequest) => void;
  #scheduled = false;
  readonly #onTurn = (): void => this.#tell();

  /** `finish` is told of each, with its `error` set; default: its owner is. */
  constructor(finish: (request: IoRequest) => void = (request) => request.owner.ioDone(request)) {
    this.#finish = finish;
  }

  end(request: IoRequest, errno: number): void {
    request.error = errno;
    this.#queue.push(request);
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#onTurn);
  }

  #tell(): void {
    this.#scheduled = false;
    for (let count = this.#queue.size; count > 0; count--) this.#finish(this.#queue.shift()!);
  }
}
