/**
 * Commands that work on many LVs: `VG`, `VG/LV`, `@tag`, each VG locked in turn.
 *
 * Invariants
 *  - VGs are taken by name, LVs in the order of the text, pools first, as LVM2 does; an LV named twice is done once.
 *  - A failure is printed and the rest goes on; the command then ends with 5.
 *  - Hidden LVs are only meant when they are named.
 */
import { passedOverLines, useProblem } from '../../lvm/access.ts';
import { CommandError as Refusal } from '../../lvm/edit/errors.ts';
import type { ChangeContext, VolumeGroupRequest } from '../../lvm/change-context.ts';
import type { Changes } from '../../lvm/changes.ts';
import { withChanges } from '../../lvm/command.ts';
import type { VolumeGroup } from '../../lvm/model.ts';
import { relationsOf, type LvFacts } from '../../lvm/relations.ts';
import { vgsInOrder } from '../../lvm/vg-order.ts';
import type { CommandContext } from '../command.ts';
import { Criteria } from '../criteria.ts';
import { EXIT, type ExitCode } from '../messages.ts';
import { parseLvArguments, type LvArguments } from '../report/arguments.ts';
import { defaultVg } from './names.ts';

/** LVs of one VG that the arguments mean. */
export interface Meant {
  readonly group: VolumeGroup;
  /** In the order in which to take them. */
  readonly lvs: readonly LvFacts[];
  /** Remembered LVs that were named ("-name" without the hyphen). */
  readonly historical: readonly string[];
  /** Names among `lvs` that the user typed. */
  readonly named: ReadonlySet<string>;
}

/** Calls `work` for each VG, under its lock; gives the command's exit code. */
export async function eachVgOfLvs(
  context: CommandContext,
  change: ChangeContext,
  request: Omit<VolumeGroupRequest, 'vgName'>,
  work: (meant: Meant, changes: Changes) => Promise<ExitCode>,
): Promise<ExitCode> {
  const args = parseLvArguments(context.args, defaultVg(context) ?? undefined, context.output);
  if (args === null) return EXIT.failed;
  const criteria = new Criteria(context, 'lv');
  let code: ExitCode = EXIT.ok;
  for (const vgName of await vgsOf(change, args)) {
    try {
      const done = await withChanges(
        change,
        { vgs: [{ name: vgName, mode: request.mode ?? 'write' }] },
        async (changes) => {
          const group = await changes.volumeGroup({ ...request, vgName });
          const meant = meantOf(group, args, criteria.lvIds(changes.scan, group));
          const result = await work(meant, changes);
          return reportMissing(context, group, args) ? EXIT.failed : result;
        },
      );
      if (done > code) code = done;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      for (const line of error.lines) context.output.error(line);
      code = EXIT.failed;
    }
  }
  return code;
}

/**
 * Tags and criteria are looked for in every VG that this host may use; a name that no VG has is then no error, as LVM2 only looks at
 * VGs that there are.
 */
async function vgsOf(change: ChangeContext, args: LvArguments): Promise<readonly string[]> {
  if (args.tags.length === 0 && !isEverything(args)) return args.vgNames.toSorted();
  return withChanges(change, { globalLock: 'read' }, (changes) => {
    for (const { vg } of vgsInOrder(changes.scan)) {
      if (args.vgNames.includes(vg.name)) continue;
      for (const line of passedOverLines(vg, change.host)) change.err(line);
    }
    const all = changes.scan.volumeGroups.filter(
      ({ vg }) =>
        args.vgNames.includes(vg.name) ||
        (useProblem(vg, change.host) === null &&
          (isEverything(args) || hasTag(vg.tags, args) || vg.logicalVolumes.some((lv) => hasTag(lv.tags, args)))),
    );
    return Promise.resolve([...new Set(all.map(({ vg }) => vg.name))].toSorted());
  });
}

/** Only criteria were given: they are for every LV. */
function isEverything(args: LvArguments): boolean {
  return args.vgNames.length === 0 && args.tags.length === 0;
}

function hasTag(tags: readonly string[], args: LvArguments): boolean {
  return tags.some((tag) => args.tags.includes(tag));
}

function meantOf(group: VolumeGroup, args: LvArguments, selected: ReadonlySet<string> | null): Meant {
  const { vg } = group;
  const whole = isEverything(args) || args.wholeVgs.includes(vg.name) || hasTag(vg.tags, args);
  const names = args.wholeVgs.includes(vg.name) ? [] : (args.lvNames.get(vg.name) ?? []);
  const named = new Set(names);
  const pools: LvFacts[] = [];
  const others: LvFacts[] = [];
  for (const facts of relationsOf(vg).lvs.values()) {
    if (facts.snapshotRecord || facts.virtualOrigin) continue;
    const wanted = whole || named.has(facts.name) || hasTag(facts.lv.tags, args);
    if (!wanted || (!facts.visible && names.length === 0)) continue;
    if (selected !== null && !selected.has(facts.lv.id)) continue;
    (facts.lv.segments[0]?.type === 'thin-pool' ? pools : others).push(facts);
  }
  const historical = vg.historicalLogicalVolumes
    .map((lv) => lv.name ?? lv.label)
    .filter((name) => named.has(`-${name}`));
  return { group, lvs: [...pools.toReversed(), ...others], historical, named };
}

/** Says which of the named LVs are not there; true if some are not. */
function reportMissing(context: CommandContext, { vg }: VolumeGroup, args: LvArguments): boolean {
  if (args.wholeVgs.includes(vg.name)) return false;
  const { lvs } = relationsOf(vg);
  const isThere = (name: string): boolean =>
    name.startsWith('-')
      ? vg.historicalLogicalVolumes.some((lv) => (lv.name ?? lv.label) === name.slice(1))
      : lvs.get(name)?.snapshotRecord === false;
  const missing = (args.lvNames.get(vg.name) ?? []).filter((name) => !isThere(name));
  for (const name of missing) context.output.error(`Failed to find logical volume "${vg.name}/${name}"`);
  return missing.length > 0;
}
