/**
 * What a COW snapshot that is served says of itself: how full its store is, and whether it is still a snapshot. It crosses from the
 * worker that serves it to the commands that report it, as plain data.
 *
 * Invariant: sizes are those of dm-snapshot's status, in sectors; metadata are header and areas of records.
 */

export interface SnapshotStatus {
  /** `unknown`: it is still being read. */
  readonly state: 'valid' | 'invalid' | 'merge-failed' | 'unknown';
  /** Zero while they are not known. */
  readonly usedSectors: number;
  readonly totalSectors: number;
  readonly metadataSectors: number;
  /** Of an origin that takes it in: whether it has all of it. Absent: it is a snapshot as such. */
  readonly merged?: boolean;
  /** Why it is invalid, or why merging has failed, for people. */
  readonly problem?: string;
}

/** A line of a volume's status (dm/volume.ts). */
interface Line {
  readonly target: string;
  readonly details: Readonly<Record<string, unknown>>;
}

/** Of a volume by its lines; null: it is no snapshot, nor an origin that takes one in. */
export function snapshotStatusOf(lines: readonly Line[]): SnapshotStatus | null {
  const line = lines.find(({ target }) => target === 'snapshot' || target === 'snapshot-merge');
  if (line === undefined) return null;
  const { state, mergeFailed, mergeProblem, merged } = line.details;
  const problem = line.details['problem'] ?? mergeProblem;
  const number = (key: string): number => {
    const value = line.details[key];
    return typeof value === 'number' ? value : 0;
  };
  const sizes = {
    usedSectors: number('usedSectors'),
    totalSectors: number('totalSectors'),
    metadataSectors: number('metadataSectors'),
  };
  return {
    state: stateOf(state, mergeFailed === true),
    ...sizes,
    ...(line.target === 'snapshot-merge' ? { merged: merged === true } : {}),
    ...(typeof problem === 'string' ? { problem } : {}),
  };
}

function stateOf(state: unknown, mergeFailed: boolean): SnapshotStatus['state'] {
  if (state === 'invalid' || state === 'invalidating') return 'invalid';
  if (mergeFailed) return 'merge-failed';
  return state === 'valid' ? 'valid' : 'unknown';
}

/** How full it is, as LVM2 counts: metadata alone are nothing, and one that became invalid is full. Null: nobody knows. */
export function snapshotPercent({ state, usedSectors, totalSectors, metadataSectors }: SnapshotStatus): number | null {
  if (state === 'invalid') return 100;
  if (state !== 'valid' || totalSectors === 0) return null;
  return usedSectors === metadataSectors ? 0 : (100 * usedSectors) / totalSectors;
}
