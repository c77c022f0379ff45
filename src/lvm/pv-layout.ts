/**
 * Where the parts of a new physical volume lie: label, metadata areas, bootloader area, extents. Pure arithmetic, with LVM2's
 * results for every combination of pvcreate's options (facts: LVM2 lib/metadata/metadata.c pv_create, set_pe_align;
 * lib/format_text/format-text.c _text_pv_initialise, _text_pv_add_metadata_area).
 *
 *     0     2 KiB   4 KiB                       ba_start      pe_start                              size
 *     | label |     | metadata area 1           | bootloader  | extents …        | metadata area 2  |
 *
 * Invariants
 *  - Areas lie inside the PV's size, behind the first 2 KiB, and don't overlap each other or restored extents.
 *  - A pe_start that is given (pvcreate --restorefile) never moves; metadata areas are cut to fit.
 *  - A metadata area has at least 32 KiB.
 */
import type { DeviceTopology } from '../block/device.ts';
import { LABEL_SCAN_BYTES, SECTOR_BYTES } from '../ondisk/label.ts';
import { CommandError } from './edit/errors.ts';
import type { ByteRange } from './model.ts';

/** The smallest PV that LVM2 makes by default (devices/pv_min_size). */
export const PV_MIN_SECTORS = 4096;
/** Extents start at a multiple of 1 MiB by default (devices/default_data_alignment). */
const DEFAULT_ALIGNMENT_SECTORS = 2048;
/** A metadata area begins at a page, whatever page size the machine has: 4 KiB gives the layout that LVM2 gives on x86. */
const PAGE_BYTES = 4096;
const MDA_MIN_BYTES = 8 * PAGE_BYTES;
/** With the default alignment extents start at 1 MiB. */
export const DEFAULT_METADATA_SECTORS: number = DEFAULT_ALIGNMENT_SECTORS - PAGE_BYTES / SECTOR_BYTES;

/** What a backup file says of a PV that is made again. */
export interface RestoredPlaces {
  readonly peStartSectors: number;
  readonly extentSizeSectors: number;
  readonly extentCount: number;
  readonly baStartSectors: number;
  readonly baSizeSectors: number;
}

/** What lvm.conf decides; sectors. */
export interface LayoutDefaults {
  /** devices/pv_min_size */
  readonly minSectors: number;
  /** devices/data_alignment; 0: by default and by the device's topology. */
  readonly alignmentSectors: number;
  /** devices/default_data_alignment */
  readonly defaultAlignmentSectors: number;
  /** devices/data_alignment_detection, data_alignment_offset_detection: the device's topology counts. */
  readonly detectAlignment: boolean;
  readonly detectOffset: boolean;
}

export const LAYOUT_DEFAULTS: LayoutDefaults = {
  minSectors: PV_MIN_SECTORS,
  alignmentSectors: 0,
  defaultAlignmentSectors: DEFAULT_ALIGNMENT_SECTORS,
  detectAlignment: true,
  detectOffset: true,
};

export interface LayoutRequest {
  /** For messages. */
  readonly device: string;
  readonly deviceSectors: number;
  /** --setphysicalvolumesize; 0: the device's size. */
  readonly sizeSectors: number;
  /** --dataalignment, --dataalignmentoffset; 0: by default and by the device's topology. */
  readonly alignmentSectors: number;
  readonly alignmentOffsetSectors: number;
  readonly topology: DeviceTopology | null;
  readonly metadataSectors: number;
  readonly metadataCopies: 0 | 1 | 2;
  /** --bootloaderareasize; 0: none. */
  readonly bootloaderSectors: number;
  readonly restored: RestoredPlaces | null;
  readonly defaults: LayoutDefaults;
}

export interface PvLayout {
  readonly sizeSectors: number;
  readonly peStartSectors: number;
  /** Bytes. */
  readonly metadataAreas: readonly ByteRange[];
  /** Bytes; null: none. */
  readonly bootloaderArea: ByteRange | null;
}

interface Alignment {
  readonly sectors: number;
  readonly offsetSectors: number;
}

/** Mutable while it is worked out; sectors, but for metadata areas. */
interface Draft {
  readonly device: string;
  readonly size: number;
  readonly align: Alignment;
  /** First sector after extents that are kept; 0: none are. */
  readonly peEnd: number;
  peStart: number;
  baStart: number;
  baSize: number;
  readonly areas: ByteRange[];
}

/** Lays a PV out. Throws CommandError with LVM2's reasons. */
export function layOutPv(request: LayoutRequest): PvLayout {
  const draft = placeExtents(request, sizeOf(request), alignmentOf(request));
  const locked = request.restored !== null;
  if (request.metadataCopies > 0) addFirstArea(draft, request.metadataSectors * SECTOR_BYTES, locked);
  if (request.metadataCopies > 1) addLastArea(draft, request.metadataSectors * SECTOR_BYTES, locked);
  const { baStart, baSize } = draft;
  const hasBootloaderArea = baSize > 0;
  return {
    sizeSectors: draft.size,
    peStartSectors: draft.peStart,
    metadataAreas: draft.areas,
    bootloaderArea: hasBootloaderArea ? { offset: baStart * SECTOR_BYTES, size: baSize * SECTOR_BYTES } : null,
  };
}

function sizeOf(request: LayoutRequest): number {
  const { device, deviceSectors, sizeSectors, alignmentSectors, alignmentOffsetSectors, defaults } = request;
  const size = sizeSectors === 0 ? deviceSectors : sizeSectors;
  if (size < defaults.minSectors) refuse(`${device}: Size must exceed minimum of ${defaults.minSectors} sectors.`);
  if (size < alignmentSectors + alignmentOffsetSectors)
    refuse(`${device}: Data alignment must not exceed device size.`);
  return size;
}

/** The alignment of extents: as requested, else by the device where 1 MiB does not suit it. */
function alignmentOf(request: LayoutRequest): Alignment {
  const { alignmentSectors, alignmentOffsetSectors, topology, defaults } = request;
  let sectors = alignmentSectors === 0 ? defaults.alignmentSectors : alignmentSectors;
  if (sectors === 0) {
    sectors = defaults.defaultAlignmentSectors;
    const wishes = defaults.detectAlignment ? [topology?.minimumIoSize ?? 0, topology?.optimalIoSize ?? 0] : [];
    for (const wish of wishes) {
      const wishSectors = Math.floor(wish / SECTOR_BYTES);
      if (wishSectors > 0 && sectors % wishSectors !== 0) sectors = wishSectors;
    }
  }
  const natural = defaults.detectOffset ? Math.floor((topology?.alignmentOffset ?? 0) / SECTOR_BYTES) : 0;
  return { sectors, offsetSectors: alignmentOffsetSectors === 0 ? natural : alignmentOffsetSectors };
}

function placeExtents(request: LayoutRequest, size: number, align: Alignment): Draft {
  const { device, bootloaderSectors, restored } = request;
  const first = align.sectors + align.offsetSectors;
  if (align.sectors < align.offsetSectors) {
    failInitialise(
      device,
      `${device}: pe_align (${align.sectors} sectors) must not be less than pe_align_offset (${align.offsetSectors} sectors)`,
    );
  }
  if (size < first) failInitialise(device, `${device}: Data alignment must not exceed device size.`);
  if (size < first + bootloaderSectors) {
    failInitialise(device, `${device}: Bootloader area with data-aligned start must not exceed device size.`);
  }
  const draft = { device, size, align, areas: [] };
  if (restored !== null) return { ...draft, ...restoredPlaces(device, size, first, restored) };
  if (bootloaderSectors === 0) return { ...draft, peEnd: 0, peStart: first, baStart: 0, baSize: 0 };
  const whole = Math.ceil(bootloaderSectors / align.sectors) * align.sectors;
  const baSize = Math.min(whole, size - first);
  return { ...draft, peEnd: 0, peStart: first + baSize, baStart: first, baSize };
}

function restoredPlaces(
  device: string,
  size: number,
  first: number,
  restored: RestoredPlaces,
): Pick<Draft, 'peEnd' | 'peStart' | 'baStart' | 'baSize'> {
  const { peStartSectors, baStartSectors, baSizeSectors, extentCount, extentSizeSectors } = restored;
  if (baSizeSectors > 0) {
    const overlaps =
      (baStartSectors > 0 && baStartSectors + baSizeSectors > peStartSectors) ||
      peStartSectors <= first ||
      peStartSectors - first < baSizeSectors;
    if (overlaps) failInitialise(device, `${device}: Bootloader area would overlap data area.`);
  }
  const end = peStartSectors + extentCount * extentSizeSectors;
  if (end - 1 > size) {
    failInitialise(
      device,
      `Physical extents (${end - 1} sectors) end beyond end of device (${size} sectors) ${device}.`,
    );
  }
  return {
    peEnd: extentCount > 0 ? end : 0,
    peStart: peStartSectors,
    baStart: baSizeSectors > 0 && baStartSectors === 0 ? first : baStartSectors,
    baSize: baSizeSectors,
  };
}

/** The first metadata area: behind the label, up to where bootloader area or extents then begin. Bytes. */
function addFirstArea(draft: Draft, wanted: number, locked: boolean): void {
  const alignment = draft.align.sectors * SECTOR_BYTES;
  const alignmentOffset = draft.align.offsetSectors * SECTOR_BYTES;
  const limit = (locked ? draft.peStart : draft.size) * SECTOR_BYTES - draft.baSize * SECTOR_BYTES;
  const room = limit - LABEL_SCAN_BYTES;
  if (room < 0 || limit > draft.size * SECTOR_BYTES) failArea(draft, 0);
  const start = room >= MDA_MIN_BYTES ? PAGE_BYTES : LABEL_SCAN_BYTES;
  const fits = (size: number): boolean => start + size <= limit;
  let size = wanted;
  const over = (start + size) % alignment;
  if (over !== 0 && fits(size + alignment - over)) size += alignment - over;
  if (alignmentOffset > 0 && (start + size) % alignment === 0 && fits(size + alignmentOffset)) size += alignmentOffset;
  if (!fits(size)) size = largestFirstArea(draft, start, limit, locked ? null : alignment);
  if (!locked) {
    const end = (start + size) / SECTOR_BYTES;
    if (draft.baSize > 0) draft.baStart = end;
    draft.peStart = end + draft.baSize;
  }
  addArea(draft, 0, { offset: start, size });
}

/** The area cut to `limit`; with an `alignment`, room for extents is left if there can be. */
function largestFirstArea(draft: Draft, start: number, limit: number, alignment: number | null): number {
  if (alignment === null || limit - start <= alignment * 2) return limit - start;
  let size = limit - start - alignment * 2;
  const over = (start + size) % alignment;
  if (over !== 0) size += alignment - over;
  if (start + size > limit) failArea(draft, 0);
  return size;
}

/** The second metadata area: at the PV's end, behind the extents that are to be kept. Bytes. */
function addLastArea(draft: Draft, wanted: number, locked: boolean): void {
  const area = lastArea({
    device: draft.device,
    sizeSectors: draft.size,
    wantedBytes: wanted,
    alignmentSectors: draft.align.sectors,
    limitSectors: locked && draft.peEnd > 0 ? draft.peEnd : draft.peStart,
  });
  addArea(draft, 1, area);
}

/** What the place of an area at a PV's end depends on. */
export interface LastAreaRequest {
  readonly device: string;
  readonly sizeSectors: number;
  readonly wantedBytes: number;
  /** 0: none. */
  readonly alignmentSectors: number;
  /** The area begins here or later. */
  readonly limitSectors: number;
}

/** The place of the metadata area at a PV's end; also after the PV was resized. Throws CommandError if there is none. */
export function lastArea(request: LastAreaRequest): ByteRange {
  const end = request.sizeSectors * SECTOR_BYTES;
  const limit = request.limitSectors * SECTOR_BYTES;
  const alignment = request.alignmentSectors * SECTOR_BYTES;
  if (limit >= end) throw noRoom(request.device, 1);
  const wanted = request.wantedBytes;
  if (end - wanted < limit) return { offset: limit, size: end - limit };
  const over = alignment === 0 ? 0 : (end - wanted) % alignment;
  const size = end - wanted - over >= limit ? wanted + over : wanted;
  return { offset: end - size, size };
}

function addArea(draft: Draft, index: number, area: ByteRange): void {
  if (area.size === 0) return;
  if (area.size < MDA_MIN_BYTES) {
    const tooSmall = `Metadata area size too small: ${area.size} bytes. It must be at least ${MDA_MIN_BYTES} bytes.`;
    failArea(draft, index, [tooSmall]);
  }
  draft.areas.push(area);
}

function noRoom(device: string, index: number): CommandError {
  return new CommandError(`Not enough space available for metadata area with index ${index} on PV ${device}.`);
}

function failArea({ device }: Draft, index: number, before: readonly string[] = []): never {
  throw new CommandError([
    ...before,
    ...noRoom(device, index).lines,
    `Failed to add metadata area for new physical volume ${device}`,
  ]);
}

function failInitialise(device: string, reason: string): never {
  throw new CommandError([reason, `Format-specific initialisation of physical volume ${device} failed.`]);
}

function refuse(reason: string): never {
  throw new CommandError(reason);
}
