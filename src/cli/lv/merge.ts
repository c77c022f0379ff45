/**
 * lvconvert --merge: COW snapshots by name, VG or tag, each taken into its origin; and seeing merges through that somebody began.
 *
 *     nobody has origin or snapshot open    the merge starts: the daemon's volumes do it, or this command where none runs
 *     somebody has                          origin and snapshot go on; the merge starts when the origin is activated again
 *
 * Invariant: the daemon ends its merges by itself, so that nobody has to wait here.
 */
import { ActiveVolumes } from '../../lvm/active-volumes.ts';
import type { ChangeContext } from '../../lvm/change-context.ts';
import type { Changes } from '../../lvm/changes.ts';
import { CommandError } from '../../lvm/edit/errors.ts';
import { beginMerge } from '../../lvm/edit/lv-merge.ts';
import { type VolumeId, volumeId } from '../../lvm/live.ts';
import { isStoreInvalid } from '../../lvm/merge/offline.ts';
import { carryOutMerge } from '../../lvm/merge/run.ts';
import type { VolumeGroup } from '../../lvm/model.ts';
import { relationsOf } from '../../lvm/relations.ts';
import type { CommandContext } from '../command.ts';
import { EXIT, type ExitCode, worse } from '../messages.ts';
import { refuseAttached } from './attached.ts';
import { goOnInBackground } from './background.ts';
import { eachVgOfLvs, type Meant } from './each.ts';
import { PollProgress } from './poll-progress.ts';

/** A merge to be seen through. */
export interface OwnMerge {
  readonly vgName: string;
  readonly origin: VolumeId;
  readonly cow: VolumeId;
  readonly originName: string;
  readonly cowName: string;
}

/** Tells a process in the background which merges are its own: JSON. */
export const BACKGROUND_MERGES = 'ORION_LVM_MERGES';
const MERGED = { done: 'Merged', doing: 'Merging', unit: 'bytes' } as const;

export async function mergeSnapshots(context: CommandContext, change: ChangeContext): Promise<ExitCode> {
  const merges: OwnMerge[] = [];
  const code = await eachVgOfLvs(context, change, {}, (meant, changes) => beginAll(context, meant, changes, merges));
  if (change.test || merges.length === 0) return code;
  if (context.options.has('background')) {
    // The daemon sees to what it serves.
    if (context.live.present) return code;
    const value = JSON.stringify(merges);
    goOnInBackground(context, { name: BACKGROUND_MERGES, value }, 'orion-lvm lvpoll --polloperation merge');
    return code;
  }
  return worse(code, await seeThrough(context, change, merges));
}

async function beginAll(
  context: CommandContext,
  { group, lvs }: Meant,
  changes: Changes,
  merges: OwnMerge[],
): Promise<ExitCode> {
  let code: ExitCode = EXIT.ok;
  for (const { name } of lvs) {
    const now = await changes.volumeGroup({ vgName: group.vg.name });
    try {
      const merge = await begin(context, changes, now, name);
      if (merge !== null) merges.push(merge);
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      for (const line of error.lines) context.output.error(line);
      code = EXIT.failed;
    }
  }
  return code;
}

/** Begins a merge, or notes it for later; gives it if it has begun. Throws CommandError. */
async function begin(
  context: CommandContext,
  changes: Changes,
  group: VolumeGroup,
  name: string,
): Promise<OwnMerge | null> {
  const { options, live, output } = context;
  const active = await ActiveVolumes.of(live, group.vg);
  const invalid = await isInvalid(changes, group, name, active);
  const { plan, origin, cow } = beginMerge(group, { name, onlySnapshots: options.has('mergesnapshot'), invalid });
  const full = `${group.vg.name}/${name}`;
  const into = `${group.vg.name}/${origin.name}`;
  const inactive = live.present && !active.isActive(origin.name);
  const open = inactive ? null : active.isOpen(origin.name) ? 'origin' : active.isOpen(name) ? 'snapshot' : null;
  if (open !== null) output.print(`Delaying merge since ${open} is open.`);
  const waits = inactive || open !== null;
  const ids = { origin: volumeId(group.vg, origin.lv), cow: volumeId(group.vg, cow.lv) };
  await refuseInUse(context, { vgName: group.vg.name, ...ids, originName: origin.name, cowName: name });
  const text = waits
    ? `Merging of snapshot ${full} will occur on next activation of ${into}.`
    : `Merging of volume ${full} started.`;
  const told = { ...plan, messages: [{ stream: 'stdout', when: 'after', text } as const] };
  await changes.apply(told, open === null ? { unused: [origin.name] } : { deferMerges: [origin.name] });
  if (waits) return null;
  return { vgName: group.vg.name, ...ids, originName: origin.name, cowName: name };
}

/** Where no daemon says who has them open, the kernel may. */
async function refuseInUse(
  { live }: CommandContext,
  { vgName, origin, cow, originName, cowName }: OwnMerge,
): Promise<void> {
  if (live.present) return;
  await refuseAttached(
    new Map([
      [origin, `${vgName}/${originName}`],
      [cow, `${vgName}/${cowName}`],
    ]),
  );
}

async function isInvalid(
  { context }: Changes,
  group: VolumeGroup,
  name: string,
  active: ActiveVolumes,
): Promise<boolean> {
  const status = active.status(name)?.snapshot;
  if (status !== undefined) return status.state === 'invalid';
  const facts = relationsOf(group.vg).lvs.get(name);
  if (
    facts?.snapshot === null ||
    facts === undefined ||
    facts.snapshot.segment.merging ||
    context.live?.present === true
  )
    return false;
  return isStoreInvalid(context, group, facts);
}

/** Sees merges through, one after the other. A failure does not keep the others from being seen through. */
export async function seeThrough(
  context: CommandContext,
  change: ChangeContext,
  merges: readonly OwnMerge[],
): Promise<ExitCode> {
  let code: ExitCode = EXIT.ok;
  for (const merge of merges) {
    try {
      await seeOneThrough(context, change, merge);
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      for (const line of error.lines) context.output.error(line);
      code = worse(code, error.exitCode);
    }
  }
  return code;
}

async function seeOneThrough(context: CommandContext, change: ChangeContext, merge: OwnMerge): Promise<void> {
  const { vgName, cow, originName, cowName } = merge;
  const { output } = context;
  await refuseInUse(context, merge);
  const origin = `${vgName}/${originName}`;
  const progress = new PollProgress(context, origin, MERGED);
  try {
    const outcome = await carryOutMerge(change, { vgName, cow }, (done, total) => progress.note(done, total));
    if (outcome === 'waits') {
      output.print('Conversion starts after activation.');
      return;
    }
    progress.finish();
  } finally {
    progress.stop();
  }
  // Whether we or the daemon removed it.
  output.print(`Merge of snapshot into logical volume ${origin} has finished.`);
  output.print(`Logical volume "${cowName}" successfully removed.`);
}
