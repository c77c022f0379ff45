/**
 * Seeing a merge through: waiting for the volumes of a daemon that merge, or merging what nobody serves; then the commit that removes
 * the snapshot. A client's command does it, or the daemon's own: whoever comes first, as both take the VG's lock.
 *
 * Invariants
 *  - The snapshot is removed only if, under the lock, whoever merges says that the origin has all of it.
 *  - Locks are let go between two whiles of merging.
 *  - A crash or a failure at any moment leaves a merge that can be gone on with.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { ChangeContext } from '../change-context.ts';
import type { Changes } from '../changes.ts';
import { withChanges } from '../command.ts';
import { mergesOf } from '../deferred-merges.ts';
import { CommandError } from '../edit/errors.ts';
import { endMerge } from '../edit/lv-merge.ts';
import { type LiveVolumes, NO_LIVE_VOLUMES, type VolumeId, volumeId } from '../live.ts';
import type { VolumeGroup } from '../model.ts';
import { type LvFacts, relationsOf } from '../relations.ts';
import type { SnapshotStatus } from '../snapshot-status.ts';
import { mergeForAWhile } from './offline.ts';

/** Which merge: of a VG, by the id of the snapshot. */
export interface MergeName {
  readonly vgName: string;
  readonly cow: VolumeId;
}

/** finished: the snapshot is removed; gone: somebody else did that; waits: for the origin's next activation. */
export type MergeOutcome = 'finished' | 'gone' | 'waits';

/** Told of the bytes of the store that are free of exceptions again, of all. */
export type MergeProgress = (done: number, total: number) => void;

/** How long the lock is held to merge. */
const WHILE_MS = 2000;
const SECTOR_BYTES = 512;
const UNKNOWN: SnapshotStatus = {
  state: 'unknown',
  usedSectors: 0,
  totalSectors: 0,
  metadataSectors: 0,
  merged: false,
};
const FIRST_WAIT_MS = 20;
const LAST_WAIT_MS = 1000;

/** Not in test mode. Throws CommandError: then the merge can be gone on with, unless the snapshot is invalid. */
export async function carryOutMerge(
  context: ChangeContext,
  name: MergeName,
  onProgress: MergeProgress,
): Promise<MergeOutcome> {
  // The VG was archived when the merge began; that its snapshot goes is no change that anybody would go back to.
  const quiet = { ...context, backup: { ...context.backup, archive: null } };
  for (;;) {
    const outcome = await withChanges(quiet, { vgs: [{ name: name.vgName, mode: 'write' }] }, (changes) =>
      whileLocked(changes, name, onProgress),
    );
    if (typeof outcome === 'string') return outcome;
    if (outcome.origin !== null) await waitForLive(context, outcome.origin, onProgress);
    if (context.signal?.aborted === true) throw interrupted(name.vgName, outcome.originName);
  }
}

type Going = { readonly originName: string; /** Null: it is merged here. */ readonly origin: VolumeId | null };

async function whileLocked(
  changes: Changes,
  { vgName, cow }: MergeName,
  onProgress: MergeProgress,
): Promise<MergeOutcome | Going> {
  const { live = NO_LIVE_VOLUMES } = changes.context;
  const group = await changes.volumeGroup({ vgName });
  const merge = mergesOf(group.vg).find((each) => each.cow === cow);
  if (merge === undefined) return 'gone';
  const { lvs } = relationsOf(group.vg);
  const origin = lvs.get(merge.originName);
  const snapshot = lvs.get(merge.cowName);
  if (origin === undefined || snapshot === undefined) return 'gone';
  const status = live.present
    ? await liveMerge(live, group, origin)
    : await offline(changes, group, origin, onProgress);
  if (status === null) return 'waits';
  if (!isMerged(`${vgName}/${origin.name}`, status, onProgress)) {
    return { originName: origin.name, origin: live.present ? merge.origin : null };
  }
  await changes.apply(endMerge(group, snapshot));
  return 'finished';
}

function offline(
  { context }: Changes,
  group: VolumeGroup,
  origin: LvFacts,
  onProgress: MergeProgress,
): Promise<SnapshotStatus> {
  const onStatus = (status: SnapshotStatus): void => tell(onProgress, status);
  return mergeForAWhile(context, group, origin, { forMs: WHILE_MS, onStatus });
}

function tell(onProgress: MergeProgress, status: SnapshotStatus): void {
  const { state, usedSectors, totalSectors, metadataSectors } = status;
  if (state !== 'valid' || usedSectors === metadataSectors) return;
  onProgress((totalSectors - usedSectors) * SECTOR_BYTES, totalSectors * SECTOR_BYTES);
}

/** Of the volume that merges; null: it is not active, or does not merge before its next activation. */
async function liveMerge(live: LiveVolumes, { vg }: VolumeGroup, { lv }: LvFacts): Promise<SnapshotStatus | null> {
  const status = (await live.status(vg.id)).get(volumeId(vg, lv));
  if (status?.active !== true || status.mergeWaits === true) return null;
  // Its worker is being started again.
  return status.snapshot ?? UNKNOWN;
}

/** Throws CommandError, in LVM2's words, if it never will be. */
function isMerged(origin: string, status: SnapshotStatus, onProgress: MergeProgress): boolean {
  const { state, merged, problem } = status;
  const why = problem === undefined ? [] : [problem];
  if (state === 'invalid') {
    throw new CommandError([`${origin}: Merging snapshot invalidated. Aborting merge.`, ...why]);
  }
  if (state === 'merge-failed') {
    throw new CommandError([`${origin}: Merge failed. Retry merge or inspect manually.`, ...why]);
  }
  tell(onProgress, status);
  return state === 'valid' && merged === true;
}

/** Waits, without any lock, until there may be something to do. */
async function waitForLive(
  { live, signal }: ChangeContext,
  origin: VolumeId,
  onProgress: MergeProgress,
): Promise<void> {
  const vgId = origin.slice(0, origin.indexOf(' '));
  for (let wait = FIRST_WAIT_MS; ; wait = Math.min(wait * 2, LAST_WAIT_MS)) {
    const volume = (await live?.status(vgId))?.get(origin);
    if (volume?.active !== true || volume.mergeWaits === true) return;
    const status = volume.snapshot;
    if (status === undefined) {
      // Its worker is being started again, or somebody else has ended the merge: the metadata tell.
      await pause(LAST_WAIT_MS, signal);
      return;
    }
    if (status.merged !== false || (status.state !== 'valid' && status.state !== 'unknown')) return;
    tell(onProgress, status);
    if (!(await pause(wait, signal))) return;
  }
}

/** False: the caller wants no more. */
async function pause(ms: number, signal: AbortSignal | undefined): Promise<boolean> {
  try {
    await delay(ms, undefined, signal === undefined ? {} : { signal });
    return true;
  } catch {
    return false;
  }
}

function interrupted(vgName: string, originName: string): CommandError {
  return new CommandError([
    'Interrupted...',
    `The merge goes on with "orion-lvm lvpoll --polloperation merge ${vgName}/${originName}", or when the LV is activated.`,
  ]);
}
