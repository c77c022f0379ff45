/**
 * Requests that have come to their end, and whose owners are told in a later callback.
 *
 * Invariants
 *  - They are told in order of their ends.
 *  - What ends while they are told has a turn of its own, so that owners who submit again do not keep others waiting.
 */
import { type IoRequest, RequestQueue } from '../request.ts';
import { tellSoon } from '../turn.ts';

export class LaterEnds {
  readonly #ended = new RequestQueue();
  #scheduled = false;
  readonly #tell: (request: IoRequest, errno: number) => void;
  readonly #onTurn = (): void => {
    this.#scheduled = false;
    for (let count = this.#ended.size; count > 0; count--) {
      const request = this.#ended.shift()!;
      this.#tell(request, request.error);
    }
    if (this.#ended.size > 0) this.#schedule();
  };

  constructor(tell: (request: IoRequest, errno: number) => void) {
    this.#tell = tell;
  }

  push(request: IoRequest, errno: number): void {
    request.error = errno;
    this.#ended.push(request);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    tellSoon(this.#onTurn);
  }
}
