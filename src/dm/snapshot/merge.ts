/**
 * Takes a snapshot into its origin, from the last exception backwards (kernel: drivers/md/dm-snap.c, snapshot-merge).
 *
 *     the last records of the area → writes of their chunks have ended, new ones wait → COW device to origin (its other
 *     snapshots copy first) → flush → the records are cleared, FUA → the chunks are the origin's again, what waited goes on
 *
 * Invariants
 *  - A record is cleared only when its chunk is durable on the origin. Until then every reader takes the chunk from the COW
 *    device, so after a power cut the last step is simply done again: by us or by the kernel.
 *  - A failure ends the merging and nothing else: the chunks that are left stay on the COW device, and are written there.
 */
import { constants } from 'node:os';
import { DeviceError, errnoText } from '../../block/errors.ts';
import { IoRequest, Op } from '../../block/request.ts';
import { flush, readBytes } from '../../block/sync-io.ts';
import { REQUEUE } from '../target.ts';
import type { Origin } from './origin.ts';
import type { ChunkRun } from './persistent-store.ts';
import type { Snapshot } from './snapshot.ts';

/** Bytes that are merged in one step, and for which writes have to wait. */
const STEP_BYTES = 1 << 20;
const STEP_RECORDS = 256;

/** What a merge asks of the requests of its volume. */
export interface MergedRequests {
  /** Settles when no write of these chunks on the COW device is in flight. */
  drained(runs: readonly ChunkRun[]): Promise<void>;
  /** What was queued for the chunks of a step goes on to the origin; or it ends with an errno. */
  stepEnded(errno: number): void;
}

/** A write was given back because the origin's volume is being suspended: the step is done again afterwards. */
class GivenBack extends Error {
  override readonly name: string = 'GivenBack';
}

/** Writes behind the copies that the origin's snapshots need; gives the errno. */
function writeTo(origin: Origin, offset: number, bytes: Buffer): Promise<number> {
  return new Promise((resolve) => {
    const request = new IoRequest();
    request.op = Op.write;
    request.offset = offset;
    request.length = bytes.length;
    request.buffer = bytes;
    request.owner = { ioDone: (done) => resolve(done.error) };
    origin.write(request);
  });
}

export class Merge {
  /** The chunks of the step under way: their writes wait. */
  runs: readonly ChunkRun[] = [];
  #failure: string | null = null;
  #done = false;
  #stopping = true;
  /** Asked to go on while it did: what was given back is to be done again at once. */
  #again = false;
  #running: Promise<void> = Promise.resolve();
  readonly #snapshot: Snapshot;
  readonly #requests: MergedRequests;

  constructor(snapshot: Snapshot, requests: MergedRequests) {
    this.#snapshot = snapshot;
    this.#requests = requests;
    this.runs = snapshot.doubtful;
  }

  /** Why it has ended; null while it has not failed. */
  get failure(): string | null {
    return this.#failure;
  }

  /** Every exception is the origin's. */
  get done(): boolean {
    return this.#done;
  }

  /** Goes on, after the end of the step that may still be under way. */
  start(): void {
    this.#again = true;
    if (!this.#stopping) return;
    this.#stopping = false;
    this.#running = this.#afterwards(this.#running);
  }

  /** Settles when no step is under way and none will begin. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#running;
  }

  async #afterwards(before: Promise<void>): Promise<void> {
    await before;
    while (!this.#stopping && this.#failure === null && !this.#done) {
      try {
        await this.#step();
      } catch (error) {
        this.#failed(error);
      }
    }
  }

  #failed(error: unknown): void {
    if (!(error instanceof DeviceError) && !(error instanceof GivenBack)) throw error;
    this.runs = this.#snapshot.doubtful;
    if (error instanceof GivenBack) {
      if (!this.#again) this.#stopping = true;
      this.#again = false;
      this.#requests.stepEnded(REQUEUE);
      return;
    }
    this.#failure = error.message;
    this.#requests.stepEnded(constants.errno.EIO);
  }

  async #step(): Promise<void> {
    const snapshot = this.#snapshot;
    const store = snapshot.persistentStore;
    const { chunkBytes } = store.geometry;
    const runs = await store.lastRuns(Math.max(1, Math.min(STEP_RECORDS, STEP_BYTES / chunkBytes)));
    if (runs.length === 0) {
      this.#done = true;
      return;
    }
    this.runs = runs;
    await this.#requests.drained(runs);
    for (const run of runs) await this.#copy(run, chunkBytes);
    await flush(snapshot.setup.originDevice);
    // One that fails may have reached the device all the same: then what is written to the COW device later would be lost.
    snapshot.doubtful = runs;
    await store.removeLast(runs.reduce((sum, { count }) => sum + count, 0));
    for (const { oldChunk, count } of runs) snapshot.table.remove(oldChunk, count);
    snapshot.doubtful = [];
    this.runs = [];
    this.#requests.stepEnded(0);
  }

  async #copy({ oldChunk, newChunk, count }: ChunkRun, chunkBytes: number): Promise<void> {
    const { cow, originDevice, origin } = this.#snapshot.setup;
    const from = oldChunk * chunkBytes;
    const length = Math.min(count * chunkBytes, originDevice.limits.sizeBytes - from);
    if (length <= 0) return;
    const bytes = await readBytes(cow, newChunk * chunkBytes, length);
    const errno = await writeTo(origin, from, bytes);
    if (errno === REQUEUE) throw new GivenBack();
    if (errno === 0) return;
    const detail = `write of ${length} bytes at offset ${from} failed: ${errnoText(errno)}`;
    throw new DeviceError('IO', originDevice.name, detail, { errno });
  }
}
