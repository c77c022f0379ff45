/**
 * Tokens of LVM2's configuration grammar (lvm2: libdm/libdm-config.c), which metadata texts, backups and lvm.conf share.
 *
 *  - Whitespace, newlines included, only separates. `#` starts a comment up to the end of its line. A NUL ends the input.
 *  - `{ } [ ] = ,` stand for themselves.
 *  - "…" is a string in which \" and \\ stand for " and \ (any other backslash is kept); '…' is a string without escapes.
 *  - Where a value is expected: [+-]digits is an integer (with a leading 0 it is octal, as for strtoll with base 0), with a
 *    point in it a float, anything else a bare word. Where a key is expected, everything else is a bare word.
 *
 * Invariants
 *  - The whole scan is linear and stops at the first error, which names line and byte.
 *  - Tokens never span a NUL; an integer token is a safe integer, larger ones are float tokens with their text.
 */
import { FormatError, type FormatErrorCode, type Where } from './errors.ts';

export type TokenKind = '{' | '}' | '[' | ']' | '=' | ',' | 'int' | 'float' | 'string' | 'word' | 'end';
/** What may come next: decides whether digits are a number and where a bare word ends. */
export type LexContext = 'key' | 'value' | 'item';

const NUMBER_START = /[-+.0-9]/;
/** Ends of bare words: also `,` and `]` inside an array, where LVM2 would swallow them and then fail. */
const WORD_END = /[ \t\n\v\f\r#={}]/g;
const ITEM_END = /[ \t\n\v\f\r#={}[\],]/g;
const NUMBER = /[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)/y;
const OCTAL = /^[-+]?0[0-7]*$/;
const AFTER_NUMBER = /[ \t\n\v\f\r#={}[\],]/;

export class ConfigLexer {
  readonly #text: string;
  readonly #where: Where;
  #next = 0;
  /** The current token. */
  kind: TokenKind = 'end';
  /** Where the current token starts, in characters. */
  start = 0;
  /** The text of a string (unescaped), word or float. */
  text = '';
  /** The value of an int or float. */
  number = 0;

  constructor(text: string, where: Where) {
    const nul = text.indexOf('\0');
    this.#text = nul < 0 ? text : text.slice(0, nul);
    this.#where = where;
  }

  /** Whether the current token is of that kind. */
  is(kind: TokenKind): boolean {
    return this.kind === kind;
  }

  /** Reads the next token. */
  advance(context: LexContext): void {
    this.#skipSpace();
    const first = this.#text.charAt(this.#next);
    this.start = this.#next;
    switch (first) {
      case '':
        this.kind = 'end';
        return;
      case '{':
      case '}':
      case '[':
      case ']':
      case '=':
      case ',':
        this.kind = first;
        this.#next++;
        return;
      case '"':
        this.#escapedString();
        return;
      case "'":
        this.#plainString();
        return;
      default:
        if (context !== 'key' && NUMBER_START.test(first)) this.#number();
        else this.#word(context);
    }
  }

  #skipSpace(): void {
    const text = this.#text;
    for (;;) {
      const unit = text.charCodeAt(this.#next);
      if (unit === 0x23) {
        const end = text.indexOf('\n', this.#next);
        this.#next = end < 0 ? text.length : end;
      } else if (unit !== 0x20 && !(unit >= 0x09 && unit <= 0x0d)) {
        return; // also at the end, where the unit is NaN
      } else {
        this.#next++;
      }
    }
  }

  #escapedString(): void {
    const text = this.#text;
    let end = this.#next + 1;
    let escaped = false;
    for (;;) {
      const unit = text.charCodeAt(end);
      if (Number.isNaN(unit)) throw this.fail('SYNTAX', 'string without its closing "');
      if (unit === 0x22) break;
      if (unit === 0x5c) {
        escaped = true;
        end++;
      }
      end++;
    }
    const raw = text.slice(this.#next + 1, end);
    this.#value('string', escaped ? raw.replaceAll(/\\(["\\])/g, '$1') : raw, end + 1);
  }

  #plainString(): void {
    const end = this.#text.indexOf("'", this.#next + 1);
    if (end < 0) throw this.fail('SYNTAX', "string without its closing '");
    this.#value('string', this.#text.slice(this.#next + 1, end), end + 1);
  }

  #word(context: LexContext): void {
    const ends = context === 'item' ? ITEM_END : WORD_END;
    ends.lastIndex = this.#next + 1;
    const end = ends.exec(this.#text)?.index ?? this.#text.length;
    this.#value('word', this.#text.slice(this.#next, end), end);
  }

  #number(): void {
    NUMBER.lastIndex = this.#next;
    const match = NUMBER.exec(this.#text);
    if (match === null) throw this.fail('SYNTAX', 'a sign or point without digits');
    const [digits] = match;
    const end = this.#next + digits.length;
    if (end < this.#text.length && !AFTER_NUMBER.test(this.#text.charAt(end))) {
      throw this.fail('SYNTAX', `the number ${digits} runs into other text`);
    }
    if (digits.includes('.')) this.number = Number(digits);
    else this.number = this.#integer(digits);
    // An integer that a number can't hold exactly is kept by its text, as a float is.
    const exact = !digits.includes('.') && Number.isSafeInteger(this.number);
    this.#value(exact ? 'int' : 'float', digits, end);
  }

  /** As strtoll with base 0. */
  #integer(digits: string): number {
    if (!/^[-+]?0/.test(digits)) return Number(digits);
    if (!OCTAL.test(digits)) throw this.fail('SYNTAX', `${digits} is octal, as it starts with 0, but has other digits`);
    const magnitude = Number.parseInt(digits.replace(/^[-+]/, ''), 8);
    return magnitude !== 0 && digits.startsWith('-') ? -magnitude : magnitude; // -0 is 0
  }

  #value(kind: 'int' | 'float' | 'string' | 'word', text: string, end: number): void {
    this.kind = kind;
    this.text = text;
    this.#next = end;
  }

  /** An error at the current token. */
  fail(code: FormatErrorCode, problem: string): FormatError {
    const before = this.#text.slice(0, this.start);
    const line = before.split('\n').length;
    const what = `metadata text line ${line} (byte ${Buffer.byteLength(before)})`;
    return new FormatError({ code, ...this.#where, what, problem });
  }

  /** An error about the current token, which is none of those that the grammar allows here. */
  unexpected(expected: string): FormatError {
    const found =
      this.kind === 'end' ? 'the end of the text' : JSON.stringify(this.#text.slice(this.start, this.#next));
    return this.fail('SYNTAX', `expected ${expected}, found ${found.length > 60 ? `${found.slice(0, 60)}…` : found}`);
  }
}
