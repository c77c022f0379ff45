/**
 * lvextend, lvreduce and lvresize: one command line, in three directions.
 *
 * Invariant: with -r the file system is looked at before anything is changed; it shrinks before the LV and grows after it.
 */
import { changeContext } from '../change.ts';
import { openLv } from '../../lvm/wipe.ts';
import { openExclusively } from '../../lvm/open.ts';
import type { Changes } from '../../lvm/changes.ts';
import { withChanges } from '../../lvm/command.ts';
import { ActiveVolumes } from '../../lvm/active-volumes.ts';
import { CommandError } from '../../lvm/edit/errors.ts';
import { resizeLv, type LvResize, type LvResizeRequest } from '../../lvm/edit/lv-resize.ts';
import type { ResizeSize } from '../../lvm/edit/lv-resize-size.ts';
import type { Plan } from '../../lvm/edit/plan.ts';
import { planFilesystem, type FilesystemWork } from '../../lvm/filesystem.ts';
import { lvFacts } from '../../lvm/edit/lv-facts.ts';
import { volumeId } from '../../lvm/live.ts';
import { snapshotPercent } from '../../lvm/snapshot-status.ts';
import type { VolumeGroup } from '../../lvm/model.ts';
import type { Command, CommandContext } from '../command.ts';
import { EXIT, type ExitCode, noSuchSyntax } from '../messages.ts';
import type { OptionSpec } from '../options.ts';
import { parseSizeArgument } from '../size-argument.ts';
import { refuseAttachedLvs } from './attached.ts';
import { allocationSettings, noted, say } from './edit.ts';
import { defaultVg, findPv, splitLvName } from './names.ts';
import * as option from './options.ts';
import { badUsage, unmatched, numberCheck, readNumber, readSize, refuseZeroes } from './values.ts';
import { ALLOC_OPTION, allocationPolicyOf, AUTOBACKUP_OPTION, FORCE_OPTION, sizeText } from '../option-values.ts';

/** Where metadata/stripesize is no number. */
const DEFAULT_STRIPE_KIB = 64;

type Direction = LvResizeRequest['direction'];

const FILESYSTEM_OPTIONS: readonly OptionSpec[] = [
  {
    long: 'resizefs',
    short: 'r',
    description: 'Resize the file system too (ext2, ext3, ext4; XFS grows only), of an LV that is one range of one PV.',
  },
  { long: 'nofsck', short: 'n', description: 'With -r: do not check the file system first.' },
];

const POLICY_OPTION: OptionSpec = {
  long: 'usepolicies',
  description:
    'Extend a COW snapshot as activation/snapshot_autoextend_threshold and _percent of lvm.conf say, if it is that full.',
};

const GROWING_OPTIONS: readonly OptionSpec[] = [
  option.STRIPES,
  option.STRIPESIZE,
  ALLOC_OPTION,
  {
    long: 'mirrors',
    short: 'm',
    argument: 'Number',
    check: numberCheck,
    description: 'Must be as many as the LV has.',
  },
  {
    long: 'type',
    argument: 'linear|striped|error|zero',
    check: (value) => /^[a-z][a-z0-9_-]*$/.test(value),
    description: 'The type of the new segment.',
  },
];

/** The command of a direction. */
export function resizeCommand(direction: Direction, summary: string): Command {
  const refused = direction === 'extend' ? '-' : direction === 'reduce' ? '+' : null;
  return {
    summary,
    argumentsUsage: direction === 'reduce' ? 'LV' : 'LV [ PV ... ]',
    options: [
      ...option.sizeOptions(
        refused,
        direction === 'any' ? 'The new size, or how much more or less' : 'The new size, or the change',
      ),
      ...(direction === 'reduce' ? [] : GROWING_OPTIONS),
      ...(direction === 'extend' ? [POLICY_OPTION] : []),
      ...FILESYSTEM_OPTIONS,
      FORCE_OPTION,
      AUTOBACKUP_OPTION,
      ...option.SURROUNDINGS,
    ],
    run: (context) => run(context, direction),
  };
}

async function run(context: CommandContext, direction: Direction): Promise<ExitCode> {
  const { vgName, request } = parse(context, direction);
  const change = await changeContext(context);
  await withChanges(change, { vgs: [{ name: vgName, mode: 'write' }] }, async (changes) => {
    const group = await changes.volumeGroup({ vgName });
    const volumes = await ActiveVolumes.of(context.live, group.vg);
    const active = volumes.isActive(request.lvName);
    const size = context.options.has('usepolicies')
      ? policySize(context, group, request.lvName, volumes)
      : request.size;
    if (size === null) return;
    const resize = noted(context, (notes) => resizeLv(group, { ...request, size, active }, notes));
    // A file system that is mounted is not to be changed from here, either.
    if (request.resizeFs || (resize.change === 'reduce' && changes.context.force === 0)) {
      await refuseAttachedLvs(context.live, group.vg, [request.lvName]);
    }
    const carryOut = (): Promise<void> => resizeWithContent(context, changes, group, request, resize);
    if (request.resizeFs && !changes.context.test) await whileInactive(context, group, request.lvName, carryOut);
    else await carryOut();
  });
  return EXIT.ok;
}

async function resizeWithContent(
  context: CommandContext,
  changes: Changes,
  group: VolumeGroup,
  request: LvResizeRequest,
  resize: LvResize,
): Promise<void> {
  const work = request.resizeFs ? await filesystem(context, changes, group, request.lvName, resize) : null;
  if (changes.context.test) {
    if (work !== null) {
      context.output.print(`Would resize the ${work.type} filesystem on ${group.vg.name}/${request.lvName}.`);
    }
  } else await work?.before();
  if (resize.plan === null) say(context, resize.messages);
  else await changes.apply(await confirmed(context, changes, group, request, resize, resize.plan));
  if (!changes.context.test) await work?.after();
}

/** While its file system is changed from here, nobody else may have the LV: a client would see it change under his hands. */
async function whileInactive(
  { live }: CommandContext,
  { vg }: VolumeGroup,
  lvName: string,
  body: () => Promise<void>,
): Promise<void> {
  const lv = vg.logicalVolumes.find((candidate) => candidate.name === lvName);
  const active = await ActiveVolumes.of(live, vg);
  if (lv === undefined || !active.isActive(lvName)) return body();
  const volume = { id: volumeId(vg, lv), name: `${vg.name}/${lvName}` };
  if (active.isOpen(lvName)) {
    throw new CommandError([
      `Logical volume ${volume.name} in use.`,
      'Its file system can be resized by the client that has it mounted, after lvextend without -r.',
    ]);
  }
  const switchTo = async (state: boolean): Promise<void> => {
    await live.activate({ vgId: vg.id, decisions: [{ volume, active: state }], refresh: [], force: false });
  };
  await switchTo(false);
  try {
    await body();
  } finally {
    await switchTo(true);
  }
}

function filesystem(
  { options }: CommandContext,
  changes: Changes,
  group: VolumeGroup,
  lvName: string,
  { plan, change }: LvResize,
): Promise<FilesystemWork> {
  const find = (vg: VolumeGroup['vg']): VolumeGroup['vg']['logicalVolumes'][number] => {
    const lv = vg.logicalVolumes.find((candidate) => candidate.name === lvName);
    if (lv === undefined) throw new CommandError(`Logical volume ${lvName} not found in volume group ${vg.name}.`);
    return lv;
  };
  const before = find(group.vg);
  const after = plan === null || plan.after === null ? before : find(plan.after);
  const extents = after.segments.reduce((sum, segment) => sum + segment.extentCount, 0);
  return planFilesystem(
    {
      group,
      lvName,
      before,
      after,
      sizeBytes: extents * group.vg.extentSizeSectors * 512,
      change,
      skipCheck: options.has('nofsck'),
      yes: options.has('yes'),
    },
    () => openLv(group, lvName, (device) => (changes.context.open ?? openExclusively)(device.path)),
  );
}

function parse(
  context: CommandContext,
  direction: Direction,
): { readonly vgName: string; readonly request: LvResizeRequest } {
  const { options, args } = context;
  const [lvText, ...pvs] = args;
  if (lvText === undefined) throw noSuchSyntax(context.name);
  if (direction === 'reduce' && pvs.length > 0) throw unmatched(`Command does not accept argument: ${pvs[0]}.`);
  refuseZeroes(context);
  if (options.has('size') && options.has('extents')) {
    throw badUsage('Please specify either size or extents but not both.');
  }
  const policy = options.has('usepolicies');
  if (policy) refuseWithPolicy(context);
  const size = policy ? BY_POLICY : sizeOf(context, pvs);
  const name = splitLvName(context, lvText);
  const vgName = name.vg ?? defaultVg(context);
  if (vgName === null) throw badUsage('Please specify a logical volume path.');
  const stripes = readNumber(options.value('stripes') ?? '0');
  const typeText = options.value('type') ?? null;
  if (typeText === 'linear' && stripes > 1) throw badUsage('Cannot use stripes with linear type.');
  const mirrors = readNumber(options.value('mirrors') ?? '0');
  return {
    vgName,
    request: {
      lvName: name.lv,
      direction,
      size,
      type: typeOf(typeText),
      stripes,
      stripeSizeSectors: parseSizeArgument(options.value('stripesize') ?? '0', 'k').sectors,
      defaultStripeSectors: (context.settings.int('metadata/stripesize') ?? DEFAULT_STRIPE_KIB) * 2,
      mirrors: mirrors > 0 ? mirrors + 1 : 0,
      policy: allocationPolicyOf(options),
      pvs,
      findPv,
      resizeFs: options.has('resizefs'),
      issueDiscards: context.settings.bool('devices/issue_discards'),
      settings: allocationSettings(context),
    },
  };
}

/** PVs without a size mean: all that is free on them. */
function sizeOf(context: CommandContext, pvs: readonly string[]): ResizeSize {
  const size = readSize(context);
  if (size !== null) return size;
  if (pvs.length === 0) throw noSuchSyntax(context.name);
  return { kind: 'extents', sign: '+', count: 100, percentOf: 'PVS' };
}

/** Until the volume was looked at. */
const BY_POLICY: ResizeSize = { kind: 'extents', sign: '+', count: 0, percentOf: 'LV' };
/** The least threshold that counts. */
const LEAST_THRESHOLD = 50;
const WITH_POLICY: ReadonlySet<string> = new Set([
  'usepolicies',
  'alloc',
  'autobackup',
  'noudevsync',
  'resizefs',
  'nofsck',
]);

/** A size, or how to add extents, does not go with a policy. */
function refuseWithPolicy({ options }: CommandContext): void {
  const other = ['size', 'extents', ...GROWING_OPTIONS.map(({ long }) => long)].find(
    (long) => options.has(long) && !WITH_POLICY.has(long),
  );
  if (other !== undefined) throw unmatched('Command does not accept option: --usepolicies.');
}

/** How much a snapshot is extended by; null: it is not full enough, or nobody serves it. Throws CommandError (5). */
function policySize(
  { settings }: CommandContext,
  { vg }: VolumeGroup,
  lvName: string,
  volumes: ActiveVolumes,
): ResizeSize | null {
  const facts = lvFacts(vg, lvName);
  if (facts === null || facts.snapshotRecord) {
    throw new CommandError(`Logical volume ${lvName} not found in volume group ${vg.name}.`);
  }
  if (facts.snapshot === null) {
    throw new CommandError(`Policy-based resize is supported only for snapshot and thin pool volumes.`);
  }
  const threshold = settings.int('activation/snapshot_autoextend_threshold') ?? 100;
  const count = settings.int('activation/snapshot_autoextend_percent') ?? 0;
  const snapshot = volumes.status(lvName)?.snapshot;
  const percent = snapshot === undefined || snapshot.state !== 'valid' ? null : snapshotPercent(snapshot);
  if (threshold >= 100 || percent === null || percent <= Math.max(threshold, LEAST_THRESHOLD)) return null;
  if (count <= 0) throw new CommandError("Can't extend: activation/snapshot_autoextend_percent is 0.");
  return { kind: 'extents', sign: '+', count, percentOf: 'LV' };
}

function typeOf(text: string | null): LvResizeRequest['type'] {
  if (text === null || text === 'error' || text === 'zero') return text;
  if (text === 'linear' || text === 'striped') return 'striped';
  throw new CommandError(`VolumeType does not match (${text}).`);
}

const SIZE_LINE = /^Size of logical volume /;

/** What a client may still use is cut off only when somebody says so. Gives the plan without what was printed for the question. */
async function confirmed(
  context: CommandContext,
  changes: Changes,
  { vg }: VolumeGroup,
  { lvName, resizeFs }: LvResizeRequest,
  { change, after }: LvResize,
  plan: Plan,
): Promise<Plan> {
  const active = await ActiveVolumes.of(context.live, vg);
  if (change !== 'reduce' || resizeFs || !active.isActive(lvName)) return plan;
  const size = plan.messages.findIndex(({ text }) => SIZE_LINE.test(text));
  say(context, plan.messages.slice(0, size));
  const open = active.isOpen(lvName) ? ' and open' : '';
  context.output.error(`WARNING: Reducing active${open} logical volume to ${sizeText(after * vg.extentSizeSectors)}.`);
  context.output.error('THIS MAY DESTROY YOUR DATA (filesystem etc.)');
  const name = `${vg.name}/${lvName}`;
  if (changes.context.force === 0 && !(await changes.context.prompt(`Do you really want to reduce ${name}? [y/n]: `))) {
    throw new CommandError(`Logical volume ${name} NOT reduced.`);
  }
  return { ...plan, messages: plan.messages.slice(size) };
}
