/**
 * What an edit has to say while it works a plan out, in LVM2's words and order.
 *
 * Invariant: an edit that refuses leaves its notes to be printed before the refusal, as LVM2 prints them.
 */
import type { PlanMessage } from './plan.ts';

export class Notes {
  /** A size of 512-byte sectors as messages show it ("20.00 MiB"). */
  readonly size: (sectors: number) => string;
  readonly #messages: PlanMessage[] = [];

  constructor(size: (sectors: number) => string) {
    this.size = size;
  }

  get messages(): readonly PlanMessage[] {
    return this.#messages;
  }

  /** A line for stdout. */
  print(text: string): void {
    this.#messages.push({ stream: 'stdout', when: 'before', text });
  }

  /** A line for stderr. */
  warn(text: string): void {
    this.#messages.push({ stream: 'stderr', when: 'before', text });
  }

  /** A line for stderr, once the plan is carried out. */
  warnAfter(text: string): void {
    this.#messages.push({ stream: 'stderr', when: 'after', text });
  }

  /** A line for stdout, once the plan is carried out. */
  done(text: string): void {
    this.#messages.push({ stream: 'stdout', when: 'after', text });
  }
}
