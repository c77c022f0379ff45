/**
 * snapshot: the content that an origin had, and what was written since (kernel: Documentation/admin-guide/device-mapper/
 * snapshot.rst).
 *
 *     <start> <length> snapshot <origin> <COW device> P|PO|N <chunk size>
 *
 * Invariant: a snapshot that can't be what it was answers with EIO, to every request.
 */
import type { BlockDevice } from '../../block/device.ts';
import { DeviceError } from '../../block/errors.ts';
import type { ExtentList } from '../../block/extents.ts';
import type { TablePlace } from '../errors.ts';
import {
  deviceWord,
  type Mapping,
  type RequestSink,
  SECTOR_BYTES,
  type StatusRange,
  type Target,
  type TargetContext,
  type TargetStatus,
  type TargetType,
} from '../target.ts';
import { FormatError } from '../../ondisk/errors.ts';
import { changesSince } from './changes.ts';
import { parseSnapshot, sharedKey, type SnapshotParams } from './params.ts';
import { PersistentStore } from './persistent-store.ts';
import { snapshotRangeStatus, snapshotZeroRun } from './range-status.ts';
import { originOf, type SharedKey, snapshotOf } from './registry.ts';
import { SnapshotRequests } from './snapshot-requests.ts';
import type { Snapshot, SnapshotSetup } from './snapshot.ts';
import { snapshotStatus } from './status.ts';

class SnapshotTarget implements Target {
  readonly mapping: Mapping;
  readonly #params: SnapshotParams;
  readonly #origin: BlockDevice;
  readonly #cow: BlockDevice;
  readonly #originKey: SharedKey;
  readonly #cowKey: SharedKey;
  readonly #sizeBytes: number;
  /** Made by `prepare`, for the first `resume`. */
  #made: PersistentStore | null = null;
  #live: { readonly snapshot: Snapshot; readonly requests: SnapshotRequests } | null = null;

  constructor(params: SnapshotParams, context: TargetContext) {
    const { place } = context;
    this.#params = params;
    this.#origin = context.device(params.origin, 'origin', 0, context.length);
    this.#cow = context.device(params.cow, 'cow', 0, 1);
    this.#originKey = sharedKey(params.originId, this.#origin, params.origin, 'origin', place);
    this.#cowKey = sharedKey(params.cowId, this.#cow, params.cow, 'cow', place);
    this.#sizeBytes = context.length * SECTOR_BYTES;
    const sink: RequestSink = {
      submit: (request) => this.#live!.requests.submit(request),
      zeroRun: (offset, length) =>
        this.#live === null ? -length : snapshotZeroRun(this.#live.snapshot, offset, length),
      blockStatus: (offset, length, extents, done) => {
        const ended = (errno: number): void => done(errno);
        void snapshotRangeStatus(this.#live!.snapshot, { offset, end: offset + length }, extents).then(ended);
      },
    };
    this.mapping = { kind: 'submit', sink, splitBytes: 0, discards: false };
  }

  tableText(): string {
    const { origin, cow, persistent, chunkSize } = this.#params;
    const chunk = this.#live?.snapshot.chunkSectors ?? chunkSize;
    return `${deviceWord(origin)} ${deviceWord(cow)} ${persistent} ${chunk}`;
  }

  status(): TargetStatus {
    return snapshotStatus(this.#live?.snapshot ?? null, false);
  }

  resume(): void {
    const snapshot = snapshotOf(this.#cowKey);
    if (this.#live?.snapshot !== snapshot) this.#live = { snapshot, requests: new SnapshotRequests(snapshot) };
    const { requests } = this.#live;
    const setup: SnapshotSetup = {
      origin: originOf(this.#originKey),
      originDevice: this.#origin,
      cow: this.#cow,
      sizeBytes: this.#sizeBytes,
      persistent: this.#params.persistent,
      chunkSectors: this.#params.chunkSize,
      merging: false,
      made: this.#made,
      onLoaded: () => requests.goOn(),
    };
    snapshot.adopt(this, setup);
    this.#made = null;
  }

  async prepare(): Promise<void> {
    if (this.#params.persistent === 'N') return;
    try {
      this.#made = await PersistentStore.make(this.#cow, this.#params.chunkSize);
    } catch (error) {
      // `resume` meets the same, and deals with it.
      if (!(error instanceof FormatError) && !(error instanceof DeviceError)) throw error;
    }
  }

  changes(since: string, range: StatusRange, extents: ExtentList): Promise<number> {
    const { snapshot } = this.#live!;
    return changesSince({ origin: snapshot.setup.origin, own: snapshot }, since, range, extents);
  }

  async suspend(): Promise<void> {
    await this.#live?.snapshot.suspend();
  }

  close(): void {
    this.#live?.snapshot.letGo(this);
  }
}

export const snapshot: TargetType<SnapshotParams> = {
  name: 'snapshot',
  version: '1.16.0',
  parse: (params: unknown, place: TablePlace): SnapshotParams => parseSnapshot(params, place, false),
  create: (params, context) => new SnapshotTarget(params, context),
};
