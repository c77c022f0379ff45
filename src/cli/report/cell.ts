/**
 * One field of one row as it is shown, sorted and selected: the only place where a typed value becomes text.
 *
 * Invariants
 *  - An undefined number, size, percentage or time sorts after every other and is never greater or less than anything.
 *  - Text of somebody else's is fit to be shown (plain-text.ts); it is sorted and selected by as it is.
 *  - A string list is shown in its given order or sorted, and always compared sorted.
 */
import { plainText } from '../../ondisk/plain-text.ts';
import { formatSize, type Units } from '../units.ts';
import type { FieldValue, ReportField, ShownValue } from './field.ts';
import { ISO_TIME, strftime } from './strftime.ts';

/** Undefined, as a sort and comparison value. */
export const UNDEFINED: number = Number.POSITIVE_INFINITY;

export interface Cell {
  readonly text: string;
  /** For sorting and selection: a number (sectors for sizes), a string, or the sorted items of a list. */
  readonly key: string | number | readonly string[];
  /** What json_std writes without quotes; undefined: the text in quotes. */
  readonly json?: number | null | readonly string[];
}

export interface CellFormat {
  readonly units: Units;
  readonly suffix: boolean;
  /** Words or numbers for binary fields. */
  readonly binary: boolean;
  /** json_std: numbers are never shown by a word. */
  readonly strict: boolean;
  /** Of times: strftime's. */
  readonly timeFormat: string;
  /** Between the items of lists. */
  readonly listSeparator: string;
}

function isShown(value: FieldValue): value is ShownValue {
  return typeof value === 'object' && value !== null && 'text' in value;
}

function isList(value: string | number | readonly string[] | null): value is readonly string[] {
  return Array.isArray(value);
}

/** Compares as C's strcmp does in the C locale. */
export function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** A point in time in Unix seconds; blank for none. */
function timeText(seconds: number, format: string): string {
  return seconds === 0 ? '' : strftime(format, seconds);
}

/** As displays show it, whatever report/time_format says. */
export function formatTime(seconds: number): string {
  return timeText(seconds, ISO_TIME);
}

/** Percentages are shown with two decimals, and as neither 0 nor 100 unless they are exactly that. */
export function formatPercent(percent: number): string {
  if (percent > 0 && percent < 0.01) return '0.01';
  if (percent < 100 && percent > 99.99) return '99.99';
  return percent.toFixed(2);
}

function binaryCell(field: ReportField, value: boolean | null, format: CellFormat): Cell {
  const number = value === null ? -1 : Number(value);
  const word = value === null ? 'unknown' : value ? (field.words?.[0] ?? '') : '';
  const text = format.binary || format.strict ? String(number) : word;
  return { text, key: value === null ? UNDEFINED : number, json: number };
}

function listCell(field: ReportField, items: readonly string[], { listSeparator }: CellFormat, text?: string): Cell {
  const sorted = items.toSorted(compareText);
  const shown = field.unsorted === true ? items : sorted;
  return {
    text: text === undefined ? shown.map(plainText).join(field.delimiter ?? listSeparator) : plainText(text),
    key: sorted,
    json: shown,
  };
}

function numericText(field: ReportField, value: number, format: CellFormat): string {
  if (field.type === 'size') return formatSize(value, format);
  if (field.type === 'percent') return formatPercent(value);
  return field.type === 'time' ? timeText(value, format.timeFormat) : String(value);
}

/** `text` is set where the value has a name of its own ("auto"). */
function numericCell(field: ReportField, value: number | null, format: CellFormat, shown?: ShownValue): Cell {
  const strict = shown?.strict ?? value;
  const pure = field.type === 'number' || field.type === 'percent';
  const wordless = pure && format.strict && shown !== undefined && !/^-?\d/.test(shown.text);
  const plain = value === null ? '' : numericText(field, value, format);
  const text = shown === undefined ? plain : wordless ? (strict === null ? '' : String(strict)) : shown.text;
  // LVM2's numbers are unsigned: -1 is its undefined one.
  const key = value === null || value === -1 ? UNDEFINED : value;
  return pure ? { text, key, json: text === '' ? null : Number(text) } : { text, key };
}

function plainCell(
  field: ReportField,
  value: string | number | readonly string[] | null,
  format: CellFormat,
  shown?: ShownValue,
): Cell {
  if (field.type === 'string') return { text: plainText(shown?.text ?? String(value ?? '')), key: String(value ?? '') };
  if (field.type === 'string-list') return listCell(field, isList(value) ? value : [], format, shown?.text);
  return numericCell(field, value === null ? null : Number(value), format, shown);
}

/** Renders what `field.value` gave. */
export function makeCell(field: ReportField, value: FieldValue, format: CellFormat): Cell {
  if (field.type === 'binary') return binaryCell(field, typeof value === 'boolean' ? value : null, format);
  if (isShown(value)) return plainCell(field, value.value, format, value);
  return plainCell(field, typeof value === 'boolean' ? Number(value) : value, format);
}

/** Order of two cells of one column. */
export function compareCells(a: Cell, b: Cell): number {
  if (typeof a.key === 'number' && typeof b.key === 'number') return a.key === b.key ? 0 : a.key < b.key ? -1 : 1;
  if (isList(a.key) || isList(b.key)) return compareText(a.text, b.text);
  return compareText(String(a.key), String(b.key));
}
