/**
 * lvremove: LVs by name, VG or tag, with their snapshots and parts; all of one VG in one commit, or none if one can't go.
 *
 * With --wipe (which LVM2 has not) their extents are overwritten before they are let go, so that an LV that was removed is an LV
 * that was erased; if that fails, the LV is still there.
 */
import { CommandError } from '../../lvm/edit/errors.ts';
import { removeHistoricalLv, removeLv } from '../../lvm/edit/lv-remove.ts';
import { emptyPlan, type PlanMessage } from '../../lvm/edit/plan.ts';
import type { Changes } from '../../lvm/command.ts';
import { eraseLv, type EraseMethod } from '../../lvm/wipe.ts';
import { changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { eachVgOfLvs, type Meant } from '../lv/each.ts';
import * as option from '../lv/options.ts';
import { progressBar } from '../lv/progress.ts';
import { noSuchSyntax } from '../lv/values.ts';
import { EXIT, type ExitCode } from '../messages.ts';

const METHODS: readonly EraseMethod[] = ['zero', 'random', 'discard'];

export const command: Command = {
  summary: 'Remove logical volume(s) from the system',
  argumentsUsage: 'VG|LV|Tag ...',
  options: [
    option.FORCE,
    option.AUTOBACKUP,
    {
      long: 'wipe',
      argument: 'zero|random|discard',
      check: (value) => METHODS.some((method) => method === value),
      description: 'Overwrite the extents of the LVs before they are removed. Not in LVM2.',
    },
  ],
  async run(context) {
    if (context.args.length === 0) throw noSuchSyntax(context.name);
    const change = await changeContext(context);
    return eachVgOfLvs(context, change, { handlesMissing: true }, (meant, changes) =>
      removeAll(context, meant, changes),
    );
  },
};

/** -f and -y answer the questions. */
function confirmation(context: CommandContext, changes: Changes): (question: string) => Promise<boolean> {
  return (question) => (context.options.has('force') ? Promise.resolve(true) : changes.context.prompt(question));
}

async function removeAll(
  context: CommandContext,
  { group, lvs, historical }: Meant,
  changes: Changes,
): Promise<ExitCode> {
  const confirm = confirmation(context, changes);
  const messages: PlanMessage[] = [];
  const removed: string[] = [];
  let { vg } = group;
  let code: ExitCode = EXIT.ok;
  const attempt = async (work: () => Promise<Awaited<ReturnType<typeof removeLv>>>): Promise<void> => {
    try {
      const removal = await work();
      ({ vg } = removal);
      removed.push(...removal.removed);
      for (const text of removal.lines) messages.push({ stream: 'stdout', when: 'after', text });
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      for (const line of error.lines) context.output.error(line);
      code = EXIT.failed;
    }
  };
  for (const { name } of lvs) if (!removed.includes(name)) await attempt(() => removeLv(vg, name, confirm));
  for (const name of historical) await attempt(() => Promise.resolve(removeHistoricalLv(vg, name)));
  if (code !== EXIT.ok || messages.length === 0) return code;
  await eraseAll(context, changes, removed);
  await changes.apply({ ...emptyPlan(group, vg), messages });
  return code;

  async function eraseAll(around: CommandContext, session: Changes, names: readonly string[]): Promise<void> {
    const method = METHODS.find((known) => known === around.options.value('wipe'));
    if (method === undefined || session.context.test) return;
    for (const name of names) {
      const bar = progressBar(`Wiping ${group.vg.name}/${name}`);
      await eraseLv({ group, lvName: name, method, context: session.context, progress: bar.update });
      bar.end();
    }
  }
}
