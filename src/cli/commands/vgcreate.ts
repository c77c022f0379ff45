/** vgcreate: makes a volume group of PVs, and PVs of the devices that are none yet. */
import { existsSync } from 'node:fs';
import { createVgPlan, type VgCreateRequest } from '../../lvm/edit/vg-create.ts';
import { nameProblem } from '../../lvm/edit/vg-names.ts';
import { withChanges } from '../../lvm/command.ts';
import { newUuid } from '../../ondisk/uuid.ts';
import type { Command, CommandContext } from '../command.ts';
import { yesOrNo } from '../common-options.ts';
import { joinDevices } from '../join-devices.ts';
import { CommandError, EXIT, type ExitCode, noSuchSyntax } from '../messages.ts';
import {
  ADDTAG_OPTION,
  ALLOC_OPTION,
  allocationPolicyOf,
  AUTOBACKUP_OPTION,
  countOf,
  flagOf,
  isCount,
  isSizeIn,
  MAXPHYSICALVOLUMES_OPTION,
  metadataCopies,
  METADATAPROFILE_OPTION,
  profileOf,
  REPORTFORMAT_OPTION,
  sectorsOf,
  tagsOf,
  VGMETADATACOPIES_OPTION,
} from '../option-values.ts';
import type { OptionSpec, ParsedOptions } from '../options.ts';
import { PV_LAYOUT_OPTIONS, pvChangeContext, pvCreateRequest } from '../pv-options.ts';

const MAX_EXTENT_SECTORS = 2 ** 32 - 1;

const OPTIONS: readonly OptionSpec[] = [
  ...PV_LAYOUT_OPTIONS,
  ADDTAG_OPTION,
  ALLOC_OPTION,
  AUTOBACKUP_OPTION,
  METADATAPROFILE_OPTION,
  REPORTFORMAT_OPTION,
  {
    long: 'maxlogicalvolumes',
    short: 'l',
    argument: 'Number',
    check: isCount,
    description: 'The most LVs. 0: no limit.',
  },
  MAXPHYSICALVOLUMES_OPTION,
  {
    long: 'physicalextentsize',
    short: 's',
    argument: 'Size[m|UNIT]',
    check: isSizeIn('m'),
    description: 'The size of an extent: a power of 2, or a multiple of 128 KiB. Default: 4m.',
  },
  VGMETADATACOPIES_OPTION,
  { long: 'systemid', argument: 'String', description: 'The system ID of the host that owns the VG.' },
  {
    long: 'locktype',
    argument: 'none',
    check: (value) => value === 'none',
    description: 'The lock type; shared VGs need lvmlockd, which is not used.',
  },
  {
    long: 'setautoactivation',
    argument: 'y|n',
    check: yesOrNo,
    description: 'Whether the VG is activated automatically. Default: y.',
  },
];

export const command: Command = {
  summary: 'Create a volume group',
  argumentsUsage: 'VG_new PV ...',
  options: OPTIONS,
  run: vgcreate,
};

async function vgcreate(context: CommandContext): Promise<ExitCode> {
  const { args } = context;
  const [first, ...names] = args;
  if (first === undefined || names.length === 0) {
    throw noSuchSyntax(context.name);
  }
  const pvRequest = pvCreateRequest(context, null);
  const name = first.replace(/^\/+dev\/+/, '');
  const change = await pvChangeContext(context, names);
  const request = vgRequest(context, name, change.host.systemId);
  return withChanges(change, { globalLock: 'write', vgs: [{ name, mode: 'write' }] }, async (changes) => {
    if (changes.scan.volumeGroups.some(({ vg }) => vg.name === name) || isUnreadable(changes.scan, name)) {
      throw new CommandError(EXIT.failed, [`A volume group called ${name} already exists.`]);
    }
    const joining = await joinDevices(context, changes, name, names, pvRequest, change.force);
    await changes.apply(createVgPlan(request, joining));
    return EXIT.ok;
  });
}

function isUnreadable(scan: { readonly unreadable: readonly { readonly name: string }[] }, name: string): boolean {
  return scan.unreadable.some((group) => group.name === name);
}

function vgRequest(
  { options, output, env, settings }: CommandContext,
  name: string,
  ownSystemId: string | null,
): VgCreateRequest {
  const extentSizeSectors =
    sectorsOf(options, 'physicalextentsize', 'm') ?? settings.int('allocation/physical_extent_size') * 2;
  if (extentSizeSectors > MAX_EXTENT_SECTORS) refuse('Physical extent size must be smaller than <2.00 TiB.');
  const maxLv = countOf(options, 'maxlogicalvolumes') ?? 0;
  const maxPv = countOf(options, 'maxphysicalvolumes') ?? 0;
  const systemId = systemIdOf(options, output, ownSystemId);
  const problem = nameProblem(name);
  if (problem !== null) refuse(problem, `New volume group name "${name}" is invalid.`);
  const path = `${env['DM_DEV_DIR'] ?? '/dev'}/${name}`;
  if (existsSync(path)) refuse(`${path}: already exists in filesystem`);
  const allocationPolicy = allocationPolicyOf(options) ?? 'normal';
  if (allocationPolicy === 'inherit') refuse('Volume Group allocation policy cannot inherit from anything');
  if (extentSizeSectors === 0) refuse('Physical extent size may not be zero');
  const copies = options.value('vgmetadatacopies');
  const profile = profileOf(options);
  return {
    name,
    id: newUuid(),
    extentSizeSectors,
    maxLv,
    maxPv,
    allocationPolicy,
    tags: [...new Set(tagsOf(options, 'addtag'))],
    metadataCopies: copies === undefined ? settings.int('metadata/vgmetadatacopies') : metadataCopies(copies),
    systemId,
    ...(profile === null ? {} : { profile }),
    noAutoactivation: flagOf(options, 'setautoactivation') === false,
  };
}

function systemIdOf(options: ParsedOptions, output: CommandContext['output'], own: string | null): string | null {
  const given = options.value('systemid');
  if (given === undefined) return own;
  if (given === '') {
    output.error('WARNING: A VG without a system ID allows unsafe access from other hosts.');
    return null;
  }
  if (own !== null && given !== own) {
    output.error(`VG with system ID ${given} might become inaccessible as local system ID is ${own}`);
  }
  return given;
}

function refuse(...lines: readonly string[]): never {
  throw new CommandError(EXIT.badUsage, lines);
}
