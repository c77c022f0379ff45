/**
 * New LVs that are not kept after they were committed: what was found at their heads is to stay, or they can't be wiped, or the daemon can't serve them as
 * they are to be.
 *
 * Invariant: a snapshot which its origin has not followed is no more when this has ended: out of the metadata, or else invalid. Where
 * even that can't be written, it is told.
 */
import type { Changes } from '../../lvm/changes.ts';
import { LvRemover } from '../../lvm/edit/lv-remove.ts';
import { emptyPlan } from '../../lvm/edit/plan.ts';
import { invalidateStore } from '../../lvm/wipe.ts';
import { CommandError } from '../../lvm/edit/errors.ts';

/** Takes them out of the metadata, in one commit; those that never came into it need not be. */
async function takeBack(changes: Changes, vgName: string, lvNames: readonly string[]): Promise<void> {
  const group = await changes.volumeGroup({ vgName });
  const remover = new LvRemover(group.vg, { confirm: () => Promise.resolve(true), discards: false });
  const made = lvNames.filter((lvName) => group.vg.logicalVolumes.some(({ name }) => name === lvName));
  if (made.length === 0) return;
  for (const lvName of made) await remover.remove(lvName);
  await changes.apply(emptyPlan(group, remover.result().vg), { undoes: true });
}

/** The same for LVs whose heads could not be wiped. Throws a CommandError that tells of both, where the metadata can't be written any more. */
export async function takeBackUnwiped(
  changes: Changes,
  vgName: string,
  lvNames: readonly string[],
  { lines }: CommandError,
): Promise<void> {
  try {
    await takeBack(changes, vgName, lvNames);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new CommandError([...lines, ...error.lines, abandoned(vgName, lvNames)], 5, { cause: error });
  }
}

function abandoned(vgName: string, lvNames: readonly string[]): string {
  const names = lvNames.map((name) => `${vgName}/${name}`).join(', ');
  return `Manual intervention may be required to remove abandoned LV(s) ${names} before retrying.`;
}

/** The same for LVs that the daemon can't serve. Throws CommandError where the metadata can't be written any more. */
export async function takeBackUnserved(changes: Changes, vgName: string, lvNames: readonly string[]): Promise<void> {
  const { context } = changes;
  for (const name of lvNames) context.err(`Failed to activate new LV ${vgName}/${name}.`);
  try {
    await takeBack(changes, vgName, lvNames);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    for (const line of error.lines) context.err(line);
    for (const name of lvNames) await invalidate(changes, vgName, name);
    throw new CommandError(abandoned(vgName, lvNames), 5, { cause: error });
  }
}

async function invalidate(changes: Changes, vgName: string, lvName: string): Promise<void> {
  try {
    const group = await changes.volumeGroup({ vgName, handlesMissing: true });
    await invalidateStore(group, lvName, (device) => changes.openDevice(device));
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    for (const line of error.lines) changes.context.err(line);
    changes.context.err(`WARNING: ${vgName}/${lvName} is not what its origin was: remove it before it is used.`);
  }
}
