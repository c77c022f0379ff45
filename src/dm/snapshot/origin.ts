/**
 * An origin as its snapshots see it: the writes that come for it go on when no snapshot needs the old content any more. The
 * origin's volume and those of its snapshots find each other here, by the origin's key.
 *
 *     write ── every snapshot has copied what it touches? ──yes──> the origin's device
 *                   └── no: begin the copies, wait for the last one, ask again
 *
 * Invariants
 *  - No write reaches the device while a snapshot that counts on the origin's chunk has no exception for it.
 *  - A write that waits stands in exactly one queue: of a pending exception, of a snapshot that is not ready, or of those held.
 *    It never fails because of a snapshot: one that can't keep up becomes invalid, and then asks for nothing any more.
 *  - Snapshots that the origin's table names are waited for: before they are attached, nothing is written.
 *  - While a snapshot is suspended, no write is admitted; those that were begin no more before it is quiet. So whoever
 *    suspends an origin and its snapshots suspends the origin first.
 */
import type { BlockDevice } from '../../block/device.ts';
import { type IoRequest, RequestQueue } from '../../block/request.ts';
import { REQUEUE } from '../target.ts';

/** Of one write so many bytes are copied at a time. */
const WINDOW_BYTES = 1 << 20;

/** What a snapshot does for its origin. */
export interface OriginSnapshot {
  /** As tables name it; null when they don't. */
  readonly id: string | null;
  /** The first byte from `from` to `to` whose old content it still needs, or `to`. */
  firstNeeded(from: number, to: number): number;
  /** Begins to copy what it needs of the range. Gives the queue for a write that must wait for that, null when there is nothing. */
  copyOut(from: number, to: number): RequestQueue | null;
}

export class Origin {
  #device: BlockDevice | null = null;
  #snapshots: readonly OriginSnapshot[] = [];
  #expected: readonly string[] = [];
  #missing = 0;
  #holds = 0;
  /** What would be held comes back: the origin's volume is being suspended. */
  #givesBack = false;
  readonly #held = new RequestQueue();
  /** Writes that were admitted and wait in a snapshot's queues. */
  #waiting = 0;
  #quietWaiters: (() => void)[] = [];
  readonly #forget: () => void;

  constructor(forget: () => void) {
    this.#forget = forget;
  }

  get snapshots(): readonly OriginSnapshot[] {
    return this.#snapshots;
  }

  /** Snapshots that the table names and that are not there. */
  get missing(): number {
    return this.#missing;
  }

  /** The origin's volume is live: its device, and the ids of the snapshots that it has to have. */
  open(device: BlockDevice, expected: readonly string[]): void {
    this.#device = device;
    this.#givesBack = false;
    this.#expected = expected;
    this.#changed();
  }

  /** The origin's volume has let it go. */
  close(device: BlockDevice): void {
    if (this.#device !== device) return;
    this.#device = null;
    this.#expected = [];
    this.#changed();
  }

  attach(snapshot: OriginSnapshot): void {
    if (!this.#snapshots.includes(snapshot)) this.#snapshots = [...this.#snapshots, snapshot];
    this.#changed();
  }

  detach(snapshot: OriginSnapshot): void {
    this.#snapshots = this.#snapshots.filter((other) => other !== snapshot);
    this.#changed();
  }

  /** From now on no write is admitted, until `release`. */
  hold(): void {
    this.#holds++;
  }

  release(): void {
    this.#holds--;
    this.#admitHeld();
  }

  /** Settles when no admitted write waits for a snapshot. Meant for an origin on hold. */
  async quiet(): Promise<void> {
    while (this.#waiting > 0) {
      await new Promise<void>((resolve) => {
        this.#quietWaiters.push(resolve);
      });
    }
  }

  /** The origin's volume is about to be suspended: until `open`, what is held comes back from the next turn, to be done again. */
  giveBack(): void {
    this.#givesBack = true;
    const given = new RequestQueue();
    for (let request = this.#held.shift(); request !== null; request = this.#held.shift()) given.push(request);
    if (given.size === 0) return;
    setImmediate(() => {
      for (let request = given.shift(); request !== null; request = given.shift()) {
        request.error = REQUEUE;
        request.owner.ioDone(request);
      }
    });
  }

  /** A write, or zeroes; the device gets the request when its time has come. */
  write(request: IoRequest): void {
    if (this.#holds > 0 || this.#missing > 0) {
      this.#held.push(request);
      if (this.#givesBack) this.giveBack();
    } else this.#admit(request);
  }

  /** Whether a write of this range may go to the device now, as it is. */
  passes(offset: number, end: number): boolean {
    if (this.#holds > 0 || this.#missing > 0) return false;
    const snapshots = this.#snapshots;
    for (let i = 0; i < snapshots.length; i++) if (snapshots[i]!.firstNeeded(offset, end) !== end) return false;
    return true;
  }

  /** The write has waited in a snapshot's queue for what has happened now. */
  retry(request: IoRequest): void {
    this.#waiting--;
    this.#admit(request);
    if (this.#waiting > 0 || this.#quietWaiters.length === 0) return;
    const waiters = this.#quietWaiters;
    this.#quietWaiters = [];
    for (const wake of waiters) wake();
  }

  #admit(request: IoRequest): void {
    const snapshots = this.#snapshots;
    const end = request.offset + request.length;
    let first = end;
    for (let i = 0; i < snapshots.length; i++) first = snapshots[i]!.firstNeeded(request.offset, first);
    if (first === end) {
      this.#device!.submit(request);
      return;
    }
    const to = Math.min(end, first + WINDOW_BYTES);
    let queue: RequestQueue | null = null;
    // The last one: it began last, so the others are likely to be ready as well.
    for (let i = 0; i < snapshots.length; i++) queue = snapshots[i]!.copyOut(first, to) ?? queue;
    if (queue === null) {
      this.#admit(request);
      return;
    }
    this.#waiting++;
    queue.push(request);
  }

  #changed(): void {
    const ids = new Set(this.#snapshots.map((snapshot) => snapshot.id));
    this.#missing = this.#expected.filter((id) => !ids.has(id)).length;
    if (this.#device === null && this.#snapshots.length === 0) this.#forget();
    this.#admitHeld();
  }

  #admitHeld(): void {
    if (this.#device === null) return;
    for (let count = this.#held.size; count > 0 && this.#holds === 0 && this.#missing === 0; count--) {
      this.#admit(this.#held.shift()!);
    }
  }
}
