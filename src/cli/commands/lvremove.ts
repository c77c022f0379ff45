/**
 * lvremove: LVs by name, VG or tag, with their snapshots and parts; all of one VG in one commit, or none if one can't go.
 *
 * With --wipe (which LVM2 has not) their extents are overwritten before they are let go, so that an LV that was removed is an LV
 * that was erased; if that fails, the LV is still there.
 */
import { CommandError } from '../../lvm/edit/errors.ts';
import { discardsOf } from '../../lvm/edit/lv-freed.ts';
import { LvRemover, removeHistoricalLv } from '../../lvm/edit/lv-remove.ts';
import { emptyPlan, type EraseMethod, type PlanMessage } from '../../lvm/edit/plan.ts';
import { ActiveVolumes } from '../../lvm/active-volumes.ts';
import type { ChangeContext } from '../../lvm/change-context.ts';
import type { Changes } from '../../lvm/changes.ts';
import { NO_LIVE_VOLUMES, volumeId } from '../../lvm/live.ts';
import { eraseLv } from '../../lvm/wipe.ts';
import type { VolumeGroup } from '../../lvm/model.ts';
import { changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { SELECT_OPTION } from '../criteria.ts';
import { attachedLvs, refuseAmong, refuseAttachedLvs } from '../lv/attached.ts';
import { eachVgOfLvs, type Meant } from '../lv/each.ts';
import * as option from '../lv/options.ts';
import { EXIT, type ExitCode, noSuchSyntax } from '../messages.ts';
import { AUTOBACKUP_OPTION, FORCE_OPTION } from '../option-values.ts';

const METHODS: readonly EraseMethod[] = ['zero', 'random', 'discard'];

export const command: Command = {
  summary: 'Remove logical volume(s) from the system',
  argumentsUsage: 'VG|LV|Tag ...',
  options: [
    FORCE_OPTION,
    AUTOBACKUP_OPTION,
    SELECT_OPTION,
    ...option.SURROUNDINGS,
    {
      long: 'wipe',
      argument: 'zero|random|discard',
      check: (value) => METHODS.some((method) => method === value),
      description: 'Overwrite the extents of the LVs before they are removed. Not in LVM2.',
    },
  ],
  async run(context) {
    if (context.args.length === 0 && !context.options.has('select')) throw noSuchSyntax(context.name);
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
  const discards = context.settings.bool('devices/issue_discards');
  const active = await ActiveVolumes.of(context.live, group.vg);
  const confirm = confirmation(context, changes);
  const disconnect = changes.context.force > 0;
  const merges = (originName: string): boolean => {
    const status = active.status(originName);
    return status?.mergeWaits === true || ['valid', 'unknown'].includes(status?.snapshot?.state ?? '');
  };
  const remover = new LvRemover(group.vg, { confirm, discards, active, merges, disconnect });
  let code: ExitCode = EXIT.ok;
  const attempt = async (work: () => Promise<void>): Promise<void> => {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      for (const line of error.lines) context.output.error(line);
      code = EXIT.failed;
    }
  };
  const attached = disconnect ? new Map<string, string>() : await attachedLvs(context.live, group.vg);
  for (const { name } of lvs) {
    if (remover.isGone(name)) continue;
    await attempt(async () => {
      refuseAmong(attached, group.vg.name, [name]);
      await remover.remove(name);
    });
  }
  let { vg } = remover.result();
  const { removed } = remover.result();
  const lines = [...remover.result().lines];
  for (const name of historical) {
    await attempt(() => {
      const gone = removeHistoricalLv(vg, name);
      ({ vg } = gone);
      lines.push(...gone.lines);
      return Promise.resolve();
    });
  }
  if (code !== EXIT.ok || lines.length + removed.length === 0) return code;
  // What goes with those that were named, and what was attached while questions were asked.
  if (!disconnect) await refuseAttachedLvs(context.live, group.vg, removed);
  await eraseAll(context, changes, group, removed);
  const messages = lines.map((text): PlanMessage => ({ stream: 'stdout', when: 'after', text }));
  const effects = discards ? discardsOf(group, vg) : [];
  await changes.apply({ ...emptyPlan(group, vg), effects, messages });
  return code;
}

async function eraseAll(
  { options }: CommandContext,
  { context }: Changes,
  group: VolumeGroup,
  names: readonly string[],
): Promise<void> {
  const method = METHODS.find((known) => known === options.value('wipe'));
  if (method === undefined || context.test) return;
  await deactivate(context, group, names);
  for (const lvName of names) {
    await eraseLv({ group, lvName, method, context });
  }
}

/** What is erased must not be served meanwhile: then a removal that fails leaves an LV that is inactive, not one that is torn. */
async function deactivate(
  { live = NO_LIVE_VOLUMES, force }: ChangeContext,
  { vg }: VolumeGroup,
  names: readonly string[],
): Promise<void> {
  const wanted = new Set(names);
  const leaving = vg.logicalVolumes.filter((lv) => wanted.has(lv.name));
  const decisions = leaving.map((lv) => ({
    volume: { id: volumeId(vg, lv), name: `${vg.name}/${lv.name}` },
    active: false,
  }));
  await live.activate({ vgId: vg.id, decisions, refresh: [], force: force > 0 });
}
