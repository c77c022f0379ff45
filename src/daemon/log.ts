/**
 * The daemon's log: pino, for the control plane only (nothing is logged per I/O). JSON lines on stderr, or one readable
 * line per record where stderr is a terminal.
 *
 * Invariants
 *  - Nobody waits for a reader of stderr that is slow (log-sink.ts); order is kept, and what was logged before an exit is there.
 *  - What a record quotes of clients, devices or servers does nothing to the terminal that shows it (plain-text.ts).
 *  - A logger is made by the composition root and passed down; there is no global one.
 */
import { styleText } from 'node:util';
import { type Logger, type LoggerOptions, pino } from 'pino';
import { escapedJson, plainLines, plainText } from '../ondisk/plain-text.ts';
import { LogSink } from './log-sink.ts';

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
  const colour = process.stderr.isTTY;
  const shown = (line: string): string => (text ? `${readable(line, colour)}\n` : escapedJson(line));
  const sink = new LogSink(STDERR, (lines) => {
    const msg = `${lines} lines of the log were lost, because nobody read them`;
    return shown(`${JSON.stringify({ level: 'warn', time: new Date().toISOString(), msg })}\n`);
  });
  return pino(settings, { write: (line: string) => sink.write(shown(line)) });
}

/** A JSON record as a person reads it: `12:00:00 warning: message (key=value …)`. */
export function readable(line: string, colour: boolean): string {
  const record = JSON.parse(line) as Record<string, unknown>;
  const message = typeof record['msg'] === 'string' ? record['msg'] : '';
  const name = String(record['level']);
  const level = colour ? styleText(STYLES[name] ?? 'gray', name, { validateStream: false }) : name;
  const details = Object.entries(record)
    .filter(([key]) => !HIDDEN.has(key))
    .map(([key, value]) => plainText(`${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`));
  const error = record['err'] as { readonly stack?: string } | undefined;
  const tail = details.length === 0 ? '' : ` (${details.join(' ')})`;
  const stack = error?.stack === undefined ? '' : `\n${plainLines(error.stack)}`;
  return `${String(record['time']).slice(11, 19)} ${level}: ${plainLines(message)}${tail}${stack}`;
}
