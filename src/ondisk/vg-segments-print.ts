/**
 * Segments as LVM2 writes them: its order of fields, its blank lines, its comments (formats/lvm2.md §2.8; lvm2: the
 * text_export of lib/{striped,mirror,raid,snapshot,thin,cache_segtype,writecache,vdo,integrity}).
 *
 * Invariant: reading what was printed gives the same value. A field that isn't there is not printed, whether or not LVM2
 * would always write it: the model decides.
 */
import { configLines, keyText, quoted, scalarText } from './config-print.ts';
import type {
  CachePoolSegment,
  CacheSegment,
  CacheSettings,
  ConfigAssignment,
  ConfigNode,
  IntegritySegment,
  MirrorSegment,
  RaidSegment,
  Segment,
  SegmentArea,
  StripedSegment,
  ThinPoolSegment,
  ThinSegment,
  VdoPoolSegment,
} from './metadata.ts';
import type { TextWriter } from './text-writer.ts';

/** Settings of a VDO pool whose comment is a size: sectors per unit of the value. */
const VDO_SIZES: Readonly<Record<string, number>> = {
  header_size: 1,
  block_map_cache_size_mb: 2048,
  index_memory_size_mb: 2048,
  slab_size_mb: 2048,
};

/** Prints the section of one segment; `number` counts from 1. */
export function printSegment(out: TextWriter, segment: Segment, number: number, extentSize: number): void {
  out.open(`segment${number} {`);
  out.line(`start_extent = ${segment.startExtent}`);
  out.size(`extent_count = ${segment.extentCount}`, segment.extentCount * extentSize);
  out.blank();
  if (segment.reshapeCount !== undefined) {
    out.size(`reshape_count = ${segment.reshapeCount}`, segment.reshapeCount * extentSize);
  }
  out.line(`type = ${quoted([typeName(segment), ...segment.typeFlags].join('+'))}`);
  printStrings(out, 'tags', segment.tags);
  printFields(out, segment, extentSize);
  printExtra(out, segment.extra);
  out.close('}');
}

/** The type as the text says it, without its "+FLAG" suffixes. */
function typeName(segment: Segment): string {
  if (segment.type === 'raid') return segment.raidType;
  return segment.type === 'unknown' ? segment.typeName : segment.type;
}

function printFields(out: TextWriter, segment: Segment, extentSize: number): void {
  switch (segment.type) {
    case 'striped':
      return printStriped(out, segment);
    case 'mirror':
      return printMirror(out, segment, extentSize);
    case 'raid0':
      out.line(`stripe_count = ${segment.images.length}`);
      out.line(`stripe_size = ${segment.stripeSizeSectors}`);
      return printArray(out, 'raid0_lvs', segment.images.map(quoted));
    case 'raid':
      return printRaid(out, segment);
    case 'snapshot':
      out.line(`chunk_size = ${segment.chunkSizeSectors}`);
      out.line(`origin = ${quoted(segment.origin)}`);
      return out.line(`${segment.merging ? 'merging_store' : 'cow_store'} = ${quoted(segment.cowStore)}`);
    case 'thin-pool':
      return printThinPool(out, segment);
    case 'thin':
      return printThin(out, segment);
    case 'cache-pool':
      return printCachePool(out, segment);
    case 'cache':
      return printCache(out, segment);
    case 'writecache':
      out.line(`writecache = ${quoted(segment.writecache)}`);
      out.line(`origin = ${quoted(segment.origin)}`);
      out.line(`writecache_block_size = ${segment.blockSizeBytes}`);
      return printSettings(out, segment.settings);
    case 'vdo':
      out.line(`vdo_pool = ${quoted(segment.vdoPool)}`);
      return out.line(`vdo_offset = ${segment.vdoOffset}`);
    case 'vdo-pool':
      return printVdoPool(out, segment, extentSize);
    case 'integrity':
      return printIntegrity(out, segment);
    case 'error':
    case 'zero':
    case 'unknown':
  }
}

function printStriped(out: TextWriter, segment: StripedSegment): void {
  out.line(`stripe_count = ${segment.areas.length}`, segment.areas.length === 1 ? '# linear' : undefined);
  if (segment.stripeSizeSectors !== undefined) {
    out.size(`stripe_size = ${segment.stripeSizeSectors}`, segment.stripeSizeSectors);
  }
  printArray(out, 'stripes', segment.areas.map(areaText));
}

function areaText(area: SegmentArea): string {
  return `${quoted(area.name)}, ${area.extent}`;
}

function printMirror(out: TextWriter, segment: MirrorSegment, extentSize: number): void {
  out.line(`mirror_count = ${segment.areas.length}`);
  if (segment.extentsMoved !== undefined) {
    out.size(`extents_moved = ${segment.extentsMoved}`, segment.extentsMoved * extentSize);
  }
  printString(out, 'mirror_log', segment.mirrorLog);
  printInt(out, 'region_size', segment.regionSizeSectors);
  printArray(out, 'mirrors', segment.areas.map(areaText));
}

function printRaid(out: TextWriter, segment: RaidSegment): void {
  const countKey = segment.raidType === 'raid0_meta' ? 'stripe_count' : 'device_count';
  out.line(`${countKey} = ${segment.images.length}`);
  printInt(out, 'data_copies', segment.dataCopies);
  printInt(out, 'region_size', segment.regionSizeSectors);
  printInt(out, 'stripe_size', segment.stripeSizeSectors);
  printInt(out, 'writebehind', segment.writeBehind);
  printInt(out, 'min_recovery_rate', segment.minRecoveryRate);
  printInt(out, 'max_recovery_rate', segment.maxRecoveryRate);
  printInt(out, 'data_offset', segment.dataOffset);
  const images = segment.images.map(({ metadata, data }) =>
    metadata === undefined ? quoted(data) : `${quoted(metadata)}, ${quoted(data)}`,
  );
  printArray(out, 'raids', images);
}

function printThinPool(out: TextWriter, segment: ThinPoolSegment): void {
  out.line(`metadata = ${quoted(segment.metadata)}`);
  out.line(`pool = ${quoted(segment.pool)}`);
  out.line(`transaction_id = ${segment.transactionId}`);
  out.size(`chunk_size = ${segment.chunkSizeSectors}`, segment.chunkSizeSectors);
  printString(out, 'discards', segment.discards);
  if (segment.zeroNewBlocks) out.line('zero_new_blocks = 1');
  printInt(out, 'crop_metadata', segment.cropMetadata);
  segment.messages.forEach((message, index) => {
    if (index === 0) out.blank();
    out.open(`message${index + 1} {`);
    printString(out, 'create', message.create);
    printInt(out, 'delete', message.delete);
    out.close('}');
  });
}

function printThin(out: TextWriter, segment: ThinSegment): void {
  out.line(`thin_pool = ${quoted(segment.thinPool)}`);
  out.line(`transaction_id = ${segment.transactionId}`);
  out.line(`device_id = ${segment.deviceId}`);
  printString(out, 'external_origin', segment.externalOrigin);
  printString(out, 'origin', segment.origin);
  printString(out, 'merge', segment.merge);
}

function printCacheSettings(out: TextWriter, settings: CacheSettings): void {
  printInt(out, 'metadata_format', settings.metadataFormat);
  printInt(out, 'chunk_size', settings.chunkSizeSectors);
  printString(out, 'cache_mode', settings.cacheMode);
  printString(out, 'policy', settings.policy);
  if (settings.policySettings !== undefined) {
    printExtra(out, [{ node: 'section', key: 'policy_settings', children: settings.policySettings }]);
  }
}

function printCachePool(out: TextWriter, segment: CachePoolSegment): void {
  out.line(`data = ${quoted(segment.data)}`);
  out.line(`metadata = ${quoted(segment.metadata)}`);
  printCacheSettings(out, segment);
}

function printCache(out: TextWriter, segment: CacheSegment): void {
  out.line(`cache_pool = ${quoted(segment.cachePool)}`);
  out.line(`origin = ${quoted(segment.origin)}`);
  printInt(out, 'cleaner', segment.cleaner);
  printCacheSettings(out, segment);
  printInt(out, 'metadata_start', segment.metadataStart);
  printInt(out, 'metadata_len', segment.metadataLen);
  printInt(out, 'data_start', segment.dataStart);
  printInt(out, 'data_len', segment.dataLen);
  printString(out, 'metadata_id', segment.metadataId);
  printString(out, 'data_id', segment.dataId);
}

function printVdoPool(out: TextWriter, segment: VdoPoolSegment, extentSize: number): void {
  out.line(`data = ${quoted(segment.data)}`);
  for (const setting of segment.settings) {
    const { key, value } = setting;
    const unit = key === 'virtual_extents' ? extentSize : VDO_SIZES[key];
    if (unit !== undefined && value.kind === 'int') out.size(settingText(setting), value.value * unit);
    else out.line(settingText(setting));
    if (key === 'virtual_extents') out.blank();
  }
}

function printIntegrity(out: TextWriter, segment: IntegritySegment): void {
  out.line(`origin = ${quoted(segment.origin)}`);
  out.line(`data_sectors = ${segment.dataSectors}`);
  printString(out, 'mode', segment.mode);
  printInt(out, 'tag_size', segment.tagSize);
  printInt(out, 'block_size', segment.blockSizeBytes);
  printString(out, 'internal_hash', segment.internalHash);
  printString(out, 'meta_dev', segment.metaDev);
  printInt(out, 'recalculate', segment.recalculate);
  printSettings(out, segment.settings);
}

function printSettings(out: TextWriter, settings: readonly ConfigAssignment[]): void {
  for (const setting of settings) out.line(settingText(setting));
}

function settingText({ key, value }: ConfigAssignment): string {
  const text = value.kind === 'array' ? `[${value.items.map(scalarText).join(', ')}]` : scalarText(value);
  return `${keyText(key)} = ${text}`;
}

/** An array with one item to a line, after a blank line. */
function printArray(out: TextWriter, key: string, items: readonly string[]): void {
  out.blank();
  out.open(`${key} = [`);
  items.forEach((item, index) => out.line(index === items.length - 1 ? item : `${item},`));
  out.close(']');
}

export function printInt(out: TextWriter, key: string, value: number | undefined): void {
  if (value !== undefined) out.line(`${key} = ${value}`);
}

export function printString(out: TextWriter, key: string, value: string | undefined): void {
  if (value !== undefined) out.line(`${key} = ${quoted(value)}`);
}

/** A list of strings on one line; nothing if it is empty. */
export function printStrings(out: TextWriter, key: string, values: readonly string[]): void {
  if (values.length > 0) out.line(`${key} = [${values.map(quoted).join(', ')}]`);
}

/** What was kept without being understood. */
export function printExtra(out: TextWriter, nodes: readonly ConfigNode[]): void {
  for (const line of configLines(nodes)) out.line(line);
}
