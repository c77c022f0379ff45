/**
 * LVM2's units of size: what `--units` takes, and how a size is shown in them.
 *
 * Invariants
 *  - Lower case letters are powers of 1024, capitals of 1000, on output (input sizes are always 1024: size-argument.ts).
 *  - Sizes are numbers of 512-byte sectors below 2^53, so that every step below is exact or rounds as C's doubles do.
 *  - Rounding is printf's: to the nearest, exact ties to the even digit.
 *
 * Source: lvmreport(7), `--units` in lvs(8), and comparison with lvs 2.03.16 over many sizes.
 */

export interface Units {
  /** r, R, h, H: human readable (r marks what was rounded up with "<"); U: a custom unit; else as given. */
  readonly letter: string;
  /** Bytes in one unit; 1 for the human readable ones. */
  readonly factor: number;
}

/** A single letter ("20.00m"), as pvdisplay writes it ("20.00 MiB"), or in full. */
export type SuffixStyle = 'unit' | 'short' | 'long';

export const DEFAULT_UNITS: Units = { letter: 'r', factor: 1 };

const POWERS = ['k', 'm', 'g', 't', 'p', 'e'];
const NAMES_1024 = ['Kibi', 'Mebi', 'Gibi', 'Tebi', 'Pebi', 'Exbi'];
const NAMES_1000 = ['Kilo', 'Mega', 'Giga', 'Tera', 'Peta', 'Exa'];

function letterFactor(letter: string): bigint | null {
  if ('hHrR'.includes(letter)) return 1n;
  if ('bB'.includes(letter)) return 1n;
  if ('sS'.includes(letter)) return 512n;
  const small = POWERS.indexOf(letter);
  if (small >= 0) return 1024n ** BigInt(small + 1);
  const capital = POWERS.indexOf(letter.toLowerCase());
  return capital >= 0 ? 1000n ** BigInt(capital + 1) : null;
}

/**
 * Reads "[N]letter" at the start of `text`. Null if there is no unit, or one of zero bytes. `length` is how much was read.
 * N may have decimals; the product is cut to whole bytes.
 */
export function readUnits(text: string): (Units & { readonly length: number }) | null {
  const digits = /^\d+(?:\.\d*)?/.exec(text)?.[0] ?? '';
  const letter = text[digits.length];
  if (letter === undefined) return null;
  const multiplier = letterFactor(letter);
  if (multiplier === null) return null;
  const length = digits.length + 1;
  if ('hHrR'.includes(letter)) return { letter, factor: 1, length };
  const whole = digits === '' ? 1n : BigInt(/^\d+/.exec(digits)?.[0] ?? '1');
  const exact = digits === '' || Number(digits) === Number(whole);
  const factor = exact
    ? Number(BigInt.asUintN(64, whole * multiplier))
    : Math.trunc(Number(digits) * Number(multiplier));
  return factor === 0 ? null : { letter: whole === 1n ? letter : 'U', factor, length };
}

/** The value of --units, or null if it is none. */
export function parseUnits(text: string): Units | null {
  const units = readUnits(text);
  return units !== null && units.length === text.length ? { letter: units.letter, factor: units.factor } : null;
}

/** printf's "%.<digits>f" for 0 or 2 digits: toFixed rounds exact ties up, C rounds them to even. */
function fixed(value: number, digits: 0 | 2): string {
  const scaled = digits === 0 ? value : value * 100;
  const tie = digits === 0 ? value % 1 === 0.5 : Math.abs((value * 8) % 2) === 1;
  if (!tie) return value.toFixed(digits);
  const even = Math.floor(scaled) % 2 === 0 ? Math.floor(scaled) : Math.ceil(scaled);
  return (digits === 0 ? even : even / 100).toFixed(digits);
}

/** The words of one unit: [unit, short, long]. */
function suffixes(letter: string): readonly [string, string, string] {
  if ('bB'.includes(letter)) return ['B', ' B ', ' Byte    '];
  if ('sS'.includes(letter)) return ['S', ' Se', ' Sectors '];
  const small = POWERS.indexOf(letter);
  if (small >= 0) return [letter, ` ${letter.toUpperCase()}iB`, ` ${NAMES_1024[small] ?? ''}byte`];
  const capital = POWERS.indexOf(letter.toLowerCase());
  if (capital >= 0) return [letter, ` ${letter === 'K' ? 'k' : letter}B`, ` ${NAMES_1000[capital] ?? ''}byte`];
  return ['U', ' Un', ' Units   '];
}

function suffixOf(letter: string, style: SuffixStyle): string {
  const [unit, short, long] = suffixes(letter);
  return { unit, short, long }[style];
}

/** What human readable units say below 1 KiB. */
const FEW_BYTES = { unit: 'b', short: ' B', long: ' Byte    ' } as const;

/** h, H, r, R: the largest unit that the size reaches, always with its suffix. */
function formatHuman(bytes: number, letter: string, style: SuffixStyle): string {
  const base = letter === 'H' || letter === 'R' ? 1000 : 1024;
  let power = POWERS.length;
  while (power > 0 && bytes < base ** power) power--;
  if (power === 0) return `${fixed(bytes, 0)}${base === 1000 ? suffixOf('B', style) : FEW_BYTES[style]}`;
  const unit = POWERS[power - 1] ?? 'k';
  const value = bytes / base ** power;
  const hundredths = (100 * bytes) / base ** power;
  const fraction = hundredths - Math.floor(hundredths);
  const roundsUp = fraction > 0.5 || (fraction === 0.5 && Math.floor(hundredths) % 2 === 1);
  const mark = roundsUp && letter.toLowerCase() === 'r' ? '<' : '';
  return `${mark}${fixed(value, 2)}${suffixOf(base === 1000 ? unit.toUpperCase() : unit, style)}`;
}

export interface SizeFormat {
  readonly units: Units;
  /** False: --nosuffix (which human readable units don't heed). */
  readonly suffix: boolean;
  /** Default "unit". */
  readonly style?: SuffixStyle;
}

const BLANK_SUFFIX = { unit: ' ', short: '   ', long: '         ' } as const;

/** A size of `sectors` (of 512 bytes) in the asked units. */
export function formatSize(sectors: number, format: SizeFormat): string {
  const { letter, factor } = format.units;
  const style = format.style ?? 'unit';
  const human = 'hHrR'.includes(letter);
  if (sectors === 0) {
    if (!format.suffix) return '0';
    return `0${human ? BLANK_SUFFIX[style] : suffixOf(letter, style)}`;
  }
  const bytes = sectors * 512;
  if (human) return formatHuman(bytes, letter, style);
  const digits = 'bBsS'.includes(letter) ? 0 : 2;
  return `${fixed(bytes / factor, digits)}${format.suffix ? suffixOf(letter, style) : ''}`;
}
