/**
 * Sizes as users type them: `-L [+|-]N[.N][b|s|k|m|g|t|p|e]`, and `-l [+|-]N[%VG|%FREE|…]`.
 *
 * Invariants
 *  - Units are powers of 1024 in either case; `s` is a sector; bytes must make whole sectors.
 *  - Results are whole numbers of sectors (cut, as LVM2 does) below 2^53.
 *
 * Source: lvcreate(8) "Size[UNIT]", and the messages of lvcreate 2.03.16.
 */

/** The text is no size; the message is LVM2's. */
export class SizeError extends Error {
  override readonly name = 'SizeError';
}

export type Sign = '' | '+' | '-';
export type PercentOf = 'VG' | 'LV' | 'PVS' | 'FREE' | 'ORIGIN';

export interface SizeArgument {
  readonly sign: Sign;
  readonly sectors: number;
}

export interface ExtentsArgument {
  readonly sign: Sign;
  /** Extents, or a percentage if `percentOf` is set. */
  readonly count: number;
  readonly percentOf: PercentOf | null;
}

const SECTORS = new Map<string, number>([
  ['k', 2],
  ['m', 2 * 1024],
  ['g', 2 * 1024 ** 2],
  ['t', 2 * 1024 ** 3],
  ['p', 2 * 1024 ** 4],
  ['e', 2 * 1024 ** 5],
]);

const PERCENT_NAMES: readonly (readonly [PercentOf, readonly string[]])[] = [
  ['VG', ['V', 'VG']],
  ['LV', ['L', 'LV']],
  ['PVS', ['P', 'PV', 'PVS']],
  ['FREE', ['F', 'FR', 'FREE']],
  ['ORIGIN', ['O', 'OR', 'ORIGIN']],
];

function splitSign(text: string): { sign: Sign; rest: string } {
  const first = text[0];
  if (first !== '+' && first !== '-') return { sign: '', rest: text };
  return { sign: first, rest: text.slice(1) };
}

function bytesToSectors(value: number): number {
  const bytes = Math.trunc(value);
  const over = bytes % 512;
  if (over === 0) return value / 512;
  throw new SizeError(`Size is not a multiple of 512. Try using ${bytes - over} or ${bytes + 512 - over}.`);
}

/** Reads a size; without a unit it is in `defaultUnit`. Throws SizeError. */
export function parseSizeArgument(text: string, defaultUnit: 'k' | 'm'): SizeArgument {
  const { sign, rest } = splitSign(text);
  if (/^[+-]/.test(rest)) throw new SizeError('Multiple sign symbols detected.');
  if (!/^[\d.]/.test(rest)) throw new SizeError('Size requires number argument.');
  const number = /^(?:\d+\.?\d*|\.\d+)/.exec(rest)?.[0];
  if (number === undefined) throw new SizeError(`Can't parse size argument at '${rest[0] ?? ''}'.`);
  const value = Number(number);
  const unit = rest.slice(number.length, number.length + 1).toLowerCase() || defaultUnit;
  const sectors =
    unit === 's' ? value : unit === 'b' ? bytesToSectors(value) : value * (SECTORS.get(unit) ?? Number.NaN);
  if (Number.isNaN(sectors)) throw new SizeError("Can't parse size argument.");
  if (sectors >= 2 ** 55) throw new SizeError('Size is too big (>=16EiB).');
  if (sectors > Number.MAX_SAFE_INTEGER) throw new SizeError('Size is too big (>=4EiB).');
  return { sign, sectors: Math.trunc(sectors) };
}

/** Reads a number of extents or a percentage. Throws SizeError. */
export function parseExtentsArgument(text: string): ExtentsArgument {
  const { sign, rest } = splitSign(text);
  const match = /^(\d+)(?:%(.*))?$/s.exec(rest);
  if (match === null) throw new SizeError('Size requires number argument.');
  const count = Number(match[1]);
  if (count > 0xffffffff) throw new SizeError('Size is too big (>=2^32 extents).');
  const name = match[2];
  if (name === undefined) return { sign, count, percentOf: null };
  const found = PERCENT_NAMES.find(([, names]) => names.includes(name.toUpperCase()));
  if (found === undefined) throw new SizeError(`Specified %${name} is unknown.`);
  return { sign, count, percentOf: found[0] };
}
