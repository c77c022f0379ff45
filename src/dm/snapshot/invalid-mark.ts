/**
 * Telling a COW device that its snapshot is invalid, until it knows.
 *
 *     mark ── written ──────────────────────────────────> marked
 *       └──── the device takes no writes ── a pause ── again ── …
 *
 * The origin does not wait for a device that takes none, and changes. If the device is well again before the next load of the store and
 * was not told, the store is one of a valid snapshot that lacks what was not copied: whoever loads it then gets wrong content.
 *
 * Invariants
 *  - One attempt at a time; none between `stop` and the next `mark` or `goOn`, as the extents may be somebody else's then.
 *  - Nobody waits for the attempts behind the first but `stop`, which makes a last one.
 */
import type { BlockDevice } from '../../block/device.ts';
import { DeviceError } from '../../block/errors.ts';
import { markInvalid } from './persistent-store.ts';

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 60_000;

/** The store to be marked: asked for each attempt, as its device may be another one by then. */
export type MarkedStore = () => { readonly device: BlockDevice; readonly chunkSectors: number };

export class InvalidMark {
  readonly #store: MarkedStore;
  #failure: string | null = null;
  #attempt: Promise<void> = Promise.resolve();
  #timer: NodeJS.Timeout | null = null;
  #pauseMs = FIRST_PAUSE_MS;
  /** An attempt that is under way arms nothing behind it. */
  #stopped = false;

  constructor(store: MarkedStore) {
    this.#store = store;
  }

  /** Why the device does not know yet; null: it does, or is not to know. */
  get failure(): string | null {
    return this.#failure;
  }

  /** Settles when the device knows, or has failed once: then it is tried again by and by. */
  async mark(): Promise<void> {
    this.#stopped = false;
    await this.#try();
    this.#later();
  }

  /** Tries again later what has failed. */
  goOn(): void {
    this.#stopped = false;
    this.#later();
  }

  /** A last attempt for now; settles when none is under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    await this.#attempt;
    if (this.#failure !== null) await this.#try();
  }

  #later(): void {
    if (this.#stopped || this.#failure === null || this.#timer !== null) return;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#pauseMs = Math.min(2 * this.#pauseMs, LONGEST_PAUSE_MS);
      void this.#retry();
    }, this.#pauseMs);
    this.#timer.unref();
  }

  async #retry(): Promise<void> {
    await this.#try();
    this.#later();
  }

  async #try(): Promise<void> {
    this.#attempt = this.#write();
    await this.#attempt;
  }

  async #write(): Promise<void> {
    const { device, chunkSectors } = this.#store();
    try {
      await markInvalid(device, chunkSectors);
      this.#failure = null;
    } catch (error) {
      if (!(error instanceof DeviceError)) throw error;
      this.#failure = error.message;
    }
  }
}
