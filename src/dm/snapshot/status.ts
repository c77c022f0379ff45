/**
 * The status of a snapshot, in the kernel's words: "used/total metadata" in sectors, or what is wrong.
 */
import type { TargetStatus } from '../target.ts';
import type { Snapshot } from './snapshot.ts';

/** Null: the table was never live. */
export function snapshotStatus(snapshot: Snapshot | null, mergeFailed: boolean): TargetStatus {
  const usage = snapshot?.usage() ?? null;
  const details = {
    state: snapshot?.state ?? 'new',
    overflowed: snapshot?.overflowed ?? false,
    mergeFailed,
    ...(snapshot === null || snapshot.problem === '' ? {} : { problem: snapshot.problem }),
    ...(usage === null ? {} : { usedSectors: usage.used, totalSectors: usage.total, metadataSectors: usage.metadata }),
    chunkSectors: snapshot?.chunkSectors ?? null,
    exceptions: snapshot?.table.size ?? 0,
    exceptionBytes: snapshot?.table.memoryBytes ?? 0,
    copiedChunks: snapshot?.copies.copiedChunks ?? 0,
  };
  return { text: text(snapshot, mergeFailed), details };
}

function text(snapshot: Snapshot | null, mergeFailed: boolean): string {
  if (snapshot === null || !snapshot.isKnown) return 'Unknown';
  if (snapshot.state !== 'valid') return 'Invalid';
  if (mergeFailed) return 'Merge failed';
  if (snapshot.overflowed) return 'Overflow';
  const usage = snapshot.usage();
  return usage === null ? 'Unknown' : `${usage.used}/${usage.total} ${usage.metadata}`;
}
