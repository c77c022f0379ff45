/**
 * What a finished command is answered with: data or holes, what a range holds, a plain acknowledgement, or an error with a text and a
 * place.
 *
 * Invariant: who has not agreed to structured replies never gets more than a number.
 */
import type { Command } from './command.ts';
import { CommandFlag, CommandType, NbdErrno } from './constants.ts';
import { failureText } from './errors.ts';
import type { NbdExport } from './exports.ts';
import type { Terms } from './features.ts';
import type { ReplyQueue } from './reply-queue.ts';
import { refusalText } from './validate.ts';

/** Larger offsets are no exact numbers here, and inside no volume. */
const MAX_OFFSET = Number.MAX_SAFE_INTEGER - 2 ** 32;
/** A hole's length takes 4 bytes: a shorter one is better sent as data. */
const SHORTEST_HOLE_BYTES = 4;

export class Answers {
  readonly #replies: ReplyQueue;
  readonly #export: NbdExport;
  readonly #terms: Terms;
  readonly #zeroRun: (offset: number, length: number) => number;

  constructor(replies: ReplyQueue, export_: NbdExport, terms: Terms) {
    this.#replies = replies;
    this.#export = export_;
    this.#terms = terms;
    // Nothing is known of a volume that can't say.
    this.#zeroRun = (offset, length) => export_.volume.zeroRun?.(offset, length) ?? -length;
  }

  /**
   * The reply of a READ whose slot has been filled; gives its bytes. 0: all that it found is zeroes, which needs no slot. By the table that it
   * was read through, which can't have been replaced yet.
   */
  addRead(command: Command): number {
    const { length, flags } = command;
    const bytes = this.#replies.overhead + length;
    if (this.#terms.structuredReplies && length >= SHORTEST_HOLE_BYTES) {
      const run = this.#zeroRun(command.offset, length);
      if (run === length) return 0;
      if (run !== -length && (flags & CommandFlag.df) === 0) {
        const sent = this.#replies.addSparseRead(command, this.#zeroRun);
        if (sent > 0) return sent;
      }
    }
    this.#replies.addRead(command);
    return bytes;
  }

  /** A reply without data; gives its bytes. */
  add(command: Command, error: NbdErrno): number {
    const replies = this.#replies;
    if (error === NbdErrno.ok && command.statuses.length > 0) return replies.addStatuses(command);
    if (error === NbdErrno.ok) return command.hole ? replies.addHole(command) : replies.addHeader(command, error);
    if (!this.#terms.structuredReplies) return replies.addHeader(command, error);
    const refused = command.refusal !== NbdErrno.ok;
    const text = refused ? refusalText(command, this.#export, this.#terms) : failureText(error);
    return replies.addError(command, error, text, this.#failedAt(command));
  }

  /**
   * Where in a command's range it failed: where the volume ends, if that is why; else the first byte of the piece that failed, as far
   * as that is known, or of the range.
   * Null for commands without a range.
   */
  #failedAt({ type, offset, length, failedAt }: Command): number | null {
    const { sizeBytes } = this.#export.volume.limits;
    if (length === 0 || type === CommandType.flush || offset > MAX_OFFSET) return null;
    if (offset < sizeBytes && offset + length > sizeBytes) return sizeBytes;
    return offset + Math.min(failedAt, length - 1);
  }
}
