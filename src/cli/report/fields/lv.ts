/**
 * The logical volume fields of reports: state, sizes. Names are in lv-names.ts, what ties an LV to others in lv-links.ts, what only a
 * running kernel could tell in lv-live.ts.
 *
 * Source: `lvs -o help`, and values compared field by field with LVM2 2.03.16 on every kind of LV.
 */
import { lvLayout, lvRoles } from '../../../lvm/layout.ts';
import { servedStatus } from '../../../lvm/served.ts';
import type { IntegritySegment, LogicalVolumeText, RaidSegment, Segment } from '../../../ondisk/metadata.ts';
import type { ReportField, ReportRow } from '../field.ts';
import { blank, fieldsOf } from './define.ts';
import { isLocked, lvPolicy, LvKind } from './lv-attr.ts';
import { LINEAGE_FIELDS, LINK_FIELDS, ORIGIN_FIELDS } from './lv-links.ts';
import { NAME_FIELDS } from './lv-names.ts';
import { lvField, lvRow, type LvRow } from './lv-row.ts';
import { lvModules } from './lv-modules.ts';
import { dataStripes } from './segment.ts';

const make = fieldsOf('lv');

/** DM_READ_AHEAD_AUTO: what "auto" sorts as. */
const AUTO = { text: 'auto', value: 4294967295 } as const;

/** lv_layout, with LVM2's "unknown" for a mirror that is the image of another one while that is converted. */
function layoutOf({ group, facts }: LvRow): readonly string[] {
  const layer = facts.lv.segments[0]?.type === 'mirror' && new LvKind(group, facts).isMirrorImage;
  return layer ? ['unknown'] : lvLayout(facts);
}

/** An origin that a COW snapshot is merged into, or a snapshot that is merged. */
function isMerging({ group, facts }: LvRow): boolean {
  const kind = new LvKind(group, facts);
  return kind.isMergingOrigin || kind.isMergingCow || kind.isMergingThin;
}

/** Mirrors and raids that were not created with --nosync; linear LVs have nothing to sync. */
function wasSynced({ facts }: LvRow): boolean {
  const type = facts.lv.segments[0]?.type;
  return (type === 'mirror' || type === 'raid' || type === 'raid0') && !facts.lv.status.includes('NOTSYNCED');
}

function whenFull({ facts }: LvRow): string | null {
  if (facts.lv.segments[0]?.type !== 'thin-pool') return null;
  return facts.lv.flags.includes('ERROR_WHEN_FULL') ? 'error' : 'queue';
}

const STATE_FIELDS: readonly ReportField[] = [
  make(
    'lv_layout',
    'Layout',
    'string-list',
    'LV layout.',
    (row) => {
      if (row.historical !== null) return ['none'];
      const lv = lvRow(row);
      return lv === null ? ['unknown'] : layoutOf(lv);
    },
    { width: 10, unsorted: true },
  ),
  make(
    'lv_role',
    'Role',
    'string-list',
    'LV role.',
    (row) => {
      if (row.historical !== null) return ['public', 'history'];
      const lv = lvRow(row);
      return lv === null ? ['public'] : lvRoles(lv.relations, lv.facts);
    },
    { width: 10, unsorted: true },
  ),
  lvField(
    'lv_initial_image_sync',
    'InitImgSync',
    'binary',
    'Set if mirror/RAID images underwent initial resynchronization.',
    wasSynced,
    false,
    { words: ['initial image sync', 'sync'], width: 10 },
  ),
  lvField('lv_image_synced', 'ImgSynced', 'binary', 'Set if mirror/RAID image is synchronized.', () => false, false, {
    words: ['image synced', 'synced'],
    width: 10,
  }),
  lvField('lv_merging', 'Merging', 'binary', 'Set if snapshot LV is being merged to origin.', isMerging, false, {
    words: ['merging'],
    width: 10,
  }),
  lvField(
    'lv_converting',
    'Converting',
    'binary',
    'Set if LV is being converted.',
    ({ group, facts }) => new LvKind(group, facts).conversionLayer !== null,
    false,
    { words: ['converting'], width: 10 },
  ),
  lvField(
    'lv_allocation_policy',
    'AllocPol',
    'string',
    'LV allocation policy.',
    ({ facts }) => lvPolicy(facts.lv),
    'unknown',
    { width: 10 },
  ),
  lvField(
    'lv_allocation_locked',
    'AllocLock',
    'binary',
    'Set if LV is locked against allocation changes.',
    ({ facts }) => isLocked(facts.lv),
    false,
    { words: ['allocation locked', 'locked'], width: 10 },
  ),
  lvField(
    'lv_fixed_minor',
    'FixMin',
    'binary',
    'Set if LV has fixed minor number assigned.',
    ({ facts }) => hasFixedMinor(facts.lv),
    false,
    { words: ['fixed minor', 'fixed'], width: 10 },
  ),
  lvField(
    'lv_skip_activation',
    'SkipAct',
    'binary',
    'Set if LV is skipped on activation.',
    ({ facts }) => facts.lv.flags.includes('ACTIVATION_SKIP'),
    false,
    { words: ['skip activation', 'skip'], width: 15 },
  ),
  lvField(
    'lv_autoactivation',
    'AutoAct',
    'binary',
    'Set if LV autoactivation is enabled.',
    ({ facts }) => !facts.lv.flags.includes('NOAUTOACTIVATE'),
    true,
    { words: ['enabled'] },
  ),
  lvField('lv_when_full', 'WhenFull', 'string', 'For thin pools, behavior when full.', whenFull, null, { width: 15 }),
  lvField('lv_active', 'Active', 'string', 'Active state of the LV.', (lv) => (isActive(lv) ? 'active' : '')),
  activeField('lv_active_locally', 'ActLocal', 'Set if the LV is active locally.', isActive, [
    'active locally',
    'active',
    'locally',
  ]),
  activeField('lv_active_remotely', 'ActRemote', 'Set if the LV is active remotely.', () => false, [
    'active remotely',
    'active',
    'remotely',
  ]),
  activeField('lv_active_exclusively', 'ActExcl', 'Set if the LV is active exclusively.', isActive, [
    'active exclusively',
    'active',
    'exclusively',
  ]),
];

/** Served by the daemon that runs the command; without one nothing is. */
function isActive({ group, facts }: LvRow): boolean {
  return servedStatus(group, facts.lv) !== null;
}

function activeField(
  id: string,
  heading: string,
  description: string,
  value: (lv: LvRow) => boolean,
  words: readonly string[],
): ReportField {
  return lvField(id, heading, 'binary', description, value, false, { words, width: 10 });
}

function hasFixedMinor(lv: LogicalVolumeText): boolean {
  return lv.status.includes('FIXED_MINOR');
}

/** Size of the metadata LV of a pool, or of the metadata part of a cachevol; null: neither. */
function metadataSize({ relations, facts }: LvRow): number | null {
  const segment = facts.lv.segments[0];
  if (segment?.type === 'cache') return segment.metadataLen ?? null;
  if (segment?.type !== 'thin-pool' && segment?.type !== 'cache-pool') return null;
  return relations.lvs.get(segment.metadata)?.sizeSectors ?? null;
}

/** What an LV shows to its users: the room that a raid keeps for reshaping is none of it. */
export function lvSizeSectors({ group, facts }: Pick<LvRow, 'group' | 'facts'>): number {
  const hidden = facts.lv.segments.reduce((sum, segment) => sum + reshapeExtents(segment) * dataStripes(segment), 0);
  return facts.sizeSectors - hidden * group.vg.extentSizeSectors;
}

function reshapeExtents(segment: Segment): number {
  return segment.type === 'raid' ? (segment.reshapeCount ?? 0) : 0;
}

const SIZE_FIELDS: readonly ReportField[] = [
  lvField(
    'lv_major',
    'Maj',
    'number',
    'Persistent major number or -1 if not persistent.',
    ({ facts }) => (hasFixedMinor(facts.lv) ? (facts.lv.major ?? -1) : -1),
    -1,
  ),
  lvField(
    'lv_minor',
    'Min',
    'number',
    'Persistent minor number or -1 if not persistent.',
    ({ facts }) => (hasFixedMinor(facts.lv) ? (facts.lv.minor ?? -1) : -1),
    -1,
  ),
  lvField(
    'lv_read_ahead',
    'Rahead',
    'size',
    'Read ahead setting in current units.',
    ({ facts }) => {
      const { readAhead } = facts.lv;
      return readAhead === undefined ? AUTO : Math.max(readAhead, 0);
    },
    0,
    { reserved: [{ names: ['auto'], value: AUTO.value }] },
  ),
  lvField('lv_size', 'LSize', 'size', 'Size of LV in current units.', lvSizeSectors, 0),
  lvField(
    'lv_metadata_size',
    'MSize',
    'size',
    'For thin and cache pools, the size of the LV that holds the metadata.',
    metadataSize,
  ),
  make('seg_count', '#Seg', 'number', 'Number of segments in LV.', (row) => {
    return row.lv?.segments.length ?? (row.historical === null ? 0 : 1);
  }),
];

/** The LV's raid segment, if that is what it is. */
function raidOf({ facts }: LvRow): RaidSegment | null {
  const segment = facts.lv.segments[0];
  return segment?.type === 'raid' ? segment : null;
}

/** Its own integrity segment, or that of the first image of a raid. */
function integrityOf(lv: LvRow): IntegritySegment | null {
  const own = lv.facts.lv.segments[0];
  if (own?.type === 'integrity') return own;
  const images = own?.type === 'raid' ? own.images : [];
  for (const image of images) {
    const segment = lv.relations.lvs.get(image.data)?.lv.segments[0];
    if (segment?.type === 'integrity') return segment;
  }
  return null;
}

const INTEGRITY_MODES: Readonly<Record<string, string>> = { J: 'journal', B: 'bitmap', D: 'direct', R: 'recovery' };

/** A setting that is absent when 0. */
function positive(value: number | undefined): number | null {
  return value === undefined || value === 0 ? null : value;
}

const RAID_FIELDS: readonly ReportField[] = [
  lvField('raid_mismatch_count', 'Mismatches', 'number', 'For RAID, number of mismatches found or repaired.', blank),
  lvField(
    'raid_sync_action',
    'SyncAction',
    'string',
    'For RAID, the current synchronization action being performed.',
    blank,
  ),
  lvField(
    'raid_write_behind',
    'WBehind',
    'number',
    'For RAID1, the number of outstanding writes allowed to writemostly devices.',
    (lv) => positive(raidOf(lv)?.writeBehind),
  ),
  lvField(
    'raid_min_recovery_rate',
    'MinSync',
    'number',
    'For RAID1, the minimum recovery I/O load in kiB/sec/disk.',
    (lv) => positive(raidOf(lv)?.minRecoveryRate),
  ),
  lvField(
    'raid_max_recovery_rate',
    'MaxSync',
    'number',
    'For RAID1, the maximum recovery I/O load in kiB/sec/disk.',
    (lv) => positive(raidOf(lv)?.maxRecoveryRate),
  ),
  lvField('raidintegritymode', 'IntegMode', 'string', 'The integrity mode', (lv) => {
    const mode = integrityOf(lv)?.mode;
    return mode === undefined ? null : (INTEGRITY_MODES[mode] ?? mode);
  }),
  lvField(
    'raidintegrityblocksize',
    'IntegBlkSize',
    'number',
    'The integrity block size',
    (lv) => integrityOf(lv)?.blockSizeBytes ?? -1,
    -1,
  ),
  lvField('integritymismatches', 'IntegMismatches', 'number', 'The number of integrity mismatches.', blank),
];

/** Seconds at which a row's LV was made; 0: not known. */
function creationTime(row: ReportRow): number {
  return row.lv?.creationTime ?? row.historical?.creationTime ?? 0;
}

const HISTORY_FIELDS: readonly ReportField[] = [
  lvField('lv_tags', 'LV Tags', 'string-list', 'Tags, if any.', ({ facts }) => facts.lv.tags),
  lvField('lv_profile', 'LProfile', 'string', 'Configuration profile attached to this LV.', ({ facts }) => {
    return facts.lv.profile ?? null;
  }),
  lvField(
    'lv_lockargs',
    'LLockArgs',
    'string',
    'Lock args of the LV used by lvmlockd.',
    ({ facts }) => facts.lv.lockArgs ?? null,
  ),
  make('lv_time', 'CTime', 'time', 'Creation time of the LV, if known', creationTime, { width: 26 }),
  make(
    'lv_time_removed',
    'RTime',
    'time',
    'Removal time of the LV, if known',
    (row) => row.historical?.removalTime ?? 0,
    { width: 26 },
  ),
  lvField(
    'lv_host',
    'Host',
    'string',
    'Creation host of the LV, if known.',
    ({ facts }) => facts.lv.creationHost ?? null,
    null,
    {
      width: 10,
    },
  ),
  lvField(
    'lv_modules',
    'Modules',
    'string-list',
    'Kernel device-mapper modules required for this LV.',
    ({ relations, facts }) => lvModules(relations, facts.name),
  ),
  make('lv_historical', 'Historical', 'binary', 'Set if the LV is historical.', (row) => row.historical !== null, {
    words: ['historical'],
    width: 10,
  }),
  lvField(
    'writecache_block_size',
    'WCacheBlkSize',
    'number',
    'The writecache block size',
    ({ facts }) => {
      const segment = facts.lv.segments[0];
      return segment?.type === 'writecache' ? segment.blockSizeBytes : -1;
    },
    -1,
  ),
];

export const LV_FIELDS: readonly ReportField[] = [
  ...NAME_FIELDS,
  ...STATE_FIELDS,
  ...SIZE_FIELDS,
  ...ORIGIN_FIELDS,
  ...LINEAGE_FIELDS,
  ...RAID_FIELDS,
  ...LINK_FIELDS,
  ...HISTORY_FIELDS,
];
