/**
 * Which parts of a mirror hold the same bytes on all legs: the `core` log, kept in memory only.
 *
 *     region   |               0               |               1               |    what the table and the status count in
 *     chunk    |   0   |   1   |   2   |   3   |   4   |   5   |   6   |   7 |      what is copied, and known, one by one
 *
 * Invariants
 *  - A chunk is a region or, where regions are large, a part of one: so a write never waits for the copying of a large region.
 *  - A region is in sync when all its chunks are. The last chunk may be short.
 */
import assert from 'node:assert/strict';

/** Bytes copied at a time, at most. */
const MAX_CHUNK_BYTES = 1 << 20;

export class SyncMap {
  readonly sizeBytes: number;
  readonly chunkBytes: number;
  readonly chunks: number;
  readonly regions: number;
  /** 1: in sync. */
  readonly #inSync: Uint8Array;
  /** Chunks out of sync, by region. */
  readonly #missing: Int32Array;
  readonly #chunksPerRegion: number;
  #chunksInSync = 0;
  #regionsInSync = 0;
  #epoch = 0;

  /** `regionBytes` is a power of two; `inSync` is what everything is at first. */
  constructor(sizeBytes: number, regionBytes: number, inSync: boolean) {
    this.sizeBytes = sizeBytes;
    this.chunkBytes = Math.min(regionBytes, MAX_CHUNK_BYTES);
    this.chunks = Math.ceil(sizeBytes / this.chunkBytes);
    this.regions = Math.ceil(sizeBytes / regionBytes);
    this.#chunksPerRegion = regionBytes / this.chunkBytes;
    this.#inSync = new Uint8Array(this.chunks);
    this.#missing = new Int32Array(this.regions);
    this.setAll(inSync);
  }

  /** Changes when everything is set at once: who began something before can't know what it is worth after. */
  get epoch(): number {
    return this.#epoch;
  }

  get regionsInSync(): number {
    return this.#regionsInSync;
  }

  get complete(): boolean {
    return this.#chunksInSync === this.chunks;
  }

  /** Bytes in sync. */
  get bytesInSync(): number {
    if (this.complete) return this.sizeBytes;
    const short = this.chunks * this.chunkBytes - this.sizeBytes;
    return this.#chunksInSync * this.chunkBytes - (this.#inSync[this.chunks - 1] === 1 ? short : 0);
  }

  isInSync(chunk: number): boolean {
    return this.#inSync[chunk] === 1;
  }

  set(chunk: number, inSync: boolean): void {
    assert(chunk >= 0 && chunk < this.chunks);
    if (this.isInSync(chunk) === inSync) return;
    const region = Math.floor(chunk / this.#chunksPerRegion);
    this.#inSync[chunk] = inSync ? 1 : 0;
    this.#chunksInSync += inSync ? 1 : -1;
    if (!inSync && this.#missing[region] === 0) this.#regionsInSync--;
    this.#missing[region]! += inSync ? -1 : 1;
    if (inSync && this.#missing[region] === 0) this.#regionsInSync++;
  }

  setAll(inSync: boolean): void {
    this.#epoch++;
    this.#inSync.fill(inSync ? 1 : 0);
    this.#missing.fill(inSync ? 0 : this.#chunksPerRegion);
    if (!inSync && this.regions > 0) {
      this.#missing[this.regions - 1] = this.chunks - (this.regions - 1) * this.#chunksPerRegion;
    }
    this.#chunksInSync = inSync ? this.chunks : 0;
    this.#regionsInSync = inSync ? this.regions : 0;
  }

  /** Whether every byte of a range is in sync; bytes. */
  allInSync(start: number, end: number): boolean {
    const last = Math.floor((end - 1) / this.chunkBytes);
    for (let chunk = Math.floor(start / this.chunkBytes); chunk <= last; chunk++)
      if (!this.isInSync(chunk)) return false;
    return true;
  }

  /** Whether any byte of a range is in sync; bytes. */
  anyInSync(start: number, end: number): boolean {
    const last = Math.floor((end - 1) / this.chunkBytes);
    for (let chunk = Math.floor(start / this.chunkBytes); chunk <= last; chunk++) if (this.isInSync(chunk)) return true;
    return false;
  }

  /** The legs differ, or may differ, in a range; gives its first chunk. Bytes. */
  lose(start: number, end: number): number {
    const first = Math.floor(start / this.chunkBytes);
    const last = Math.floor((end - 1) / this.chunkBytes);
    for (let chunk = first; chunk <= last; chunk++) this.set(chunk, false);
    return first;
  }

  /** The first chunk from `chunk` on that is out of sync; -1: there is none. */
  nextOutOfSync(chunk: number): number {
    return this.#inSync.indexOf(0, chunk);
  }
}
