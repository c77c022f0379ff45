/**
 * Steps of a move whose volumes a daemon serves: these volumes copy them, while their clients write (lv-table.ts, dm/mirror/).
 *
 * Invariants
 *  - A step is either copied by the volumes that use it or by the command, never by both: what is active, itself or through other
 *    LVs, is left to the daemon; what is not active is kept from becoming so while the command copies it.
 *  - A step counts as copied only if the daemon says so of all its bytes, after it was told of the commit that is about to be made.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { SECTOR_BYTES } from '../../ondisk/label.ts';
import type { ChangeContext } from '../change-context.ts';
import { CommandError } from '../edit/errors.ts';
import { type LiveVolumeRef, type LiveVolumes, volumeId } from '../live.ts';
import type { VolumeGroup } from '../model.ts';
import { areaExtents, segmentAreas } from '../references.ts';
import { type LvFacts, relationsOf } from '../relations.ts';
import type { MoveStep, PvMove } from './moves.ts';

/** Who copies which of some steps. */
export interface Division {
  readonly online: readonly MoveStep[];
  readonly offline: readonly MoveStep[];
  /** Active volumes on the online steps, and all of those on the offline ones. */
  readonly active: readonly LiveVolumeRef[];
  readonly inactive: readonly LiveVolumeRef[];
}

/** Thrown when the volumes turn out not to be in sync after all. */
export class NotInSync extends CommandError {}

/** absent: not all of them copy; a worker may be starting anew. */
export type SyncState = 'in sync' | 'copying' | 'absent';

/** How often the daemon is asked, at first and at last. */
const FIRST_WAIT_MS = 20;
const LAST_WAIT_MS = 1000;

/** Asks who copies what. */
export async function divide(
  live: LiveVolumes,
  group: VolumeGroup,
  move: PvMove,
  steps: readonly MoveStep[],
): Promise<Division> {
  if (!live.present) return { online: [], offline: steps, active: [], inactive: [] };
  const statuses = await live.status(group.vg.id);
  const isActive = ({ lv }: LvFacts): boolean => statuses.get(volumeId(group.vg, lv))?.active === true;
  const online: MoveStep[] = [];
  const offline: MoveStep[] = [];
  const active = new Set<LvFacts>();
  const inactive = new Set<LvFacts>();
  for (const step of steps) {
    const users = usersOf(group, move, step);
    const inUse = users.filter(isActive);
    (inUse.length > 0 ? online : offline).push(step);
    for (const user of inUse) active.add(user);
    if (inUse.length === 0) for (const user of users) inactive.add(user);
  }
  const refs = (found: ReadonlySet<LvFacts>): readonly LiveVolumeRef[] =>
    [...found].map(({ lv, name }) => ({ id: volumeId(group.vg, lv), name: `${group.vg.name}/${name}` }));
  return { online, offline, active: refs(active), inactive: refs(inactive) };
}

/** LVs whose bytes a step is, directly or through other LVs. */
function usersOf({ vg }: VolumeGroup, { lv: { name } }: PvMove, step: MoveStep): readonly LvFacts[] {
  const { lvs } = relationsOf(vg);
  const found = new Set<string>();
  const pending = [...lvs.values()].filter(({ lv }) =>
    lv.segments.some((segment) =>
      segmentAreas(segment).some(
        (area) =>
          area.name === name &&
          area.extent < step.start + step.length &&
          step.start < area.extent + areaExtents(segment),
      ),
    ),
  );
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    if (found.has(next.name)) continue;
    found.add(next.name);
    // A COW store is written for its origin, and a snapshot reads the origin.
    const origin = next.snapshot === null ? [] : [next.snapshot.origin];
    const above = [...next.usedBy.map(({ user }) => user), ...next.snapshots.map(({ cow }) => cow), ...origin];
    pending.push(...above.flatMap((user) => lvs.get(user) ?? []));
  }
  return [...found].flatMap((user) => lvs.get(user) ?? []);
}

/** Whether the volumes have copied all of the steps. Throws CommandError if they can't. */
export async function syncState(
  live: LiveVolumes,
  group: VolumeGroup,
  move: PvMove,
  steps: readonly MoveStep[],
): Promise<SyncState> {
  const status = await live.moveStatus(volumeId(group.vg, move.lv));
  const bytes = extentsOf(steps) * group.vg.extentSizeSectors * SECTOR_BYTES;
  if (status?.problem !== undefined) throw new CommandError([status.problem, ADVICE]);
  if (status?.totalBytes !== bytes) return 'absent';
  return status.inSync ? 'in sync' : 'copying';
}

/** Volumes that are active and do not copy, for too long. */
export function notCopying({ vg }: VolumeGroup, { lv }: PvMove): CommandError {
  return new CommandError(
    `The volumes on ${vg.name}/${lv.name} are active and do not copy it: see "orion-lvm status".`,
  );
}

/** What to do after a failure. */
export const ADVICE = 'The data is where it was. Run pvmove to go on, or pvmove --abort.';

/** Has copying that ended with an error begin anew. */
export async function restart(
  live: LiveVolumes,
  group: VolumeGroup,
  move: PvMove,
  { active }: Division,
): Promise<void> {
  const status = await live.moveStatus(volumeId(group.vg, move.lv));
  if (status?.problem === undefined) return;
  await live.activate({ vgId: group.vg.id, decisions: [], refresh: active, force: false });
}

/** Keeps volumes that are not active from becoming so by anything but a command, which needs the lock that this one has. */
export async function keepInactive(live: LiveVolumes, group: VolumeGroup, { inactive }: Division): Promise<void> {
  if (!live.present || inactive.length === 0) return;
  const decisions = inactive.map((volume) => ({ volume, active: false }));
  await live.activate({ vgId: group.vg.id, decisions, refresh: [], force: false });
}

/** Waits, without any lock, until copying has come to an end, good or bad. `onProgress` is told of extents. */
export async function waitWhileCopying(
  { live, signal }: Pick<ChangeContext, 'live' | 'signal'>,
  group: VolumeGroup,
  move: PvMove,
  onProgress: (extents: number) => void,
): Promise<void> {
  const id = volumeId(group.vg, move.lv);
  const extentBytes = group.vg.extentSizeSectors * SECTOR_BYTES;
  for (let wait = FIRST_WAIT_MS; ; wait = Math.min(wait * 2, LAST_WAIT_MS)) {
    const status = (await live?.moveStatus(id)) ?? null;
    if (status === null || status.inSync || status.problem !== undefined) return;
    onProgress(status.doneBytes / extentBytes);
    await pause({ signal }, wait);
  }
}

/** Waits a little. Throws CommandError when the caller wants no more. */
export async function pause({ signal }: { readonly signal?: AbortSignal | undefined }, ms: number): Promise<void> {
  try {
    await delay(ms, undefined, signal === undefined ? {} : { signal });
  } catch (error) {
    // The volumes go on copying, and whoever runs pvmove again ends the move.
    throw new CommandError('Interrupted...', 5, { cause: error });
  }
}

export function extentsOf(steps: readonly MoveStep[]): number {
  return steps.reduce((sum, { length }) => sum + length, 0);
}
