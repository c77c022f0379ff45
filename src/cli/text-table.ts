/** Rows as text in columns, for the commands that are ours and have no columns to choose. */

import { plainText } from '../ondisk/plain-text.ts';

export interface TextColumn {
  readonly heading: string;
  /** Numbers stand to the right. */
  readonly right?: true;
}

/** The heading and a line for each row; columns are as wide as their widest cell, two spaces apart. */
export function textTable(columns: readonly TextColumn[], rows: readonly (readonly string[])[]): string[] {
  const all = [columns.map(({ heading }) => heading), ...rows.map((row) => row.map(plainText))];
  const widths = columns.map((_, i) => Math.max(...all.map((row) => row[i]?.length ?? 0)));
  return all.map((row) =>
    columns
      .map(({ right }, i) =>
        right === true ? (row[i] ?? '').padStart(widths[i] ?? 0) : (row[i] ?? '').padEnd(widths[i] ?? 0),
      )
      .join('  ')
      .trimEnd(),
  );
}

const STEPS = ['', 'K', 'M', 'G', 'T', 'P'];

/** Bytes in at most five characters: "512", "4.0K", "1.5G". */
export function shortBytes(bytes: number): string {
  const step = bytes < 1024 ? 0 : Math.min(Math.floor(Math.log2(bytes) / 10), STEPS.length - 1);
  const value = bytes / 1024 ** step;
  return step === 0 ? String(Math.round(value)) : `${value.toFixed(value < 100 ? 1 : 0)}${STEPS[step] ?? ''}`;
}

/** Milliseconds as people read them: "85us", "1.2ms", "3.4s". */
export function shortTime(milliseconds: number): string {
  if (milliseconds < 1) return `${Math.round(milliseconds * 1000)}us`;
  if (milliseconds < 1000) return `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)}ms`;
  return `${(milliseconds / 1000).toFixed(1)}s`;
}

/** How long something has been going on: "3d 4h", "12m", "7s". */
export function shortDuration(milliseconds: number): string {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h ${Math.floor((seconds % 3600) / 60)}m`;
  return `${Math.floor(seconds / 86_400)}d ${Math.floor((seconds % 86_400) / 3600)}h`;
}
