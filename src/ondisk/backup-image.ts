/**
 * The image that `orion-lvm backup` writes: a volume's content, or what of it differs from a snapshot (docs/backup-format.md). Everything
 * is little-endian.
 *
 *     header    0 "ORIONBAK"  8 version u32 = 1  12 length of the text u32  16 text (JSON, UTF-8), then crc32 u32 of all before
 *     record    0 "rec "  4 kind u32  8 offset u64  16 length u64  24 SHA-256 of the data  56 SHA-256 of what the base has there
 *               88 crc32 u32 of all before; behind a record of kind data: `length` bytes
 *     last      the record of kind end: offset is the number of records before it, length the bytes of data in them, and the first
 *               SHA-256 is that of the header and of all records before it, without their data
 *
 * Invariants
 *  - The end's sum covers every record, and each record's sum its data: whatever is changed, lost or cut off is noticed.
 *  - Records stand in order of their offsets and do not overlap. In a full image they leave nothing out.
 */
import { createHash, type Hash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { FormatError, type Where } from './errors.ts';
import { plainText } from './plain-text.ts';

const MAGIC = 'ORIONBAK';
const RECORD_MAGIC = 'rec ';
const VERSION = 1;
export const HEADER_START_BYTES = 16;
export const RECORD_BYTES = 92;
const CRC_BYTES = 4;
const SHA_BYTES = 32;
const MAX_TEXT_BYTES = 65_536;
/** Bytes of data in one record, and of one record with a base. */
export const MAX_RECORD_BYTES: number = 2 ** 20;

/** Which volume an image is of. */
export interface ImageVolume {
  /** "VG/LV" at the time. */
  readonly name: string;
  /** What stays when names change: "VG-uuid/LV-uuid". */
  readonly id: string;
}

export interface ImageHeader {
  readonly volume: ImageVolume;
  /** The snapshot that an incremental image is to be applied to; null: the image is full. */
  readonly base: ImageVolume | null;
  /** Bytes. */
  readonly sizeBytes: number;
  /** Unix seconds. */
  readonly createdAt: number;
  readonly generator: string;
}

export const RecordKind = { data: 1, zero: 2, end: 3 } as const;
export type RecordKind = (typeof RecordKind)[keyof typeof RecordKind];

export interface ImageRecord {
  readonly kind: RecordKind;
  readonly offset: number;
  readonly length: number;
  /** Of the data; of zeroes and without a base, 32 zero bytes. */
  readonly sum: Buffer;
  readonly baseSum: Buffer;
}

export const NO_SUM: Buffer = Buffer.alloc(SHA_BYTES);

export function sumOf(bytes: Buffer): Buffer {
  return createHash('sha256').update(bytes).digest();
}

/** Sums up the header and the records of an image, for its end. */
export class ImageSum {
  readonly #hash: Hash = createHash('sha256');

  add(bytes: Buffer): void {
    this.#hash.update(bytes);
  }

  digest(): Buffer {
    return this.#hash.copy().digest();
  }
}

/** Throws RangeError for a description that nobody would read. */
export function encodeHeader(header: ImageHeader): Buffer {
  const text = Buffer.from(JSON.stringify(header));
  if (text.length > MAX_TEXT_BYTES) throw new RangeError(`a backup image's description of ${text.length} bytes`);
  const bytes = Buffer.alloc(HEADER_START_BYTES + text.length + CRC_BYTES);
  bytes.write(MAGIC, 0, 'latin1');
  bytes.writeUInt32LE(VERSION, 8);
  bytes.writeUInt32LE(text.length, 12);
  text.copy(bytes, HEADER_START_BYTES);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, -CRC_BYTES)), bytes.length - CRC_BYTES);
  return bytes;
}

/** The bytes of the whole header, from its first 16. Throws FormatError. */
export function headerLength(start: Buffer, where: Where): number {
  const what = 'backup image';
  const magic = start.toString('latin1', 0, 8);
  if (magic !== MAGIC) throw new FormatError({ code: 'BAD_MAGIC', ...where, what, expected: MAGIC, actual: magic });
  const version = start.readUInt32LE(8);
  if (version !== VERSION) {
    throw new FormatError({ code: 'BAD_VERSION', ...where, what, expected: VERSION, actual: version });
  }
  const length = start.readUInt32LE(12);
  if (length > MAX_TEXT_BYTES) {
    const expected = `at most ${MAX_TEXT_BYTES} bytes of description`;
    throw new FormatError({ code: 'OUT_OF_RANGE', ...where, what, expected, actual: length });
  }
  return HEADER_START_BYTES + length + CRC_BYTES;
}

/** Throws FormatError. */
export function decodeHeader(bytes: Buffer, where: Where): ImageHeader {
  checkCrc(bytes, where, 'header of a backup image');
  let found: unknown;
  try {
    found = JSON.parse(bytes.toString('utf8', HEADER_START_BYTES, bytes.length - CRC_BYTES));
  } catch {
    found = null;
  }
  const fields = asObject(found);
  const volume = asVolume(fields?.['volume']);
  const base = fields?.['base'] === null ? null : asVolume(fields?.['base']);
  const { sizeBytes, createdAt, generator } = fields ?? {};
  if (
    volume === undefined ||
    base === undefined ||
    !isCount(sizeBytes) ||
    !isCount(createdAt) ||
    typeof generator !== 'string'
  ) {
    const what = 'header of a backup image';
    throw new FormatError({ code: 'BAD_FIELD', ...where, what, expected: 'volume, base, size, date and generator' });
  }
  return { volume, base, sizeBytes, createdAt, generator: plainText(generator) };
}

export function encodeRecord({ kind, offset, length, sum, baseSum }: ImageRecord): Buffer {
  const bytes = Buffer.alloc(RECORD_BYTES);
  bytes.write(RECORD_MAGIC, 0, 'latin1');
  bytes.writeUInt32LE(kind, 4);
  bytes.writeBigUInt64LE(BigInt(offset), 8);
  bytes.writeBigUInt64LE(BigInt(length), 16);
  sum.copy(bytes, 24);
  baseSum.copy(bytes, 56);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, -CRC_BYTES)), RECORD_BYTES - CRC_BYTES);
  return bytes;
}

/** Throws FormatError. */
export function decodeRecord(bytes: Buffer, where: Where): ImageRecord {
  const what = 'record of a backup image';
  const magic = bytes.toString('latin1', 0, 4);
  if (magic !== RECORD_MAGIC) {
    throw new FormatError({ code: 'BAD_MAGIC', ...where, what, expected: RECORD_MAGIC, actual: magic });
  }
  checkCrc(bytes, where, what);
  const kind = bytes.readUInt32LE(4);
  const offset = Number(bytes.readBigUInt64LE(8));
  const length = Number(bytes.readBigUInt64LE(16));
  const known = kind === RecordKind.data || kind === RecordKind.zero || kind === RecordKind.end;
  if (!known || !Number.isSafeInteger(offset + length) || (kind === RecordKind.data && length > MAX_RECORD_BYTES)) {
    throw new FormatError({ code: 'BAD_FIELD', ...where, what, expected: 'a kind and a range', actual: kind });
  }
  return { kind, offset, length, sum: bytes.subarray(24, 56), baseSum: bytes.subarray(56, 88) };
}

function checkCrc(bytes: Buffer, where: Where, what: string): void {
  const stored = bytes.readUInt32LE(bytes.length - CRC_BYTES);
  const actual = crc32(bytes.subarray(0, -CRC_BYTES));
  if (stored !== actual) throw new FormatError({ code: 'BAD_CRC', ...where, what, expected: stored, actual });
}

function asObject(value: unknown): Readonly<Record<string, unknown>> | undefined {
  return typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>) : undefined;
}

function asVolume(value: unknown): ImageVolume | undefined {
  const { name, id } = asObject(value) ?? {};
  return typeof name === 'string' && typeof id === 'string' ? { name: plainText(name), id: plainText(id) } : undefined;
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}
