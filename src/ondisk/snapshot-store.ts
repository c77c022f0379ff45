/**
 * The persistent exception store of dm-snapshot: what a COW device holds (kernel: drivers/md/dm-snap-persistent.c).
 * Everything is in chunks of `chunkSectors`; little-endian, no checksums.
 *
 *     chunk 0            header: 0 magic u32 "SnAp"  4 valid u32  8 version u32  12 chunk size u32 (sectors); the rest zero
 *     chunk 1            area 0: E records of 16 bytes: 0 old chunk u64 (of the origin)  8 new chunk u64 (of the COW device)
 *     chunks 2 … E+1     data of area 0                     E = chunk bytes / 16
 *     chunk E+2          area 1, then its data; and so on: area a is chunk 1 + a * (E + 1)
 *
 * Invariants
 *  - A record whose new chunk is 0 ends the list; every area before the last one is full.
 *  - A new chunk is a data chunk inside the device; chunk numbers are below 2^40, so that an exception fits 12 bytes in memory.
 *  - A header of zero magic is no damage: it is a store that nobody has used yet.
 */
import assert from 'node:assert/strict';
import { FormatError, type Where } from './errors.ts';
import { struct, u32 } from './layout.ts';

const MAGIC = 0x7041_6e53;
const VERSION = 1;
/** A decoder reads at least so much: the smallest sector. */
export const SNAPSHOT_HEADER_BYTES = 512;
const SECTOR_BYTES = 512;
const RECORD_BYTES = 16;
/** 16 MiB: far above LVM2's 512 KiB; an area is as large as a chunk and kept in memory. */
const MAX_CHUNK_SECTORS = 32_768;
export const MAX_CHUNK_NUMBER: number = 2 ** 40 - 1;
const TWO_32 = 2 ** 32;

export interface SnapshotHeader {
  /** Once false, for ever: something that the snapshot needed was not kept. */
  readonly valid: boolean;
  /** Sectors; a power of two. It counts, whatever a table says. */
  readonly chunkSectors: number;
}

interface HeaderFields {
  readonly magic: number;
  readonly valid: number;
  readonly version: number;
  readonly chunkSectors: number;
}

const layout = struct<HeaderFields>([u32('magic'), u32('valid'), u32('version'), u32('chunkSectors')]);
assert.equal(layout.span, 16);

/** Whether a chunk size can be used: a power of two of sectors. */
export function isChunkSize(sectors: number): boolean {
  return Number.isInteger(sectors) && sectors >= 1 && sectors <= MAX_CHUNK_SECTORS && (sectors & (sectors - 1)) === 0;
}

/** The header of a store from its first bytes; null when its magic is zero: new. Throws FormatError. */
export function decodeSnapshotHeader(bytes: Uint8Array, where: Where): SnapshotHeader | null {
  const what = 'snapshot header';
  if (bytes.length < layout.span) {
    throw new FormatError({ code: 'TRUNCATED', ...where, what, expected: layout.span, actual: bytes.length });
  }
  const { magic, valid, version, chunkSectors } = layout.decode(bytes);
  if (magic === 0) return null;
  if (magic !== MAGIC) {
    throw new FormatError({
      code: 'BAD_MAGIC',
      ...where,
      what,
      expected: '0x70416e53',
      actual: `0x${magic.toString(16)}`,
    });
  }
  if (version !== VERSION) {
    throw new FormatError({ code: 'BAD_VERSION', ...where, what, expected: VERSION, actual: version });
  }
  if (!isChunkSize(chunkSectors)) {
    const expected = `a power of two from 1 to ${MAX_CHUNK_SECTORS}`;
    throw new FormatError({ code: 'BAD_FIELD', ...where, what: `${what}, chunk size`, expected, actual: chunkSectors });
  }
  if (valid > 1) {
    throw new FormatError({ code: 'BAD_FIELD', ...where, what: `${what}, valid`, expected: '0 or 1', actual: valid });
  }
  return { valid: valid === 1, chunkSectors };
}

/** Chunk 0, whole. */
export function encodeSnapshotHeader({ valid, chunkSectors }: SnapshotHeader): Buffer {
  assert(isChunkSize(chunkSectors));
  const chunk = Buffer.alloc(chunkSectors * SECTOR_BYTES);
  layout.encode({ magic: MAGIC, valid: valid ? 1 : 0, version: VERSION, chunkSectors }, chunk);
  return chunk;
}

/** The arithmetic of a store: pure functions of its chunk size. */
export class StoreGeometry {
  /** Sectors. */
  readonly chunkSectors: number;
  /** Bytes. */
  readonly chunkBytes: number;
  /** E: records in an area, and data chunks that follow it. */
  readonly exceptionsPerArea: number;

  constructor(chunkSectors: number) {
    assert(isChunkSize(chunkSectors));
    this.chunkSectors = chunkSectors;
    this.chunkBytes = chunkSectors * SECTOR_BYTES;
    this.exceptionsPerArea = this.chunkBytes / RECORD_BYTES;
  }

  /** The chunk that holds the area's records. */
  areaChunk(area: number): number {
    return 1 + area * (this.exceptionsPerArea + 1);
  }

  isAreaChunk(chunk: number): boolean {
    return chunk % (this.exceptionsPerArea + 1) === 1;
  }

  /** The data chunk after a data chunk. */
  nextDataChunk(chunk: number): number {
    return this.isAreaChunk(chunk + 1) ? chunk + 2 : chunk + 1;
  }

  /**
   * Whether a data chunk can be used on a device of so many bytes. It has to lie inside; and the last one before the next
   * area needs that area inside as well, for whoever loads a full area reads the next one.
   */
  hasRoomFor(chunk: number, sizeBytes: number): boolean {
    const needed = this.isAreaChunk(chunk + 1) ? chunk + 2 : chunk + 1;
    return needed * this.chunkBytes <= sizeBytes;
  }

  hasArea(area: number, sizeBytes: number): boolean {
    return (this.areaChunk(area) + 1) * this.chunkBytes <= sizeBytes;
  }
}

/** The first data chunk of every store. */
export const FIRST_DATA_CHUNK = 2;

/**
 * Reads an area's records up to the one that ends the list, each checked, and gives their number: exceptionsPerArea when the
 * area is full. `sizeBytes` is the device's. Throws FormatError.
 */
export function decodeArea(
  bytes: Buffer,
  geometry: StoreGeometry,
  sizeBytes: number,
  where: Where,
  onException: (oldChunk: number, newChunk: number) => void,
): number {
  assert.equal(bytes.length, geometry.chunkBytes);
  const chunks = Math.floor(sizeBytes / geometry.chunkBytes);
  for (let index = 0; index < geometry.exceptionsPerArea; index++) {
    const at = index * RECORD_BYTES;
    const newChunk = bytes.readUInt32LE(at + 8) + bytes.readUInt32LE(at + 12) * TWO_32;
    if (newChunk === 0) return index;
    const oldChunk = bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * TWO_32;
    const place = { device: where.device, offset: where.offset + at };
    if (newChunk >= chunks || newChunk < FIRST_DATA_CHUNK || geometry.isAreaChunk(newChunk)) {
      const expected = `a data chunk of the ${chunks} chunks`;
      const code = newChunk >= chunks ? 'OUT_OF_RANGE' : 'BAD_FIELD';
      throw new FormatError({ code, ...place, what: 'exception, new chunk', expected, actual: newChunk });
    }
    if (oldChunk > MAX_CHUNK_NUMBER) {
      const expected = `at most ${MAX_CHUNK_NUMBER}`;
      throw new FormatError({
        code: 'OUT_OF_RANGE',
        ...place,
        what: 'exception, old chunk',
        expected,
        actual: oldChunk,
      });
    }
    onException(oldChunk, newChunk);
  }
  return geometry.exceptionsPerArea;
}

/** The old chunk of record `index` of an area that was checked before. */
export function oldChunkAt(area: Buffer, index: number): number {
  const at = index * RECORD_BYTES;
  return area.readUInt32LE(at) + area.readUInt32LE(at + 4) * TWO_32;
}

/** The new chunk of record `index` of an area that was checked before. */
export function newChunkAt(area: Buffer, index: number): number {
  const at = index * RECORD_BYTES + 8;
  return area.readUInt32LE(at) + area.readUInt32LE(at + 4) * TWO_32;
}

/** Puts a record into an area. */
export function putRecord(area: Buffer, index: number, oldChunk: number, newChunk: number): void {
  const at = index * RECORD_BYTES;
  area.writeUInt32LE(oldChunk % TWO_32, at);
  area.writeUInt32LE(Math.floor(oldChunk / TWO_32), at + 4);
  area.writeUInt32LE(newChunk % TWO_32, at + 8);
  area.writeUInt32LE(Math.floor(newChunk / TWO_32), at + 12);
}

/** Zeroes the records from `from` to `to`, exclusive. */
export function clearRecords(area: Buffer, from: number, to: number): void {
  area.fill(0, from * RECORD_BYTES, to * RECORD_BYTES);
}

/** The bytes of an area that the records from `from` to `to` (exclusive) lie in, in whole blocks of `blockBytes`. */
export function recordBytes(
  from: number,
  to: number,
  blockBytes: number,
): { readonly start: number; readonly end: number } {
  const start = from * RECORD_BYTES;
  const end = to * RECORD_BYTES;
  return { start: start - (start % blockBytes), end: Math.ceil(end / blockBytes) * blockBytes };
}
