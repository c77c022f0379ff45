/**
 * lvcreate: a new LV, linear or striped on PVs, or of type error or zero; or a COW snapshot of one.
 *
 * Its head is wiped and zeroed as soon as it exists, unless it is made read-only, inactive or to be skipped: LVM2 can't write to
 * such an LV, and so doesn't.
 */
import { hostname } from 'node:os';
import type { NewSize, LvCreateRequest } from '../../lvm/edit/lv-create.ts';
import { createLv } from '../../lvm/edit/lv-create.ts';
import { createSnapshots, type SnapshotRequest } from '../../lvm/edit/lv-snapshot.ts';
import { CommandError } from '../../lvm/edit/errors.ts';
import { type Changes, Unfollowed } from '../../lvm/changes.ts';
import { withChanges } from '../../lvm/command.ts';
import { WipeRefused } from '../../lvm/wipe.ts';
import { changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { yesOrNo } from '../common-options.ts';
import { readDeviceNumbers } from '../lv/device-numbers.ts';
import { allocationSettings, noted } from '../lv/edit.ts';
import { defaultVg, findPv, vgNameOf } from '../lv/names.ts';
import { namePattern, type NamePattern, type Origins, readOrigins } from '../lv/snapshot-origins.ts';
import { takeBackUnserved, takeBackUnwiped } from '../lv/take-back.ts';
import * as option from '../lv/options.ts';
import {
  badUsage,
  unmatched,
  isYes,
  numberCheck,
  CHUNK_SIZE_PROBLEM,
  readActivation,
  readChunkSize,
  readNumber,
  readReadAhead,
  readSize,
  refuseZeroes,
  sizeCheck,
} from '../lv/values.ts';
import { EXIT, type ExitCode, noSuchSyntax } from '../messages.ts';
import type { OptionSpec } from '../options.ts';
import { parseSizeArgument } from '../size-argument.ts';
import { hostTags } from '../../lvm/settings/host.ts';
import { isValidName } from '../../ondisk/vg-validate.ts';
import {
  ADDTAG_OPTION,
  ALLOC_OPTION,
  allocationPolicyOf,
  AUTOBACKUP_OPTION,
  FORCE_OPTION,
  sizeText,
  tagsOf,
} from '../option-values.ts';

type NewType = LvCreateRequest['type'];

/** Where metadata/stripesize is no number. */
const DEFAULT_STRIPE_KIB = 64;
const MIN_STRIPE_SECTORS = 8;
const MAX_STRIPE_SECTORS = 2 ** 31;
const MAX_STRIPES = 128;

/** Types of LVM2 that can be told apart from nonsense. */
const OTHER_TYPES = /^(?:mirror|raid\d+(?:_\w+)?|thin|thin-pool|cache|cache-pool|writecache|vdo|vdo-pool|integrity)$/;

function typeCheck(value: string): boolean {
  if (['linear', 'striped', 'error', 'zero', 'snapshot'].includes(value) || OTHER_TYPES.test(value)) return true;
  throw new Error(`WARNING: Unrecognised segment type ${value}`);
}

/** Options that stand for types which can't be created yet: they are known, so that the refusal can say what is missing. */
const OTHER_TYPE_OPTIONS: readonly (OptionSpec & { readonly type: string })[] = [
  { long: 'thin', short: 'T', type: 'thin', description: 'Not possible yet: a thin pool or a thin LV.' },
  { long: 'thinpool', argument: 'LV', type: 'thin', description: 'Not possible yet: the thin pool of a thin LV.' },
  { long: 'cache', short: 'H', type: 'cache', description: 'Not possible yet: a cached LV.' },
  { long: 'cachepool', argument: 'LV', type: 'cache', description: 'Not possible yet: the cache pool of a cached LV.' },
  { long: 'vdo', type: 'vdo', description: 'Not possible yet: a VDO LV.' },
];

const OPTIONS: readonly OptionSpec[] = [
  ...option.sizeOptions('-', 'The size of the LV'),
  {
    long: 'name',
    short: 'n',
    argument: 'Name',
    description: 'The name of the LV; with -s, %s in it is the name of the origin. Default: lvolN.',
  },
  {
    long: 'type',
    argument: 'linear|striped|error|zero|snapshot',
    check: typeCheck,
    description: 'The type of the LV. Default: linear, or striped with -i.',
  },
  {
    long: 'snapshot',
    short: 's',
    description:
      'Make a snapshot of the LV that is named instead of a VG; its size is what may differ from it. Of several LVs of one VG: all at the same moment (not in LVM2).',
  },
  {
    long: 'chunksize',
    short: 'c',
    argument: 'Size[k|UNIT]',
    check: sizeCheck('k', '-'),
    description: 'What a snapshot copies at a time: a power of 2 from 4 KiB to 512 KiB. Default: 4 KiB.',
  },
  {
    long: 'virtualsize',
    short: 'V',
    argument: 'Size[m|UNIT]',
    check: sizeCheck('m', '-'),
    description: 'With --type snapshot: the size of a sparse LV, which has room for as much as -L says.',
  },
  option.STRIPES,
  option.STRIPESIZE,
  {
    long: 'mirrors',
    short: 'm',
    argument: 'Number',
    check: numberCheck,
    description: 'Copies besides the original: only 0 is possible yet.',
  },
  ALLOC_OPTION,
  option.CONTIGUOUS,
  option.PERMISSION,
  option.READAHEAD,
  option.PERSISTENT,
  option.MINOR,
  option.MAJOR,
  ADDTAG_OPTION,
  option.ACTIVATE,
  option.SETACTIVATIONSKIP,
  option.IGNOREACTIVATIONSKIP,
  option.SETAUTOACTIVATION,
  {
    long: 'wipesignatures',
    short: 'W',
    argument: 'y|n',
    check: yesOrNo,
    description: 'Whether signatures on the new LV are looked for and wiped. Default: as -Z.',
  },
  {
    long: 'zero',
    short: 'Z',
    argument: 'y|n',
    check: yesOrNo,
    description: 'Whether the first 4 KiB of the new LV are zeroed. Default: y.',
  },
  AUTOBACKUP_OPTION,
  FORCE_OPTION,
  ...option.SURROUNDINGS,
  ...OTHER_TYPE_OPTIONS,
];

export const command: Command = {
  summary: 'Create a logical volume',
  argumentsUsage: 'VG|LV [ LV ... ] [ PV ... ]',
  options: OPTIONS,
  run,
};

/** What the command line says without looking at the VG. */
interface Parsed {
  readonly vgName: string;
  readonly name: string | null;
  readonly type: NewType;
  /** What is wrong with it is said once the VG was found fit for a new LV. */
  readonly size: NewSize | CommandError;
  readonly stripes: number;
  readonly stripeSizeSectors: number;
  readonly pvs: readonly string[];
  readonly policy: LvCreateRequest['policy'];
  /** Those that are made in one commit; null: it is no snapshot. */
  readonly snapshots: readonly Pick<SnapshotRequest, 'origin' | 'chunkSectors' | 'name'>[] | null;
}

async function run(context: CommandContext): Promise<ExitCode> {
  const parsed = parse(context);
  const change = await changeContext(context);
  await withChanges(change, { vgs: [{ name: parsed.vgName, mode: 'write' }] }, (changes) =>
    create(context, changes, parsed),
  );
  return EXIT.ok;
}

async function create(
  context: CommandContext,
  changes: Changes,
  { snapshots, size, ...parsed }: Parsed,
): Promise<void> {
  const { options, output } = context;
  const group = await changes.volumeGroup({ vgName: parsed.vgName });
  if (size instanceof CommandError) throw size;
  const readAhead = options.value('readahead') ?? defaultReadAhead(context);
  const request: LvCreateRequest = {
    ...parsed,
    size,
    readAhead: readReadAhead(readAhead, (line) => output.error(line)),
    device: readDeviceNumbers(context),
    findPv,
    writable: options.value('permission') !== 'r',
    tags: tagsOf(options, 'addtag'),
    skipActivation: isYes(options.value('setactivationskip')),
    noAutoActivate: ['n', '0'].includes(options.value('setautoactivation') ?? 'y'),
    ...(snapshots === null ? zeroing(context, parsed.type) : { zero: true, wipeSignatures: false }),
    readOnlyVolumes: context.settings.strings('activation/read_only_volume_list'),
    volumeList: context.settings.strings('activation/volume_list'),
    hostTags: hostTags(
      context.settings.layers.map(({ nodes }) => nodes),
      hostname(),
    ),
    now: changes.context.now(),
    hostName: hostname(),
    settings: allocationSettings(context),
  };
  const { plan, lvNames } = noted(context, (notes) => {
    if (snapshots !== null) {
      return createSnapshots(
        group,
        snapshots.map((each) => ({ ...request, ...each })),
        notes,
      );
    }
    const created = createLv(group, request, notes);
    return { plan: created.plan, lvNames: [created.lvName] };
  });
  const activate = isToBeActive(context) ? lvNames : [];
  const origins = (snapshots ?? []).flatMap(({ origin }) => ('name' in origin ? [origin.name] : []));
  try {
    await changes.apply(plan, { activate, mustFollow: [...activate, ...origins] });
  } catch (error) {
    if (error instanceof WipeRefused) await takeBackUnwiped(changes, parsed.vgName, lvNames, error);
    if (error instanceof Unfollowed) await takeBackUnserved(changes, parsed.vgName, lvNames);
    throw error;
  }
}

/** activation/readahead, which may be auto or none. */
function defaultReadAhead({ settings }: CommandContext): string {
  const configured = settings.string('activation/readahead');
  if (['auto', 'none'].includes(configured.toLowerCase())) return configured;
  throw new CommandError('Invalid readahead specification');
}

/** -a and the flags that the LV gets. */
function isToBeActive({ options }: CommandContext): boolean {
  const { activate, auto } = readActivation(options.value('activate'));
  if (isYes(options.value('setactivationskip')) && !options.has('ignoreactivationskip')) return false;
  return activate && !(auto && ['n', '0'].includes(options.value('setautoactivation') ?? 'y'));
}

/** -Z and -W; an LV that won't be active, or won't be writable, can't be zeroed. */
function zeroing(context: CommandContext, type: NewType): { readonly zero: boolean; readonly wipeSignatures: boolean } {
  const { options, output } = context;
  const { activate, auto } = readActivation(options.value('activate'));
  const skipped = isYes(options.value('setactivationskip')) && !options.has('ignoreactivationskip');
  const state = [
    options.value('permission') === 'r' ? 'read-only ' : '',
    activate ? '' : 'inactive ',
    auto ? 'auto activated ' : '',
    skipped ? 'skipped from activation ' : '',
  ].join('');
  const zero = options.has('zero') ? isYes(options.value('zero')) : true;
  const wipeToo = context.settings.bool('allocation/wipe_signatures_when_zeroing_new_lvs');
  const wipeSignatures = options.has('wipesignatures') ? isYes(options.value('wipesignatures')) : zero && wipeToo;
  if (state === '' && type === 'striped') return { zero, wipeSignatures };
  if (isYes(options.value('zero') ?? options.value('wipesignatures'))) {
    if (type === 'striped') throw new CommandError(`Cannot zero ${state}logical volume with option -Zy or -Wy.`);
    output.print(`Ignoring option -Zy or -Wy for unzeroable ${type} volume.`);
  }
  return { zero: false, wipeSignatures: false };
}

function parse(context: CommandContext): Parsed {
  const { options, args, output } = context;
  const type = typeOf(context);
  const isSnapshot = isSnapshotWanted(context);
  const named = namePattern(context, isSnapshot);
  const [first] = args;
  const origins = isSnapshot && !options.has('virtualsize') ? readOrigins(context, named) : null;
  const pvs = origins?.pvs ?? args.slice(1);
  const vgName = origins?.vg ?? vgNameFor(context, first, named?.vg ?? null);
  if (isSnapshot && !options.has('size') && !options.has('extents')) {
    throw new CommandError('Please specify either size or extents with snapshots.');
  }
  if (!options.has('size') && !options.has('extents')) throw noSuchSyntax(context.name);
  if (pvs.length > 0 && type !== 'striped') throw unmatched(`Command does not accept argument: ${pvs[0]}.`);
  refuseZeroes(context);
  if (options.has('size') && options.has('extents')) {
    throw badUsage('Please specify either size or extents (not both).');
  }
  const stripes = stripesOf(context, type);
  const mirrors = options.value('mirrors');
  if (mirrors !== undefined) {
    if (readNumber(mirrors) > 0) throw unsupported('mirrored');
    output.print('Redundant mirrors argument: default is 0');
  }
  const snapshots = isSnapshot ? snapshotsOf(context, origins, named) : null;
  const size = sizeOf(context, origins !== null);
  return { vgName, name: named?.lv ?? null, type, size, pvs, policy: policyOf(context), snapshots, ...stripes };
}

/** -s or --type snapshot. */
function isSnapshotWanted({ options, settings }: CommandContext): boolean {
  const typed = options.value('type');
  const wanted = options.has('snapshot') || typed === 'snapshot';
  if (wanted && typed !== undefined && typed !== 'snapshot') {
    throw unmatched(`Command does not accept option: --type ${typed}.`);
  }
  const other = ['mirrors', 'chunksize', 'virtualsize'].find(
    (long) => options.has(long) && (long === 'mirrors') === wanted,
  );
  if (other === 'virtualsize') throw unsupported('thin');
  if (other !== undefined) {
    throw unmatched(`Command does not accept option: --${other} ${options.value(other)}.`);
  }
  // Without a type a sparse LV is a thin one, unless lvm.conf says otherwise.
  const sparse = settings.string('global/sparse_segtype_default');
  if (options.has('virtualsize') && typed === undefined && sparse !== 'snapshot') throw unsupported('thin');
  return wanted;
}

function snapshotsOf(
  context: CommandContext,
  origins: Origins | null,
  named: NamePattern | null,
): NonNullable<Parsed['snapshots']> {
  const chunkSectors = readChunkSize(context.options.value('chunksize'));
  if (chunkSectors === null) throw badUsage(CHUNK_SIZE_PROBLEM);
  if (origins !== null)
    return origins.lvs.map(({ origin, name }) => ({ origin: { name: origin }, name, chunkSectors }));
  const virtualSectors = parseSizeArgument(context.options.value('virtualsize') ?? '0', 'm').sectors;
  if (virtualSectors === 0) throw badUsage('--virtualsize may not be zero.');
  return [{ origin: { virtualSectors }, name: named?.lv ?? null, chunkSectors }];
}

function unsupported(type: string): CommandError {
  return new CommandError(`Can't create ${type} volume: LV type ${type} is not supported yet.`);
}

function typeOf({ options }: CommandContext): NewType {
  const other = OTHER_TYPE_OPTIONS.find(({ long }) => options.has(long));
  if (other !== undefined) throw unsupported(other.type);
  const type = options.value('type') ?? 'striped';
  if (OTHER_TYPES.test(type)) throw unsupported(type);
  const striped = type === 'striped' || type === 'linear' || type === 'snapshot';
  for (const long of ['stripes', 'stripesize']) {
    const value = options.value(long);
    const refused = !striped || (type === 'linear' && (long === 'stripesize' || readNumber(value ?? '1') > 1));
    if (value !== undefined && refused) throw unmatched(`Command does not accept option: --${long} ${value}.`);
  }
  // Without --type it is -i that asks for a striped LV, or -m for what might be one.
  const stripeSize = options.value('stripesize');
  const maybeStriped = ['type', 'snapshot', 'stripes', 'mirrors'].some((long) => options.has(long));
  if (stripeSize !== undefined && !maybeStriped) {
    throw unmatched(`Command does not accept option: --stripesize ${stripeSize}.`);
  }
  return type === 'error' || type === 'zero' ? type : 'striped';
}

function vgNameFor(context: CommandContext, argument: string | undefined, fromName: string | null): string {
  const given = argument === undefined ? null : vgNameOf(argument);
  if (given?.includes('/') === true) throw badUsage('Volume group name expected (no slash)');
  if (given !== null && fromName !== null && given !== fromName) {
    throw badUsage(`Inconsistent volume group names given: "${fromName}" and "${given}"`);
  }
  const name = given ?? fromName ?? defaultVg(context);
  if (name === null) throw noSuchSyntax(context.name);
  if (!isValidName(name)) throw badUsage(`Volume group name ${name} has invalid characters`);
  return name;
}

function stripesOf(
  { options, output, settings }: CommandContext,
  type: NewType,
): { readonly stripes: number; readonly stripeSizeSectors: number } {
  if (type !== 'striped') return { stripes: 1, stripeSizeSectors: 0 };
  const stripes = readNumber(options.value('stripes') ?? '1');
  const typed = options.value('stripesize');
  if (stripes > MAX_STRIPES) throw badUsage(`Number of stripes (${stripes}) must be between 1 and ${MAX_STRIPES}.`);
  if (stripes === 1) {
    if (typed !== undefined) output.print('Ignoring stripesize argument with single stripe.');
    return { stripes, stripeSizeSectors: 0 };
  }
  const sectors =
    typed === undefined
      ? (settings.int('metadata/stripesize') ?? DEFAULT_STRIPE_KIB) * 2
      : parseSizeArgument(typed, 'k').sectors;
  if (typed === undefined) output.print(`Using default stripesize ${sizeText(sectors)}.`);
  if (sectors > MAX_STRIPE_SECTORS) {
    throw badUsage(`Stripe size cannot be larger than ${sizeText(MAX_STRIPE_SECTORS / 2)}.`);
  }
  if (sectors < MIN_STRIPE_SECTORS || !Number.isInteger(Math.log2(sectors))) {
    throw badUsage(`Invalid stripe size ${sizeText(sectors)}.`);
  }
  return { stripes, stripeSizeSectors: sectors };
}

function sizeOf(context: CommandContext, hasOrigin: boolean): Parsed['size'] {
  const size = readSize(context);
  if (size === null) throw noSuchSyntax(context.name);
  if (size.kind === 'sectors') return size;
  const { count, percentOf } = size;
  if (percentOf === null) return { kind: 'extents', count };
  if (percentOf === 'LV' || (percentOf === 'ORIGIN' && !hasOrigin)) {
    return new CommandError(`Please express size as %FREE${hasOrigin ? ', %ORIGIN' : ''}, %PVS or %VG.`);
  }
  return { kind: 'percent', percent: count, of: percentOf };
}

function policyOf({ options }: CommandContext): LvCreateRequest['policy'] {
  const contiguous = isYes(options.value('contiguous'));
  const alloc = allocationPolicyOf(options);
  if (contiguous && alloc !== null && alloc !== 'contiguous') {
    throw badUsage('Conflicting contiguous and alloc arguments.');
  }
  return alloc ?? (contiguous ? 'contiguous' : 'inherit');
}
