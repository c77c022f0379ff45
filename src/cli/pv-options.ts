/**
 * The options that lay out new PVs: of pvcreate, and of vgcreate and vgextend, which make PVs of the devices they are given.
 *
 * Invariant: values are checked in LVM2's order, with its words and exit code 3 (facts: LVM2 tools/toollib.c
 * pvcreate_params_from_args).
 */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { DeviceChoice } from '../lvm/pv-devices.ts';
import type { PvCreateRequest } from '../lvm/edit/pv-create.ts';
import { minPvSectors } from '../lvm/host-devices.ts';
import { DEFAULT_METADATA_SECTORS, type LayoutDefaults, type RestoredPlaces } from '../lvm/pv-layout.ts';
import type { Settings } from '../lvm/settings.ts';
import { changeContext } from './change.ts';
import type { ChangeContext } from '../lvm/change-context.ts';
import type { CommandContext } from './command.ts';
import { yesOrNo } from './common-options.ts';
import { CommandError, EXIT } from './messages.ts';
import { flagOf, FORCE_OPTION, isSizeIn, sectorsOf, sizeText } from './option-values.ts';
import type { OptionSpec, ParsedOptions } from './options.ts';

const LABEL_SECTORS = 4;
const MAX_U32 = 2 ** 32 - 1;

export function isPvCopies(value: string): boolean {
  return ['0', '1', '2'].includes(value);
}

export const METADATAIGNORE_OPTION: OptionSpec = {
  long: 'metadataignore',
  argument: 'y|n',
  check: yesOrNo,
  description: 'Whether the metadata areas exist and are not used.',
};
export const SETPHYSICALVOLUMESIZE_OPTION: OptionSpec = {
  long: 'setphysicalvolumesize',
  argument: 'Size[m|UNIT]',
  check: isSizeIn('m'),
  description: "The PV's size, instead of the device's.",
};

export const PVMETADATACOPIES_OPTION: OptionSpec = {
  long: 'pvmetadatacopies',
  argument: '0|1|2',
  check: isPvCopies,
  description: 'Number of metadata areas: none, one at the start, or a second one at the end. Default: 1.',
};

/** What vgcreate and vgextend take for the PVs that they make. */
export const PV_LAYOUT_OPTIONS: readonly OptionSpec[] = [
  FORCE_OPTION,
  {
    long: 'zero',
    short: 'Z',
    argument: 'y|n',
    check: yesOrNo,
    description: 'Whether the first 2048 bytes of the device are zeroed. Default: y.',
  },
  {
    long: 'labelsector',
    argument: 'Number',
    check: (value) => /^\d+$/.test(value),
    description: 'The sector of the label: 0 to 3. Default: 1.',
  },
  {
    long: 'metadatatype',
    short: 'M',
    argument: 'lvm2',
    check: (value) => value === 'lvm2' || value === '2',
    description: 'The format of the metadata; there is one.',
  },
  {
    long: 'metadatasize',
    argument: 'Size[m|UNIT]',
    check: isSizeIn('m'),
    description: 'Space for each metadata area. Default: what is free before the first MiB.',
  },
  PVMETADATACOPIES_OPTION,
  {
    long: 'dataalignment',
    argument: 'Size[k|UNIT]',
    check: isSizeIn('k'),
    description: 'Extents start at a multiple of this.',
  },
  {
    long: 'dataalignmentoffset',
    argument: 'Size[k|UNIT]',
    check: isSizeIn('k'),
    description: 'Shifts the start of the extents from the alignment.',
  },
];

function refuse(...lines: readonly string[]): never {
  throw new CommandError(EXIT.badUsage, lines);
}

/** What the layout options ask for. Throws CommandError (3). */
export function pvCreateRequest(
  { options, output, settings }: CommandContext,
  restored: RestoredPlaces | null,
): PvCreateRequest {
  const labelSector = Number(options.value('labelsector') ?? '1');
  if (labelSector >= LABEL_SECTORS) refuse(`labelsector must be less than ${LABEL_SECTORS}.`);
  const metadataIgnore = flagOf(options, 'metadataignore') ?? settings.bool('metadata/pvmetadataignore');
  if (options.value('pvmetadatacopies') === '0' && metadataIgnore) {
    refuse('metadataignore only applies to metadatacopies > 0.');
  }
  const alignment = alignmentOf(options);
  const fits = fitsRestored(alignment, restored);
  if (!fits) {
    const { sectors, offsetSectors } = alignment;
    const restoredStart = sizeText(restored?.peStartSectors ?? 0);
    output.error(
      `WARNING: Ignoring data alignment ${sizeText(sectors + offsetSectors)} incompatible with restored pe_start value ${restoredStart}.`,
    );
  }
  const copies = options.value('pvmetadatacopies') ?? String(settings.int('metadata/pvmetadatacopies'));
  const restores = options.has('restorefile') || options.has('uuid');
  return {
    zero: !restores && (flagOf(options, 'zero') ?? true),
    labelSector,
    metadataIgnore,
    metadataSectors: metadataSectorsOf(options, settings, restored),
    metadataCopies: copies === '0' ? 0 : copies === '1' ? 1 : 2,
    alignmentSectors: fits ? alignment.sectors : 0,
    alignmentOffsetSectors: fits ? alignment.offsetSectors : 0,
    bootloaderSectors: sectorsOf(options, 'bootloaderareasize', 'm') ?? 0,
    sizeSectors: sectorsOf(options, 'setphysicalvolumesize', 'm') ?? 0,
    restored,
    defaults: layoutDefaults(settings),
  };
}

/** Sectors in one MiB. */
const MIB = 2048;

/** What lvm.conf says of layouts. */
function layoutDefaults(settings: Settings): LayoutDefaults {
  return {
    minSectors: minPvSectors(settings),
    alignmentSectors: settings.int('devices/data_alignment') * 2,
    defaultAlignmentSectors: Math.max(1, settings.int('devices/default_data_alignment')) * MIB,
    detectAlignment: settings.bool('devices/data_alignment_detection'),
    detectOffset: settings.bool('devices/data_alignment_offset_detection'),
  };
}

/** A restored PV without a size of its own gets all the room before its extents. */
function metadataSectorsOf(options: ParsedOptions, settings: Settings, restored: RestoredPlaces | null): number {
  if (restored !== null && !options.has('metadatasize')) return restored.peStartSectors;
  const sectors = sectorsOf(options, 'metadatasize', 'm') ?? 0;
  if (sectors > 0) return sectors;
  const configured = settings.int('metadata/pvmetadatasize') ?? 0;
  return configured > 0 ? configured : DEFAULT_METADATA_SECTORS;
}

interface Alignment {
  readonly sectors: number;
  readonly offsetSectors: number;
}

function alignmentOf(options: ParsedOptions): Alignment {
  const sectors = sectorsOf(options, 'dataalignment', 'k') ?? 0;
  if (sectors > MAX_U32) refuse('Physical volume data alignment is too big.');
  const offsetSectors = sectorsOf(options, 'dataalignmentoffset', 'k') ?? 0;
  if (offsetSectors > MAX_U32) refuse('Physical volume data alignment offset is too big.');
  return { sectors, offsetSectors };
}

function fitsRestored({ sectors, offsetSectors }: Alignment, restored: RestoredPlaces | null): boolean {
  if (restored === null || sectors + offsetSectors === 0) return true;
  const start = restored.peStartSectors;
  return (sectors === 0 ? start : start % sectors) === offsetSectors;
}

/** What lvm.conf says of devices that PVs are made of. */
export function deviceRules({
  settings,
}: CommandContext): Pick<DeviceChoice, 'minSectors' | 'mixedBlockSizes' | 'sizeText'> {
  return {
    minSectors: layoutDefaults(settings).minSectors,
    mixedBlockSizes: settings.bool('devices/allow_mixed_block_sizes'),
    sizeText,
  };
}

/** Surroundings of a command whose arguments `names` are devices: they are looked at besides, unless --devices restricts. */
export async function pvChangeContext(context: CommandContext, names: readonly string[]): Promise<ChangeContext> {
  const there = names.filter((name) => existsSync(resolve(context.cwd, name)));
  try {
    return await changeContext(context, context.options.has('devices') ? [] : there);
  } catch (error) {
    // Where no device at all is known, that these are missing comes first.
    if (!(error instanceof CommandError) || error.exitCode !== EXIT.failed || there.length > 0) throw error;
    throw new CommandError(EXIT.failed, [...names.map((name) => `No device found for ${name}.`), ...error.lines]);
  }
}
