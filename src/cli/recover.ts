/**
 * auto_recovery of lvm.toml: before a command does anything else, stale and damaged copies of metadata are repaired from the
 * best one.
 *
 * Invariants
 *  - Only VGs that the command might change anyway are touched: not foreign, exported, shared ones, nor partial ones.
 *  - A repair that fails is said, and the command goes on: it was not what the user asked for.
 */
import { eachVolumeGroup } from '../lvm/command.ts';
import { CommandError as Refusal } from '../lvm/edit/errors.ts';
import { needsRepair, repairPlan } from '../lvm/repair.ts';
import { changeContext } from './change.ts';
import type { CommandContext } from './command.ts';
import type { Output } from './messages.ts';
import { readVolumeGroups } from './scan.ts';

/** The command itself tells what is wrong. */
const SILENCE: Output = {
  print: () => undefined,
  printPlain: () => undefined,
  error: () => undefined,
  plainError: () => undefined,
};

/** Options that say that nothing is to be written. */
const HARMLESS: readonly string[] = ['test', 'readonly', 'nolocking', 'sysinit'];

/** Repairs what needs it, if lvm.toml says so. */
export async function recoverAtOnce(context: CommandContext): Promise<void> {
  if (context.toml?.config.auto_recovery !== true) return;
  if (HARMLESS.some((option) => context.options.has(option))) return;
  const { scan } = await readVolumeGroups({ ...context, output: SILENCE });
  const damaged = scan.volumeGroups.filter((group) => needsRepair(group) && !group.partial);
  if (damaged.length === 0) return;
  try {
    const names = damaged.map(({ vg }) => vg.name);
    await eachVolumeGroup(await changeContext(context), names, {}, async (group, changes) => {
      if (needsRepair(group)) await changes.apply(repairPlan(group));
    });
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    for (const line of error.lines) context.output.error(line);
  }
}
