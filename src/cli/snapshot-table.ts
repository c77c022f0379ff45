/** COW snapshots as lines of a table: what `status` and `top` show of their stores. Pure. */
import type { SnapshotNumbers } from '../observe/stats.ts';
import { shortBytes, shortDuration, textTable } from './text-table.ts';

/** The one that is full first stands first. */
export function snapshotTable(snapshots: readonly SnapshotNumbers[]): string[] {
  if (snapshots.length === 0) return [];
  const rows = snapshots.toSorted((a, b) => (a.secondsToFull ?? Infinity) - (b.secondsToFull ?? Infinity) || 0);
  return textTable(
    [
      { heading: 'Snapshot' },
      { heading: 'Full', right: true },
      { heading: 'Used', right: true },
      { heading: 'Store', right: true },
      { heading: 'Copied', right: true },
      { heading: 'Fills by', right: true },
      { heading: 'Full in', right: true },
    ],
    rows.map(({ name, valid, percent, usedBytes, totalBytes, copiedBytes, bytesPerSecond, secondsToFull }) => [
      name,
      valid ? `${(percent ?? 0).toFixed(1)}%` : 'invalid',
      shortBytes(usedBytes),
      shortBytes(totalBytes),
      shortBytes(copiedBytes),
      `${shortBytes(bytesPerSecond)}/s`,
      secondsToFull === null ? '' : shortDuration(secondsToFull * 1000),
    ]),
  );
}
