/**
 * How far long work is: told to a sink, which draws it on a terminal or passes it on.
 *
 * Invariants
 *  - A drawn line is written over at most ten times a second, and is gone before anything else is written to the terminal.
 *  - Nothing is drawn where stderr is no terminal.
 */
import { plainText } from '../ondisk/plain-text.ts';

const INTERVAL_MS = 100;
const BAR_WIDTH = 30;

export interface ProgressSink {
  /** `label` says what is done; `done` and `total` are in `unit`. */
  update(label: string, done: number, total: number, unit: string): void;
  /** The work has ended, well or not. */
  end(): void;
}

interface TerminalStream {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

/** One line at the bottom of a terminal. */
export class ProgressLine implements ProgressSink {
  readonly #stream: TerminalStream;
  #last = 0;
  #shown = false;

  constructor(stream: TerminalStream) {
    this.#stream = stream;
  }

  update(label: string, done: number, total: number): void {
    if (this.#stream.isTTY !== true) return;
    const now = Date.now();
    if (now - this.#last < INTERVAL_MS && (done < total || !this.#shown)) return;
    this.#last = now;
    this.#shown = true;
    this.#stream.write(`\r  ${progressText(label, done, total)}\u001B[K`);
  }

  end(): void {
    if (!this.#shown) return;
    this.#shown = false;
    this.#stream.write('\r\u001B[K');
  }
}

/** "Wiping vg0/a [###     ] 37%" */
function progressText(label: string, done: number, total: number): string {
  const part = total === 0 ? 1 : Math.min(done / total, 1);
  const full = Math.floor(part * BAR_WIDTH);
  return `${plainText(label)} [${'#'.repeat(full)}${' '.repeat(BAR_WIDTH - full)}] ${Math.floor(part * 100)}%`;
}
