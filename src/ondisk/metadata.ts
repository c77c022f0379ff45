/**
 * The volume group as LVM2's text metadata states it, as plain typed data: what `parseMetadataText` returns and
 * `printMetadataText` takes. Nothing here is derived: roles, sizes and free space belong to lvm/.
 *
 * Invariants
 *  - Every field of formats that LVM2 2.03 writes is a typed member; whatever else a text holds (unknown keys, sections,
 *    flags) is kept in `extra`, in order, and printed again. Nothing is dropped.
 *  - Numbers are safe integers. Sizes are in 512-byte sectors where LVM2 stores sectors, in extents where it stores extents.
 *  - Arrays keep the text's order. Uuids are in display form (6-4-4-4-4-4-6).
 *  - A value is never mutated once it was parsed: an edit makes a new one.
 *
 * Source: LVM2 lib/format_text/export.c, import_vsn1.c, lib/format_text/flags.c and the segment types' own text_export.
 */

/** A scalar or array as written in LVM2's configuration grammar. */
export type ConfigScalar =
  | { readonly kind: 'int'; readonly value: number }
  /** Also an integer of 2^53 or more: `text` is exact, `value` is not. */
  | { readonly kind: 'float'; readonly value: number; readonly text: string }
  | { readonly kind: 'string'; readonly value: string }
  /** An unquoted word used as a value. */
  | { readonly kind: 'word'; readonly value: string };
export type ConfigValue = ConfigScalar | { readonly kind: 'array'; readonly items: readonly ConfigScalar[] };

export interface ConfigAssignment {
  readonly node: 'value';
  readonly key: string;
  readonly value: ConfigValue;
}
export interface ConfigSection {
  readonly node: 'section';
  readonly key: string;
  readonly children: readonly ConfigNode[];
}
export type ConfigNode = ConfigAssignment | ConfigSection;

/** What a typed object did not recognise, in the text's order; printed after the known fields. */
interface Extensible {
  readonly extra: readonly ConfigNode[];
}

/** The fields outside the VG's section. */
export interface TextHeader {
  /** "Text Format Volume Group" */
  readonly contents: string;
  readonly version: number;
  readonly description: string;
  readonly creationHost?: string;
  readonly creationHostSystemId?: string;
  /** Unix seconds. */
  readonly creationTime?: number;
}

export type AllocationPolicy = 'contiguous' | 'cling' | 'cling_by_tags' | 'normal' | 'anywhere' | 'inherit';

export interface PhysicalVolumeText extends Extensible {
  /** The section's name ("pv0"): what segments refer to. Only a label; LVM2 renumbers it at each write. */
  readonly label: string;
  readonly id: string;
  /** A hint of the device's path when the text was written; "[unknown]" if it was missing then. */
  readonly device?: string;
  readonly deviceIdType?: string;
  readonly deviceId?: string;
  readonly status: readonly string[];
  readonly flags: readonly string[];
  readonly tags: readonly string[];
  readonly devSizeSectors?: number;
  readonly peStartSectors: number;
  readonly peCount: number;
  readonly baStartSectors?: number;
  readonly baSizeSectors?: number;
}

/** An area of a segment: a PV's label and its first PE, or an LV's name and its first LE. */
export interface SegmentArea {
  readonly name: string;
  readonly extent: number;
}

interface SegmentCommon extends Extensible {
  /** First logical extent of the segment in its LV. */
  readonly startExtent: number;
  readonly extentCount: number;
  readonly reshapeCount?: number;
  readonly tags: readonly string[];
  /** Suffix words of the type: "thin-pool+CROP_METADATA" gives ["CROP_METADATA"]. */
  readonly typeFlags: readonly string[];
}

/** Linear is striped with one area; there is no type "linear" on disk. */
export interface StripedSegment extends SegmentCommon {
  readonly type: 'striped';
  /** Sectors; absent with one stripe. */
  readonly stripeSizeSectors?: number;
  readonly areas: readonly SegmentArea[];
}
export interface MirrorSegment extends SegmentCommon {
  readonly type: 'mirror';
  readonly extentsMoved?: number;
  /** Name of the log LV; absent for a core log. */
  readonly mirrorLog?: string;
  readonly regionSizeSectors?: number;
  readonly areas: readonly SegmentArea[];
}
export interface Raid0Segment extends SegmentCommon {
  readonly type: 'raid0';
  readonly stripeSizeSectors: number;
  readonly images: readonly string[];
}
/** raid0_meta, raid1, raid4, raid5*, raid6*, raid10*: pairs of a metadata LV and an image LV (raid4 and raid5_n also without). */
export interface RaidSegment extends SegmentCommon {
  readonly type: 'raid';
  /** As typed in the text: "raid1", "raid5_ls", "raid0_meta", … */
  readonly raidType: string;
  readonly dataCopies?: number;
  readonly regionSizeSectors?: number;
  readonly stripeSizeSectors?: number;
  readonly writeBehind?: number;
  readonly minRecoveryRate?: number;
  readonly maxRecoveryRate?: number;
  readonly dataOffset?: number;
  readonly images: readonly { readonly metadata?: string; readonly data: string }[];
}
export interface SnapshotSegment extends SegmentCommon {
  readonly type: 'snapshot';
  readonly chunkSizeSectors: number;
  readonly origin: string;
  /** The COW LV: `cow_store`, or `merging_store` when `merging`. */
  readonly cowStore: string;
  readonly merging: boolean;
}
export interface ThinPoolMessage {
  readonly create?: string;
  readonly delete?: number;
}
export interface ThinPoolSegment extends SegmentCommon {
  readonly type: 'thin-pool';
  readonly metadata: string;
  readonly pool: string;
  readonly transactionId: number;
  readonly chunkSizeSectors: number;
  readonly discards?: string;
  readonly zeroNewBlocks: boolean;
  readonly cropMetadata?: number;
  readonly messages: readonly ThinPoolMessage[];
}
export interface ThinSegment extends SegmentCommon {
  readonly type: 'thin';
  readonly thinPool: string;
  readonly transactionId: number;
  readonly deviceId: number;
  readonly externalOrigin?: string;
  readonly origin?: string;
  readonly merge?: string;
}
/** Cache settings shared by a cache pool and by a cache that uses a cachevol. */
export interface CacheSettings {
  readonly metadataFormat?: number;
  readonly chunkSizeSectors?: number;
  readonly cacheMode?: string;
  readonly policy?: string;
  readonly policySettings?: readonly ConfigNode[];
}
export interface CachePoolSegment extends SegmentCommon, CacheSettings {
  readonly type: 'cache-pool';
  readonly data: string;
  readonly metadata: string;
}
export interface CacheSegment extends SegmentCommon, CacheSettings {
  readonly type: 'cache';
  readonly cachePool: string;
  readonly origin: string;
  readonly cleaner?: number;
  readonly metadataStart?: number;
  readonly metadataLen?: number;
  readonly dataStart?: number;
  readonly dataLen?: number;
  readonly metadataId?: string;
  readonly dataId?: string;
}
export interface WritecacheSegment extends SegmentCommon {
  readonly type: 'writecache';
  readonly writecache: string;
  readonly origin: string;
  readonly blockSizeBytes: number;
  /** high_watermark … writecache_setting_val, in the text's order. */
  readonly settings: readonly ConfigAssignment[];
}
export interface VdoSegment extends SegmentCommon {
  readonly type: 'vdo';
  readonly vdoPool: string;
  readonly vdoOffset: number;
}
export interface VdoPoolSegment extends SegmentCommon {
  readonly type: 'vdo-pool';
  readonly data: string;
  /** Every other field of the pool (header_size … write_policy), in the text's order. */
  readonly settings: readonly ConfigAssignment[];
}
export interface IntegritySegment extends SegmentCommon {
  readonly type: 'integrity';
  readonly origin: string;
  readonly dataSectors: number;
  readonly mode?: string;
  readonly tagSize?: number;
  readonly blockSizeBytes?: number;
  readonly internalHash?: string;
  readonly metaDev?: string;
  readonly recalculate?: number;
  /** journal_sectors … allow_discards, in the text's order. */
  readonly settings: readonly ConfigAssignment[];
}
export interface ErrorSegment extends SegmentCommon {
  readonly type: 'error';
}
export interface ZeroSegment extends SegmentCommon {
  readonly type: 'zero';
}
/** A type that we don't know: all its fields are in `extra`; its VG can't be changed. */
export interface UnknownSegment extends SegmentCommon {
  readonly type: 'unknown';
  readonly typeName: string;
}
export type Segment =
  | StripedSegment
  | MirrorSegment
  | Raid0Segment
  | RaidSegment
  | SnapshotSegment
  | ThinPoolSegment
  | ThinSegment
  | CachePoolSegment
  | CacheSegment
  | WritecacheSegment
  | VdoSegment
  | VdoPoolSegment
  | IntegritySegment
  | ErrorSegment
  | ZeroSegment
  | UnknownSegment;

export interface LogicalVolumeText extends Extensible {
  readonly name: string;
  readonly id: string;
  readonly status: readonly string[];
  readonly flags: readonly string[];
  readonly tags: readonly string[];
  /** Unix seconds; written together with `creationHost` or not at all. */
  readonly creationTime?: number;
  readonly creationHost?: string;
  readonly lockArgs?: string;
  /** Absent: inherit. */
  readonly allocationPolicy?: AllocationPolicy;
  readonly profile?: string;
  /** Sectors; absent: auto; -1: none. */
  readonly readAhead?: number;
  readonly major?: number;
  readonly minor?: number;
  /** Sorted by startExtent; they tile [0, sum of extentCount). */
  readonly segments: readonly Segment[];
}

export interface HistoricalLogicalVolumeText extends Extensible {
  /** The section's name; `-name` forms refer to it. */
  readonly label: string;
  readonly id: string;
  readonly name?: string;
  readonly creationTime?: number;
  readonly removalTime?: number;
  readonly origin?: string;
  readonly descendants: readonly string[];
}

export interface VolumeGroupText extends Extensible {
  readonly name: string;
  readonly id: string;
  readonly seqno: number;
  /** "lvm2"; absent in very old or hand-made texts. */
  readonly format?: string;
  readonly status: readonly string[];
  readonly flags: readonly string[];
  readonly tags: readonly string[];
  readonly systemId?: string;
  readonly lockType?: string;
  readonly lockArgs?: string;
  /** Persistent reservation settings (LVM2 >= 2.03.34). */
  readonly pr?: readonly string[];
  readonly extentSizeSectors: number;
  readonly maxLv: number;
  readonly maxPv: number;
  /** Absent: normal. */
  readonly allocationPolicy?: AllocationPolicy;
  readonly profile?: string;
  readonly metadataCopies?: number;
  readonly physicalVolumes: readonly PhysicalVolumeText[];
  readonly logicalVolumes: readonly LogicalVolumeText[];
  readonly historicalLogicalVolumes: readonly HistoricalLogicalVolumeText[];
}

/** A whole metadata text: header fields and the one volume group. */
export interface MetadataText {
  readonly header: TextHeader;
  readonly vg: VolumeGroupText;
  /** Unknown top-level nodes, kept. */
  readonly extra: readonly ConfigNode[];
}
