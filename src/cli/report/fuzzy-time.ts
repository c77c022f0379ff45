/**
 * Times in words: "today", "yesterday noon", "3 weeks ago", "24 Feb 2015 10:30", "Monday 5 PM".
 *
 * Invariants
 *  - Names are matched without regard to case; numbers may be attached to the unit ("12hours").
 *  - Without a time of day the range is the whole day, month or year named; hours and minutes name their whole length.
 *  - "N units ago" counts back from now; days and longer give the whole day.
 *
 * Source: lvmreport(7) "SELECTION" and its examples.
 */
import type { TimeRange } from './time.ts';

const DAY = 86400;
const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];
const MONTH_NAMES = [
  'january',
  'february',
  'march',
  'april',
  'may',
  'june',
  'july',
  'august',
  'september',
  'october',
  'november',
  'december',
];
const WEEKDAYS = ['sunday', 'monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday'];
/** Seconds of what counts back evenly; months and years move the calendar. */
const SECONDS: Readonly<Record<string, number>> = {
  second: 1,
  sec: 1,
  s: 1,
  minute: 60,
  min: 60,
  m: 60,
  hour: 3600,
  hr: 3600,
  h: 3600,
  day: DAY,
  week: 7 * DAY,
};

/** Names nothing known: RangeError, so that the caller reports it with the message. */
function unknown(word: string): RangeError {
  return new RangeError(`Unrecognized string in date/time specification at "${word}".`);
}

type Width = 'second' | 'minute' | 'hour' | 'day' | 'month' | 'year';

/** A moment that words move about, and how wide a range they name. */
class Moment {
  readonly #date: Date;
  #width: Width = 'day';
  #timed = false;
  #numbers: number[] = [];
  #monthNamed = false;

  constructor(now: number) {
    this.#date = new Date(now * 1000);
  }

  word(text: string): void {
    const word = text.toLowerCase();
    const single = word.length > 2 && word.endsWith('s') ? word.slice(0, -1) : word;
    if (/^\d+:\d+(:\d+)?$/.test(word)) this.#clock(word);
    else if (/^\d+$/.test(word)) this.#numbers.push(Number(word));
    else if (word === 'today' || word === 'yesterday') this.#back(word === 'today' ? 0 : 1);
    else if (single === 'noon' || single === 'midnight') this.#time(single === 'noon' ? 12 : 0, 0, 0, 'second');
    else if (word === 'am' || word === 'pm') this.#halfDay(word);
    else if (!this.#weekday(single) && !this.#month(word)) throw unknown(text);
  }

  /** `count` units back from now. */
  ago(count: number, unit: string): void {
    const seconds = SECONDS[unit];
    if (seconds !== undefined) this.#date.setTime(this.#date.getTime() - count * seconds * 1000);
    else if (unit === 'month') this.#date.setMonth(this.#date.getMonth() - count);
    else if (unit === 'year' || unit === 'yr') this.#date.setFullYear(this.#date.getFullYear() - count);
    else throw unknown(unit);
    if (seconds === undefined || seconds >= DAY) return;
    this.#timed = true;
    this.#width = seconds === 1 ? 'second' : seconds === 60 ? 'minute' : 'hour';
  }

  /** `relative`: hours and minutes ago reach back by their length instead of forward. */
  range(relative: boolean): TimeRange {
    this.#settleNumbers();
    const date = new Date(this.#date);
    if (!this.#timed) date.setHours(0, 0, 0, 0);
    const at = Math.floor(date.getTime() / 1000);
    if (this.#width === 'second') return { from: at, to: null };
    if (this.#width === 'minute' || this.#width === 'hour') {
      const length = this.#width === 'minute' ? 60 : 3600;
      return relative ? { from: at - length - 1, to: at } : { from: at, to: at + length - 1 };
    }
    const end = new Date(date);
    if (this.#width === 'year') end.setFullYear(end.getFullYear() + 1);
    else if (this.#width === 'month') end.setMonth(end.getMonth() + 1);
    else end.setDate(end.getDate() + 1);
    return { from: at, to: end.getTime() / 1000 - 1 };
  }

  #back(days: number): void {
    this.#date.setDate(this.#date.getDate() - days);
  }

  #time(hour: number, minute: number, second: number, width: Width): void {
    if (hour > 23 || minute > 59 || second > 60) throw new RangeError('Incorrect time format.');
    this.#date.setHours(hour, minute, second, 0);
    this.#timed = true;
    this.#width = width;
  }

  #clock(text: string): void {
    const [hour = 0, minute = 0, second] = text.split(':').map(Number);
    this.#time(hour, minute, second ?? 0, second === undefined ? 'minute' : 'second');
  }

  #halfDay(word: 'am' | 'pm'): void {
    const add = word === 'pm' ? 12 : 0;
    const hour = this.#numbers.pop();
    if (hour !== undefined) this.#time(hour + add, 0, 0, 'hour');
    else this.#date.setHours(this.#date.getHours() + add);
  }

  /** The last such day, today included. */
  #weekday(word: string): boolean {
    const day = WEEKDAYS.findIndex((name) => name === word || name.slice(0, 3) === word);
    if (day >= 0) this.#back((this.#date.getDay() - day + 7) % 7);
    return day >= 0;
  }

  #month(word: string): boolean {
    const month = MONTHS.findIndex((name, index) => name === word || MONTH_NAMES[index] === word);
    if (month < 0) return false;
    this.#date.setMonth(month, 1);
    this.#monthNamed = true;
    this.#width = 'month';
    return true;
  }

  /** Numbers beside a month are its day (at most 31) and year; alone they are a year. */
  #settleNumbers(): void {
    for (const number of this.#numbers) {
      if (this.#monthNamed && number <= 31) {
        this.#date.setDate(number);
        if (this.#width === 'month') this.#width = 'day';
      } else if (this.#monthNamed) this.#date.setFullYear(number);
      else {
        this.#date.setFullYear(number, 0, 1);
        if (!this.#timed) this.#width = 'year';
      }
    }
    this.#numbers = [];
  }
}

/** Throws a RangeError for words that name no time. */
export function parseFuzzyTime(text: string, now: number): TimeRange {
  const words = text.match(/\d+(?::\d+)+|\d+|[^\s\d]+/g) ?? [];
  const moment = new Moment(now);
  let relative = false;
  for (let i = 0; i < words.length; i++) {
    const word = words[i] ?? '';
    const next = (words[i + 1] ?? '').toLowerCase();
    const unit = next.length > 2 && next.endsWith('s') ? next.slice(0, -1) : next;
    const counts = /^\d+$/.test(word) && (unit in SECONDS || ['month', 'year', 'yr'].includes(unit));
    if (counts) {
      moment.ago(Number(word), unit);
      relative = true;
      i++;
    } else if (word.toLowerCase() !== 'ago') moment.word(word);
  }
  return moment.range(relative);
}
