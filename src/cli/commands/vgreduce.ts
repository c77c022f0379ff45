/** vgreduce: PVs leave a volume group; with --removemissing those that are missing. */
import type { ChangeContext } from '../../lvm/change-context.ts';
import { changeBarrierOf } from '../../lvm/access.ts';
import { withChanges } from '../../lvm/command.ts';
import { CommandError as Refusal } from '../../lvm/edit/errors.ts';
import { reduceVgPlan, removeMissingPlan } from '../../lvm/edit/vg-reduce.ts';
import type { Command, CommandContext } from '../command.ts';
import { EXIT, type ExitCode, noSuchSyntax } from '../messages.ts';
import { AUTOBACKUP_OPTION, FORCE_OPTION, REPORTFORMAT_OPTION } from '../option-values.ts';
import { pvChangeContext } from '../pv-options.ts';
import { eachPv } from '../pv-targets.ts';
import { vgNameArgument } from '../vg-targets.ts';

export const command: Command = {
  summary: 'Remove physical volume(s) from a volume group',
  argumentsUsage: 'VG [ PV ... ]',
  options: [
    FORCE_OPTION,
    AUTOBACKUP_OPTION,
    REPORTFORMAT_OPTION,
    { long: 'all', short: 'a', description: 'All PVs that are not used.' },
    {
      long: 'removemissing',
      description:
        'Remove missing PVs; with --force also what is on them: mirrors and RAIDs lose images, other LVs are removed.',
    },
    {
      long: 'mirrorsonly',
      description: 'With --removemissing --force: remove no LV but mirrors without any image left.',
    },
  ],
  run: vgreduce,
};

async function vgreduce(context: CommandContext): Promise<ExitCode> {
  const { options, args } = context;
  const all = options.has('all');
  const repairs = options.has('removemissing');
  const pvs = args.slice(1);
  const wellFormed = args.length > 0 && (all || repairs ? pvs.length === 0 && !(all && repairs) : pvs.length > 0);
  if (options.has('mirrorsonly') && !repairs) throw noSuchSyntax(context.name);
  if (!wellFormed) throw noSuchSyntax(context.name);
  const vgName = vgNameArgument(context);
  if (repairs) return removeMissing(context, vgName);
  const change = await pvChangeContext(context, pvs);
  // Says that there is no such VG, before any PV is looked for.
  await checkGroup(change, vgName, pvs);
  return eachPv(context, change, { all, names: pvs, vgName, globalLock: 'write' }, async ({ changes, group, pv }) => {
    if (group !== null) await changes.apply(reduceVgPlan(group, pv));
  });
}

async function checkGroup(change: ChangeContext, vgName: string, pvs: readonly string[]): Promise<void> {
  try {
    const locks = { globalLock: 'read', vgs: [{ name: vgName, mode: 'read' }] } as const;
    await withChanges(change, locks, async (changes) => {
      // Those of a VG that may not be changed are refused each.
      const found = changes.scan.volumeGroups.find(({ vg }) => vg.name === vgName);
      if (found === undefined || changeBarrierOf(found.vg, change.host) === null) await changes.volumeGroup({ vgName });
    });
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    const notFound = [...new Set(pvs)].map((name) => `Failed to find physical volume "${name}".`);
    throw new Refusal([...error.lines, ...notFound], error.exitCode, { cause: error });
  }
}

async function removeMissing(context: CommandContext, vgName: string): Promise<ExitCode> {
  const { options, output } = context;
  const change = await pvChangeContext(context, []);
  let code: ExitCode = EXIT.ok;
  let consistent = false;
  const mode = !options.has('force') ? 'keep' : options.has('mirrorsonly') ? 'mirrors-only' : 'force';
  const locks = { globalLock: 'write', vgs: [{ name: vgName, mode: 'write' }] } as const;
  await withChanges(change, locks, async (changes) => {
    const group = await changes.volumeGroup({ vgName, handlesMissing: true });
    const { plan, incomplete } = await removeMissingPlan(group, mode);
    consistent = plan === null;
    if (plan !== null) await changes.apply(plan);
    if (incomplete) code = EXIT.failed;
  });
  if (consistent) output.print(`Volume group "${vgName}" is already consistent.`);
  else if (code === EXIT.ok) output.print(`Wrote out consistent volume group ${vgName}.`);
  return code;
}
