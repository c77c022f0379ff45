/**
 * Which volume groups a changing command works on: names, tags, or all of them; each is changed under its own lock.
 *
 * Invariant: tags are looked up before any lock of a VG is taken, and what was found is read again under its lock.
 */
import { accessProblem, passedOverLines, useProblem } from '../lvm/access.ts';
import type { ChangeContext, VolumeGroupRequest } from '../lvm/change-context.ts';
import type { Changes } from '../lvm/changes.ts';
import { eachVolumeGroup, withChanges } from '../lvm/command.ts';
import type { VolumeGroup } from '../lvm/model.ts';
import { vgsInOrder } from '../lvm/vg-order.ts';
import type { CommandContext } from './command.ts';
import { Criteria } from './criteria.ts';
import { CommandError, EXIT } from './messages.ts';
import { parseVgArguments } from './report/arguments.ts';

/** Runs `body` on each VG that the arguments name, without arguments on every VG; with -S on those that match only. */
export async function eachVgArgument(
  context: CommandContext,
  change: ChangeContext,
  request: Omit<VolumeGroupRequest, 'vgName'>,
  body: (group: VolumeGroup, changes: Changes) => Promise<void>,
): Promise<void> {
  const parsed = parseVgArguments(context.args, context.output);
  const criteria = new Criteria(context, 'vg');
  if (parsed === null) throw new CommandError(EXIT.badUsage, []);
  const { vgNames, tags } = parsed;
  const names = context.args.length === 0 ? null : [...vgNames, ...(await taggedVgs(change, request, tags, vgNames))];
  await eachVolumeGroup(change, names, request, async (group, changes) => {
    if (criteria.takesVg(changes.scan, group)) await body(group, changes);
  });
}

/** Those that this host may not use are passed over, for nobody named them. */
async function taggedVgs(
  change: ChangeContext,
  { allowExported = false }: Pick<VolumeGroupRequest, 'allowExported'>,
  tags: readonly string[],
  known: readonly string[],
): Promise<readonly string[]> {
  if (tags.length === 0) return [];
  return withChanges(change, { globalLock: 'read' }, ({ scan }) => {
    const problem = allowExported ? accessProblem : useProblem;
    for (const { vg } of vgsInOrder(scan)) {
      for (const line of passedOverLines(vg, change.host)) change.err(line);
    }
    const tagged = scan.volumeGroups.filter(
      ({ vg }) => vg.tags.some((tag) => tags.includes(tag)) && problem(vg, change.host) === null,
    );
    return Promise.resolve(tagged.map(({ vg }) => vg.name).filter((name) => !known.includes(name)));
  });
}

/** A VG's name as typed, /dev/ and all; throws CommandError (3) if it can be none. */
export function vgNameArgument(context: CommandContext, index = 0): string {
  const parsed = parseVgArguments(context.args.slice(index, index + 1), context.output);
  const [name] = parsed?.vgNames ?? [];
  if (name === undefined) throw new CommandError(EXIT.badUsage, []);
  return name;
}
