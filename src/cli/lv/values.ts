/**
 * Values of options of the commands that change LVs: checks for the parser (option-level messages are LVM2's), and readers for
 * what passed them.
 *
 * Invariant: a reader is only given what its check accepted.
 */
import { yesOrNo } from '../common-options.ts';
import { CommandError, EXIT, UnmatchedSyntax } from '../messages.ts';
import { parseExtentsArgument, parseSizeArgument, type Sign } from '../size-argument.ts';
import type { CommandContext } from '../command.ts';
import type { ResizeSize } from '../../lvm/edit/lv-resize-size.ts';

const READ_AHEAD_PAGE_SECTORS = 8;
const DEFAULT_CHUNK_SECTORS = 8;
const MAX_CHUNK_SECTORS = 1024;

/** A size; `refused` signs are errors. */
export function sizeCheck(defaultUnit: 'k' | 'm', refused: Sign | null): (value: string) => boolean {
  return (value) => {
    const { sign } = parseSizeArgument(value, defaultUnit);
    if (sign !== '' && sign === refused) throw new Error(`Size may not be ${sign === '-' ? 'negative' : 'positive'}.`);
    return true;
  };
}

/** A number of extents or a percentage. */
export function extentsCheck(refused: Sign | null): (value: string) => boolean {
  return (value) => {
    const { sign } = readExtents(value);
    if (sign !== '' && sign === refused) {
      throw new Error(`Extents may not be ${sign === '-' ? 'negative' : 'positive'}.`);
    }
    return true;
  };
}

/** Anything that is no number at all is simply an invalid argument, without a reason. */
function readExtents(value: string): ReturnType<typeof parseExtentsArgument> {
  if (!/^[+-]?\d+(?:%|$)/.test(value)) throw new InvalidValue();
  return parseExtentsArgument(value);
}

/** Refused without more words. */
class InvalidValue extends Error {}

/** Turns a refusal without words into the parser's own. */
export function plainly(check: (value: string) => boolean): (value: string) => boolean {
  return (value) => {
    try {
      return check(value);
    } catch (error) {
      if (error instanceof InvalidValue) return false;
      throw error;
    }
  };
}

/** A number without a minus. */
export function numberCheck(value: string): boolean {
  return /^\+?\d+$/.test(value);
}

export function readNumber(value: string): number {
  return Number(value.replace('+', ''));
}

export function permissionCheck(value: string): boolean {
  return ['r', 'rw', 'wr'].includes(value);
}

export function readAheadCheck(value: string): boolean {
  if (['auto', 'none'].includes(value.toLowerCase())) return true;
  return parseSizeArgument(value, 'k').sign !== '-';
}

/** Sectors, -1 for none, null for auto; what is no multiple of a page is made one, with a warning. */
export function readReadAhead(value: string, warn: (line: string) => void): number | null {
  const word = value.toLowerCase();
  if (word === 'auto') return null;
  if (word === 'none') return -1;
  // A number without a unit is in sectors here.
  const text = /[a-z]$/i.test(value) ? value : `${value}s`;
  const { sectors } = parseSizeArgument(text, 'k');
  if (sectors === 0) return -1;
  if (sectors % READ_AHEAD_PAGE_SECTORS === 0) return sectors;
  const pages = Math.max(Math.floor(sectors / READ_AHEAD_PAGE_SECTORS), 1);
  const rounded = pages * READ_AHEAD_PAGE_SECTORS;
  warn(`WARNING: Overriding readahead to ${rounded} sectors, a multiple of ${READ_AHEAD_PAGE_SECTORS / 2}K page size.`);
  return rounded;
}

export function activateCheck(value: string): boolean {
  return ACTIVATE_VALUES.has(value.toLowerCase());
}

/** What -a takes, and whether it is for activating. */
const ACTIVATE_VALUES: ReadonlyMap<string, boolean> = new Map([
  ...['y', 'ay', 'ey', 'ly', 'sy', 'aly', '1'].map((word): [string, boolean] => [word, true]),
  ...['n', 'ln', 'en', '0'].map((word): [string, boolean] => [word, false]),
]);

export interface ActivationChoice {
  readonly activate: boolean;
  /** "ay": only what may be activated by itself. */
  readonly auto: boolean;
}

/** Default: activate. */
export function readActivation(value: string | undefined): ActivationChoice {
  const word = (value ?? 'y').toLowerCase();
  return { activate: ACTIVATE_VALUES.get(word) ?? true, auto: word === 'ay' };
}

export function isYes(value: string | undefined): boolean {
  return value !== undefined && yesOrNo(value) && ['y', '1'].includes(value.toLowerCase());
}

/** Ends a command whose line does not fit (3). */
export function badUsage(...lines: readonly string[]): CommandError {
  return new CommandError(EXIT.badUsage, lines);
}

/** Ends a command whose parts belong to none of its forms (3). */
export function unmatched(line: string): CommandError {
  return new UnmatchedSyntax([line]);
}

/** Sectors of a snapshot's chunk; null: not a power of 2 in the range 4K to 512K. */
export function readChunkSize(typed: string | undefined): number | null {
  const sectors = typed === undefined ? DEFAULT_CHUNK_SECTORS : parseSizeArgument(typed, 'k').sectors;
  const fits = sectors >= DEFAULT_CHUNK_SECTORS && sectors <= MAX_CHUNK_SECTORS;
  return fits && Number.isInteger(Math.log2(sectors)) ? sectors : null;
}

export const CHUNK_SIZE_PROBLEM = 'Chunk size must be a power of 2 in the range 4K to 512K.';

/** Options that must not be zero, checked in this order. */
export function refuseZeroes(context: CommandContext): void {
  const zero = (long: string): boolean => {
    const value = context.options.value(long);
    if (value === undefined) return false;
    if (long === 'extents') return readExtents(value).count === 0;
    if (long === 'stripes') return readNumber(value) === 0;
    return parseSizeArgument(value, long === 'stripesize' ? 'k' : 'm').sectors === 0;
  };
  for (const long of ['extents', 'size', 'stripes', 'stripesize']) {
    if (zero(long)) throw badUsage(`--${long} may not be zero.`);
  }
}

/** -L and -l as typed; null: neither was given. */
export function readSize(context: CommandContext): ResizeSize | null {
  const size = context.options.value('size');
  if (size !== undefined) return { kind: 'sectors', ...parseSizeArgument(size, 'm') };
  const extents = context.options.value('extents');
  return extents === undefined ? null : { kind: 'extents', ...readExtents(extents) };
}
