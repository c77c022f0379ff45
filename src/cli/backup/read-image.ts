/**
 * Reading backup images: one file (`ImageFile`), and a chain of them (`ImageChain`), each applied to what those before it make.
 *
 * Invariants
 *  - `verify` reads every byte and compares every sum, before anything is done with any of it.
 *  - A chain holds together: each image's base is the volume of the one before, and has the content there that the image was taken
 *    against, record by record.
 */
import { type FileHandle, open } from 'node:fs/promises';
import {
  decodeHeader,
  decodeRecord,
  HEADER_START_BYTES,
  headerLength,
  type ImageHeader,
  type ImageRecord,
  ImageSum,
  MAX_RECORD_BYTES,
  NO_SUM,
  RECORD_BYTES,
  RecordKind,
  sumOf,
} from '../../ondisk/backup-image.ts';
import { FormatError, type Where } from '../../ondisk/errors.ts';
import { CommandError, EXIT } from '../messages.ts';
import { systemWords } from '../../lvm/system-error.ts';

const WHAT = 'backup image';
const SECTOR_BYTES = 512;

/** A record, and where its data begins in the file. */
export interface PlacedRecord {
  readonly kind: RecordKind;
  readonly offset: number;
  readonly length: number;
  readonly position: number;
  /** Null: it has no base. */
  readonly baseSum: Buffer | null;
}

/** Told of bytes of images that are read, of all. */
export type OnRead = (done: number, total: number) => void;

export class ImageFile {
  readonly path: string;
  readonly header: ImageHeader;
  readonly fileBytes: number;
  /** Filled by `verify`. */
  readonly records: PlacedRecord[] = [];
  readonly #file: FileHandle;
  readonly #start: Buffer;

  /** Opens an image and reads its header. Throws CommandError and FormatError. */
  static async open(path: string): Promise<ImageFile> {
    let file: FileHandle;
    try {
      file = await open(path, 'r');
    } catch (error) {
      throw new CommandError(EXIT.failed, [`${path}: open failed: ${systemWords(error)}`]);
    }
    try {
      const stats = await file.stat();
      if (!stats.isFile()) {
        throw new CommandError(EXIT.failed, [`${path}: is no regular file: images are verified before they are used.`]);
      }
      const where = { device: path, offset: 0 };
      const length = headerLength(await readAt(file, 0, HEADER_START_BYTES, where), where);
      const start = await readAt(file, 0, length, where);
      return new ImageFile(path, file, { start, header: decodeHeader(start, where), fileBytes: stats.size });
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  private constructor(
    path: string,
    file: FileHandle,
    { start, header, fileBytes }: { start: Buffer; header: ImageHeader; fileBytes: number },
  ) {
    this.path = path;
    this.header = header;
    this.fileBytes = fileBytes;
    this.#file = file;
    this.#start = start;
  }

  /** Reads all of it. Throws FormatError. */
  async verify(onRead: (bytes: number) => void): Promise<void> {
    const sum = new ImageSum();
    sum.add(this.#start);
    let position = this.#start.length;
    let dataBytes = 0;
    let end = 0;
    for (;;) {
      const where = this.#where(position);
      const bytes = await readAt(this.#file, position, RECORD_BYTES, where);
      const record = decodeRecord(bytes, where);
      position += RECORD_BYTES;
      if (record.kind === RecordKind.end) {
        this.#checkEnd(record, { sum: sum.digest(), dataBytes, end, position });
        return;
      }
      this.#checkPlace(record, end, where);
      end = record.offset + record.length;
      sum.add(bytes);
      const { kind, offset, length } = record;
      const baseSum = record.baseSum.equals(NO_SUM) ? null : Buffer.from(record.baseSum);
      this.records.push({ kind, offset, length, position, baseSum });
      if (kind === RecordKind.data) {
        const data = await readAt(this.#file, position, length, this.#where(position));
        if (!sumOf(data).equals(record.sum)) throw this.#fault(position, 'BAD_CRC', 'its data is not what was written');
        position += length;
        dataBytes += length;
      }
      onRead(position);
    }
  }

  /** The data of a record; a buffer of zeroes where it has none. */
  async read(record: PlacedRecord, from: number, length: number): Promise<Buffer> {
    if (record.kind !== RecordKind.data) return Buffer.alloc(length);
    const position = record.position + from - record.offset;
    return readAt(this.#file, position, length, this.#where(position));
  }

  /**
   * What a whole record holds, to be written somewhere: compared with its sum once more, for the file may be another one by now, or its
   * disk not read the same twice. Throws FormatError.
   */
  async readWhole(record: PlacedRecord): Promise<Buffer> {
    const { kind, offset, length, position } = record;
    if (kind !== RecordKind.data) return Buffer.alloc(length);
    const start = position - RECORD_BYTES;
    const bytes = await readAt(this.#file, start, RECORD_BYTES + length, this.#where(start));
    const found = decodeRecord(bytes.subarray(0, RECORD_BYTES), this.#where(start));
    const data = bytes.subarray(RECORD_BYTES);
    const same = found.kind === kind && found.offset === offset && found.length === length;
    if (!same || !sumOf(data).equals(found.sum)) {
      throw this.#fault(position, 'BAD_CRC', 'its data is not what it was when it was checked');
    }
    return data;
  }

  /** The first record that ends after a byte of the volume; the number of records if none does. */
  indexAt(offset: number): number {
    let low = 0;
    let high = this.records.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const { offset: start, length } = this.records[middle] ?? { offset: Infinity, length: 0 };
      if (start + length > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  #checkPlace({ offset, length, baseSum }: ImageRecord, end: number, { offset: at }: Where): void {
    const { base, sizeBytes } = this.header;
    const inOrder = base === null ? offset === end : offset >= end;
    if (!inOrder || length === 0 || offset + length > sizeBytes) throw this.#fault(at, 'OUT_OF_RANGE', 'out of order');
    const summed = !baseSum.equals(NO_SUM);
    if (summed && (base === null || length > MAX_RECORD_BYTES)) throw this.#fault(at, 'INCONSISTENT', 'a base sum');
  }

  #checkEnd(
    record: ImageRecord,
    found: { readonly sum: Buffer; readonly dataBytes: number; readonly end: number; readonly position: number },
  ): void {
    const { position } = found;
    const counts = record.offset === this.records.length && record.length === found.dataBytes;
    if (!counts || !record.sum.equals(found.sum))
      throw this.#fault(position, 'BAD_CRC', 'the sum of all records is wrong');
    if (this.header.base === null && found.end !== this.header.sizeBytes) {
      throw this.#fault(position, 'INCONSISTENT', 'a full image that leaves something out');
    }
    if (position !== this.fileBytes) throw this.#fault(position, 'INCONSISTENT', 'there is more behind its end');
  }

  #fault(position: number, code: 'BAD_CRC' | 'OUT_OF_RANGE' | 'INCONSISTENT', problem: string): FormatError {
    return new FormatError({ code, ...this.#where(position), what: WHAT, problem });
  }

  #where(offset: number): Where {
    return { device: this.path, offset };
  }
}

/** What is under the first image of a chain: the volume as it is. */
export interface Ground {
  readonly sizeBytes: number;
  read(offset: number, length: number): Promise<Buffer>;
}

export class ImageChain {
  readonly images: readonly ImageFile[];

  constructor(images: readonly ImageFile[]) {
    this.images = images;
  }

  /** Bytes that a volume must have. */
  get sizeBytes(): number {
    return Math.max(...this.images.map(({ header }) => header.sizeBytes));
  }

  get startsFull(): boolean {
    return this.images[0]?.header.base === null;
  }

  /** Refuses files that don't follow each other. Throws CommandError. */
  checkOrder(): void {
    for (const [index, { path, header }] of this.images.entries()) {
      const before = this.images[index - 1];
      if (before === undefined) continue;
      if (header.base === null) throw failed(`${path} is a full backup: it can only be the first.`);
      if (header.base.id !== before.header.volume.id) {
        throw failed(
          `${path} was taken since ${header.base.name} (${header.base.id}), and ${before.path} is of ${before.header.volume.name} (${before.header.volume.id}).`,
        );
      }
    }
  }

  /** Reads and checks every image. Throws FormatError. */
  async verify(onRead: OnRead): Promise<void> {
    const total = this.images.reduce((sum, { fileBytes }) => sum + fileBytes, 0);
    let before = 0;
    for (const image of this.images) {
      await image.verify((bytes) => onRead(before + bytes, total));
      before += image.fileBytes;
    }
  }

  /**
   * Compares what each image was taken against with what those before it make, on top of `ground` (null: nobody knows it). Throws
   * CommandError.
   */
  async checkBases(ground: Ground | null, onRead: OnRead): Promise<void> {
    const checked = this.images.flatMap((image, level) =>
      image.records.flatMap((record) => {
        const { baseSum } = record;
        return baseSum === null ? [] : [{ image, level, record, baseSum }];
      }),
    );
    for (const [index, { image, level, record, baseSum }] of checked.entries()) {
      const content = await this.#contentBelow(level, record.offset, record.length, ground);
      const fits = content === null || sumOf(content).equals(baseSum);
      if (!fits && !(await this.#isApplied(level, record, content))) {
        const what = this.images[level - 1]?.path ?? 'the logical volume';
        throw failed(
          `${image.path} does not apply: at byte ${record.offset} ${what} is not what ${image.header.base?.name} was when it was taken.`,
        );
      }
      onRead(index + 1, checked.length);
    }
  }

  /**
   * Whether what the volume has in the range of a record is what this image or later ones make: a restore was interrupted, and is done
   * again.
   */
  async #isApplied(level: number, { offset, length }: PlacedRecord, content: Buffer): Promise<boolean> {
    // Of what the images before make it is no part.
    if ((await this.#contentBelow(level, offset, length, null)) !== null) return false;
    const ground: Ground = {
      sizeBytes: offset + length,
      read: (from, bytes) => Promise.resolve(content.subarray(from - offset, from - offset + bytes)),
    };
    const made: Buffer[] = [];
    for (let above = level + 1; above <= this.images.length; above++) {
      const state = await this.#contentBelow(above, offset, length, ground);
      if (state !== null) made.push(state);
    }
    for (let at = 0; at < length; at += SECTOR_BYTES) {
      const end = Math.min(length, at + SECTOR_BYTES);
      const sector = content.subarray(at, end);
      if (!made.some((state) => state.subarray(at, end).equals(sector))) return false;
    }
    return true;
  }

  /** What the images below a level make of a range; null: part of it is in none of them, and there is no ground. */
  async #contentBelow(level: number, offset: number, length: number, ground: Ground | null): Promise<Buffer | null> {
    const image = this.images[level - 1];
    if (image === undefined) {
      if (ground === null || offset + length > ground.sizeBytes) return null;
      return ground.read(offset, length);
    }
    const parts: Buffer[] = [];
    const end = offset + length;
    for (let at = offset, index = image.indexAt(offset); at < end;) {
      const record = image.records[index];
      const inside = record !== undefined && record.offset <= at;
      const stop = inside ? record.offset + record.length : (record?.offset ?? end);
      const next = Math.min(end, stop);
      const part = inside
        ? await image.read(record, at, next - at)
        : await this.#contentBelow(level - 1, at, next - at, ground);
      if (part === null) return null;
      parts.push(part);
      at = next;
      if (inside) index++;
    }
    return Buffer.concat(parts);
  }

  async close(): Promise<void> {
    for (const image of this.images) await image.close();
  }
}

async function readAt(file: FileHandle, position: number, length: number, where: Where): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(length);
  for (let done = 0; done < length;) {
    const { bytesRead } = await readSome(file, buffer, done, position, where);
    if (bytesRead === 0) {
      const problem = 'the file ends in the middle of the image';
      throw new FormatError({ code: 'TRUNCATED', ...where, what: WHAT, problem, expected: length, actual: done });
    }
    done += bytesRead;
  }
  return buffer;
}

async function readSome(
  file: FileHandle,
  buffer: Buffer,
  done: number,
  position: number,
  { device }: Where,
): Promise<{ readonly bytesRead: number }> {
  try {
    return await file.read(buffer, done, buffer.length - done, position + done);
  } catch (error) {
    throw failed(`${device}: can't be read: ${systemWords(error)}`);
  }
}

function failed(message: string): CommandError {
  return new CommandError(EXIT.failed, [message]);
}
