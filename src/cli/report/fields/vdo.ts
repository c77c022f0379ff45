/**
 * The segment fields of VDO pools; VDO volumes answer for their pool. Everything is a setting of the pool's segment, which the
 * text keeps as key and value.
 *
 * Source: `lvs --segments -o help`; values compared with LVM2 2.03.16 on a restored text with a VDO pool.
 */
import { relationsOf } from '../../../lvm/relations.ts';
import type { VdoPoolSegment } from '../../../ondisk/metadata.ts';
import type { FieldType, FieldValue, ReportField } from '../field.ts';
import { fieldsOf, type FieldOptions } from './define.ts';
import { segmentPlace, type SegmentPlace } from './segment.ts';

const make = fieldsOf('seg');
const SECTORS_PER_MIB = 2048;
const SECTOR = 512;

function vdoPool(place: SegmentPlace | null): VdoPoolSegment | null {
  if (place === null) return null;
  const { group, segment } = place;
  const pool = segment.type === 'vdo' ? relationsOf(group.vg).lvs.get(segment.vdoPool)?.lv.segments[0] : segment;
  return pool?.type === 'vdo-pool' ? pool : null;
}

/** A pool's setting as number or string; null: absent. */
function setting(pool: VdoPoolSegment, key: string): number | string | null {
  const node = pool.settings.find((candidate) => candidate.key === key);
  return node === undefined || node.value.kind === 'array' ? null : node.value.value;
}

function vdoField(
  id: string,
  heading: string,
  type: FieldType,
  description: string,
  value: (pool: VdoPoolSegment) => FieldValue,
  none: FieldValue = null,
  options: FieldOptions = {},
): ReportField {
  return make(
    id,
    heading,
    type,
    description,
    (row) => {
      const pool = vdoPool(segmentPlace(row));
      return pool === null ? none : value(pool);
    },
    options,
  );
}

function flag(id: string, heading: string, description: string, key: string): ReportField {
  return vdoField(id, heading, 'binary', description, (pool) => setting(pool, key) === 1, false, {
    words: ['enabled'],
  });
}
function count(id: string, heading: string, description: string, key: string): ReportField {
  return vdoField(id, heading, 'number', description, (pool) => setting(pool, key));
}
/** A size that the text gives in units of `sectors`. */
function size(id: string, heading: string, description: string, key: string, sectors: number): ReportField {
  return vdoField(id, heading, 'size', description, (pool) => {
    const value = setting(pool, key);
    return typeof value === 'number' ? value * sectors : null;
  });
}

export const VDO_FIELDS: readonly ReportField[] = [
  flag('vdo_compression', 'VDOCompression', 'Set for compressed LV (vdopool).', 'use_compression'),
  flag('vdo_deduplication', 'VDODeduplication', 'Set for deduplicated LV (vdopool).', 'use_deduplication'),
  flag('vdo_use_metadata_hints', 'VDOMetadataHints', 'Use REQ_SYNC for writes (vdopool).', 'use_metadata_hints'),
  size(
    'vdo_minimum_io_size',
    'VDOMinimumIOSize',
    'Minimum acceptable IO size (vdopool).',
    'minimum_io_size',
    1 / SECTOR,
  ),
  size(
    'vdo_block_map_cache_size',
    'VDOBlockMapCacheSize',
    'Allocated caching size (vdopool).',
    'block_map_cache_size_mb',
    SECTORS_PER_MIB,
  ),
  count('vdo_block_map_era_length', 'VDOBlockMapEraLength', 'Speed of cache writes (vdopool).', 'block_map_era_length'),
  flag('vdo_use_sparse_index', 'VDOSparseIndex', 'Sparse indexing (vdopool).', 'use_sparse_index'),
  size(
    'vdo_index_memory_size',
    'VDOIndexMemorySize',
    'Allocated indexing memory (vdopool).',
    'index_memory_size_mb',
    SECTORS_PER_MIB,
  ),
  size('vdo_slab_size', 'VDOSlabSize', 'Increment size for growing (vdopool).', 'slab_size_mb', SECTORS_PER_MIB),
  count('vdo_ack_threads', 'VDOAckThreads', 'Acknowledging threads (vdopool).', 'ack_threads'),
  count('vdo_bio_threads', 'VDOBioThreads', 'IO submitting threads (vdopool).', 'bio_threads'),
  count('vdo_bio_rotation', 'VDOBioRotation', 'IO enqueue (vdopool).', 'bio_rotation'),
  count('vdo_cpu_threads', 'VDOCPUThreads', 'CPU threads for compression and hashing (vdopool).', 'cpu_threads'),
  count('vdo_hash_zone_threads', 'VDOHashZoneThreads', 'Threads for subdivide parts (vdopool).', 'hash_zone_threads'),
  count(
    'vdo_logical_threads',
    'VDOLogicalThreads',
    'Logical threads for subdivide parts (vdopool).',
    'logical_threads',
  ),
  count(
    'vdo_physical_threads',
    'VDOPhysicalThreads',
    'Physical threads for subdivide parts (vdopool).',
    'physical_threads',
  ),
  // "recieve" is how LVM2 spells it.
  count('vdo_max_discard', 'VDOMaxDiscard', 'Maximum discard size volume can recieve (vdopool).', 'max_discard'),
  vdoField('vdo_write_policy', 'VDOWritePolicy', 'string', 'Specified write policy (vdopool).', (pool) =>
    setting(pool, 'write_policy'),
  ),
  size('vdo_header_size', 'VDOHeaderSize', 'Header size at front of vdopool.', 'header_size', 1),
];
