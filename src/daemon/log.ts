/**
 * The daemon's log: pino, for the control plane only (nothing is logged per I/O). JSON lines on stderr, or one readable
 * line per record where stderr is a terminal.
 *
 * Invariants
 *  - Writes are synchronous: what was logged before a crash or an exit is there, and order is kept.
 *  - A logger is made by the composition root and passed down; there is no global one.
 */
import { styleText } from 'node:util';
import { type Logger, type LoggerOptions, pino } from 'pino';

export type { Logger } from 'pino';

type StyleName = Parameters<typeof styleText>[0];

export interface LogOptions {
  readonly level: string;
  readonly format: 'auto' | 'json' | 'text';
}

const STDERR = 2;
const STYLES: Readonly<Record<string, StyleName>> = {
  trace: 'gray',
  debug: 'gray',
  info: 'green',
  warn: 'yellow',
  error: 'red',
  fatal: 'red',
};
/** Fields that the readable form says otherwise or not at all. */
const HIDDEN = new Set(['level', 'time', 'msg', 'err']);

export function createLog(options: LogOptions): Logger {
  const text = options.format === 'text' || (options.format === 'auto' && process.stderr.isTTY);
  const settings: LoggerOptions = {
    level: options.level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (level) => ({ level }) },
  };
  // pino's destination also survives a reader of stderr that went away.
  const stderr = pino.destination({ fd: STDERR, sync: true });
  if (!text) return pino(settings, stderr);
  const colour = process.stderr.isTTY;
  return pino(settings, { write: (line: string) => stderr.write(`${readable(line, colour)}\n`) });
}

/** A JSON record as a person reads it: `12:00:00 warning: message (key=value …)`. */
export function readable(line: string, colour: boolean): string {
  const record = JSON.parse(line) as Record<string, unknown>;
  const message = typeof record['msg'] === 'string' ? record['msg'] : '';
  const name = String(record['level']);
  const level = colour ? styleText(STYLES[name] ?? 'gray', name, { validateStream: false }) : name;
  const details = Object.entries(record)
    .filter(([key]) => !HIDDEN.has(key))
    .map(([key, value]) => `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`);
  const error = record['err'] as { readonly stack?: string } | undefined;
  const tail = details.length === 0 ? '' : ` (${details.join(' ')})`;
  const stack = error?.stack === undefined ? '' : `\n${error.stack}`;
  return `${String(record['time']).slice(11, 19)} ${level}: ${message}${tail}${stack}`;
}
