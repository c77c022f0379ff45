/**
 * Times by a format of strftime(3) in the C locale, for report/time_format of lvm.conf.
 *
 * Invariants
 *  - The conversions are those that LVM2 lets through: no newline, no tab, no flags, no widths; E and O change nothing in C.
 *  - The time zone is the process's own ($TZ).
 *
 * Source: strftime(3), lvm.conf(5) "report/time_format"; compared with lvs 2.03.16.
 */

/** LVM2's default. */
export const ISO_TIME = '%Y-%m-%d %T %z';

const PLAIN = 'aAbBcCdDeFGghHIjklmMpPrRsStTuUVwWxXyYzZ%';
const WITH_E = 'cCxXyY';
const WITH_O = 'deHImMSuUVwWy';

const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const MONTHS = 'January February March April May June July August September October November December'.split(' ');
const DAY_MS = 86_400_000;

/** A conversion: its modifier, if any, and its letter. */
const CONVERSION = /%([EO]?)(.?)/gs;

/** Whether LVM2 takes this format. */
export function isTimeFormat(format: string): boolean {
  if (format === '' || /[^\x20-\x7E]/.test(format)) return false;
  return [...format.matchAll(CONVERSION)].every(([, modifier, letter = '']) => {
    const allowed = modifier === 'E' ? WITH_E : modifier === 'O' ? WITH_O : PLAIN;
    return letter !== '' && allowed.includes(letter);
  });
}

/** Formats a time of Unix seconds; `format` is one that `isTimeFormat` takes. */
export function strftime(format: string, seconds: number): string {
  const date = new Date(seconds * 1000);
  return format.replaceAll(CONVERSION, (_all, _modifier: string, letter: string) => convert(letter, date));
}

function padded(value: number, length = 2, fill = '0'): string {
  return String(value).padStart(length, fill);
}

/** What other conversions put together. */
const COMPOSED: Readonly<Record<string, string>> = {
  c: '%a %b %e %H:%M:%S %Y',
  D: '%m/%d/%y',
  F: '%Y-%m-%d',
  r: '%I:%M:%S %p',
  R: '%H:%M',
  T: '%H:%M:%S',
  x: '%m/%d/%y',
  X: '%H:%M:%S',
};

function convert(letter: string, date: Date): string {
  const composed = COMPOSED[letter];
  if (composed !== undefined) return strftime(composed, date.getTime() / 1000);
  return dayText(letter, date) ?? clockText(letter, date) ?? weekText(letter, date) ?? letter;
}

function dayText(letter: string, date: Date): string | null {
  const year = date.getFullYear();
  const month = MONTHS[date.getMonth()] ?? '';
  const day = DAYS[date.getDay()] ?? '';
  switch (letter) {
    case 'a':
      return day.slice(0, 3);
    case 'A':
      return day;
    case 'b':
    case 'h':
      return month.slice(0, 3);
    case 'B':
      return month;
    case 'C':
      return padded(Math.floor(year / 100));
    case 'd':
      return padded(date.getDate());
    case 'e':
      return padded(date.getDate(), 2, ' ');
    case 'j':
      return padded(dayOfYear(date) + 1, 3);
    case 'm':
      return padded(date.getMonth() + 1);
    case 'y':
      return padded(year % 100);
    case 'Y':
      return String(year);
    default:
      return null;
  }
}

function clockText(letter: string, date: Date): string | null {
  const hours = date.getHours();
  const twelve = hours % 12 === 0 ? 12 : hours % 12;
  switch (letter) {
    case 'H':
      return padded(hours);
    case 'I':
      return padded(twelve);
    case 'k':
      return padded(hours, 2, ' ');
    case 'l':
      return padded(twelve, 2, ' ');
    case 'M':
      return padded(date.getMinutes());
    case 'p':
      return hours < 12 ? 'AM' : 'PM';
    case 'P':
      return hours < 12 ? 'am' : 'pm';
    case 's':
      return String(Math.floor(date.getTime() / 1000));
    case 'S':
      return padded(date.getSeconds());
    case 'z':
      return offsetText(date);
    case 'Z':
      return zoneName(date);
    default:
      return null;
  }
}

function weekText(letter: string, date: Date): string | null {
  const weekday = date.getDay();
  switch (letter) {
    case 'G':
      return String(isoWeek(date).year);
    case 'g':
      return padded(isoWeek(date).year % 100);
    case 't':
      return '\t';
    case 'u':
      return String(weekday === 0 ? 7 : weekday);
    case 'U':
      return padded(Math.floor((dayOfYear(date) + 7 - weekday) / 7));
    case 'V':
      return padded(isoWeek(date).week);
    case 'w':
      return String(weekday);
    case 'W':
      return padded(Math.floor((dayOfYear(date) + 7 - ((weekday + 6) % 7)) / 7));
    default:
      return null;
  }
}

/** Days since the first of January. */
function dayOfYear(date: Date): number {
  const day = Date.UTC(date.getFullYear(), date.getMonth(), date.getDate());
  return Math.round((day - Date.UTC(date.getFullYear(), 0, 1)) / DAY_MS);
}

/** ISO 8601: a week belongs to the year that has its Thursday. */
function isoWeek(date: Date): { readonly year: number; readonly week: number } {
  const fromMonday = (date.getDay() + 6) % 7;
  const thursday = new Date(date.getFullYear(), date.getMonth(), date.getDate() - fromMonday + 3);
  return { year: thursday.getFullYear(), week: Math.floor(dayOfYear(thursday) / 7) + 1 };
}

/** "+0100" */
function offsetText(date: Date): string {
  const offset = -date.getTimezoneOffset();
  const minutes = Math.abs(offset);
  return `${offset < 0 ? '-' : '+'}${padded(Math.floor(minutes / 60))}${padded(minutes % 60)}`;
}

/** Every one of them knows the abbreviations of its own part of the world. */
const LOCALES = ['en-GB', 'en-US', 'en-AU', 'en-CA', 'en-IN', 'en-ZA'];

/** "CET"; a zone without such a name has its offset for one ("+03"), as in the time zone database. */
function zoneName(date: Date): string {
  for (const locale of LOCALES) {
    const parts = new Intl.DateTimeFormat(locale, { timeZoneName: 'short' }).formatToParts(date);
    const name = parts.find(({ type }) => type === 'timeZoneName')?.value ?? '';
    if (name !== '' && !/^(?:GMT|UTC)[+-]/.test(name)) return name;
  }
  return offsetText(date).replace(/00$/, '');
}
