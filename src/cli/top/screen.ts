/**
 * The terminal while `top` fills it: the alternate screen, keys as they are pressed, and everything as it was afterwards.
 *
 * Invariants
 *  - However it ends (q, Ctrl-C, a signal, an error), the terminal is given back: `close` is idempotent and also runs at exit.
 *  - A picture is one write, so that nobody sees half of one.
 */
import type { ReadStream, WriteStream } from 'node:tty';

const ENTER = '\u001b[?1049h\u001b[?25l';
const LEAVE = '\u001b[?25h\u001b[?1049l';
const HOME = '\u001b[H';
const CLEAR_LINE = '\u001b[K';
const CLEAR_BELOW = '\u001b[J';
const CTRL_C = '\u0003';

export class Screen {
  readonly #input: ReadStream;
  readonly #output: WriteStream;
  readonly #onKey = (bytes: Buffer): void => {
    for (const key of bytes.toString()) if (key === 'q' || key === 'Q' || key === CTRL_C) this.#quit.resolve();
  };
  readonly #onSignal = (): void => this.#quit.resolve();
  readonly #onExit = (): void => this.close();
  readonly #quit = Promise.withResolvers<void>();
  #open = true;

  constructor(input: ReadStream, output: WriteStream) {
    this.#input = input;
    this.#output = output;
    output.write(ENTER);
    input.setRawMode(true);
    input.on('data', this.#onKey).resume();
    process.on('SIGTERM', this.#onSignal).on('SIGHUP', this.#onSignal).once('exit', this.#onExit);
  }

  get columns(): number {
    return this.#output.columns;
  }

  get rows(): number {
    return this.#output.rows;
  }

  /** Settles when the user has had enough. */
  get quit(): Promise<void> {
    return this.#quit.promise;
  }

  draw(lines: readonly string[]): void {
    const text = lines.map((line) => `${line}${CLEAR_LINE}`).join('\r\n');
    this.#output.write(`${HOME}${text}${CLEAR_BELOW}`);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    process.off('SIGTERM', this.#onSignal).off('SIGHUP', this.#onSignal).off('exit', this.#onExit);
    this.#input.off('data', this.#onKey).pause();
    this.#input.setRawMode(false);
    this.#output.write(LEAVE);
  }
}
