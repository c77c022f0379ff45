/**
 * The one error of this room: some bytes, or some text, are not what the format says.
 *
 * Invariants
 *  - A FormatError always speaks of input (the disk's fault). A caller's mistake is an assertion, never a FormatError.
 *  - The message names the device, the object, its place, what was expected and what was found, in that order, so that it
 *    can be shown to a user as it is.
 *  - Metadata holds the same facts as fields, for tests and for callers that decide by them.
 */

import { plainText } from './plain-text.ts';

export type FormatErrorCode =
  /** Fewer bytes than the structure needs. */
  | 'TRUNCATED'
  | 'BAD_MAGIC'
  | 'BAD_CRC'
  | 'BAD_VERSION'
  /** A field that has a value it must not have. */
  | 'BAD_FIELD'
  | 'MISSING_FIELD'
  /** An offset, size or extent outside the thing it belongs to. */
  | 'OUT_OF_RANGE'
  /** An integer that can't be represented exactly: 2^53 or above. */
  | 'TOO_LARGE'
  /** The text doesn't follow the grammar. */
  | 'SYNTAX'
  /** Sections nested deeper than any metadata needs. */
  | 'TOO_DEEP'
  /** A word in `status` that this program doesn't know: the object must not be used. */
  | 'UNKNOWN_FLAG'
  /** A name that refers to nothing. */
  | 'BAD_REFERENCE'
  /** Two statements of the input contradict each other. */
  | 'INCONSISTENT';

/** Where the input came from: a device (or file) and the byte at which the decoded structure starts. */
export interface Where {
  readonly device: string;
  readonly offset: number;
}

export interface FormatFault extends Where {
  readonly code: FormatErrorCode;
  /** The object: "label", "mda header", "metadata text line 12", "vg0/lvol1: segment1". */
  readonly what: string;
  /** What is wrong with it, if expected/actual don't say it all: a short clause. */
  readonly problem?: string;
  readonly expected?: string | number;
  readonly actual?: string | number;
}

export class FormatError extends Error {
  override readonly name: string = 'FormatError';
  readonly code: FormatErrorCode;
  readonly device: string;
  /** Bytes from the start of the device. */
  readonly offset: number;
  readonly what: string;
  readonly expected: string | number | undefined;
  readonly actual: string | number | undefined;

  constructor(fault: FormatFault, options?: ErrorOptions) {
    super(messageOf(fault), options);
    this.code = fault.code;
    this.device = fault.device;
    this.offset = fault.offset;
    this.what = fault.what;
    this.expected = fault.expected;
    this.actual = fault.actual;
  }
}

const PROBLEMS: Readonly<Record<FormatErrorCode, string>> = {
  TRUNCATED: 'truncated',
  BAD_MAGIC: 'wrong magic',
  BAD_CRC: 'wrong checksum',
  BAD_VERSION: 'unsupported version',
  BAD_FIELD: 'bad value',
  MISSING_FIELD: 'missing field',
  OUT_OF_RANGE: 'out of range',
  TOO_LARGE: 'number too large',
  SYNTAX: 'syntax error',
  TOO_DEEP: 'nested too deeply',
  UNKNOWN_FLAG: 'unknown status flag',
  BAD_REFERENCE: 'unknown name',
  INCONSISTENT: 'inconsistent',
};

function messageOf(fault: FormatFault): string {
  const place = `${fault.device} at byte ${fault.offset}`;
  const parts = [fault.problem ?? PROBLEMS[fault.code]];
  if (fault.expected !== undefined) parts.push(`expected ${shown(fault, fault.expected)}`);
  if (fault.actual !== undefined) parts.push(`found ${shown(fault, fault.actual)}`);
  return plainText(`${place}: ${brief(fault.what)}: ${parts.map(brief).join(', ')}`);
}

function brief(text: string): string {
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}

function shown(fault: FormatFault, value: string | number): string {
  if (typeof value === 'number') return fault.code === 'BAD_CRC' ? `0x${value.toString(16)}` : String(value);
  return value.length > 80 ? `${value.slice(0, 80)}…` : value;
}
