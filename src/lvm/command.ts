/**
 * The one way of every command that changes something: locks, scan under the locks, checks, an edit without I/O, validation,
 * commit, effects, messages.
 *
 *     changeVolumeGroup     one VG, one edit                     lvcreate, vgchange
 *     changePvs             PVs that are in no VG                pvcreate, pvremove
 *     withChanges           anything else: prompts between, several commits, several VGs   lvremove, vgsplit, vgrename
 *     eachVolumeGroup       one VG after the other, each under its own lock     vgchange without a name
 *
 * Invariants
 *  - What an edit sees was read under the locks that are held until its commit is done: no update is lost.
 *  - Locks are taken in LVM2's order: P_global, then VGs by name.
 *  - What a plan is, and what becomes of it, is in changes.ts; who asks, and with what, in change-context.ts.
 */
import { isValidName } from '../ondisk/vg-validate.ts';
import { passedOverLines } from './access.ts';
import type { ChangeContext, LockChoice, VolumeGroupRequest } from './change-context.ts';
import { Changes, refusal } from './changes.ts';
import { CommandError } from './edit/errors.ts';
import type { Plan } from './edit/plan.ts';
import { GLOBAL_LOCK, HeldLocks, type LockRequest, vgLock } from './locks.ts';
import type { Scan, VolumeGroup } from './model.ts';
import { vgsInOrder } from './vg-order.ts';

/** Changes one VG by one edit; gives it as committed, or null if it was removed. Throws CommandError. */
export async function changeVolumeGroup(
  context: ChangeContext,
  request: VolumeGroupRequest,
  edit: (group: VolumeGroup, world: Scan) => Plan | Promise<Plan>,
): Promise<VolumeGroup | null> {
  return withChanges(context, locksFor(request), async (changes) => {
    const group = await changes.volumeGroup(request);
    return changes.apply(await edit(group, changes.scan));
  });
}

/** Changes PVs that are in no VG, under P_global: each plan that `edit` gives is committed for itself, in order. */
export async function changePvs(
  context: ChangeContext,
  edit: (world: Scan, changes: Changes) => readonly Plan[] | Promise<readonly Plan[]>,
): Promise<void> {
  await withChanges(context, { globalLock: 'write' }, async (changes) => {
    for (const plan of await edit(changes.scan, changes)) await changes.apply(plan);
  });
}

/** Runs `body` with locks held and devices scanned under them; releases the locks whatever happens. */
export async function withChanges<Result>(
  context: ChangeContext,
  choice: LockChoice,
  body: (changes: Changes) => Promise<Result>,
): Promise<Result> {
  const locks = await HeldLocks.take(requestsOf(choice), context.locking);
  try {
    const changes = new Changes(context, locks, choice);
    await changes.rescan();
    return await body(changes);
  } finally {
    await locks.release();
  }
}

/**
 * Runs `body` on every VG of `names` in turn, or on every VG that this host may use when it is null (of some others it is told),
 * each under its own lock.
 * A failure of one does not keep the others from being done: its lines are printed, and the last failure is thrown at the end
 * without lines of its own.
 */
export async function eachVolumeGroup(
  context: ChangeContext,
  names: readonly string[] | null,
  request: Omit<VolumeGroupRequest, 'vgName'>,
  body: (group: VolumeGroup, changes: Changes) => Promise<void>,
): Promise<void> {
  let failure: CommandError | null = null;
  const targets = names?.map((name) => ({ vgName: name })) ?? (await usableGroups(context, request));
  for (const target of targets) {
    const wanted: VolumeGroupRequest = { ...request, ...target };
    try {
      await withChanges(context, locksFor(wanted), async (changes) => body(await changes.volumeGroup(wanted), changes));
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      for (const line of error.lines) context.err(line);
      failure = error;
    }
  }
  if (failure !== null) throw new CommandError([], failure.exitCode, { cause: failure });
}

async function usableGroups(
  context: ChangeContext,
  request: Omit<VolumeGroupRequest, 'vgName'>,
): Promise<readonly { readonly vgName: string; readonly vgId: string }[]> {
  return withChanges(context, { globalLock: 'read' }, (changes) => {
    const usable = vgsInOrder(changes.scan).filter(({ vg }) => {
      if (refusal(vg, context.host, request) === null) return true;
      for (const line of passedOverLines(vg, context.host)) context.err(line);
      return false;
    });
    return Promise.resolve(usable.map(({ vg }) => ({ vgName: vg.name, vgId: vg.id })));
  });
}

function locksFor(request: VolumeGroupRequest): LockChoice {
  const vgs = request.vgName === '' ? [] : [{ name: request.vgName, mode: request.mode ?? 'write' }];
  return request.globalLock === undefined ? { vgs } : { vgs, globalLock: request.globalLock };
}

function requestsOf({ globalLock, vgs = [] }: LockChoice): LockRequest[] {
  // A name that no VG can have needs no lock; it must not become a path.
  const own = vgs.filter(({ name }) => isValidName(name)).map(({ name, mode }) => vgLock(name, mode));
  return globalLock === undefined ? own : [{ resource: GLOBAL_LOCK, mode: globalLock }, ...own];
}
