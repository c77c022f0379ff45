/**
 * lvdisplay's forms of one LV: the full block, the line of colons, and the block of a removed LV.
 *
 * Source: lvdisplay(8), compared byte by byte with LVM2 2.03.16 on inactive LVs of every type.
 */
import { relationsOf, type LvFacts } from '../../lvm/relations.ts';
import type { VolumeGroup } from '../../lvm/model.ts';
import { servedStatus } from '../../lvm/served.ts';
import { snapshotPercent, type SnapshotStatus } from '../../lvm/snapshot-status.ts';
import type { HistoricalLogicalVolumeText, LogicalVolumeText, Segment } from '../../ondisk/metadata.ts';
import { formatPercent } from '../report/cell.ts';
import { isLvWritable, LvKind, lvPolicy } from '../report/fields/lv-attr.ts';
import { removedName } from '../report/fields/lv-lineage.ts';
import { lvPath } from '../report/fields/lv-names.ts';
import { partialLvs } from '../report/fields/usage.ts';
import { type Display, timeText } from './lines.ts';

/** Columns of keys in blocks about LVs. */
export const LV_KEY_WIDTH = 23;

export interface LvView {
  readonly group: VolumeGroup;
  readonly facts: LvFacts;
}

export function lvView(group: VolumeGroup, lv: LogicalVolumeText): LvView | null {
  const facts = relationsOf(group.vg).lvs.get(lv.name);
  return facts === undefined ? null : { group, facts };
}

/** "0", "auto" or sectors. */
function readAheadText(lv: LogicalVolumeText): string {
  return lv.readAhead === undefined ? 'auto' : String(Math.max(lv.readAhead, 0));
}

function showName(display: Display, { group, facts }: LvView): void {
  if (facts.visible) {
    const path = lvPath(group, facts);
    if (path !== null) display.pair(display.fullPaths ? 'LV Name' : 'LV Path', path);
    if (path === null || !display.fullPaths) display.pair('LV Name', facts.name);
  } else {
    display.pair('Internal LV Name', facts.name);
  }
  display.pair('VG Name', group.vg.name);
  display.pair('LV UUID', facts.lv.id);
  display.pair('LV Write Access', isLvWritable(facts.lv) ? 'read/write' : 'read only');
  display.pair('LV Creation host, time', `${facts.lv.creationHost ?? ''}, ${timeText(facts.lv.creationTime)}`);
}

/** What the LV is to snapshots. */
function showSnapshots(display: Display, { group, facts }: LvView): void {
  const word = (cow: string): string => (snapshotOf(group, cow)?.state === 'valid' ? 'active' : 'INACTIVE');
  if (facts.snapshots.length > 0) {
    display.pair('LV snapshot status', 'source of');
    for (const { cow } of facts.snapshots) display.print(`${' '.repeat(LV_KEY_WIDTH)}${cow} [${word(cow)}]`);
  } else if (facts.snapshot !== null) {
    display.pair('LV snapshot status', `${word(facts.name)} destination for ${facts.snapshot.origin}`);
  }
}

/** What a snapshot says of itself; null: it is not active. */
function snapshotOf(group: VolumeGroup, cow: string): SnapshotStatus | null {
  const lv = group.vg.logicalVolumes.find(({ name }) => name === cow);
  return lv === undefined ? null : (servedStatus(group, lv)?.snapshot ?? null);
}

/** Names of pools, origins and parts of pools. */
function showParts(display: Display, { facts }: LvView): void {
  const segment = facts.lv.segments[0];
  for (const [key, value] of segment === undefined ? [] : partsOf(segment)) {
    if (value !== undefined) display.pair(key, value);
  }
  for (const use of facts.usedBy) {
    if (use.kind === 'cache-origin') display.pair('LV origin of Cache LV', use.user);
    if (use.segment.type === 'thin' && use.segment.merge === facts.name) display.pair('LV merged with', use.user);
  }
}

/** LVs that a segment names, with what they are called. */
function partsOf(segment: Segment): readonly (readonly [string, string | undefined])[] {
  if (segment.type === 'thin') {
    return [
      ['LV Pool name', segment.thinPool],
      ['LV Thin origin name', segment.origin],
      ['LV External origin name', segment.externalOrigin],
      ['LV merging to', segment.merge],
    ];
  }
  if (segment.type === 'thin-pool' || segment.type === 'cache-pool') {
    return [
      ['LV Pool metadata', segment.metadata],
      ['LV Pool data', segment.type === 'thin-pool' ? segment.pool : segment.data],
    ];
  }
  if (segment.type === 'vdo-pool') return [['LV VDO Pool data', segment.data]];
  return segment.type === 'vdo' ? [['LV VDO Pool name', segment.vdoPool]] : [];
}

/** Extents that the user sees: a COW snapshot has as many as its origin. */
function shownExtents({ group, facts }: LvView): number {
  const origin = facts.snapshot === null ? undefined : relationsOf(group.vg).lvs.get(facts.snapshot.origin);
  return (origin ?? facts).sizeExtents;
}

function showSizes(display: Display, view: LvView): void {
  const { group, facts } = view;
  const extents = shownExtents(view);
  display.pair('LV Size', display.size(extents * group.vg.extentSizeSectors));
  display.pair('Current LE', extents);
  if (facts.snapshot !== null) {
    display.pair('COW-table size', display.size(facts.sizeSectors));
    display.pair('COW-table LE', facts.sizeExtents);
    const status = snapshotOf(group, facts.name);
    const percent = status?.state === 'valid' ? snapshotPercent(status) : null;
    if (percent !== null) display.pair('Allocated to snapshot', `${formatPercent(percent)}%`);
    display.pair('Snapshot chunk size', display.size(facts.snapshot.segment.chunkSizeSectors));
  }
  const copies = mirrorCount(facts.lv);
  if (copies !== null) display.pair('Mirrored volumes', copies);
  if (new LvKind(group, facts).conversionLayer !== null) display.print('LV type        Mirror undergoing conversion');
}

function showState(display: Display, { group, facts }: LvView): void {
  const status = servedStatus(group, facts.lv);
  const partial = partialLvs(group).has(facts.name) ? ' (partial)' : '';
  display.pair(
    'LV Status',
    status?.suspended === true ? 'suspended' : `${status === null ? 'NOT ' : ''}available${partial}`,
  );
  if (status !== null) display.pair('# open', status.openCount);
}

/** Legs of mirrors, raid1 and raid10; null for others. */
function mirrorCount(lv: LogicalVolumeText): number | null {
  const segment = lv.segments[0];
  if (segment?.type === 'mirror') return segment.areas.length;
  if (segment?.type !== 'raid') return null;
  return /^raid10?(?:_|$)/.test(segment.raidType) && segment.raidType !== 'raid0_meta' ? segment.images.length : null;
}

/** The block of keys and values. */
export function showLv(display: Display, view: LvView): void {
  const { facts } = view;
  const { lv } = facts;
  display.title('Logical volume');
  showName(display, view);
  showSnapshots(display, view);
  showParts(display, view);
  showState(display, view);
  showSizes(display, view);
  display.pair('Segments', lv.segments.length);
  display.pair('Allocation', lvPolicy(lv));
  display.pair('Read ahead sectors', readAheadText(lv));
  if (lv.status.includes('FIXED_MINOR')) {
    if (lv.major !== undefined) display.pair('Persistent major', lv.major);
    display.pair('Persistent minor', lv.minor ?? -1);
  }
  display.blank();
}

/** One line of fields separated by colons. -1 stands for what LVM1 had, or for what only a kernel knows. */
export function showLvColons(display: Display, { group, facts }: LvView): void {
  const { lv } = facts;
  const access = (lv.status.includes('READ') ? 1 : 0) | (isLvWritable(lv) ? 2 : 0);
  const contiguous = lv.allocationPolicy === 'contiguous' ? 2 : 0;
  const readAhead = lv.readAhead === undefined ? -1 : Math.max(lv.readAhead, 0);
  const status = servedStatus(group, lv);
  display.print(
    [
      `/dev/${group.vg.name}/${facts.name}`,
      group.vg.name,
      access,
      status === null ? 0 : 1,
      -1,
      status?.openCount ?? 0,
      facts.sizeSectors,
      facts.sizeExtents,
      -1,
      contiguous,
      readAhead,
      -1,
      -1,
    ].join(':'),
  );
}

export function showRemovedLv(display: Display, group: VolumeGroup, removed: HistoricalLogicalVolumeText): void {
  display.title('Historical Logical volume');
  display.pair('LV Name', `-${removedName(removed)}`);
  display.pair('VG Name', group.vg.name);
  display.pair('LV UUID', removed.id);
  display.pair('LV Creation time', timeText(removed.creationTime));
  display.pair('LV Removal time', timeText(removed.removalTime));
  display.blank();
}

export function showRemovedLvColons(display: Display, group: VolumeGroup, removed: HistoricalLogicalVolumeText): void {
  display.print(`/dev/${group.vg.name}/${removedName(removed)}:${group.vg.name}:0:0:-1:0:0:0:-1:0:0:-1:-1`);
}
