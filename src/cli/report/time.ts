/**
 * Points in time as selections name them, as ranges: "2016" is a year, "2016-09-09 16:56" a minute.
 *
 * Standard form: YYYY[-MM[-DD]] [hh[:mm[:ss]]] [+hh[:mm]], where - and : may be left out.
 * Free form: fuzzy-time.ts.
 *
 * Invariants
 *  - Times without a zone are local. A time of day needs a full date before it.
 *  - Ranges include both ends; `to` is null for a single second.
 *
 * Source: lvmreport(7) "SELECTION".
 */
import { parseFuzzyTime } from './fuzzy-time.ts';

export interface TimeRange {
  /** Unix seconds. */
  readonly from: number;
  readonly to: number | null;
}
export type ParsedTime = { readonly range: TimeRange } | { readonly problems: readonly string[] };

type Unit = 'year' | 'month' | 'day' | 'hour' | 'minute' | 'second';
const UNITS: readonly Unit[] = ['year', 'month', 'day', 'hour', 'minute', 'second'];

/** year, month (1-12), day, hour, minute, second */
type Fields = [number, number, number, number, number, number];

class TimeSyntax extends Error {}

interface Taken {
  /** The numbers found, at most three. */
  readonly numbers: readonly number[];
  readonly rest: string;
}

/** Numbers of fixed lengths, with or without `delimiter` between them; null if `text` doesn't start with a digit. */
function takeNumbers(text: string, delimiter: '-' | ':', lengths: readonly number[], problem: string): Taken | null {
  if (!/^\d/.test(text)) return null;
  const match = new RegExp(`^\\d+(?:${delimiter}\\d+){0,${lengths.length - 1}}`).exec(text)?.[0] ?? '';
  const rest = text.slice(match.length).trimStart();
  if (match.includes(delimiter)) return { numbers: match.split(delimiter).map(Number), rest };
  let length = 0;
  const numbers: number[] = [];
  for (const part of lengths) {
    if (length >= match.length) break;
    numbers.push(Number(match.slice(length, length + part)));
    length += part;
  }
  if (length !== match.length) throw new TimeSyntax(problem);
  return { numbers, rest };
}

function daysInMonth(year: number, month: number): number {
  return new Date(year, month, 0).getDate();
}

function checkDate([year = 0, month = 1, day = 1]: readonly number[]): void {
  if (month < 1 || month > 12) throw new TimeSyntax('Specified month out of range.');
  if (day < 1 || day > daysInMonth(year, month)) throw new TimeSyntax('Specified day out of range.');
}

function checkTime([hour = 0, minute = 0, second = 0]: readonly number[]): void {
  if (hour > 23) throw new TimeSyntax('Specified hours out of range.');
  if (minute > 60) throw new TimeSyntax('Specified minutes out of range.');
  if (second > 60) throw new TimeSyntax('Specified seconds out of range.');
}

/** Unix seconds of local fields; `zone` (minutes east of Greenwich) overrides the local zone. */
function toSeconds(fields: Fields, zone: number | null): number {
  const [year, month, day, hour, minute, second] = fields;
  if (zone !== null) return Date.UTC(year, month - 1, day, hour, minute, second) / 1000 - zone * 60;
  return new Date(year, month - 1, day, hour, minute, second).getTime() / 1000;
}

function parseZone(text: string): { readonly zone: number | null; readonly rest: string } {
  const match = /^([+-]?)(\d{2}):?(\d{2})?/.exec(text);
  if (match === null) return { zone: null, rest: text };
  const minutes = Number(match[2]) * 60 + Number(match[3] ?? 0);
  return { zone: match[1] === '-' ? -minutes : minutes, rest: text.slice(match[0].length).trimStart() };
}

function parseStandard(text: string): TimeRange {
  const date = takeNumbers(text, '-', [4, 2, 2], 'Incorrect date format.');
  if (date === null) throw new TimeSyntax('');
  checkDate(date.numbers);
  const time = takeNumbers(date.rest, ':', [2, 2, 2], 'Incorrect time format.');
  if (time !== null && date.numbers.length < 3) throw new TimeSyntax('Full date specification needed.');
  checkTime(time?.numbers ?? []);
  const { zone, rest } = parseZone(time?.rest ?? date.rest);
  if (rest !== '') throw new TimeSyntax('');
  const given = [...date.numbers, ...(time?.numbers ?? [])];
  const fields: Fields = [1970, 1, 1, 0, 0, 0];
  for (const [index, number] of given.entries()) fields[index] = number;
  const next: Fields = [...fields];
  const last = given.length - 1;
  next[last] = (next[last] ?? 0) + 1;
  return { from: toSeconds(fields, zone), to: UNITS[last] === 'second' ? null : toSeconds(next, zone) - 1 };
}

/** Parses either form; `now` (Unix seconds) is what free forms are relative to. */
export function parseTimeRange(text: string, now: number): ParsedTime {
  const trimmed = text.trim();
  try {
    if (/[^\d\s:+-]/.test(trimmed)) return { range: parseFuzzyTime(trimmed, now) };
    return { range: parseStandard(trimmed) };
  } catch (error) {
    if (!(error instanceof TimeSyntax) && !(error instanceof RangeError)) throw error;
    return { problems: error.message === '' ? [] : [error.message] };
  }
}
