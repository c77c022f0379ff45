/**
 * How far a move or a merge is, as LVM2's polling prints it: "  vg/o: Merged: 12.34%", at once, every interval, and at the end.
 * Terminals get a bar besides.
 *
 * Invariant: 100 % is said only at the end.
 */
import type { CommandContext } from '../command.ts';
import { isCount } from '../option-values.ts';
import type { OptionSpec } from '../options.ts';

export const INTERVAL_OPTION: OptionSpec = {
  long: 'interval',
  short: 'i',
  argument: 'Number',
  check: isCount,
  description: 'Seconds between lines of progress; 0: none. Default: activation/polling_interval.',
};

/** What is done, in LVM2's word for it and in ours for the bar. */
export interface PollTitle {
  readonly done: 'Moved' | 'Merged';
  readonly doing: 'Moving' | 'Merging';
  readonly unit: 'extents' | 'bytes';
}

export class PollProgress {
  readonly #context: CommandContext;
  readonly #display: string;
  readonly #title: PollTitle;
  readonly #timer: NodeJS.Timeout | null;
  readonly #shown: boolean;
  #percent: number | null = null;

  constructor(context: CommandContext, display: string, title: PollTitle) {
    const { options, settings } = context;
    const seconds = Number(options.value('interval') ?? settings.int('activation/polling_interval'));
    this.#context = context;
    this.#display = display;
    this.#title = title;
    this.#shown = seconds > 0 && !options.has('test');
    this.#timer = this.#shown ? setInterval(() => this.#show(), Math.min(seconds * 1000, 2 ** 31 - 1)) : null;
  }

  /** In the title's unit. */
  note(done: number, total: number): void {
    // Rounded down.
    const percent = Math.min(Math.floor((done / total) * 10_000), 9999) / 100;
    const first = this.#percent === null;
    this.#percent = percent;
    const { doing, unit } = this.#title;
    if (first) this.#show();
    else this.#context.terminal.progress?.update(`${doing} ${this.#display}`, done, total, unit);
  }

  finish(): void {
    this.#percent = 100;
    this.#show();
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#context.terminal.progress?.end();
  }

  #show(): void {
    if (!this.#shown || this.#percent === null) return;
    const { output, terminal } = this.#context;
    terminal.progress?.end();
    output.print(`${this.#display}: ${this.#title.done}: ${this.#percent.toFixed(2)}%`);
    output.flush?.();
  }
}
