/**
 * Carrying a pvmove out, step by step. What is not active is copied here: copy, flush, commit, under the VG's lock, which is let go
 * between steps, so that others get their turn and may abort the move. What a daemon serves is copied by its volumes (online.ts), which
 * takes no lock but for the commit.
 *
 *     served:   wait until it is in sync → lock → prepare → in sync still? → commit → the volumes follow → unlock
 *
 * Invariants
 *  - What a step copies here was read under the lock that is held until its commit; the devices are held exclusively meanwhile, by
 *    us or by the daemon, so no kernel can have the volumes active.
 *  - A crash or a failure at any moment leaves a move that can be gone on with or aborted, and no data in doubt.
 */
import type { OpenedDevice } from '../../block/device.ts';
import { DeviceError } from '../../block/errors.ts';
import { SECTOR_BYTES } from '../../ondisk/label.ts';
import type { ChangeContext } from '../change-context.ts';
import type { Changes } from '../changes.ts';
import { withChanges } from '../command.ts';
import { sharedBlockProblem } from '../edit/block-size.ts';
import { CommandError } from '../edit/errors.ts';
import type { Plan } from '../edit/plan.ts';
import { NO_LIVE_VOLUMES } from '../live.ts';
import type { PhysicalVolume, VolumeGroup } from '../model.ts';
import { openExclusively } from '../open.ts';
import { copyExtents } from './copy.ts';
import { endMove, stepDone } from './finish.ts';
import { type MoveStep, movesOf, type PvMove } from './moves.ts';
import {
  ADVICE,
  divide,
  type Division,
  extentsOf,
  keepInactive,
  NotInSync,
  notCopying,
  pause,
  restart,
  type SyncState,
  syncState,
  waitWhileCopying,
} from './online.ts';

/** Which move: of a VG, by the id of its temporary LV. */
export interface MoveName {
  readonly vgName: string;
  readonly lvId: string;
}

/** finished: all data is on its destination; gone: somebody else ended the move. */
export type MoveOutcome = 'finished' | 'gone';

/** Told of the extents moved so far, of all. */
export type MoveProgress = (moved: number, total: number) => void;

/** Active volumes that do not copy are waited for so long: a worker that died is started anew, and clients come back. */
const PATIENCE_MS = 30_000;
const ABSENT_WAIT_MS = 100;

/** Goes on with a move to its end; not in test mode. Throws CommandError: then the move can be gone on with, or aborted. */
export async function carryOutMove(
  context: ChangeContext,
  name: MoveName,
  onProgress: MoveProgress,
  patienceMs: number = PATIENCE_MS,
): Promise<MoveOutcome> {
  if (context.test) return 'gone';
  // Copying that had failed before is begun anew, once.
  let fresh = true;
  let absentSince: number | null = null;
  for (;;) {
    const outcome = await onMove(context, name, async (changes, group, move) => {
      return { group, move, took: await takeStep(changes, group, move, { onProgress, fresh }) };
    });
    if (outcome === null) return 'gone';
    if (outcome.took === 'finished') return 'finished';
    const { group, move, took } = outcome;
    fresh = false;
    if (took === 'absent') {
      absentSince ??= performance.now();
      if (performance.now() - absentSince >= patienceMs) throw notCopying(group, move);
      await pause(context, ABSENT_WAIT_MS);
      continue;
    }
    absentSince = null;
    if (took === 'step') continue;
    await waitWhileCopying(context, group, move, (extents) => onProgress(move.moved + extents, move.total));
  }
}

/** Ends a move where it is: what was moved stays moved. False: somebody else has ended it. */
export async function abortMove(context: ChangeContext, name: MoveName): Promise<boolean> {
  const done = await onMove(context, name, async (changes, group, move) => {
    await changes.apply(endMove(group, move));
    return true;
  });
  return done ?? false;
}

/** Runs `body` under the VG's lock; null if the move is no more. */
function onMove<Result>(
  context: ChangeContext,
  { vgName, lvId }: MoveName,
  body: (changes: Changes, group: VolumeGroup, move: PvMove) => Promise<Result>,
): Promise<Result | null> {
  return withChanges(context, { vgs: [{ name: vgName, mode: 'write' }] }, async (changes) => {
    const group = await changes.volumeGroup({ vgName });
    const move = movesOf(group.vg).find(({ lv }) => lv.id === lvId);
    return move === undefined ? null : body(changes, group, move);
  });
}

/** step: there are more; copying, absent: the volumes of a daemon have not copied all of it yet. */
async function takeStep(
  changes: Changes,
  group: VolumeGroup,
  move: PvMove,
  { onProgress, fresh }: { readonly onProgress: MoveProgress; readonly fresh: boolean },
): Promise<'step' | 'finished' | Exclude<SyncState, 'in sync'>> {
  const { live = NO_LIVE_VOLUMES } = changes.context;
  const left = move.steps.filter(({ done }) => !done);
  // Of an atomic move nothing counts before all of it is copied.
  const steps = move.atomic ? left : left.slice(0, 1);
  onProgress(move.moved, move.total);
  const division = await divide(live, group, move, steps);
  const { online, offline } = division;
  if (online.length > 0) {
    if (fresh) await restart(live, group, move, division);
    const state = await syncState(live, group, move, online);
    if (state !== 'in sync') return state;
  }
  await keepInactive(live, group, division);
  let moved = move.moved + extentsOf(online);
  for (const step of offline) {
    await copyStep(changes.context, group, step, (extents) => onProgress(moved + extents, move.total));
    moved += step.length;
  }
  const [step] = steps;
  const last = step === undefined || moved === move.total;
  const plan = last ? endMove(group, move, steps) : stepDone(group, move, step);
  return (await committed(changes, plan, { group, move, division })) ? (last ? 'finished' : 'step') : 'copying';
}

/** Commits, unless what the volumes copy is not in sync any more. */
async function committed(
  changes: Changes,
  plan: Plan,
  { group, move, division }: { readonly group: VolumeGroup; readonly move: PvMove; readonly division: Division },
): Promise<boolean> {
  const { live = NO_LIVE_VOLUMES } = changes.context;
  const ready = async (): Promise<void> => {
    const { online } = division;
    if (online.length > 0 && (await syncState(live, group, move, online)) !== 'in sync') throw new NotInSync([]);
  };
  try {
    await changes.apply(plan, { ready });
  } catch (error) {
    if (error instanceof NotInSync) return false;
    throw error;
  }
  return true;
}

async function copyStep(
  context: ChangeContext,
  group: VolumeGroup,
  { from, to, length }: MoveStep,
  onProgress: (extents: number) => void,
): Promise<void> {
  const extentBytes = group.vg.extentSizeSectors * SECTOR_BYTES;
  const [source, target] = [pvLabelled(group, from.name), pvLabelled(group, to.name)];
  const devices = new Map<string, OpenedDevice>();
  const open = async ({ found }: PhysicalVolume): Promise<OpenedDevice> => {
    if (found === null) throw new CommandError(`Cannot move extents in ${group.vg.name}: a PV is missing.`);
    const { identity, path } = found.device;
    const device = devices.get(identity) ?? (await (context.open ?? openExclusively)(path));
    devices.set(identity, device);
    if (device.identity !== identity)
      throw new CommandError(`${path}: is no longer the device that was read; try again.`);
    return device;
  };
  let bytes = 0;
  try {
    const written = await open(target);
    const problem = sharedBlockProblem(group.vg, target.text?.peStartSectors ?? 0, written);
    if (problem !== null) throw new CommandError([`Cannot move extents in ${group.vg.name}: ${problem}.`, ADVICE]);
    await copyExtents({
      from: { device: await open(source), offset: placeOnDevice(source, from.extent, extentBytes) },
      to: { device: written, offset: placeOnDevice(target, to.extent, extentBytes) },
      length: length * extentBytes,
      onProgress(count) {
        bytes += count;
        onProgress(bytes / extentBytes);
      },
    });
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    throw new CommandError([error.message, ADVICE], 5, { cause: error });
  } finally {
    await Promise.all([...devices.values()].map((device) => device.close()));
  }
}

function pvLabelled(group: VolumeGroup, label: string): PhysicalVolume {
  const pv = group.pvs.find(({ text }) => text?.label === label);
  if (pv === undefined) throw new CommandError(`Cannot move extents in ${group.vg.name}: it has no PV ${label}.`);
  return pv;
}

/** Bytes from the device's start. */
function placeOnDevice({ text }: PhysicalVolume, extent: number, extentBytes: number): number {
  return (text?.peStartSectors ?? 0) * SECTOR_BYTES + extent * extentBytes;
}
