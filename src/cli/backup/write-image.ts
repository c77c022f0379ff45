/**
 * Writing a backup image (ondisk/backup-image.ts): what a volume holds, or what of it differs from its base.
 *
 * Invariants
 *  - What is known to be zeroes is not read; what is read and is zeroes is not written. Of an incremental image, what turns out to be
 *    equal to the base is left out: only differences are in it, whatever the exceptions said.
 *  - Records leave in order of their offsets; some are read ahead.
 */
import {
  encodeHeader,
  encodeRecord,
  type ImageHeader,
  ImageSum,
  MAX_RECORD_BYTES,
  NO_SUM,
  RecordKind,
  sumOf,
} from '../../ondisk/backup-image.ts';
import type { Stretch } from '../../lvm/direct-volumes.ts';
import type { WorkSet, WorkVolume } from './volumes.ts';

/** Records that are read ahead. */
const DEPTH = 8;
const ZEROES = Buffer.alloc(MAX_RECORD_BYTES);

export interface ImageSink {
  write(bytes: Buffer): Promise<void>;
}

export interface Written {
  readonly dataBytes: number;
  readonly zeroBytes: number;
}

export interface WriteOptions {
  readonly createdAt: number;
  readonly generator: string;
  readonly signal: AbortSignal;
  /** Told of bytes of the volume that are done, of all. */
  readonly onProgress: (done: number, total: number) => void;
}

/** A range and its content; null: zeroes that nobody has to read. */
interface Piece {
  readonly offset: number;
  readonly length: number;
  readonly known: 'zero' | null;
}

interface Content {
  readonly piece: Piece;
  /** Null: zeroes. */
  readonly data: Buffer | null;
  readonly baseSum: Buffer;
}

export async function writeImage(set: WorkSet, sink: ImageSink, options: WriteOptions): Promise<Written> {
  const writer = new ImageWriter(sink);
  const { volume, base } = set;
  const { sizeBytes } = volume;
  const { createdAt, generator } = options;
  await writer.begin({
    volume: { name: volume.name, id: volume.id },
    base: base === null ? null : { name: base.name, id: base.id },
    sizeBytes,
    createdAt,
    generator,
  });
  const ahead: Promise<Content | null>[] = [];
  const takeOne = async (): Promise<void> => {
    const content = await ahead.shift();
    options.signal.throwIfAborted();
    if (content === undefined || content === null) return;
    await writer.add(content);
    options.onProgress(content.piece.offset + content.piece.length, sizeBytes);
  };
  try {
    for await (const piece of pieces(volume, base)) {
      const loading = load(piece, volume, base);
      // A failure is told when its turn comes.
      void Promise.allSettled([loading]);
      ahead.push(loading);
      if (ahead.length === DEPTH) await takeOne();
    }
    while (ahead.length > 0) await takeOne();
  } finally {
    await Promise.allSettled(ahead);
  }
  return writer.end();
}

/** The ranges to look at, none longer than a record unless it is known to be zeroes. */
async function* pieces(volume: WorkVolume, base: WorkVolume | null): AsyncGenerator<Piece> {
  const common = Math.min(base?.sizeBytes ?? 0, volume.sizeBytes);
  for (let at = 0; at < volume.sizeBytes;) {
    const left = volume.sizeBytes - at;
    const stretches: readonly Stretch[] =
      base === null ? await volume.zeroes(at, left) : await volume.changes(at, left);
    for (const { length, is } of stretches) {
      const end = at + length;
      if (base === null && is) yield { offset: at, length, known: 'zero' };
      else if (base === null || is) yield* cut(at, end, common);
      at = end;
    }
  }
}

/** A range in records: at multiples of their size, and where the base ends. */
function* cut(from: number, end: number, common: number): Generator<Piece> {
  for (let at = from; at < end;) {
    let next = Math.min(end, (Math.floor(at / MAX_RECORD_BYTES) + 1) * MAX_RECORD_BYTES);
    if (at < common && next > common) next = common;
    yield { offset: at, length: next - at, known: null };
    at = next;
  }
}

/** Reads a piece; null: there is nothing to write. */
async function load(piece: Piece, volume: WorkVolume, base: WorkVolume | null): Promise<Content | null> {
  const { offset, length, known } = piece;
  if (known === 'zero') return { piece, data: null, baseSum: NO_SUM };
  const inBase = base !== null && offset < base.sizeBytes;
  const [data, before] = await Promise.all([
    volume.read(offset, length),
    inBase ? base.read(offset, length) : Promise.resolve(null),
  ]);
  if (before?.equals(data) === true) return null;
  const zero = data.equals(ZEROES.subarray(0, length));
  return { piece, data: zero ? null : data, baseSum: before === null ? NO_SUM : sumOf(before) };
}

/** Zeroes that follow each other and have no base share a record. */
class ImageWriter {
  readonly #sink: ImageSink;
  readonly #sum = new ImageSum();
  #zeroFrom = 0;
  #zeroLength = 0;
  #records = 0;
  #dataBytes = 0;
  #zeroBytes = 0;

  constructor(sink: ImageSink) {
    this.#sink = sink;
  }

  async begin(header: ImageHeader): Promise<void> {
    const bytes = encodeHeader(header);
    this.#sum.add(bytes);
    await this.#sink.write(bytes);
  }

  async add({ piece: { offset, length }, data, baseSum }: Content): Promise<void> {
    if (data === null && baseSum === NO_SUM) {
      if (this.#zeroFrom + this.#zeroLength !== offset) await this.#endZeroes();
      if (this.#zeroLength === 0) this.#zeroFrom = offset;
      this.#zeroLength += length;
      return;
    }
    await this.#endZeroes();
    if (data === null) {
      this.#zeroBytes += length;
      await this.#record(RecordKind.zero, offset, length, NO_SUM, baseSum);
      return;
    }
    this.#dataBytes += length;
    await this.#record(RecordKind.data, offset, length, sumOf(data), baseSum);
    await this.#sink.write(data);
  }

  async end(): Promise<Written> {
    await this.#endZeroes();
    const sum = this.#sum.digest();
    await this.#record(RecordKind.end, this.#records, this.#dataBytes, sum, NO_SUM);
    return { dataBytes: this.#dataBytes, zeroBytes: this.#zeroBytes };
  }

  async #endZeroes(): Promise<void> {
    if (this.#zeroLength === 0) return;
    this.#zeroBytes += this.#zeroLength;
    await this.#record(RecordKind.zero, this.#zeroFrom, this.#zeroLength, NO_SUM, NO_SUM);
    this.#zeroLength = 0;
  }

  async #record(kind: RecordKind, offset: number, length: number, sum: Buffer, baseSum: Buffer): Promise<void> {
    const bytes = encodeRecord({ kind, offset, length, sum, baseSum });
    this.#sum.add(bytes);
    this.#records++;
    await this.#sink.write(bytes);
  }
}
