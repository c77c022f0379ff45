/**
 * lvdisplay -m: what each segment of an LV is made of.
 *
 * LVM2 writes a line with one blank after most segment types, and none after others (error, zero, writecache, integrity, VDO);
 * scripts that split on it depend on that.
 *
 * Source: compared byte by byte with lvdisplay -m of LVM2 2.03.16 for every segment type.
 */
import { areaExtents } from '../../lvm/references.ts';
import { relationsOf, segmentTypeName } from '../../lvm/relations.ts';
import type { VolumeGroup } from '../../lvm/model.ts';
import type {
  ConfigAssignment,
  LogicalVolumeText,
  MirrorSegment,
  Raid0Segment,
  RaidSegment,
  Segment,
  SegmentArea,
  StripedSegment,
  ThinPoolSegment,
  VdoPoolSegment,
} from '../../ondisk/metadata.ts';
import { UNKNOWN_DEVICE } from '../report/fields/pv.ts';
import { pvByLabel } from '../report/fields/segment-areas.ts';
import { cacheSettings, dataStripes, settingWords } from '../report/fields/segment.ts';
import type { Display } from './lines.ts';

const SECTOR = 512;
const SECTORS_PER_MIB = 2048;

/** A segment's lines under its heading. */
class SegmentLines {
  readonly display: Display;
  readonly group: VolumeGroup;
  constructor(display: Display, group: VolumeGroup) {
    this.display = display;
    this.group = group;
  }

  /** A key, tabs up to the third stop for short keys, a value. */
  pair(key: string, value: string | number, tabs = 1): void {
    this.display.print(`  ${key}${'\t'.repeat(tabs)}${value}`);
  }

  /** Where an area lies; `indent` is LVM2's for it. */
  area(area: SegmentArea, count: number, indent: string): void {
    const isPv = relationsOf(this.group.vg).pvs.has(area.name);
    const path = isPv ? (pvByLabel(this.group, area.name)?.found?.device.path ?? UNKNOWN_DEVICE) : area.name;
    const kind = isPv ? 'Physical' : 'Logical';
    this.display.print(`${indent}${kind} volume\t${path}`);
    this.display.print(`${indent}${kind} extents\t${area.extent} to ${area.extent + count - 1}`);
  }
}

/** The segments of an LV, each under a line with its extents. */
export function showSegments(display: Display, group: VolumeGroup, lv: LogicalVolumeText): void {
  display.title('Segments');
  const virtual = lv.segments.some((segment) => ['error', 'zero', 'thin', 'vdo', 'unknown'].includes(segment.type));
  const lines = new SegmentLines(display, group);
  for (const segment of lv.segments) {
    const last = segment.startExtent + segment.extentCount - 1;
    display.print(`${virtual ? 'Virtual' : 'Logical'} extents ${segment.startExtent} to ${last}:`);
    lines.pair('Type', segmentTypeName(segment), 2);
    showSegment(lines, segment);
  }
  display.blank();
}

function showSegment(lines: SegmentLines, segment: Segment): void {
  switch (segment.type) {
    case 'striped':
      showStriped(lines, segment);
      break;
    case 'mirror':
      showMirror(lines, segment);
      break;
    case 'raid0':
    case 'raid':
      showRaid(lines, segment);
      break;
    case 'thin-pool':
      showThinPool(lines, segment);
      break;
    case 'thin':
      lines.pair('Device ID', segment.deviceId, 2);
      break;
    case 'cache-pool':
    case 'cache':
      showCache(lines, segment);
      break;
    case 'vdo-pool':
      showVdoPool(lines, segment);
      return;
    case 'vdo':
      lines.area({ name: segment.vdoPool, extent: segment.vdoOffset }, segment.extentCount, '    ');
      return;
    case 'snapshot':
    case 'writecache':
    case 'integrity':
    case 'error':
    case 'zero':
    case 'unknown':
      return;
  }
  lines.display.blank();
}

function showStriped(lines: SegmentLines, segment: StripedSegment): void {
  const count = areaExtents(segment);
  const [only, ...others] = segment.areas;
  if (only !== undefined && others.length === 0) {
    lines.area(only, count, '  ');
    return;
  }
  lines.pair('Stripes', segment.areas.length, 2);
  lines.pair('Stripe size', lines.display.size(segment.stripeSizeSectors ?? 0), 2);
  for (const [index, area] of segment.areas.entries()) {
    lines.display.print(`  Stripe ${index}:`);
    lines.area(area, count, '    ');
  }
}

function showMirror(lines: SegmentLines, segment: MirrorSegment): void {
  const { display } = lines;
  const [original, ...destinations] = segment.areas;
  lines.pair('Monitoring', '', 2);
  lines.pair('Mirrors', segment.areas.length, 2);
  lines.pair('Mirror size', segment.extentCount, 2);
  if (segment.mirrorLog !== undefined) lines.pair('Mirror log volume', segment.mirrorLog);
  if (segment.regionSizeSectors !== undefined)
    lines.pair('Mirror region size', display.size(segment.regionSizeSectors));
  display.print('  Mirror original:');
  if (original !== undefined) lines.area(original, segment.extentCount, '    ');
  display.print('  Mirror destinations:');
  for (const area of destinations) lines.area(area, segment.extentCount, '    ');
}

function showRaid(lines: SegmentLines, segment: RaidSegment | Raid0Segment): void {
  const images = segment.type === 'raid0' ? segment.images : segment.images.map((image) => image.data);
  // raid1 and raid10 images are counted with the length of the whole segment.
  const copies = segment.type === 'raid' && /^raid10?(?:_|$)/.test(segment.raidType);
  const stripes = copies || (segment.type === 'raid' && segment.raidType === 'raid1') ? 1 : dataStripes(segment);
  const count = Math.ceil(segment.extentCount / Math.max(stripes, 1));
  lines.pair('Monitoring', '', 2);
  for (const [index, name] of images.entries()) {
    lines.display.print(`  Raid Data LV ${index}`);
    lines.area({ name, extent: 0 }, count, '    ');
  }
  const metadata = segment.type === 'raid0' ? [] : segment.images.map((image) => image.metadata);
  for (const [index, name] of metadata.entries()) if (name !== undefined) lines.pair(`Raid Metadata LV ${index}`, name);
}

function showThinPool(lines: SegmentLines, segment: ThinPoolSegment): void {
  const pool = [...relationsOf(lines.group.vg).lvs.values()].find((facts) => facts.lv.segments.includes(segment));
  lines.pair('Monitoring', '', 2);
  lines.pair('Chunk size', lines.display.size(segment.chunkSizeSectors), 2);
  lines.pair('Discards', segment.discards ?? 'passdown', 2);
  lines.pair('Thin count', pool?.usedBy.filter((use) => use.kind === 'thin-pool').length ?? 0, 2);
  lines.pair('Transaction ID', segment.transactionId);
  lines.pair('Zero new blocks', segment.zeroNewBlocks ? 'yes' : 'no');
}

function showCache(lines: SegmentLines, segment: Segment): void {
  const settings = cacheSettings(lines.group, segment);
  if (settings === null) return;
  const { chunkSizeSectors, metadataFormat, cacheMode, policy } = settings;
  if (chunkSizeSectors !== undefined) lines.pair('Chunk size', lines.display.size(chunkSizeSectors), 2);
  if (metadataFormat !== undefined && metadataFormat !== 0) lines.pair('Metadata format', metadataFormat);
  if (cacheMode !== undefined) lines.pair('Mode', cacheMode, 2);
  if (policy !== undefined) lines.pair('Policy', policy, 2);
  for (const word of settingWords(settings.policySettings ?? [])) lines.pair('  Setting', word, 2);
}

/** A setting of a VDO pool as a number; 0 if it is absent or no number. */
function vdoNumber(settings: readonly ConfigAssignment[], key: string): number {
  const value = settings.find((node) => node.key === key)?.value;
  return value !== undefined && value.kind === 'int' ? value.value : 0;
}

function vdoPolicy(settings: readonly ConfigAssignment[]): string {
  const value = settings.find((node) => node.key === 'write_policy')?.value;
  return value?.kind === 'string' ? value.value : 'auto';
}

function showVdoPool(lines: SegmentLines, { settings }: VdoPoolSegment): void {
  const { display, group } = lines;
  const number = (key: string): number => vdoNumber(settings, key);
  const yes = (key: string): string => (number(key) === 1 ? 'yes' : 'no');
  const mebibytes = (key: string): string => display.size(number(key) * SECTORS_PER_MIB);
  const header = number('header_size');
  lines.pair('Monitoring', '', 2);
  // The header lies before the data and once more behind it.
  lines.pair('Virtual size', display.size(number('virtual_extents') * group.vg.extentSizeSectors + 2 * header));
  lines.pair('Header size', display.size(header), 2);
  lines.pair('Compression', yes('use_compression'), 2);
  lines.pair('Deduplication', yes('use_deduplication'));
  lines.pair('Metadata hints', yes('use_metadata_hints'));
  lines.pair('Minimum IO size', display.size(number('minimum_io_size') / SECTOR));
  lines.pair('Block map cache sz', mebibytes('block_map_cache_size_mb'));
  lines.pair('Block map era length', number('block_map_era_length'));
  lines.pair('Sparse index', yes('use_sparse_index'));
  lines.pair('Index memory size', mebibytes('index_memory_size_mb'));
  lines.pair('Slab size', mebibytes('slab_size_mb'), 2);
  lines.pair('# Ack threads', number('ack_threads'));
  lines.pair('# Bio threads', number('bio_threads'));
  lines.pair('Bio rotation', number('bio_rotation'));
  lines.pair('# CPU threads', number('cpu_threads'));
  lines.pair('# Hash zone threads', number('hash_zone_threads'));
  lines.pair('# Logical threads', number('logical_threads'));
  lines.pair('# Physical threads', number('physical_threads'));
  lines.pair('Max discard', number('max_discard'));
  lines.pair('Write policy', vdoPolicy(settings));
}
