/**
 * Checks and readers of option values that several changing commands take: sizes, counts, tags, allocation policies.
 *
 * Invariant: a check refuses while options are parsed (then nothing was done); a reader is given checked text only.
 */
import { isTag } from './report/arguments.ts';
import type { AllocationPolicy } from '../ondisk/metadata.ts';
import type { MetadataCopies } from '../lvm/edit/vg-create.ts';
import { yesOrNo } from './common-options.ts';
import type { OptionSpec, ParsedOptions } from './options.ts';
import { parseSizeArgument, SizeError } from './size-argument.ts';
import { DEFAULT_UNITS, formatSize } from './units.ts';

const MAX_U32 = 2 ** 32 - 1;
const POLICIES: readonly AllocationPolicy[] = ['contiguous', 'cling', 'cling_by_tags', 'normal', 'anywhere', 'inherit'];

/** A size for messages, as LVM2 shows it there: "4.00 MiB". */
export function sizeText(sectors: number): string {
  return formatSize(sectors, { units: DEFAULT_UNITS, suffix: true, style: 'short' });
}

export function isSizeIn(unit: 'k' | 'm'): (value: string) => boolean {
  return (value) => {
    const { sign } = parseSizeArgument(value, unit);
    if (unit === 'm' && sign !== '') throw new SizeError('Size may not be relative/signed.');
    if (sign === '-') throw new SizeError('Size may not be negative.');
    return true;
  };
}

/** A whole number below 2^32. */
export function isCount(value: string): boolean {
  return /^\+?\d+$/.test(value) && Number(value) <= MAX_U32;
}

export function isTagArgument(value: string): boolean {
  return isTag(value.replace(/^@/, ''));
}

export function isAllocationPolicy(value: string): boolean {
  if (POLICIES.some((policy) => policy === value)) return true;
  throw new TypeError(`Unrecognised allocation policy ${value}`);
}

/** --alloc; null if it was not given. cling_by_tags is part of cling, and LVM2 stores it as that. */
export function allocationPolicyOf(options: ParsedOptions): AllocationPolicy | null {
  const value = options.value('alloc');
  return value === 'cling_by_tags' ? 'cling' : (POLICIES.find((policy) => policy === value) ?? null);
}

/** "all", "unmanaged" or a number. */
export function isMetadataCopies(value: string): boolean {
  return /^(?:all|unmanaged|\d+)$/i.test(value);
}

export function metadataCopies(value: string): MetadataCopies {
  if (value.toLowerCase() === 'all') return 'all';
  return value.toLowerCase() === 'unmanaged' ? 0 : Number(value);
}

export function isYes(value: string): boolean {
  return ['y', '1'].includes(value.toLowerCase());
}

/** The value of a y|n option; null if it was not given. */
export function flagOf(options: ParsedOptions, long: string): boolean | null {
  const value = options.value(long);
  return value === undefined ? null : isYes(value);
}

/** The value of a size option in sectors; null if it was not given. */
export function sectorsOf(options: ParsedOptions, long: string, unit: 'k' | 'm'): number | null {
  const value = options.value(long);
  return value === undefined ? null : parseSizeArgument(value, unit).sectors;
}

/** The value of a count option; null if it was not given. */
export function countOf(options: ParsedOptions, long: string): number | null {
  const value = options.value(long);
  return value === undefined ? null : Number(value);
}

/** Every value of an option that may be repeated. */
export function valuesOf(options: ParsedOptions, long: string): readonly string[] {
  return options.groups.flatMap((group) => group.get(long) ?? []);
}

/** Tags of --addtag or --deltag, without "@". */
export function tagsOf(options: ParsedOptions, long: 'addtag' | 'deltag'): readonly string[] {
  return valuesOf(options, long).map((value) => value.replace(/^@/, ''));
}

export const FORCE_OPTION: OptionSpec = {
  long: 'force',
  short: 'f',
  countable: true,
  description: 'Override checks and confirmations; some need it twice.',
};
export const ADDTAG_OPTION: OptionSpec = {
  long: 'addtag',
  argument: 'Tag',
  groupable: true,
  check: isTagArgument,
  description: 'Adds a tag. May be repeated.',
};
export const DELTAG_OPTION: OptionSpec = {
  long: 'deltag',
  argument: 'Tag',
  groupable: true,
  check: isTagArgument,
  description: 'Removes a tag. May be repeated.',
};
export const AUTOBACKUP_OPTION: OptionSpec = {
  long: 'autobackup',
  short: 'A',
  argument: 'y|n',
  check: yesOrNo,
  description: 'Whether the metadata is archived before the change and backed up after it.',
};
export const ALLOC_OPTION: OptionSpec = {
  long: 'alloc',
  argument: 'contiguous|cling|cling_by_tags|normal|anywhere|inherit',
  check: isAllocationPolicy,
  description: 'The allocation policy.',
};
export const MAXPHYSICALVOLUMES_OPTION: OptionSpec = {
  long: 'maxphysicalvolumes',
  short: 'p',
  argument: 'Number',
  check: isCount,
  description: 'The most PVs. 0: no limit.',
};
export const VGMETADATACOPIES_OPTION: OptionSpec = {
  long: 'vgmetadatacopies',
  synonyms: ['metadatacopies'],
  argument: 'all|unmanaged|Number',
  check: isMetadataCopies,
  description: 'How many metadata areas of the VG are in use.',
};
export const REPORTFORMAT_OPTION: OptionSpec = {
  long: 'reportformat',
  argument: 'basic|json|json_std',
  check: (value) => ['basic', 'json', 'json_std'].includes(value),
  description: 'Of the command log, which is not kept: there is nothing to format.',
};
export const METADATAPROFILE_OPTION: OptionSpec = {
  long: 'metadataprofile',
  argument: 'String',
  description: 'The metadata profile to attach: NAME of NAME.profile in config/profile_dir.',
};

/** The profile to attach; null if none was named. */
export function profileOf(options: ParsedOptions): string | null {
  return options.value('metadataprofile') ?? options.value('profile') ?? null;
}
