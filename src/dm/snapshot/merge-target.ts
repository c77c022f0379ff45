/**
 * snapshot-merge: an origin that takes one of its snapshots in (kernel: Documentation/admin-guide/device-mapper/snapshot.rst).
 *
 *     <start> <length> snapshot-merge <origin> <COW device> P|PO <chunk size>
 *
 * Invariant: merging goes on while the table is live, and stops between two steps while it is suspended.
 */
import type { BlockDevice } from '../../block/device.ts';
import type { ExtentList } from '../../block/extents.ts';
import type { IoRequest } from '../../block/request.ts';
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
import { changesSince } from './changes.ts';
import { MergeRequests } from './merge-requests.ts';
import type { Origin } from './origin.ts';
import { parseSnapshot, sharedKey, type SnapshotParams } from './params.ts';
import { originOf, type SharedKey, snapshotOf } from './registry.ts';
import type { Snapshot } from './snapshot.ts';
import { snapshotStatus } from './status.ts';

class MergeTarget implements Target, RequestSink {
  readonly mapping: Mapping = { kind: 'submit', sink: this, splitBytes: 0, discards: false };
  readonly #params: SnapshotParams;
  readonly #originDevice: BlockDevice;
  readonly #cow: BlockDevice;
  readonly #originKey: SharedKey;
  readonly #cowKey: SharedKey;
  readonly #sizeBytes: number;
  #live: { readonly snapshot: Snapshot; readonly requests: MergeRequests } | null = null;
  #origin: Origin | null = null;
  #resumed = false;

  constructor(params: SnapshotParams, context: TargetContext) {
    const { place } = context;
    this.#params = params;
    this.#originDevice = context.device(params.origin, 'origin', 0, context.length);
    this.#cow = context.device(params.cow, 'cow', 0, 1);
    this.#originKey = sharedKey(params.originId, this.#originDevice, params.origin, 'origin', place);
    this.#cowKey = sharedKey(params.cowId, this.#cow, params.cow, 'cow', place);
    this.#sizeBytes = context.length * SECTOR_BYTES;
  }

  submit(request: IoRequest): void {
    this.#live!.requests.submit(request);
  }

  changes(since: string, range: StatusRange, extents: ExtentList): Promise<number> {
    return changesSince({ origin: this.#origin!, own: this.#live!.snapshot }, since, range, extents);
  }

  tableText(): string {
    const { origin, cow, persistent, chunkSize } = this.#params;
    const chunk = this.#live?.snapshot.chunkSectors ?? chunkSize;
    return `${deviceWord(origin)} ${deviceWord(cow)} ${persistent} ${chunk}`;
  }

  status(): TargetStatus {
    const merge = this.#live?.requests.merge;
    const failure = merge?.failure ?? null;
    const { text, details } = snapshotStatus(this.#live?.snapshot ?? null, failure !== null);
    const more = failure === null ? {} : { mergeProblem: failure };
    return { text, details: { ...details, merged: merge?.done ?? false, ...more } };
  }

  resume(): void {
    const snapshot = snapshotOf(this.#cowKey);
    if (this.#live?.snapshot !== snapshot) this.#live = { snapshot, requests: new MergeRequests(snapshot) };
    const { requests } = this.#live;
    const origin = originOf(this.#originKey);
    this.#origin = origin;
    this.#resumed = true;
    snapshot.adopt(this, {
      origin,
      originDevice: this.#originDevice,
      cow: this.#cow,
      sizeBytes: this.#sizeBytes,
      persistent: this.#params.persistent,
      chunkSectors: this.#params.chunkSize,
      merging: true,
      made: null,
      onLoaded: () => {
        requests.goOn();
        this.#mergeIfLive();
      },
    });
    origin.open(this.#originDevice, this.#params.snapshots ?? []);
    this.#mergeIfLive();
  }

  presuspend(): void {
    this.#origin?.giveBack();
  }

  async suspend(): Promise<void> {
    this.#resumed = false;
    await this.#live?.requests.merge.stop();
    await this.#live?.snapshot.suspend();
  }

  close(): void {
    if (this.#live === null) return;
    this.#origin?.close(this.#originDevice);
    this.#live.snapshot.letGo(this);
  }

  #mergeIfLive(): void {
    const { snapshot, requests } = this.#live!;
    if (this.#resumed && snapshot.isReadable) requests.merge.start();
  }
}

export const snapshotMerge: TargetType<SnapshotParams> = {
  name: 'snapshot-merge',
  version: '1.5.0',
  parse: (params: unknown, place: TablePlace): SnapshotParams => parseSnapshot(params, place, true),
  create: (params, context) => new MergeTarget(params, context),
};
