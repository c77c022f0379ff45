/** How far a long job is, on stderr, where that is a terminal: one line that is written over, at most ten times a second. */

const INTERVAL_MS = 100;
const WIDTH = 30;

export interface ProgressBar {
  /** Both in the same unit. */
  readonly update: (done: number, total: number) => void;
  /** Takes the line away. */
  readonly end: () => void;
}

const NO_BAR: ProgressBar = { update: () => undefined, end: () => undefined };

export function progressBar(title: string, stream: NodeJS.WriteStream = process.stderr): ProgressBar {
  if (!stream.isTTY) return NO_BAR;
  let last = 0;
  return {
    update(done, total) {
      const now = Date.now();
      if (now - last < INTERVAL_MS && done < total) return;
      last = now;
      const part = total === 0 ? 1 : done / total;
      const full = Math.floor(part * WIDTH);
      stream.write(`\r  ${title} [${'#'.repeat(full)}${' '.repeat(WIDTH - full)}] ${Math.floor(part * 100)}%`);
    },
    end() {
      stream.write('\r\u001B[K');
    },
  };
}
