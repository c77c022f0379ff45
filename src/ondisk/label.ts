/**
 * The label sector of a physical volume: label header, PV header and its extension. One 512-byte sector, one of the first
 * four of the device, little-endian (lvm2: lib/label/label.h, lib/format_text/layout.h).
 *
 *     label header                         PV header, at `offset` of the sector
 *      0  "LABELONE"        8               0  PV uuid               32
 *      8  sector number     u64            32  device size, bytes    u64
 *     16  CRC of 20..511    u32            40  data areas            n × {offset u64, size u64}, then 0/0
 *     20  offset            u32 (32)           metadata areas        m × the same, then 0/0
 *     24  "LVM2 001"        8              extension, if there is room left and its version isn't 0
 *                                              version               u32 (1: bootloader areas, 2: flags)
 *                                              flags                 u32 (bit 0: some VG uses this PV)
 *                                              bootloader areas      k × {offset u64, size u64}, then 0/0
 *
 * Invariants
 *  - A list ends at the entry whose offset is 0 and must end inside the sector: nothing is ever read past byte 511.
 *  - A sector whose number, checksum or type is wrong is no label, as for LVM2; what was wrong is reported beside.
 *  - Encoding a decoded label gives the same bytes (reserved space is zero in every label that LVM2 writes).
 */
import assert from 'node:assert/strict';
import { lvmCrc } from './crc.ts';
import { FormatError, type Where } from './errors.ts';
import { blob, fromU64, struct, toU64, u32, u64, type U64 } from './layout.ts';
import { formatUuid, parseUuid } from './uuid.ts';

export const SECTOR_BYTES = 512;
/** LVM2 looks for the label in the first four sectors. */
export const LABEL_SCAN_BYTES: number = 4 * SECTOR_BYTES;
/** Extension flag: the PV belongs to a VG, even if no metadata says so. */
export const PV_EXT_USED = 1;
/** The extension version that LVM2 writes. */
export const PV_HEADER_EXTENSION_VERSION = 2;

/** An area of the device, in bytes. */
export interface DiskLocation {
  readonly offset: number;
  /** 0 for the data area: up to the end of the device. */
  readonly size: number;
}

export interface PvHeader {
  /** Display form. */
  readonly uuid: string;
  readonly deviceSizeBytes: number;
  readonly dataAreas: readonly DiskLocation[];
  readonly metadataAreas: readonly DiskLocation[];
  /** 0: the header has no extension. */
  readonly extensionVersion: number;
  readonly extensionFlags: number;
  readonly bootloaderAreas: readonly DiskLocation[];
}

export interface Label extends PvHeader {
  /** The sector that holds the label: 0 to 3. */
  readonly sector: number;
}

interface LabelHeader {
  readonly id: Uint8Array;
  readonly sector: U64;
  readonly crc: number;
  readonly offset: number;
  readonly type: Uint8Array;
}
interface PvHeaderStart {
  readonly uuid: Uint8Array;
  readonly deviceSize: U64;
}
interface RawLocation {
  readonly offset: U64;
  readonly size: U64;
}
interface ExtensionStart {
  readonly version: number;
  readonly flags: number;
}

const LABEL_ID = Buffer.from('LABELONE', 'latin1');
const LABEL_TYPE = Buffer.from('LVM2 001', 'latin1');
const CRC_START = 20;

const labelHeader = struct<LabelHeader>([blob(8, 'id'), u64('sector'), u32('crc'), u32('offset'), blob(8, 'type')]);
const pvHeaderStart = struct<PvHeaderStart>([blob(32, 'uuid'), u64('deviceSize')]);
const diskLocation = struct<RawLocation>([u64('offset'), u64('size')]);
const extensionStart = struct<ExtensionStart>([u32('version'), u32('flags')]);
assert.equal(labelHeader.span, 32);
assert.equal(pvHeaderStart.span, 40);
assert.equal(diskLocation.span, 16);
assert.equal(extensionStart.span, 8);

/**
 * The first valid label in the first sectors of a device, or null if it has none (then it is not a PV). `first` holds the
 * device from byte 0, at most LABEL_SCAN_BYTES of it are looked at. Sectors that look like labels and aren't usable add a
 * FormatError to `problems`.
 */
export function findLabel(first: Buffer, device: string, problems: FormatError[] = []): Label | null {
  let found: Label | null = null;
  const end = Math.min(first.length, LABEL_SCAN_BYTES);
  for (let at = 0; at + SECTOR_BYTES <= end; at += SECTOR_BYTES) {
    const sector = first.subarray(at, at + SECTOR_BYTES);
    if (!sector.subarray(0, LABEL_ID.length).equals(LABEL_ID)) continue;
    const where = { device, offset: at };
    try {
      const label = decodeLabel(sector, where);
      if (found === null) found = label;
      else problems.push(secondLabel(where, found));
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      problems.push(error);
    }
  }
  return found;
}

function secondLabel(where: Where, first: Label): FormatError {
  const problem = `ignored, the label in sector ${first.sector} comes first`;
  return new FormatError({ code: 'INCONSISTENT', ...where, what: 'additional label', problem });
}

/** Decodes the label in a 512-byte sector that lies at `where.offset`; a FormatError says what makes it no valid label. */
export function decodeLabel(sector: Buffer, where: Where): Label {
  if (sector.length < SECTOR_BYTES) {
    throw new FormatError({
      code: 'TRUNCATED',
      ...where,
      what: 'label',
      expected: `${SECTOR_BYTES} bytes`,
      actual: sector.length,
    });
  }
  const header = labelHeader.decode(sector);
  if (!LABEL_ID.equals(header.id)) throw badMagic('label', LABEL_ID, header.id, where);
  const actual = lvmCrc(sector.subarray(CRC_START, SECTOR_BYTES));
  if (actual !== header.crc) {
    throw new FormatError({ code: 'BAD_CRC', ...where, what: 'label', expected: header.crc, actual });
  }
  if (!LABEL_TYPE.equals(header.type)) throw badMagic('label type', LABEL_TYPE, header.type, where);
  const number = fromU64(header.sector, 'label sector number', where);
  const expected = where.offset / SECTOR_BYTES;
  if (number !== expected) {
    throw new FormatError({ code: 'BAD_FIELD', ...where, what: 'label sector number', expected, actual: number });
  }
  return { sector: number, ...decodePvHeader(sector, header.offset, where) };
}

function badMagic(what: string, expected: Buffer, actual: Uint8Array, where: Where): FormatError {
  const shown = JSON.stringify(Buffer.from(actual).toString('latin1'));
  return new FormatError({
    code: 'BAD_MAGIC',
    ...where,
    what,
    expected: JSON.stringify(expected.toString('latin1')),
    actual: shown,
  });
}

/** Decodes the PV header at byte `start` of a label sector; `where` is the sector's place. */
export function decodePvHeader(sector: Buffer, start: number, where: Where): PvHeader {
  const last = SECTOR_BYTES - pvHeaderStart.span;
  if (start < labelHeader.span || start > last) {
    const expected = `${labelHeader.span} to ${last}`;
    throw new FormatError({ code: 'OUT_OF_RANGE', ...where, what: 'offset of the PV header', expected, actual: start });
  }
  const header = pvHeaderStart.decode(sector, start);
  const data = decodeList(sector, start + pvHeaderStart.span, 'data areas', where);
  const metadata = decodeList(sector, data.end, 'metadata areas', where);
  return {
    uuid: uuidOf(header.uuid, where),
    deviceSizeBytes: fromU64(header.deviceSize, 'device size in the PV header', where),
    dataAreas: data.areas,
    metadataAreas: metadata.areas,
    ...decodeExtension(sector, metadata.end, where),
  };
}

function uuidOf(bytes: Uint8Array, where: Where): string {
  const text = Buffer.from(bytes).toString('latin1');
  const raw = parseUuid(text);
  // 32 characters of which some are dashes are no id either: parseUuid strips dashes only from longer texts.
  if (raw === null || raw.length !== 32) {
    throw new FormatError({
      code: 'BAD_FIELD',
      ...where,
      what: 'PV uuid',
      expected: '32 characters of 0-9a-zA-Z!#',
      actual: JSON.stringify(text),
    });
  }
  return formatUuid(raw);
}

function decodeExtension(
  sector: Buffer,
  start: number,
  where: Where,
): Pick<PvHeader, 'extensionVersion' | 'extensionFlags' | 'bootloaderAreas'> {
  const none = { extensionVersion: 0, extensionFlags: 0, bootloaderAreas: [] };
  if (start + extensionStart.span > SECTOR_BYTES) return none;
  const { version, flags } = extensionStart.decode(sector, start);
  if (version === 0) return none;
  const list = decodeList(sector, start + extensionStart.span, 'bootloader areas', where);
  return { extensionVersion: version, extensionFlags: flags, bootloaderAreas: list.areas };
}

function decodeList(
  sector: Buffer,
  start: number,
  what: string,
  where: Where,
): { readonly areas: readonly DiskLocation[]; readonly end: number } {
  const areas: DiskLocation[] = [];
  for (let at = start; at + diskLocation.span <= SECTOR_BYTES; at += diskLocation.span) {
    const raw = diskLocation.decode(sector, at);
    const offset = fromU64(raw.offset, `offset in the list of ${what}`, where);
    if (offset === 0) return { areas, end: at + diskLocation.span };
    areas.push({ offset, size: fromU64(raw.size, `size in the list of ${what}`, where) });
  }
  const problem = 'the list runs over the end of the label sector';
  throw new FormatError({ code: 'OUT_OF_RANGE', ...where, what: `list of ${what}`, problem });
}

/** The label's sector: 512 bytes, to be written at `label.sector` × 512. */
export function encodeLabel(label: Label): Buffer {
  const sector = Buffer.alloc(SECTOR_BYTES);
  assert(label.sector >= 0 && label.sector * SECTOR_BYTES < LABEL_SCAN_BYTES);
  const raw = parseUuid(label.uuid);
  assert(raw !== null, `not a PV uuid: ${label.uuid}`);
  const start = labelHeader.span;
  pvHeaderStart.encode({ uuid: Buffer.from(raw, 'latin1'), deviceSize: toU64(label.deviceSizeBytes) }, sector, start);
  let at = encodeList(label.dataAreas, sector, start + pvHeaderStart.span);
  at = encodeList(label.metadataAreas, sector, at);
  if (label.extensionVersion !== 0) {
    extensionStart.encode({ version: label.extensionVersion, flags: label.extensionFlags }, sector, at);
    encodeList(label.bootloaderAreas, sector, at + extensionStart.span);
  }
  const header = { id: LABEL_ID, sector: toU64(label.sector), crc: 0, offset: start, type: LABEL_TYPE };
  labelHeader.encode(header, sector);
  sector.writeUInt32LE(lvmCrc(sector.subarray(CRC_START)), 16);
  return sector;
}

function encodeList(areas: readonly DiskLocation[], sector: Buffer, start: number): number {
  let at = start;
  assert(start + (areas.length + 1) * diskLocation.span <= SECTOR_BYTES, 'the areas do not fit in the label sector');
  for (const area of areas) {
    assert(area.offset > 0, 'offset 0 ends a list, so no area can start there');
    diskLocation.encode({ offset: toU64(area.offset), size: toU64(area.size) }, sector, at);
    at += diskLocation.span;
  }
  return at + diskLocation.span;
}
