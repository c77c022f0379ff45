/**
 * The metadata area: a header sector and a ring of text (lvm2: lib/format_text/layout.h, format-text.c), little-endian.
 *
 *      0  checksum  u32   CRC of bytes 4..511
 *      4  magic     16    " LVM2 x[5A%r0N*>"
 *     20  version   u32   1
 *     24  start     u64   byte offset of this header on the device: catches a misdirected read
 *     32  size      u64   bytes in the area, this header included
 *     40  slots     2 × { offset u64, size u64, checksum u32, flags u32 }: committed text, precommitted text
 *
 * A slot's offset and size count from the area's start; its size includes the one NUL byte that ends the text. The ring is
 * everything behind the header: a text that passes the area's end goes on at byte 512.
 *
 * Invariants
 *  - A slot whose offset is 0 holds nothing. Slot 0 with flag bit 0 means that the area is ignored: that is to be looked at
 *    before its offset and checksum, which may be stale.
 *  - The header is replaced by one 512-byte write, so a reader sees the old one, the new one, or a wrong checksum.
 *  - `readRanges` and `textWrites` never leave [start + 512, start + size); old and new text never overlap.
 */
import assert from 'node:assert/strict';
import { lvmCrc } from './crc.ts';
import { FormatError, type Where } from './errors.ts';
import { blob, fromU64, seq, struct, toU64, u32, u64, type U64 } from './layout.ts';

export const MDA_HEADER_BYTES = 512;
/** A text starts at a multiple of this in its area, and its write is padded to one. */
const TEXT_ALIGNMENT = 512;
/** Flag of slot 0: the metadata area exists and is not used. */
export const RAW_LOCN_IGNORED = 1;

/** Where a text lies in its area; all zero: nowhere. */
export interface RawLocn {
  readonly offset: number;
  readonly size: number;
  readonly checksum: number;
  readonly flags: number;
}

export interface MdaHeader {
  /** Byte offset of the area on its device. */
  readonly start: number;
  /** Bytes, header included. */
  readonly size: number;
  /** Committed, precommitted. */
  readonly slots: readonly [RawLocn, RawLocn];
}

/** A range of a device in bytes. */
export interface DeviceRange {
  readonly offset: number;
  readonly size: number;
}

interface RawSlot {
  readonly offset: U64;
  readonly size: U64;
  readonly checksum: number;
  readonly flags: number;
}
interface RawHeader {
  readonly checksum: number;
  readonly magic: Uint8Array;
  readonly version: number;
  readonly start: U64;
  readonly size: U64;
  readonly slots: readonly RawSlot[];
}

const MAGIC = Buffer.from(' LVM2 x[5A%r0N*>', 'latin1');
const VERSION = 1;
const START_OFFSET = 24;
export const EMPTY_LOCN: RawLocn = { offset: 0, size: 0, checksum: 0, flags: 0 };

const rawSlot = struct<RawSlot>([u64('offset'), u64('size'), u32('checksum'), u32('flags')]);
const rawHeader = struct<RawHeader>([
  u32('checksum'),
  blob(16, 'magic'),
  u32('version'),
  u64('start'),
  u64('size'),
  seq(rawSlot, 2, 'slots'),
]);
assert.equal(rawSlot.span, 24);
assert.equal(rawHeader.span, 88);

/**
 * Decodes the header of the area at `where.offset`, in the order length, magic, checksum, version, fields, so that the error
 * names the first thing that is wrong.
 */
export function decodeMdaHeader(sector: Buffer, where: Where): MdaHeader {
  if (sector.length < MDA_HEADER_BYTES) {
    const expected = `${MDA_HEADER_BYTES} bytes`;
    throw new FormatError({ code: 'TRUNCATED', ...where, what: 'mda header', expected, actual: sector.length });
  }
  const raw = rawHeader.decode(sector);
  if (!MAGIC.equals(raw.magic)) {
    const actual = Buffer.from(raw.magic).toString('hex');
    throw new FormatError({ code: 'BAD_MAGIC', ...where, what: 'mda header', expected: MAGIC.toString('hex'), actual });
  }
  const actual = lvmCrc(sector.subarray(4, MDA_HEADER_BYTES));
  if (actual !== raw.checksum) {
    throw new FormatError({ code: 'BAD_CRC', ...where, what: 'mda header', expected: raw.checksum, actual });
  }
  if (raw.version !== VERSION) {
    throw new FormatError({
      code: 'BAD_VERSION',
      ...where,
      what: 'mda header',
      expected: VERSION,
      actual: raw.version,
    });
  }
  const start = fromU64(raw.start, 'start in the mda header', where);
  if (start !== where.offset) {
    const what = 'start in the mda header';
    throw new FormatError({ code: 'BAD_FIELD', ...where, what, expected: where.offset, actual: start });
  }
  const size = fromU64(raw.size, 'size in the mda header', where);
  if (size < MDA_HEADER_BYTES || !Number.isSafeInteger(start + size)) {
    const what = 'size in the mda header';
    throw new FormatError({
      code: 'BAD_FIELD',
      ...where,
      what,
      expected: `at least ${MDA_HEADER_BYTES}`,
      actual: size,
    });
  }
  return { start, size, slots: [decodeSlot(raw.slots[0], where), decodeSlot(raw.slots[1], where)] };
}

/** What is wrong in a header that `decodeMdaHeader` refuses: all of it, where that names the first. Null: as it should be. */
export interface HeaderFaults {
  readonly checksum: number | null;
  readonly magic: boolean;
  readonly version: number | null;
  readonly start: bigint | null;
}

/** `sector` as for `decodeMdaHeader`, of an area at `offset`. */
export function mdaHeaderFaults(sector: Buffer, offset: number): HeaderFaults {
  const { checksum, magic, version } = rawHeader.decode(sector);
  const found = sector.readBigUInt64LE(START_OFFSET);
  return {
    checksum: checksum === lvmCrc(sector.subarray(4, MDA_HEADER_BYTES)) ? null : checksum,
    magic: !MAGIC.equals(magic),
    version: version === VERSION ? null : version,
    start: found === BigInt(offset) ? null : found,
  };
}

function decodeSlot(raw: RawSlot | undefined, where: Where): RawLocn {
  assert(raw !== undefined);
  const offset = fromU64(raw.offset, 'text offset in the mda header', where);
  const size = fromU64(raw.size, 'text size in the mda header', where);
  return { offset, size, checksum: raw.checksum, flags: raw.flags };
}

/** The header's sector: 512 bytes, to be written at `header.start`. */
export function encodeMdaHeader(header: MdaHeader): Buffer {
  const sector = Buffer.alloc(MDA_HEADER_BYTES);
  const slots = header.slots.map((slot) => ({ ...slot, offset: toU64(slot.offset), size: toU64(slot.size) }));
  const start = toU64(header.start);
  rawHeader.encode({ checksum: 0, magic: MAGIC, version: VERSION, start, size: toU64(header.size), slots }, sector);
  sector.writeUInt32LE(lvmCrc(sector.subarray(4)), 0);
  return sector;
}

/** Whether the area is marked as not to be used. */
export function isIgnored(header: MdaHeader): boolean {
  return (header.slots[0].flags & RAW_LOCN_IGNORED) !== 0;
}

/** The committed text's place, or null if the area is ignored or holds none. */
export function committedText(header: MdaHeader): RawLocn | null {
  return isIgnored(header) || header.slots[0].offset === 0 ? null : header.slots[0];
}

/** Whether a precommitted slot was left behind by a crash. */
export function hasPrecommit(header: MdaHeader): boolean {
  return header.slots[1].offset !== 0 || header.slots[1].size !== 0;
}

/** The largest text, NUL included, that an area of `size` bytes takes: two texts fit beside each other, each aligned. */
export function maxTextBytes(size: number): number {
  return Math.max(0, Math.floor((size - MDA_HEADER_BYTES) / 2) - TEXT_ALIGNMENT);
}

/** The one or two device ranges that hold a text, in order. A FormatError if the slot points outside the ring. */
export function readRanges(mda: MdaHeader, locn: RawLocn, device = 'metadata area'): readonly DeviceRange[] {
  const inside = locn.offset >= MDA_HEADER_BYTES && locn.offset < mda.size;
  if (!inside || locn.size < 1 || locn.size > mda.size - MDA_HEADER_BYTES) {
    throw new FormatError({
      code: 'OUT_OF_RANGE',
      device,
      offset: mda.start,
      what: 'place of the metadata text',
      expected: `inside ${MDA_HEADER_BYTES} to ${mda.size}`,
      actual: `${locn.size} bytes at ${locn.offset}`,
    });
  }
  const first = Math.min(locn.size, mda.size - locn.offset);
  const ranges = [{ offset: mda.start + locn.offset, size: first }];
  if (first < locn.size) ranges.push({ offset: mda.start + MDA_HEADER_BYTES, size: locn.size - first });
  return ranges;
}

/** Checks the bytes read from `readRanges` against their slot; a FormatError if they are not the text that was written. */
export function verifyText(bytes: Uint8Array, locn: RawLocn, where: Where): void {
  if (bytes.length !== locn.size) {
    const expected = `${locn.size} bytes`;
    throw new FormatError({ code: 'TRUNCATED', ...where, what: 'metadata text', expected, actual: bytes.length });
  }
  const actual = lvmCrc(bytes);
  if (actual !== locn.checksum) {
    throw new FormatError({ code: 'BAD_CRC', ...where, what: 'metadata text', expected: locn.checksum, actual });
  }
}

/**
 * Where in the area the next text of `newSize` bytes (NUL included) goes: behind the committed text, aligned, or at the
 * ring's start if less than 512 bytes would be left before the area's end. `old` is null if the area holds no text to keep
 * (none, or ignored). A FormatError if the text is too big for the area.
 */
export function nextTextOffset(mda: MdaHeader, old: RawLocn | null, newSize: number, device = 'metadata area'): number {
  const max = maxTextBytes(mda.size);
  if (newSize > max) {
    throw new FormatError({
      code: 'OUT_OF_RANGE',
      device,
      offset: mda.start,
      what: 'metadata text',
      problem: 'exceeds the maximum metadata size',
      expected: `at most ${max} bytes`,
      actual: newSize,
    });
  }
  if (old === null || old.offset === 0) return MDA_HEADER_BYTES;
  const end = old.offset + old.size;
  const oldEnd = end > mda.size ? end - mda.size + MDA_HEADER_BYTES : end;
  const aligned = Math.ceil(oldEnd / TEXT_ALIGNMENT) * TEXT_ALIGNMENT;
  // LVM2 counts from the last byte of the old text, hence the 1.
  const restart = mda.size - (oldEnd - 1) < TEXT_ALIGNMENT || aligned > mda.size - TEXT_ALIGNMENT;
  const offset = restart ? MDA_HEADER_BYTES : aligned;
  assertApart(mda, old, { ...EMPTY_LOCN, offset, size: newSize }, device);
  return offset;
}

function assertApart(mda: MdaHeader, old: RawLocn, next: RawLocn, device: string): void {
  for (const a of readRanges(mda, old, device)) {
    for (const b of readRanges(mda, next, device)) {
      if (a.offset >= b.offset + b.size || b.offset >= a.offset + a.size) continue;
      throw new FormatError({
        code: 'OUT_OF_RANGE',
        device,
        offset: mda.start,
        what: 'metadata area',
        problem: `full: a text of ${next.size} bytes would overwrite the committed one of ${old.size} bytes`,
      });
    }
  }
}

/** The slot for a text that is to be written at `offset` of the area. */
export function textLocn(offset: number, text: Uint8Array): RawLocn {
  return { offset, size: text.length, checksum: lvmCrc(text), flags: 0 };
}

/**
 * The writes that place `text` (NUL included) at `offset` of the area: one, or two if it wraps, the last one padded with
 * zeros to a sector so that no remains of an older text follow.
 */
export function textWrites(
  mda: MdaHeader,
  offset: number,
  text: Buffer,
): readonly { readonly offset: number; readonly bytes: Buffer }[] {
  const ranges = readRanges(mda, { ...EMPTY_LOCN, offset, size: text.length });
  let done = 0;
  return ranges.map((range, index) => {
    const bytes = text.subarray(done, done + range.size);
    done += range.size;
    return { offset: range.offset, bytes: index === ranges.length - 1 ? padded(mda, range, bytes) : bytes };
  });
}

function padded(mda: MdaHeader, range: DeviceRange, bytes: Buffer): Buffer {
  const within = range.offset - mda.start;
  const end = Math.min(Math.ceil((within + range.size) / TEXT_ALIGNMENT) * TEXT_ALIGNMENT, mda.size);
  return Buffer.concat([bytes, Buffer.alloc(end - within - range.size)]);
}
