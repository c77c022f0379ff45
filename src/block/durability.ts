/**
 * When what was written to a device of the system is durable: its flushes, and the FUA requests whose data is written.
 *
 * Invariants
 *  - One fdatasync runs at a time and serves everything that was waiting when it began. What arrives while it runs waits for the next
 *    one.
 *  - After a failed fdatasync every later flush and FUA fails as well: the kernel reports a lost page only once, and drops it, so
 *    a later success would claim durability for data that is gone. That is told, for others who have the device open.
 *  - A durable write that fails counts as one if its bytes can be written: then it may have been the flush within that failed, and no
 *    later flush shows what that dropped, so it is for all, whoever's write it was. Until that is known nothing is called durable, and no
 *    durable write is begun until a flush has ended well after it: else somebody whose writes go on failing could keep all others
 *    waiting.
 */
import { type IoRequest, RequestQueue } from './request.ts';

export interface DurabilityParts {
  readonly fdatasync: (done: (errno: number) => void) => void;
  readonly complete: (request: IoRequest, errno: number) => void;
  /** A flush has failed, for the first time. */
  readonly lost: (errno: number) => void;
  /** A flush has ended, and who waited for it was told. */
  readonly ended: () => void;
}

export class Durability {
  readonly #parts: DurabilityParts;
  /** What no fdatasync covers yet, and what the running one covers. */
  #waiting = new RequestQueue();
  #covered = new RequestQueue();
  #running = false;
  #errno = 0;
  /** Durable writes that have failed, and whose bytes are being written once more. */
  #doubts = 0;
  /** A durable write has failed since the last flush that ended well. */
  #wary = false;
  readonly #onSync = (errno: number): void => {
    this.#running = false;
    this.#synced(errno);
  };

  constructor(parts: DurabilityParts) {
    this.#parts = parts;
  }

  /** Why nothing written is called durable any more; 0: it is. */
  get errno(): number {
    return this.#errno;
  }

  /** Whether writes that are durable when they end may be begun. */
  get allowsDurableWrites(): boolean {
    return !this.#wary;
  }

  /** Whether it is not known yet what of a durable write has failed. */
  get inDoubt(): boolean {
    return this.#doubts > 0;
  }

  /** Whether a flush is to be begun. */
  get isDue(): boolean {
    return !this.#running && this.#waiting.size > 0 && !this.inDoubt;
  }

  /** Whether nothing waits for a flush and none runs. */
  get isIdle(): boolean {
    return this.#waiting.size === 0 && !this.#running;
  }

  /** A flush, or a request with FUA whose data is written. */
  add(request: IoRequest): void {
    this.#waiting.push(request);
  }

  /** Begins a flush that is due; one of a device that nothing was written through needs no call. */
  begin(isNeeded: boolean): void {
    const covered = this.#waiting;
    this.#waiting = this.#covered;
    this.#covered = covered;
    if (!isNeeded || this.#errno !== 0) {
      this.#synced(this.#errno);
      return;
    }
    this.#running = true;
    this.#parts.fdatasync(this.#onSync);
  }

  #synced(errno: number): void {
    if (errno !== 0) this.#loseFlush(errno);
    else if (!this.inDoubt) this.#wary = false;
    for (let request = this.#covered.shift(); request !== null; request = this.#covered.shift()) {
      if (this.inDoubt) this.#waiting.push(request);
      else this.#parts.complete(request, this.#errno);
    }
    this.#parts.ended();
  }

  /** A durable write has failed: its bytes are written once more, which `settle` ends. */
  doubt(): void {
    this.#wary = true;
    this.#doubts++;
  }

  /** Whether the bytes of a durable write that failed with this errno could be `written`. */
  settle(errno: number, written: boolean): void {
    this.#doubts--;
    if (written) this.#loseFlush(errno);
  }

  #loseFlush(errno: number): void {
    if (this.#errno === 0) this.#parts.lost(errno);
    this.lose(errno);
  }

  /** A flush of the device has failed elsewhere. */
  lose(errno: number): void {
    if (this.#errno === 0) this.#errno = errno;
  }
}
