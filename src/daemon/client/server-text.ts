/**
 * What an NBD server says in words: reasons of refusals and failures, an export's name and description.
 *
 * Invariant: whatever it sends, the text may be shown on a terminal, logged and kept. No control character moves a cursor or begins a
 * line, none turns the direction of what follows, and none is longer than NBD lets a string be.
 */
import { plainText } from '../../ondisk/plain-text.ts';

const MAX_TEXT_BYTES = 4096;

/** The text in these bytes, with ? for what is no character to be shown, and without what is beyond 4096 bytes. */
export function serverText(bytes: Buffer): string {
  return plainText(bytes.toString('utf8', 0, MAX_TEXT_BYTES));
}
