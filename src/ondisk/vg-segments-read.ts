/**
 * Segments of logical volumes, from the generic tree to typed values (formats/lvm2.md §2.8; lvm2: the text_import of
 * lib/{striped,mirror,raid,snapshot,thin,cache_segtype,writecache,vdo,integrity}).
 *
 * Invariants
 *  - A type that isn't known, or has an unknown "+FLAG", becomes an UnknownSegment with all its fields in `extra`.
 *  - The counts that the text repeats (stripe_count, mirror_count, device_count) must agree with the arrays; the typed value
 *    has only the array.
 *  - Whether names exist and extents are in range isn't checked here: see vg-validate.ts.
 */
import { Fields, MAX_U32, U32 } from './fields.ts';
import type {
  CacheSettings,
  ConfigNode,
  ConfigSection,
  RaidSegment,
  Segment,
  SegmentArea,
  ThinPoolMessage,
} from './metadata.ts';
import { splitSegmentType } from './vg-flags.ts';

/** The fields of every segment. */
type Common = Pick<Segment, 'startExtent' | 'extentCount' | 'tags' | 'typeFlags'> & { readonly reshapeCount?: number };
type Extra = { readonly extra: readonly ConfigNode[] };
/** A segment before what is left over is known. */
type Known = Segment extends infer Each ? (Each extends Extra ? Omit<Each, 'extra'> : never) : never;
type Reader = (fields: Fields, common: Common, name: string) => Known;

const THIN_CHUNK_SECTORS = { min: 128, max: 2097152 };
const MAX_THIN_DEVICE_ID = 2 ** 24 - 1;
const DISCARDS = ['passdown', 'nopassdown', 'ignore'];
const CACHE_MODES = ['writethrough', 'writeback', 'passthrough'];
const RAID_TYPES =
  'raid0_meta raid1 raid4 raid5 raid5_n raid5_la raid5_ls raid5_ra raid5_rs raid6 raid6_zr raid6_nr raid6_nc raid6_n_6 ' +
  'raid6_ls_6 raid6_rs_6 raid6_la_6 raid6_ra_6 raid10 raid10_near';
const WRITECACHE_SETTINGS: ReadonlySet<string> = new Set(
  (
    'high_watermark low_watermark writeback_jobs autocommit_blocks autocommit_time fua nofua cleaner max_age ' +
    'metadata_only pause_writeback writecache_setting_key writecache_setting_val'
  ).split(' '),
);
const VDO_POOL_SETTINGS: ReadonlySet<string> = new Set(
  (
    'header_size virtual_extents use_compression use_deduplication use_metadata_hints minimum_io_size ' +
    'block_map_cache_size_mb block_map_era_length use_sparse_index index_memory_size_mb max_discard slab_size_mb ' +
    'ack_threads bio_threads bio_rotation cpu_threads hash_zone_threads logical_threads physical_threads write_policy'
  ).split(' '),
);
const INTEGRITY_SETTINGS: ReadonlySet<string> = new Set(
  (
    'journal_sectors interleave_sectors buffer_sectors journal_watermark commit_time bitmap_flush_interval ' +
    'sectors_per_bit allow_discards'
  ).split(' '),
);

const READERS: ReadonlyMap<string, Reader> = new Map<string, Reader>([
  ['striped', readStriped],
  // LVM2 never writes this name, and reads it.
  ['linear', readStriped],
  ['mirror', readMirror],
  ['raid0', readRaid0],
  ...RAID_TYPES.split(' ').map((type): [string, Reader] => [type, readRaid]),
  ['snapshot', readSnapshot],
  ['thin-pool', readThinPool],
  ['thin', readThin],
  ['cache-pool', readCachePool],
  ['cache', readCache],
  ['writecache', readWritecache],
  ['vdo', readVdo],
  ['vdo-pool', readVdoPool],
  ['integrity', readIntegrity],
  ['error', (_fields, common) => ({ ...common, type: 'error' })],
  ['zero', (_fields, common) => ({ ...common, type: 'zero' })],
]);

/** Reads one segment section; `what` names it in errors. */
export function readSegment(section: ConfigSection, what: string, where: Fields['where']): Segment {
  const fields = new Fields(section.children, what, where);
  const { name, flags } = splitSegmentType(fields.string('type'));
  const reshapeCount = fields.optionalInt('reshape_count', U32);
  const common = {
    startExtent: fields.int('start_extent', U32),
    extentCount: fields.int('extent_count', { min: 1, max: MAX_U32 }),
    tags: fields.optionalStrings('tags') ?? [],
    typeFlags: flags,
    ...(reshapeCount === undefined ? NOTHING : { reshapeCount }),
  };
  const reader = READERS.get(name);
  const known: Known = reader ? reader(fields, common, name) : { ...common, type: 'unknown', typeName: name };
  return { ...known, extra: fields.rest() };
}

const NOTHING = {};

/** An object with the key only if there is a value, for exactOptionalPropertyTypes. */
export function optional<Key extends string, Value>(
  key: Key,
  value: Value | undefined,
): { readonly [K in Key]?: Value } {
  // The compiler doesn't see that a computed key of type Key makes exactly this object.
  return (value === undefined ? {} : { [key]: value }) as { readonly [K in Key]?: Value };
}

function readStriped(fields: Fields, common: Common): Known {
  const areas = readAreas(fields, 'stripes', 'stripe_count');
  const stripeSizeSectors =
    areas.length === 1 ? fields.optionalInt('stripe_size', U32) : fields.int('stripe_size', { min: 1, max: MAX_U32 });
  if (stripeSizeSectors === undefined) return { ...common, type: 'striped', areas };
  return { ...common, type: 'striped', stripeSizeSectors, areas };
}

/** An array of name, extent pairs whose number another field repeats. */
function readAreas(fields: Fields, key: string, countKey: string): readonly SegmentArea[] {
  const count = fields.int(countKey, { min: 1, max: MAX_U32 });
  const items = fields.items(key);
  if (items.length !== count * 2) {
    throw fields.fail('INCONSISTENT', key, {
      expected: `${count} pairs of name and extent`,
      actual: `${items.length} items`,
    });
  }
  const areas: SegmentArea[] = [];
  for (let at = 0; at < items.length; at += 2) {
    const name = items[at];
    const extent = items[at + 1];
    if (
      (name?.kind !== 'string' && name?.kind !== 'word') ||
      extent?.kind !== 'int' ||
      extent.value < 0 ||
      extent.value > MAX_U32
    ) {
      throw fields.fail('BAD_FIELD', key, { expected: 'pairs of a name and an extent' });
    }
    areas.push({ name: name.value, extent: extent.value });
  }
  return areas;
}

function readMirror(fields: Fields, common: Common): Known {
  const areas = readAreas(fields, 'mirrors', 'mirror_count');
  const mirrorLog = fields.optionalString('mirror_log');
  const regionSizeSectors = fields.optionalInt('region_size', U32);
  if (mirrorLog !== undefined && !regionSizeSectors) throw fields.fail('MISSING_FIELD', 'region_size', {});
  return {
    ...common,
    type: 'mirror',
    ...optional('extentsMoved', fields.optionalInt('extents_moved', U32)),
    ...optional('mirrorLog', mirrorLog),
    ...optional('regionSizeSectors', regionSizeSectors),
    areas,
  };
}

function readRaid0(fields: Fields, common: Common): Known {
  const images = fields.strings('raid0_lvs');
  requireCount(fields, 'raid0_lvs', images.length);
  return { ...common, type: 'raid0', stripeSizeSectors: fields.int('stripe_size', { min: 1, max: MAX_U32 }), images };
}

function readRaid(fields: Fields, common: Common, raidType: string): Known {
  const images = raidImages(fields);
  requireCount(fields, 'raids', images.length);
  return {
    ...common,
    type: 'raid',
    raidType,
    ...optional('dataCopies', fields.optionalInt('data_copies', U32)),
    ...optional('regionSizeSectors', fields.optionalInt('region_size', U32)),
    ...optional('stripeSizeSectors', fields.optionalInt('stripe_size', U32)),
    ...optional('writeBehind', fields.optionalInt('writebehind', U32)),
    ...optional('minRecoveryRate', fields.optionalInt('min_recovery_rate', U32)),
    ...optional('maxRecoveryRate', fields.optionalInt('max_recovery_rate', U32)),
    ...optional('dataOffset', fields.optionalInt('data_offset', U32)),
    images,
  };
}

/** Pairs: a name with "_rmeta_" in it is the metadata half of the next one, as LVM2 tells them apart. */
function raidImages(fields: Fields): RaidSegment['images'] {
  const images: { readonly metadata?: string; readonly data: string }[] = [];
  let metadata: string | undefined;
  for (const name of fields.strings('raids')) {
    if (metadata === undefined && name.includes('_rmeta_')) {
      metadata = name;
    } else {
      images.push({ ...optional('metadata', metadata), data: name });
      metadata = undefined;
    }
  }
  if (metadata !== undefined) {
    throw fields.fail('INCONSISTENT', 'raids', { problem: `metadata volume ${metadata} without its data volume` });
  }
  return images;
}

/** RAID segments count their images as device_count or, for raid0, stripe_count; LVM2 reads either. */
function requireCount(fields: Fields, key: string, actual: number): void {
  const devices = fields.optionalInt('device_count', U32);
  const stripes = fields.optionalInt('stripe_count', U32);
  if (devices !== undefined && stripes !== undefined) {
    throw fields.fail('INCONSISTENT', 'device_count', {
      problem: 'only one of device_count and stripe_count is allowed',
    });
  }
  const expected = devices ?? stripes;
  if (expected === undefined) throw fields.fail('MISSING_FIELD', 'device_count', {});
  if (expected !== actual || actual === 0)
    throw fields.fail('INCONSISTENT', key, { expected: `${expected} images`, actual });
}

function readSnapshot(fields: Fields, common: Common): Known {
  const merging = fields.optionalString('merging_store');
  const cow = fields.optionalString('cow_store');
  if (merging !== undefined && cow !== undefined) {
    throw fields.fail('INCONSISTENT', 'cow_store', { problem: 'only one of cow_store and merging_store is allowed' });
  }
  const cowStore = merging ?? cow;
  if (cowStore === undefined) throw fields.fail('MISSING_FIELD', 'cow_store', {});
  return {
    ...common,
    type: 'snapshot',
    chunkSizeSectors: fields.int('chunk_size', { min: 1, max: MAX_U32 }),
    origin: fields.string('origin'),
    cowStore,
    merging: merging !== undefined,
  };
}

function readThinPool(fields: Fields, common: Common): Known {
  return {
    ...common,
    type: 'thin-pool',
    metadata: fields.string('metadata'),
    pool: fields.string('pool'),
    transactionId: fields.int('transaction_id'),
    chunkSizeSectors: fields.int('chunk_size', THIN_CHUNK_SECTORS),
    ...optional('discards', oneOf(fields, 'discards', DISCARDS)),
    zeroNewBlocks: (fields.optionalInt('zero_new_blocks', U32) ?? 0) !== 0,
    ...optional('cropMetadata', fields.optionalInt('crop_metadata', U32)),
    messages: fields.takeSections().map((section) => readMessage(fields, section)),
  };
}

function readMessage(pool: Fields, section: ConfigSection): ThinPoolMessage {
  const fields = new Fields(section.children, `thin pool ${section.key}`, pool.where);
  const create = fields.optionalString('create');
  const remove = create === undefined ? fields.optionalInt('delete', U32) : undefined;
  const message = { ...optional('create', create), ...optional('delete', remove) };
  if (Object.keys(message).length !== 1 || fields.rest().length > 0) {
    throw pool.fail('BAD_FIELD', section.key, { expected: 'a message: create = "name" or delete = id' });
  }
  return message;
}

function oneOf(fields: Fields, key: string, words: readonly string[]): string | undefined {
  const word = fields.optionalString(key);
  if (word === undefined || words.includes(word)) return word;
  throw fields.fail('BAD_FIELD', key, { expected: words.join(', '), actual: JSON.stringify(word) });
}

function readThin(fields: Fields, common: Common): Known {
  return {
    ...common,
    type: 'thin',
    thinPool: fields.string('thin_pool'),
    transactionId: fields.int('transaction_id'),
    deviceId: fields.int('device_id', { max: MAX_THIN_DEVICE_ID }),
    ...optional('externalOrigin', fields.optionalString('external_origin')),
    ...optional('origin', fields.optionalString('origin')),
    ...optional('merge', fields.optionalString('merge')),
  };
}

function readCacheSettings(fields: Fields): CacheSettings {
  const settings = fields.section('policy_settings')?.children ?? [];
  const policy = fields.optionalString('policy');
  if (settings.length > 0 && policy === undefined) {
    throw fields.fail('MISSING_FIELD', 'policy', { problem: 'policy_settings need a policy' });
  }
  return {
    ...optional('metadataFormat', fields.optionalInt('metadata_format', { min: 1, max: 2 })),
    ...optional('chunkSizeSectors', fields.optionalInt('chunk_size', U32)),
    ...optional('cacheMode', oneOf(fields, 'cache_mode', CACHE_MODES)),
    ...optional('policy', policy),
    ...(settings.length > 0 ? { policySettings: settings } : {}),
  };
}

function readCachePool(fields: Fields, common: Common): Known {
  const data = fields.string('data');
  return { ...common, type: 'cache-pool', data, metadata: fields.string('metadata'), ...readCacheSettings(fields) };
}

function readCache(fields: Fields, common: Common): Known {
  const metadataStart = fields.optionalInt('metadata_start');
  // With a cachevol, the four numbers come together.
  const whole = (key: string): number | undefined =>
    metadataStart === undefined ? fields.optionalInt(key) : fields.int(key);
  return {
    ...common,
    type: 'cache',
    cachePool: fields.string('cache_pool'),
    origin: fields.string('origin'),
    ...optional('cleaner', fields.optionalInt('cleaner', U32)),
    ...readCacheSettings(fields),
    ...optional('metadataStart', metadataStart),
    ...optional('metadataLen', whole('metadata_len')),
    ...optional('dataStart', whole('data_start')),
    ...optional('dataLen', whole('data_len')),
    ...optional('metadataId', fields.optionalUuid('metadata_id')),
    ...optional('dataId', fields.optionalUuid('data_id')),
  };
}

function readWritecache(fields: Fields, common: Common): Known {
  return {
    ...common,
    type: 'writecache',
    writecache: fields.string('writecache'),
    origin: fields.string('origin'),
    blockSizeBytes: fields.int('writecache_block_size', U32),
    settings: fields.assignments(WRITECACHE_SETTINGS),
  };
}

function readVdo(fields: Fields, common: Common): Known {
  return { ...common, type: 'vdo', vdoPool: fields.string('vdo_pool'), vdoOffset: fields.int('vdo_offset', U32) };
}

function readVdoPool(fields: Fields, common: Common): Known {
  return { ...common, type: 'vdo-pool', data: fields.string('data'), settings: fields.assignments(VDO_POOL_SETTINGS) };
}

function readIntegrity(fields: Fields, common: Common): Known {
  return {
    ...common,
    type: 'integrity',
    origin: fields.string('origin'),
    dataSectors: fields.int('data_sectors'),
    ...optional('mode', fields.optionalString('mode')),
    ...optional('tagSize', fields.optionalInt('tag_size', U32)),
    ...optional('blockSizeBytes', fields.optionalInt('block_size', U32)),
    ...optional('internalHash', fields.optionalString('internal_hash')),
    ...optional('metaDev', fields.optionalString('meta_dev')),
    ...optional('recalculate', fields.optionalInt('recalculate', U32)),
    settings: fields.assignments(INTEGRITY_SETTINGS),
  };
}
