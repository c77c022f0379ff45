/**
 * The persistent exception store at work (format: ondisk/snapshot-store.ts): loading, committing exceptions, and taking them
 * back from the end while a snapshot is merged.
 *
 *     commit:  [area becomes full: zero the next area] → flush (chunks copied before are durable) → records, FUA
 *
 * Invariants
 *  - Records are written only behind a flush of the chunks that they speak of, and count for nobody before they are durable.
 *  - Beyond the last record the current area holds zeroes, on the device too: what a torn write left there is erased when
 *    the store is loaded, before it can be taken for records.
 *  - The last chunk before an area that would lie outside the device is never used: whoever loads a full area reads the next.
 */
import assert from 'node:assert/strict';
import { constants } from 'node:os';
import type { BlockDevice } from '../../block/device.ts';
import { IoRequest, Op, RequestFlag, type RequestOwner } from '../../block/request.ts';
import { flush, readBytes, writeBytes, writeZeroes } from '../../block/sync-io.ts';
import { FormatError, type Where } from '../../ondisk/errors.ts';
import {
  clearRecords,
  decodeArea,
  decodeSnapshotHeader,
  encodeSnapshotHeader,
  FIRST_DATA_CHUNK,
  newChunkAt,
  oldChunkAt,
  putRecord,
  recordBytes,
  SNAPSHOT_HEADER_BYTES,
  StoreGeometry,
} from '../../ondisk/snapshot-store.ts';
import type { ExceptionStore, StoreUsage } from './exception-store.ts';

const SECTOR_BYTES = 512;
/** Areas that are read at the same time while a store is loaded. */
const READ_AHEAD = 32;
/** Of an area the blocks that changed are written, in whole ones of this many bytes. */
const BLOCK_BYTES = 4096;

/** Chunks that follow each other on both sides. */
export interface ChunkRun {
  readonly oldChunk: number;
  readonly newChunk: number;
  readonly count: number;
}

type Step = 'idle' | 'zero' | 'flush' | 'records';

/** Says on a COW device, durably, that its snapshot is invalid. Rejects with a DeviceError. */
export async function markInvalid(device: BlockDevice, chunkSectors: number): Promise<void> {
  await writeBytes(device, 0, encodeSnapshotHeader({ valid: false, chunkSectors }), { fua: true });
}

export class PersistentStore implements ExceptionStore, RequestOwner {
  readonly geometry: StoreGeometry;
  device: BlockDevice;
  onCommitted: (errno: number) => void = () => {};
  /** What the header said. */
  readonly valid: boolean;
  readonly #area: Buffer;
  #areaIndex = 0;
  /** Records in the current area, those being committed too. */
  #records = 0;
  /** Of them, those that are on the device. */
  #written = 0;
  #next = FIRST_DATA_CHUNK;
  /** The last area is full and no other lies behind it, which no implementation brings about: nothing can be added. */
  #sealed = false;
  readonly #io = new IoRequest();
  #step: Step = 'idle';

  /** Loads the store, or makes a new one of `chunkSectors` where there is none. Throws FormatError and DeviceError. */
  static async open(
    device: BlockDevice,
    chunkSectors: number,
    onException: (oldChunk: number, newChunk: number, where: Where) => void,
  ): Promise<PersistentStore> {
    const header = decodeSnapshotHeader(await readBytes(device, 0, SNAPSHOT_HEADER_BYTES), {
      device: device.name,
      offset: 0,
    });
    const store = new PersistentStore(device, header?.chunkSectors ?? chunkSectors, header?.valid ?? true);
    store.#refuseTooSmall();
    if (header === null) await store.#make();
    else if (header.valid) await store.#load(onException);
    return store;
  }

  /** Makes a store where there is none; null: there is one. Throws FormatError and DeviceError. */
  static async make(device: BlockDevice, chunkSectors: number): Promise<PersistentStore | null> {
    const where = { device: device.name, offset: 0 };
    if (decodeSnapshotHeader(await readBytes(device, 0, SNAPSHOT_HEADER_BYTES), where) !== null) return null;
    return PersistentStore.open(device, chunkSectors, () => undefined);
  }

  private constructor(device: BlockDevice, chunkSectors: number, valid: boolean) {
    this.device = device;
    this.geometry = new StoreGeometry(chunkSectors);
    this.valid = valid;
    this.#area = Buffer.alloc(this.geometry.chunkBytes);
    this.#io.owner = this;
  }

  get room(): number {
    return this.geometry.exceptionsPerArea - this.#records;
  }

  get nextChunk(): number {
    if (this.#sealed) return -1;
    return this.geometry.hasRoomFor(this.#next, this.device.limits.sizeBytes) ? this.#next : -1;
  }

  allocate(): number {
    const chunk = this.nextChunk;
    if (chunk >= 0) this.#next = this.geometry.nextDataChunk(chunk);
    return chunk;
  }

  put(oldChunk: number, newChunk: number): void {
    assert(this.room > 0 && this.#step === 'idle');
    putRecord(this.#area, this.#records, oldChunk, newChunk);
    this.#records++;
  }

  commit(): void {
    assert(this.#step === 'idle' && this.#records > this.#written);
    const { geometry, device } = this;
    if (this.room > 0) {
      this.#flush();
      return;
    }
    // Without room for the next area the last chunk of this one was not given away: the device has become smaller.
    if (!geometry.hasArea(this.#areaIndex + 1, device.limits.sizeBytes)) {
      setImmediate(() => this.onCommitted(constants.errno.ENOSPC));
      return;
    }
    this.#step = 'zero';
    const io = this.#io;
    io.op = Op.writeZeroes;
    io.flags = RequestFlag.noUnmap;
    io.offset = geometry.areaChunk(this.#areaIndex + 1) * geometry.chunkBytes;
    io.length = geometry.chunkBytes;
    device.submit(io);
  }

  /** The device has done a step of a commit. */
  ioDone(io: IoRequest): void {
    if (io.error !== 0) {
      this.#step = 'idle';
      this.onCommitted(io.error);
    } else if (this.#step === 'zero') this.#flush();
    else if (this.#step === 'flush') this.#writeRecords();
    else this.#committed();
  }

  usage(): StoreUsage {
    const { chunkSectors } = this.geometry;
    return {
      used: this.#next * chunkSectors,
      total: this.device.limits.sizeBytes / SECTOR_BYTES,
      // The header and the areas up to the current one.
      metadata: (this.#areaIndex + 2) * chunkSectors,
    };
  }

  /**
   * Runs of chunks from the end of the list backwards, the last one first: together at most `maxRecords` records of the
   * current area. None: the store is empty. While a store is merged nothing else may use it.
   */
  async lastRuns(maxRecords: number): Promise<readonly ChunkRun[]> {
    assert(this.#step === 'idle' && this.#written === this.#records);
    if (this.#records === 0 && this.#areaIndex > 0) {
      const bytes = await this.#readArea(this.#areaIndex - 1);
      bytes.copy(this.#area);
      this.#areaIndex--;
      this.#records = this.geometry.exceptionsPerArea;
      this.#written = this.#records;
    }
    const runs: ChunkRun[] = [];
    const first = Math.max(0, this.#records - maxRecords);
    for (let end = this.#records; end > first;) {
      let start = end - 1;
      while (start > first && this.#continues(start)) start--;
      runs.push({
        oldChunk: oldChunkAt(this.#area, start),
        newChunk: newChunkAt(this.#area, start),
        count: end - start,
      });
      end = start;
    }
    return runs;
  }

  /** Takes the last `count` records off the list, durably. Rejects with a DeviceError, and leaves them, when it can't. */
  async removeLast(count: number): Promise<void> {
    const from = this.#records - count;
    assert(from >= 0);
    const before = Buffer.from(this.#area);
    clearRecords(this.#area, from, this.#records);
    try {
      await this.#writeArea(from, this.#records);
    } catch (error) {
      before.copy(this.#area);
      throw error;
    }
    this.#records = from;
    this.#written = from;
    // Only the status asks for it now: as if all exceptions had been made in order.
    this.#next = this.geometry.areaChunk(this.#areaIndex) + from + 1;
  }

  /** Whether record `index` goes on where the one before it ends. */
  #continues(index: number): boolean {
    const area = this.#area;
    return (
      oldChunkAt(area, index) === oldChunkAt(area, index - 1) + 1 &&
      newChunkAt(area, index) === newChunkAt(area, index - 1) + 1
    );
  }

  #flush(): void {
    this.#step = 'flush';
    const io = this.#io;
    io.op = Op.flush;
    io.flags = 0;
    io.offset = 0;
    io.length = 0;
    this.device.submit(io);
  }

  #writeRecords(): void {
    this.#step = 'records';
    const { start, end } = recordBytes(this.#written, this.#records, Math.min(BLOCK_BYTES, this.geometry.chunkBytes));
    const io = this.#io;
    io.op = Op.write;
    io.flags = RequestFlag.fua;
    io.offset = this.geometry.areaChunk(this.#areaIndex) * this.geometry.chunkBytes + start;
    io.length = end - start;
    io.buffer = this.#area;
    io.bufferOffset = start;
    this.device.submit(io);
  }

  #committed(): void {
    this.#step = 'idle';
    this.#written = this.#records;
    if (this.room === 0) {
      this.#areaIndex++;
      this.#records = 0;
      this.#written = 0;
      this.#area.fill(0);
    }
    this.onCommitted(0);
  }

  #refuseTooSmall(): void {
    const { chunkBytes } = this.geometry;
    const { name, limits } = this.device;
    if (limits.sizeBytes >= 2 * chunkBytes) return;
    const place = { device: name, offset: 0, what: 'snapshot store' };
    throw new FormatError({
      code: 'OUT_OF_RANGE',
      ...place,
      expected: `at least 2 chunks of ${chunkBytes} bytes`,
      actual: limits.sizeBytes,
    });
  }

  /** The header is written last, so that a store that was not finished is made anew. */
  async #make(): Promise<void> {
    if (this.device.limits.readOnly) return;
    const { chunkBytes, chunkSectors } = this.geometry;
    await writeZeroes(this.device, chunkBytes, chunkBytes, { fua: true });
    await writeBytes(this.device, 0, encodeSnapshotHeader({ valid: true, chunkSectors }), { fua: true });
  }

  async #load(onException: (oldChunk: number, newChunk: number, where: Where) => void): Promise<void> {
    const { geometry, device } = this;
    const { sizeBytes } = device.limits;
    let last = FIRST_DATA_CHUNK - 1;
    let full = true;
    // More and more areas at a time: a new store is one read, a large one is not a chain of them.
    for (let area = 0, ahead = 1; full && geometry.hasArea(area, sizeBytes); ahead = Math.min(ahead * 2, READ_AHEAD)) {
      const count = Math.max(1, Math.min(ahead, this.#areasInside() - area));
      const areas = await Promise.all(Array.from({ length: count }, (_, i) => this.#readArea(area + i)));
      for (let i = 0; i < count && full; i++, area++) {
        const where = { device: device.name, offset: geometry.areaChunk(area) * geometry.chunkBytes };
        const records = decodeArea(areas[i]!, geometry, sizeBytes, where, (oldChunk, newChunk) => {
          onException(oldChunk, newChunk, where);
          last = Math.max(last, newChunk);
        });
        full = records === geometry.exceptionsPerArea;
        this.#areaIndex = area;
        this.#records = records;
        areas[i]!.copy(this.#area);
      }
    }
    this.#written = this.#records;
    this.#next = last < FIRST_DATA_CHUNK ? FIRST_DATA_CHUNK : geometry.nextDataChunk(last);
    this.#sealed = full;
    await this.#cleanTail();
  }

  #areasInside(): number {
    const { chunkBytes, exceptionsPerArea } = this.geometry;
    const chunks = Math.floor(this.device.limits.sizeBytes / chunkBytes);
    return Math.ceil((chunks - 1) / (exceptionsPerArea + 1));
  }

  /** Erases what follows the last record in the area: records of a commit of which only the end reached the device. */
  async #cleanTail(): Promise<void> {
    const { exceptionsPerArea } = this.geometry;
    if (this.#records === exceptionsPerArea || this.device.limits.readOnly) return;
    const tail = this.#area.subarray(recordBytes(this.#records, this.#records, 1).start);
    if (tail.every((byte) => byte === 0)) return;
    clearRecords(this.#area, this.#records, exceptionsPerArea);
    await this.#writeArea(this.#records, exceptionsPerArea);
  }

  #readArea(area: number): Promise<Buffer> {
    const { chunkBytes } = this.geometry;
    return readBytes(this.device, this.geometry.areaChunk(area) * chunkBytes, chunkBytes);
  }

  /** Writes the blocks of the current area that hold records `from` to `to`, durably, behind a flush. */
  async #writeArea(from: number, to: number): Promise<void> {
    const { chunkBytes } = this.geometry;
    const { start, end } = recordBytes(from, to, Math.min(BLOCK_BYTES, chunkBytes));
    const at = this.geometry.areaChunk(this.#areaIndex) * chunkBytes;
    await flush(this.device);
    await writeBytes(this.device, at + start, this.#area.subarray(start, end), { fua: true });
  }
}
