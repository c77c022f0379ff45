/**
 * The LV fields that LVM2 asks the kernel for: device numbers, percentages, statistics. Here no LV is a device-mapper device, so
 * most say what LVM2 says of an inactive LV. Health follows from the metadata; state and permissions are the daemon's word, if one
 * runs the command.
 *
 * Source: `lvs -o help`; values of inactive LVs under LVM2 2.03.16.
 */
import type { LiveStatus } from '../../../lvm/live.ts';
import { isPvmove } from '../../../lvm/relations.ts';
import { snapshotPercent, type SnapshotStatus } from '../../../lvm/snapshot-status.ts';
import { servedStatus } from '../../../lvm/served.ts';
import type { FieldType, FieldValue, ReportField, ReportRow, SectionId } from '../field.ts';
import { blank, fieldsOf, type FieldOptions } from './define.ts';
import { isLvWritable, lvAttr, lvHealth } from './lv-attr.ts';
import { lvRow } from './lv-row.ts';

const info = fieldsOf('lv-info');
const status = fieldsOf('lv-status');

/** A yes/no that nobody can answer. */
function unknown(
  section: SectionId,
  id: string,
  heading: string,
  description: string,
  width: number,
  words: readonly string[],
): ReportField {
  return fieldsOf(section)(id, heading, 'binary', description, blank, { words, width });
}

/** The daemon's word on the LV of a row; null: it is not active. */
function statusOf(row: ReportRow): LiveStatus | null {
  const lv = lvRow(row);
  return lv === null ? null : servedStatus(lv.group, lv.facts.lv);
}

/** A yes or no that only somebody who serves the LV can answer. */
function live(
  id: string,
  heading: string,
  description: string,
  width: number,
  words: readonly string[],
  value: (status: LiveStatus) => boolean,
): ReportField {
  const valueOf = (row: ReportRow): FieldValue => {
    const status = statusOf(row);
    return status === null ? null : value(status);
  };
  return info(id, heading, 'binary', description, valueOf, { words, width });
}

/** "-1", which sorts as undefined. */
const NONE = { text: '-1', value: null } as const;

export const LV_INFO_FIELDS: readonly ReportField[] = [
  info('lv_kernel_major', 'KMaj', 'number', 'Currently assigned major number or -1 if LV is not active.', () => -1),
  info('lv_kernel_minor', 'KMin', 'number', 'Currently assigned minor number or -1 if LV is not active.', () => -1),
  info('lv_kernel_read_ahead', 'KRahead', 'size', 'Currently-in-use read ahead setting in current units.', () => NONE),
  info(
    'lv_permissions',
    'LPerms',
    'string',
    'LV permissions.',
    (row) => {
      const lv = lvRow(row)?.facts.lv;
      if (lv === undefined) return 'unknown';
      if (isPvmove(lv)) return null;
      if (!isLvWritable(lv)) return 'read-only';
      const status = statusOf(row);
      return status === null ? 'unknown' : status.readOnly ? 'read-only-override' : 'writeable';
    },
    {
      width: 8,
      reserved: [
        { names: ['writeable', 'rw', 'read-write'], value: 'writeable' },
        { names: ['read-only', 'r', 'ro'], value: 'read-only' },
        { names: ['read-only-override', 'ro-override', 'r-override', 'R'], value: 'read-only-override' },
      ],
    },
  ),
  live('lv_suspended', 'Suspended', 'Set if LV is suspended.', 10, ['suspended'], ({ suspended }) => suspended),
  live(
    'lv_live_table',
    'LiveTable',
    'Set if LV has live table present.',
    20,
    ['live table present', 'live table', 'live'],
    () => true,
  ),
  live(
    'lv_inactive_table',
    'InactiveTable',
    'Set if LV has inactive table present.',
    20,
    ['inactive table present', 'inactive table', 'inactive'],
    ({ inactiveTable }) => inactiveTable,
  ),
  live('lv_device_open', 'DevOpen', 'Set if LV device is open.', 10, ['open'], ({ openCount }) => openCount > 0),
];

/** A field of which an inactive LV has none. */
function silent(
  id: string,
  heading: string,
  type: FieldType,
  description: string,
  options: FieldOptions = {},
): ReportField {
  return status(id, heading, type, description, blank, options);
}
function count(id: string, heading: string, description: string, width = 0): ReportField {
  return silent(id, heading, 'number', description, { width });
}

/** Of an active COW snapshot, or an origin that takes one in. */
function snapPercent(row: ReportRow): number | null {
  const snapshot = statusOf(row)?.snapshot;
  return snapshot === undefined ? null : snapshotPercent(snapshot);
}

/** Of a move that is served. */
function syncPercent(id: string): ReportField {
  const description = 'For Cache, RAID, mirrors and pvmove, current percentage in-sync.';
  return status(id, 'Cpy%Sync', 'percent', description, (row) => {
    const copied = statusOf(row)?.copied;
    return copied === undefined ? null : (100 * copied.doneBytes) / copied.totalBytes;
  });
}

/** A yes or no about an active COW snapshot. */
function ofSnapshot(
  id: string,
  heading: string,
  description: string,
  words: readonly string[],
  state: SnapshotStatus['state'],
): ReportField {
  const valueOf = (row: ReportRow): FieldValue => {
    const snapshot = statusOf(row)?.snapshot;
    return snapshot === undefined ? null : snapshot.state === state;
  };
  return status(id, heading, 'binary', description, valueOf, { words, width: 15 });
}

const PERCENT_FIELDS: readonly ReportField[] = [
  status(
    'data_percent',
    'Data%',
    'percent',
    'For snapshot, cache and thin pools and volumes, the percentage full if LV is active.',
    snapPercent,
    { width: 6 },
  ),
  status('snap_percent', 'Snap%', 'percent', 'For snapshots, the percentage full if LV is active.', snapPercent, {
    width: 6,
  }),
  silent(
    'metadata_percent',
    'Meta%',
    'percent',
    'For cache and thin pools, the percentage of metadata full if LV is active.',
    { width: 6 },
  ),
  syncPercent('copy_percent'),
  syncPercent('sync_percent'),
];

const CACHE_FIELDS: readonly ReportField[] = [
  count('cache_total_blocks', 'CacheTotalBlocks', 'Total cache blocks.', 16),
  count('cache_used_blocks', 'CacheUsedBlocks', 'Used cache blocks.', 16),
  count('cache_dirty_blocks', 'CacheDirtyBlocks', 'Dirty cache blocks.', 16),
  count('cache_read_hits', 'CacheReadHits', 'Cache read hits.', 16),
  count('cache_read_misses', 'CacheReadMisses', 'Cache read misses.', 16),
  count('cache_write_hits', 'CacheWriteHits', 'Cache write hits.', 16),
  count('cache_write_misses', 'CacheWriteMisses', 'Cache write misses.', 16),
  silent(
    'kernel_cache_settings',
    'KCacheSettings',
    'string-list',
    'Cache settings/parameters as set in kernel, including default values (cached segments only).',
    { width: 18 },
  ),
  silent('kernel_cache_policy', 'KCachePolicy', 'string', 'Cache policy used in kernel.', { width: 18 }),
  silent('kernel_metadata_format', 'KMFmt', 'number', 'Cache metadata format used in kernel.'),
];

const HEALTH_FIELDS: readonly ReportField[] = [
  status(
    'lv_health_status',
    'Health',
    'string',
    'LV health status.',
    (row) => {
      const lv = lvRow(row);
      return lv === null ? null : lvHealth(lv.group, lv.facts);
    },
    { width: 15 },
  ),
  silent('kernel_discards', 'KDiscards', 'string', 'For thin pools, how discards are handled in kernel.'),
  unknown(
    'lv-status',
    'lv_check_needed',
    'CheckNeeded',
    'For thin pools and cache volumes, whether metadata check is needed.',
    15,
    ['check needed', 'needed'],
  ),
  ofSnapshot(
    'lv_merge_failed',
    'MergeFailed',
    'Set if snapshot merge failed.',
    ['merge failed', 'failed'],
    'merge-failed',
  ),
  ofSnapshot(
    'lv_snapshot_invalid',
    'SnapInvalid',
    'Set if snapshot LV is invalid.',
    ['snapshot invalid', 'invalid'],
    'invalid',
  ),
];

const VDO_FIELDS: readonly ReportField[] = [
  silent('vdo_operating_mode', 'VDOOperatingMode', 'string', 'For vdo pools, its current operating mode.'),
  silent('vdo_compression_state', 'VDOCompressionState', 'string', 'For vdo pools, whether compression is running.'),
  silent('vdo_index_state', 'VDOIndexState', 'string', 'For vdo pools, state of index for deduplication.'),
  silent('vdo_used_size', 'VDOUsedSize', 'size', 'For vdo pools, currently used space.'),
  silent('vdo_saving_percent', 'VDOSaving%', 'percent', 'For vdo pools, percentage of saved space.'),
];

const WRITECACHE_FIELDS: readonly ReportField[] = [
  count('writecache_total_blocks', 'WCacheTotalBlocks', 'Total writecache blocks.'),
  count('writecache_free_blocks', 'WCacheFreeBlocks', 'Total writecache free blocks.'),
  count('writecache_writeback_blocks', 'WCacheWritebackBlocks', 'Total writecache writeback blocks.'),
  count('writecache_error', 'WCacheErrors', 'Total writecache errors.'),
];

export const LV_STATUS_FIELDS: readonly ReportField[] = [
  ...PERCENT_FIELDS,
  ...CACHE_FIELDS,
  ...HEALTH_FIELDS,
  ...VDO_FIELDS,
  ...WRITECACHE_FIELDS,
];

/** lv_attr needs device information and status at once, which is a section of its own. */
export const LV_ATTR_FIELDS: readonly ReportField[] = [
  fieldsOf('lv-info-status')('lv_attr', 'Attr', 'string', 'Various attributes - see man page.', (row): FieldValue => {
    if (row.historical !== null) return '----h-----';
    const lv = lvRow(row);
    return lv === null ? null : lvAttr(lv.group, lv.facts);
  }),
];
