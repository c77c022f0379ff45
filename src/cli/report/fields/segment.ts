/**
 * The segment fields of reports, but for those of VDO pools (vdo.ts). Rows without a segment (free extents, removed LVs) show
 * LVM2's dummy segment: zeros, and 4294967295 parity chunks.
 *
 * Thin volumes and caches answer for their pool: its discards, zeroing, chunk size, cache mode and policy.
 *
 * Source: `lvs --segments -o help`, and values compared field by field with LVM2 2.03.16 for every segment type.
 */
import { relationsOf, segmentTypeName } from '../../../lvm/relations.ts';
import type { VolumeGroup } from '../../../lvm/model.ts';
import type {
  CachePoolSegment,
  CacheSegment,
  ConfigNode,
  LogicalVolumeText,
  Segment,
  ThinPoolSegment,
} from '../../../ondisk/metadata.ts';
import type { FieldType, FieldValue, ReportContext, ReportField, ReportRow } from '../field.ts';
import { blank, fieldsOf, type FieldOptions } from './define.ts';
import { dataAreas, deviceList, logicalRanges, metadataAreas, physicalRanges } from './segment-areas.ts';

const make = fieldsOf('seg');

/** A segment in its LV and VG. */
export interface SegmentPlace {
  readonly group: VolumeGroup;
  readonly lv: LogicalVolumeText;
  readonly segment: Segment;
}

export function segmentPlace(row: ReportRow): SegmentPlace | null {
  const { vg: group, lv, segment } = row;
  return group === null || lv === null || segment === null ? null : { group, lv, segment };
}

/** A field of the segment; `none` is what rows without one show. */
function segField(
  id: string,
  heading: string,
  type: FieldType,
  description: string,
  value: (place: SegmentPlace, context: ReportContext) => FieldValue,
  none: FieldValue = null,
  options: FieldOptions = {},
): ReportField {
  const valueOf = (row: ReportRow, context: ReportContext): FieldValue => {
    const place = segmentPlace(row);
    return place === null ? none : value(place, context);
  };
  return make(id, heading, type, description, valueOf, options);
}

/** 10 of raid10, 5 of raid5_ls; null: no raid with redundancy. */
function raidLevel(segment: Segment): number | null {
  if (segment.type !== 'raid' || segment.raidType.startsWith('raid0')) return null;
  return Number(/^raid(10|\d)/.exec(segment.raidType)?.[1] ?? 1);
}

/** Copies that each block has, its parity counted as copies. */
function dataCopies(segment: Segment): number {
  const level = raidLevel(segment);
  if (level === null || segment.type !== 'raid') return 1;
  if (level === 1) return segment.images.length;
  if (level === 10) return segment.dataCopies ?? 2;
  return level === 6 ? 3 : 2;
}

/** Areas that hold data rather than parity or copies. */
export function dataStripes(segment: Segment): number {
  const areas = dataAreas(segment).length;
  const level = raidLevel(segment);
  if (level === null || level === 1) return areas;
  return level === 10 ? Math.floor(areas / dataCopies(segment)) : areas - (dataCopies(segment) - 1);
}

function isReshapable(segment: Segment | undefined): boolean {
  return segment !== undefined && (raidLevel(segment) ?? 0) > 1;
}

/** Raid levels that can be reshaped, and the images of such LVs, keep room for it; null: no such room. */
function reshapeExtents({ group, lv, segment }: SegmentPlace): number | null {
  if (isReshapable(segment)) return (segment.reshapeCount ?? 0) * dataAreas(segment).length;
  const image = relationsOf(group.vg)
    .lvs.get(lv.name)
    ?.usedBy.find((use) => use.kind === 'raid-image');
  return isReshapable(image?.segment) ? (segment.reshapeCount ?? 0) : null;
}

function stripeSize(segment: Segment): number {
  if (segment.type !== 'striped' && segment.type !== 'raid0' && segment.type !== 'raid') return 0;
  return segment.stripeSizeSectors ?? 0;
}

function regionSize(segment: Segment): number {
  return segment.type === 'mirror' || segment.type === 'raid' ? (segment.regionSizeSectors ?? 0) : 0;
}

function firstSegment(group: VolumeGroup, name: string): Segment | undefined {
  return relationsOf(group.vg).lvs.get(name)?.lv.segments[0];
}

/** The thin pool that a segment is, or that it lies in. */
function thinPool({ group, segment }: SegmentPlace): ThinPoolSegment | null {
  const pool = segment.type === 'thin' ? firstSegment(group, segment.thinPool) : segment;
  return pool?.type === 'thin-pool' ? pool : null;
}

/** Where a cache's settings are: in its pool, or in itself if it uses a cachevol. */
export function cacheSettings(group: VolumeGroup, segment: Segment): CachePoolSegment | CacheSegment | null {
  if (segment.type === 'cache-pool') return segment;
  if (segment.type !== 'cache') return null;
  const pool = firstSegment(group, segment.cachePool);
  return pool?.type === 'cache-pool' ? pool : segment;
}

function chunkSize(place: SegmentPlace): number {
  const { group, lv, segment } = place;
  const snapshot = relationsOf(group.vg).lvs.get(lv.name)?.snapshot;
  if (snapshot !== null && snapshot !== undefined) return snapshot.segment.chunkSizeSectors;
  if (segment.type === 'thin-pool') return segment.chunkSizeSectors;
  return cacheSettings(group, segment)?.chunkSizeSectors ?? 0;
}

function thinCount({ group, lv, segment }: SegmentPlace): number | null {
  if (segment.type !== 'thin-pool') return null;
  return (
    relationsOf(group.vg)
      .lvs.get(lv.name)
      ?.usedBy.filter((use) => use.kind === 'thin-pool').length ?? 0
  );
}

/** A thin LV that a snapshot is merged into already answers for that snapshot. */
function mergedThin({ group, lv, segment }: SegmentPlace): Segment {
  const uses = relationsOf(group.vg).lvs.get(lv.name)?.usedBy ?? [];
  const merging = uses.find((use) => use.segment.type === 'thin' && use.segment.merge === lv.name);
  return merging?.segment ?? segment;
}

/** "key=value" of the settings in a section or list; subsections have no such form. */
export function settingWords(nodes: readonly ConfigNode[]): readonly string[] {
  return nodes.flatMap((node) => {
    if (node.node === 'section' || node.value.kind === 'array') return [];
    const text = node.value.kind === 'float' ? node.value.text : String(node.value.value);
    return [`${node.key}=${text}`];
  });
}

function settingsOf({ group, segment }: SegmentPlace): readonly string[] {
  if (segment.type === 'writecache') return settingWords(segment.settings);
  return settingWords(cacheSettings(group, segment)?.policySettings ?? []);
}

const SHAPE_FIELDS: readonly ReportField[] = [
  make('segtype', 'Type', 'string', 'Type of LV segment.', (row) => {
    if (row.historical !== null) return 'historical';
    return row.segment === null ? 'free' : segmentTypeName(row.segment);
  }),
  segField(
    'stripes',
    '#Str',
    'number',
    'Number of stripes or mirror/raid1 legs.',
    ({ segment }) => dataAreas(segment).length,
    0,
  ),
  segField(
    'data_stripes',
    '#DStr',
    'number',
    'Number of data stripes or mirror/raid1 legs.',
    ({ segment }) => dataStripes(segment),
    0,
  ),
  segField('reshape_len', 'RSize', 'size', 'Size of out-of-place reshape space in current units.', (place) => {
    const extents = reshapeExtents(place);
    return extents === null ? null : extents * place.group.vg.extentSizeSectors;
  }),
  segField(
    'reshape_len_le',
    'RSize',
    'number',
    'Size of out-of-place reshape space in logical extents.',
    reshapeExtents,
  ),
  segField('data_copies', '#Cpy', 'number', 'Number of data copies.', ({ segment }) => dataCopies(segment)),
  segField('data_offset', 'DOff', 'number', 'Data offset on each image device.', blank),
  segField('new_data_offset', 'NOff', 'number', 'New data offset after any reshape on each image device.', blank),
  segField(
    'parity_chunks',
    '#Par',
    'number',
    'Number of (rotating) parity chunks.',
    ({ segment }) => (raidLevel(segment) === null ? null : dataCopies(segment) - 1),
    4294967295,
  ),
  segField(
    'stripe_size',
    'Stripe',
    'size',
    'For stripes, amount of data placed on one device before switching to the next.',
    ({ segment }) => stripeSize(segment),
    0,
  ),
  segField(
    'region_size',
    'Region',
    'size',
    'For mirrors/raids, the unit of data per leg when synchronizing devices.',
    ({ segment }) => regionSize(segment),
    0,
  ),
  segField('chunk_size', 'Chunk', 'size', 'For snapshots, the unit of data used when tracking changes.', chunkSize, 0),
];

const POOL_FIELDS: readonly ReportField[] = [
  segField('thin_count', '#Thins', 'number', 'For thin pools, the number of thin volumes in this pool.', thinCount),
  segField('discards', 'Discards', 'string', 'For thin pools, how discards are handled.', (place) => {
    const pool = thinPool(place);
    return pool === null ? null : (pool.discards ?? 'passdown');
  }),
  segField('cache_metadata_format', 'CMFmt', 'number', 'For cache, metadata format in use.', ({ group, segment }) => {
    const format = cacheSettings(group, segment)?.metadataFormat ?? 0;
    return format === 0 ? null : format;
  }),
  segField(
    'cache_mode',
    'CacheMode',
    'string',
    'For cache, how writes are cached.',
    ({ group, segment }) => cacheSettings(group, segment)?.cacheMode ?? null,
  ),
  segField(
    'zero',
    'Zero',
    'binary',
    'For thin pools and volumes, if zeroing is enabled.',
    (place) => thinPool(place)?.zeroNewBlocks ?? null,
    null,
    { words: ['zero'] },
  ),
  segField(
    'transaction_id',
    'TransId',
    'number',
    'For thin pools, the transaction id and creation transaction id for thins.',
    (place) => {
      const segment = mergedThin(place);
      return segment.type === 'thin-pool' || segment.type === 'thin' ? segment.transactionId : null;
    },
  ),
  segField('thin_id', 'ThId', 'number', 'For thin volume, the thin device id.', (place) => {
    const segment = mergedThin(place);
    return segment.type === 'thin' ? segment.deviceId : null;
  }),
];

const PLACE_FIELDS: readonly ReportField[] = [
  segField(
    'seg_start',
    'Start',
    'size',
    'Offset within the LV to the start of the segment in current units.',
    ({ group, segment }) => segment.startExtent * group.vg.extentSizeSectors,
    0,
  ),
  segField(
    'seg_start_pe',
    'Start',
    'number',
    'Offset within the LV to the start of the segment in physical extents.',
    ({ segment }) => segment.startExtent,
    0,
  ),
  make('seg_size', 'SSize', 'size', 'Size of segment in current units.', (row) => {
    return segmentExtents(row) * (row.vg?.vg.extentSizeSectors ?? 0);
  }),
  make('seg_size_pe', 'SSize', 'number', 'Size of segment in physical extents.', segmentExtents),
  segField('seg_tags', 'Seg Tags', 'string-list', 'Tags, if any.', ({ segment }) => segment.tags),
  segField(
    'seg_pe_ranges',
    'PE Ranges',
    'string-list',
    'Ranges of Physical Extents of underlying devices in command line format (deprecated, use seg_le_ranges for common format).',
    ({ group, segment }) => physicalRanges(group, segment, dataAreas(segment)),
    null,
    { unsorted: true, delimiter: ' ' },
  ),
  segField(
    'seg_le_ranges',
    'LE Ranges',
    'string-list',
    'Ranges of Logical Extents of underlying devices in command line format.',
    ({ group, segment }, context) => logicalRanges(group, segment, dataAreas(segment), context.markHidden),
    null,
    { unsorted: true },
  ),
  segField(
    'seg_metadata_le_ranges',
    'Metadata LE Ranges',
    'string-list',
    'Ranges of Logical Extents of underlying metadata devices in command line format.',
    ({ group, segment }, context) => logicalRanges(group, segment, metadataAreas(segment), context.markHidden),
    null,
    { unsorted: true },
  ),
  segField(
    'devices',
    'Devices',
    'string-list',
    'Underlying devices used with starting extent numbers.',
    ({ group, segment }) => deviceList(group, segment, dataAreas(segment)),
    null,
    { unsorted: true },
  ),
  segField(
    'metadata_devices',
    'Metadata Devs',
    'string-list',
    'Underlying metadata devices used with starting extent numbers.',
    ({ group, segment }) => deviceList(group, segment, metadataAreas(segment)),
    null,
    { unsorted: true },
  ),
  segField('seg_monitor', 'Monitor', 'string', 'Dmeventd monitoring status of the segment.', blank),
  segField(
    'cache_policy',
    'CachePolicy',
    'string',
    'The cache policy (cached segments only).',
    ({ group, segment }) => cacheSettings(group, segment)?.policy ?? null,
  ),
  segField(
    'cache_settings',
    'CacheSettings',
    'string-list',
    'Cache settings/parameters (cached segments only).',
    settingsOf,
    null,
    { unsorted: true },
  ),
];

/** Extents of a row's segment: free extents have theirs too. */
function segmentExtents(row: ReportRow): number {
  return row.segment?.extentCount ?? row.pvSegment?.count ?? 0;
}

export const SEGMENT_FIELDS: readonly ReportField[] = [...SHAPE_FIELDS, ...POOL_FIELDS, ...PLACE_FIELDS];
