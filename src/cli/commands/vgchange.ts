/** vgchange: attributes of volume groups. */
import type { Changes } from '../../lvm/changes.ts';
import { CommandError as Refusal } from '../../lvm/edit/errors.ts';
import { ActiveVolumes } from '../../lvm/active-volumes.ts';
import { changeVgPlan, systemIdPlan, type VgChangeRequest } from '../../lvm/edit/vg-change.ts';
import type { VolumeGroup } from '../../lvm/model.ts';
import { ACTIVATION_OPTIONS } from '../lv/options.ts';
import { newUuid } from '../../ondisk/uuid.ts';
import { changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { yesOrNo } from '../common-options.ts';
import {
  isPartialMode,
  partialNames,
  refreshVolumes,
  refusingPartial,
  switchGroup,
  withActiveForeign,
} from '../lv/activation.ts';
import { SELECT_OPTION } from '../criteria.ts';
import { attachedLvs, inUse, refuseAttachedLvs } from '../lv/attached.ts';
import { CommandError, EXIT, type ExitCode, noSuchSyntax, UnmatchedSyntax } from '../messages.ts';
import {
  ADDTAG_OPTION,
  ALLOC_OPTION,
  allocationPolicyOf,
  AUTOBACKUP_OPTION,
  countOf,
  DELTAG_OPTION,
  flagOf,
  FORCE_OPTION,
  isCount,
  isSizeIn,
  MAXPHYSICALVOLUMES_OPTION,
  metadataCopies,
  METADATAPROFILE_OPTION,
  profileOf,
  REPORTFORMAT_OPTION,
  sectorsOf,
  sizeText,
  tagsOf,
  VGMETADATACOPIES_OPTION,
} from '../option-values.ts';
import type { OptionSpec } from '../options.ts';
import { eachVgArgument } from '../vg-targets.ts';

const OPTIONS: readonly OptionSpec[] = [
  ADDTAG_OPTION,
  DELTAG_OPTION,
  ALLOC_OPTION,
  AUTOBACKUP_OPTION,
  FORCE_OPTION,
  METADATAPROFILE_OPTION,
  REPORTFORMAT_OPTION,
  SELECT_OPTION,
  { long: 'detachprofile', description: 'Detach the metadata profile.' },
  { long: 'logicalvolume', short: 'l', argument: 'Number', check: isCount, description: 'The most LVs. 0: no limit.' },
  MAXPHYSICALVOLUMES_OPTION,
  {
    long: 'physicalextentsize',
    short: 's',
    argument: 'Size[m|UNIT]',
    check: isSizeIn('m'),
    description: 'The size of extents; every LV keeps its place.',
  },
  {
    long: 'resizeable',
    synonyms: ['resizable'],
    short: 'x',
    argument: 'y|n',
    check: yesOrNo,
    description: 'Whether PVs can be added and removed.',
  },
  { long: 'uuid', short: 'u', description: 'Give the VG a new random uuid.' },
  VGMETADATACOPIES_OPTION,
  {
    long: 'setautoactivation',
    argument: 'y|n',
    check: yesOrNo,
    description: 'Whether the VG is activated automatically.',
  },
  { long: 'systemid', argument: 'String', description: 'The system ID of the host that owns the VG.' },
  {
    long: 'activate',
    synonyms: ['available'],
    short: 'a',
    argument: 'y|n|ay|ey|en|sy|ln|ly',
    check: (value) => ['y', 'n', 'ay', 'ey', 'en', 'sy', 'sn', 'ln', 'ly'].includes(value),
    description: 'Let orion-lvmd serve the LVs, or no longer. Without a running daemon this only tells.',
  },
  {
    long: 'ignoreactivationskip',
    short: 'K',
    description: 'With -ay: LVs that are flagged to be skipped too.',
  },
  {
    long: 'refresh',
    description: 'Load the tables of active LVs again. Without a running orion-lvmd there are none.',
  },
  {
    long: 'poll',
    argument: 'y|n',
    check: yesOrNo,
    description: 'Nothing to do here: no command works in the background.',
  },
  { long: 'monitor', argument: 'y|n', check: yesOrNo, description: 'Nothing to do here: there is no dmeventd.' },
  { long: 'noudevsync', description: 'Nothing to do here: udev is not waited for.' },
  ...ACTIVATION_OPTIONS,
];

const UNSAFE = [
  'logicalvolume',
  'maxphysicalvolumes',
  'resizeable',
  'setautoactivation',
  'uuid',
  'physicalextentsize',
  'alloc',
  'vgmetadatacopies',
] as const;
const SAFE_WHEN_PARTIAL = ['addtag', 'deltag', 'metadataprofile', 'profile', 'detachprofile'] as const;
const NO_UPDATE = ['activate', 'refresh', 'poll', 'monitor'] as const;

export const command: Command = {
  summary: 'Change volume group attributes',
  argumentsUsage: '[ VG|Tag ... ]',
  options: OPTIONS,
  run: vgchange,
};

async function vgchange(context: CommandContext): Promise<ExitCode> {
  const { options } = context;
  const unsafe = UNSAFE.some((name) => options.has(name));
  const updates = unsafe || SAFE_WHEN_PARTIAL.some((name) => options.has(name));
  const setsSystemId = options.has('systemid');
  if (!updates && !setsSystemId && !NO_UPDATE.some((name) => options.has(name))) throw noSuchSyntax(context.name);
  if (setsSystemId && (updates || context.args.length !== 1)) throw noSuchSyntax(context.name);
  checkCombinations(context, updates || setsSystemId);
  const request = requestOf(context);
  const change = await withActiveForeign(context, await changeContext(context));
  const mode = updates || setsSystemId ? 'write' : 'read';
  await eachVgArgument(context, change, { mode, handlesMissing: !unsafe && !setsSystemId }, async (group, changes) => {
    // Each VG gets a uuid of its own.
    const own = options.has('uuid') ? { ...request, id: newUuid() } : request;
    const active = await ActiveVolumes.of(context.live, group.vg);
    if (options.has('uuid')) {
      active.refuseAny('Volume group has active logical volumes');
      await refuseAttachedLvs(context.live, group.vg);
    }
    if (updates) await changes.apply(changeVgPlan(group, own, sizeText));
    if (setsSystemId) await changeSystemId(group, changes, options.value('systemid') ?? '');
    if (options.has('refresh')) await refreshed(context, group);
    if (options.has('activate')) await activated(context, group);
  });
  return EXIT.ok;
}

function checkCombinations({ options }: CommandContext, updates: boolean): void {
  if (options.has('activate') && options.has('refresh')) {
    throw new UnmatchedSyntax(['Command does not accept option: --refresh.']);
  }
  const early = options.has('sysinit') || options.has('ignorelockingfailure');
  if (early && updates) {
    throw new CommandError(EXIT.badUsage, ['Only -a permitted with --ignorelockingfailure and --sysinit']);
  }
  if (options.has('sysinit') && options.has('poll')) {
    throw new CommandError(EXIT.badUsage, ['Only one of --poll and --sysinit permitted.']);
  }
  if (options.has('detachprofile') && (options.has('profile') || options.has('metadataprofile'))) {
    throw new CommandError(EXIT.badUsage, ['Only one of --metadataprofile and --detachprofile permitted.']);
  }
  const deactivates = options.value('activate')?.endsWith('n') === true;
  if (deactivates && (options.has('monitor') || options.has('poll'))) {
    throw new CommandError(EXIT.badUsage, ['Only -ay* allowed with --monitor or --poll.']);
  }
}

function requestOf({ options }: CommandContext): VgChangeRequest {
  const maxPv = countOf(options, 'maxphysicalvolumes');
  const copies = options.value('vgmetadatacopies');
  return {
    maxLv: countOf(options, 'logicalvolume'),
    maxPv,
    resizeable: flagOf(options, 'resizeable'),
    autoactivation: flagOf(options, 'setautoactivation'),
    addTags: tagsOf(options, 'addtag'),
    removeTags: tagsOf(options, 'deltag'),
    extentSizeSectors: sectorsOf(options, 'physicalextentsize', 'm'),
    id: null,
    allocationPolicy: allocationPolicyOf(options),
    metadataCopies: copies === undefined ? null : metadataCopies(copies),
    profile: options.has('detachprofile') ? '' : profileOf(options),
  };
}

async function changeSystemId(group: VolumeGroup, changes: Changes, wanted: string): Promise<void> {
  const { context } = changes;
  const { name, systemId: old = '' } = group.vg;
  const own = context.host.systemId;
  const plan = systemIdPlan(group, wanted === '' ? null : wanted);
  if (wanted === '' && own !== null) {
    context.err('WARNING: Removing the system ID allows unsafe access from other hosts.');
    if (!(await context.prompt(`Remove system ID ${old} from volume group ${name}? [y/n]: `))) {
      throw new CommandError(EXIT.failed, [`System ID of volume group ${name} not changed.`]);
    }
  }
  if (wanted !== '' && wanted !== own) {
    const active = await ActiveVolumes.of(context.live, group.vg);
    active.refuseAny(`Logical Volumes in VG ${name} must be deactivated before system ID can be changed.`);
    await refuseAttachedLvs(context.live, group.vg);
    context.err(
      own === null
        ? 'WARNING: No local system ID is set.'
        : `WARNING: Requested system ID ${wanted} does not match local system ID ${own}.`,
    );
    context.err(`WARNING: Volume group ${name} might become inaccessible from this machine.`);
    if (!(await context.prompt(`Set foreign system ID ${wanted} on volume group ${name}? [y/n]: `))) {
      throw new CommandError(EXIT.failed, [`Volume group ${name} system ID not changed.`]);
    }
  }
  await changes.apply(plan);
}

/** Throws a CommandError whose lines are printed already, so that other VGs still have their turn. */
async function activated(context: CommandContext, group: VolumeGroup): Promise<void> {
  if (!context.live.present) await tellOfActivation(context, group);
  else if ((await switchGroup(context, group)) !== EXIT.ok) throw new Refusal([]);
}

async function refreshed(context: CommandContext, group: VolumeGroup): Promise<void> {
  if ((await refreshVolumes(context, group, group.vg.logicalVolumes)) !== EXIT.ok) throw new Refusal([]);
}

/** Without a daemon nothing is served: nothing is claimed here that did not happen. */
async function tellOfActivation(context: CommandContext, group: VolumeGroup): Promise<void> {
  const { output, options } = context;
  const { vg } = group;
  const activates = options.value('activate')?.endsWith('n') !== true;
  const refused = activates && !isPartialMode(context) ? partialNames(group) : [];
  const open = activates ? [] : [...(await attachedLvs(context.live, vg))];
  for (const [name, kernelName] of open) for (const line of inUse(`${vg.name}/${name}`, kernelName)) output.error(line);
  if (open.length > 0) {
    throw new Refusal(`Can't deactivate volume group "${vg.name}" with ${open.length} open logical volume(s)`);
  }
  for (const name of refused) output.error(refusingPartial(`${vg.name}/${name}`));
  if (activates) {
    output.error(
      `WARNING: Logical volumes of ${vg.name} are served by orion-lvmd as it is configured; nothing was activated.`,
    );
  }
  output.print(`0 logical volume(s) in volume group "${vg.name}" now active`);
  if (refused.length > 0) throw new Refusal([]);
}
