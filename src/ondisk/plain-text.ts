/**
 * Text of somebody else's (a disk, a file, a server, a client) as it may be shown: on a terminal, in a line of a log.
 *
 * Invariants
 *  - No control character (C0, DEL, C1) reaches whoever shows it: none moves a cursor, begins a line, or begins an escape sequence.
 *  - None turns the direction of what stands beside it (bidirectional controls), and nothing is half of a character.
 *  - All else stays as it is, in any script.
 */
const UNFIT = /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}\p{Cs}]/gu;
const UNFIT_BUT_LINES = /[^\P{Cc}\t\n]|[\p{Zl}\p{Zp}\p{Bidi_Control}\p{Cs}]/gu;

/** With ? in the place of each such character. */
export function plainText(text: string): string {
  return text.replace(UNFIT, '?');
}

/** The same of text that is several lines, with tabs. */
export function plainLines(text: string): string {
  return text.replace(UNFIT_BUT_LINES, '?');
}

/** As JSON: each such character as the escape sequence that stands for it, so that the value stays what it was. */
export function plainJson(value: unknown, indent?: number): string {
  return escapedJson(JSON.stringify(value, null, indent));
}

/** The same of what is JSON already. */
export function escapedJson(json: string): string {
  return json.replace(UNFIT_BUT_LINES, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
