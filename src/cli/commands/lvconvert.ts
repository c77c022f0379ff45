/**
 * lvconvert, of COW snapshots: merging one into its origin, splitting one off, making an LV the store of one.
 *
 *     lvconvert --merge VG|LV|Tag …              as --mergesnapshot, by VG and tag too
 *     lvconvert --mergesnapshot LV …
 *     lvconvert --splitsnapshot LV
 *     lvconvert -s ORIGIN LV                     the inverse; with -Zn the exceptions that are in the store count again
 */
import { hostname } from 'node:os';
import { ActiveVolumes } from '../../lvm/active-volumes.ts';
import type { ChangeContext } from '../../lvm/change-context.ts';
import type { Changes } from '../../lvm/changes.ts';
import { withChanges } from '../../lvm/command.ts';
import { CommandError } from '../../lvm/edit/errors.ts';
import { type JoinRequest, joinable, joinSnapshot, splitSnapshot, splittable } from '../../lvm/edit/lv-merge.ts';
import type { Plan } from '../../lvm/edit/plan.ts';
import { volumeId } from '../../lvm/live.ts';
import type { VolumeGroup } from '../../lvm/model.ts';
import type { LvFacts } from '../../lvm/relations.ts';
import { changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { yesOrNo } from '../common-options.ts';
import { refuseAttachedLvs } from '../lv/attached.ts';
import { noted } from '../lv/edit.ts';
import { BACKGROUND_MERGES, mergeSnapshots, type OwnMerge, seeThrough } from '../lv/merge.ts';
import { defaultVg, splitLvName } from '../lv/names.ts';
import * as option from '../lv/options.ts';
import { INTERVAL_OPTION } from '../lv/poll-progress.ts';
import { badUsage, CHUNK_SIZE_PROBLEM, isYes, readChunkSize, sizeCheck, unmatched } from '../lv/values.ts';
import { EXIT, type ExitCode, noSuchSyntax } from '../messages.ts';
import { AUTOBACKUP_OPTION, FORCE_OPTION } from '../option-values.ts';

/** What is done, and the options that go with it. */
const FORMS = [
  { option: 'merge', also: ['background', 'interval', 'noudevsync'] },
  { option: 'mergesnapshot', also: ['background', 'interval', 'noudevsync'] },
  { option: 'splitsnapshot', also: ['force', 'noudevsync'] },
  { option: 'snapshot', also: ['type', 'chunksize', 'zero', 'force', 'noudevsync'] },
  { option: 'type', also: ['snapshot', 'chunksize', 'zero', 'force', 'noudevsync'] },
] as const;
const OWN = ['background', 'interval', 'force', 'chunksize', 'zero', 'type'] as const;

type Form = (typeof FORMS)[number]['option'];

async function run(context: CommandContext): Promise<ExitCode> {
  const form = formOf(context);
  const change = await changeContext(context);
  const own = context.env[BACKGROUND_MERGES];
  if (own !== undefined) return seeThrough(context, change, JSON.parse(own) as readonly OwnMerge[]);
  if (form === 'merge' || form === 'mergesnapshot') return mergeSnapshots(context, change);
  await (form === 'splitsnapshot' ? split(context, change) : join(context, change));
  return EXIT.ok;
}

function formOf({ name, options, args }: CommandContext): Form {
  const form = FORMS.find((each) => options.has(each.option));
  if (form === undefined || args.length === 0) throw noSuchSyntax(name);
  if (options.has('type') && options.value('type') !== 'snapshot') {
    throw new CommandError(`Converting to LV type ${options.value('type')} is not supported yet.`);
  }
  const also: readonly string[] = form.also;
  const other =
    FORMS.find((each) => each !== form && options.has(each.option) && !also.includes(each.option))?.option ??
    OWN.find((each) => options.has(each) && each !== form.option && !also.includes(each));
  if (other !== undefined) {
    const value = options.value(other);
    throw unmatched(`Command does not accept option: --${other}${value === undefined ? '' : ` ${value}`}.`);
  }
  const most =
    form.option === 'splitsnapshot' ? 1 : form.option === 'snapshot' || form.option === 'type' ? 2 : Infinity;
  if (args.length > most) throw unmatched(`Command does not accept argument: ${args[most]}.`);
  if (most === 2 && args.length < 2) throw noSuchSyntax(name);
  return form.option;
}

/** "VG/LV", or an LV of the VG that is known otherwise. Throws CommandError (3). */
function lvNamed(
  context: CommandContext,
  text: string,
  vg: string | null,
): { readonly vg: string; readonly lv: string } {
  const typed = splitLvName(context, text);
  const vgName = typed.vg ?? vg ?? defaultVg(context);
  if (vgName === null) throw badUsage('Please specify a logical volume path.');
  return { vg: vgName, lv: typed.lv };
}

async function split(context: CommandContext, change: ChangeContext): Promise<void> {
  const { vg: vgName, lv } = lvNamed(context, context.args[0] ?? '', null);
  await withChanges(change, { vgs: [{ name: vgName, mode: 'write' }] }, async (changes) => {
    const group = await changes.volumeGroup({ vgName });
    const cow = splittable(group, lv);
    const full = `${vgName}/${lv}`;
    const active = await ActiveVolumes.of(context.live, group.vg);
    refuseOpen(active, full, cow);
    await refuseAttachedLvs(context.live, group.vg, [lv]);
    const sure = change.force > 0 || !active.isActive(lv);
    if (!sure && !(await change.prompt(`Do you really want to split off active logical volume ${full}? [y/n]: `))) {
      throw new CommandError(`Logical volume ${full} not split.`);
    }
    const plan = splitSnapshot(group, cow);
    await changes.apply(said(plan, `Logical Volume ${full} split from its origin.`), { unused: [lv] });
  });
}

function refuseOpen(active: ActiveVolumes, full: string, { name }: LvFacts): void {
  if (active.isOpen(name)) throw new CommandError(`Logical volume ${full} in use.`);
}

function said(plan: Plan, text: string): Plan {
  return { ...plan, messages: [...plan.messages, { stream: 'stdout', when: 'after', text }] };
}

async function join(context: CommandContext, change: ChangeContext): Promise<void> {
  const { options, args } = context;
  const chunkSectors = readChunkSize(options.value('chunksize'));
  if (chunkSectors === null) throw new CommandError(CHUNK_SIZE_PROBLEM);
  const origin = lvNamed(context, args[0] ?? '', null);
  const cow = lvNamed(context, args[1] ?? '', origin.vg);
  if (cow.vg !== origin.vg) throw badUsage(`Please use a single volume group name ("${origin.vg}" or "${cow.vg}").`);
  const zero = !options.has('zero') || isYes(options.value('zero'));
  const request = { originName: origin.lv, cowName: cow.lv, chunkSectors, zero };
  await withChanges(change, { vgs: [{ name: origin.vg, mode: 'write' }] }, (changes) =>
    joinUnderLock(context, changes, origin.vg, { ...request, now: change.now(), hostName: hostname() }),
  );
}

async function joinUnderLock(
  context: CommandContext,
  changes: Changes,
  vgName: string,
  request: JoinRequest,
): Promise<void> {
  const { output } = context;
  const group = await changes.volumeGroup({ vgName });
  const cow = noted(context, (notes) => joinable(group, request, notes));
  await refuseAttachedLvs(context.live, group.vg, [request.cowName]);
  const full = `${vgName}/${request.cowName}`;
  output.error(`WARNING: Converting logical volume ${full} to snapshot exception store.`);
  output.error('THIS WILL DESTROY CONTENT OF LOGICAL VOLUME (filesystem etc.)');
  if (!(await changes.context.prompt(`Do you really want to convert ${full}? [y/n]: `))) {
    throw new CommandError('Conversion aborted.');
  }
  if (!request.zero) output.error(`WARNING: ${full} not zeroed.`);
  const plan = said(joinSnapshot(group, request), `Logical volume ${full} converted to snapshot.`);
  await whileInactive(context, changes, group, cow, () => changes.apply(plan, { unused: [request.cowName] }));
}

/** The LV is not served from before it is zeroed until it is a snapshot. */
async function whileInactive(
  { live }: CommandContext,
  { context }: Changes,
  { vg }: VolumeGroup,
  { lv, name }: LvFacts,
  body: () => Promise<unknown>,
): Promise<void> {
  const active = await ActiveVolumes.of(live, vg);
  if (!active.isActive(name) || context.test) {
    await body();
    return;
  }
  const volume = { id: volumeId(vg, lv), name: `${vg.name}/${name}` };
  const switchTo = (state: boolean): Promise<unknown> =>
    live.activate({ vgId: vg.id, decisions: [{ volume, active: state }], refresh: [], force: false });
  await switchTo(false);
  try {
    await body();
  } finally {
    // A snapshot follows its origin; what is no snapshot is what it was.
    await switchTo(true);
  }
}

export const command: Command = {
  summary: 'Change logical volume layout',
  argumentsUsage: 'VG|LV|Tag ...',
  options: [
    { long: 'merge', description: 'Merge COW snapshots, by name, VG or tag, into their origins.' },
    { long: 'mergesnapshot', description: 'Merge COW snapshots, by name, into their origins.' },
    { long: 'splitsnapshot', description: 'Make the store of a COW snapshot an LV of its own.' },
    {
      long: 'snapshot',
      short: 's',
      description: 'Make the second LV the store of a COW snapshot of the first: the inverse of --splitsnapshot.',
    },
    {
      long: 'type',
      argument: 'snapshot',
      description: 'As --snapshot.',
      check: (value) => /^[a-z][a-z0-9_-]*$/.test(value),
    },
    {
      long: 'chunksize',
      short: 'c',
      argument: 'Size[k|UNIT]',
      check: sizeCheck('k', '-'),
      description: 'With -s: what the snapshot copies at a time, from 4 KiB to 512 KiB. Default: 4 KiB.',
    },
    {
      long: 'zero',
      short: 'Z',
      argument: 'y|n',
      check: yesOrNo,
      description: 'With -s: whether the store begins empty (default), or with the exceptions that are in it.',
    },
    {
      long: 'background',
      short: 'b',
      description: 'Begin the merge, and let the daemon, or a process in the background, carry it out.',
    },
    INTERVAL_OPTION,
    FORCE_OPTION,
    AUTOBACKUP_OPTION,
    ...option.SURROUNDINGS,
  ],
  run,
};
