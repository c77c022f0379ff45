/**
 * snapshot-merge: an origin that takes one of its snapshots in (kernel: Documentation/admin-guide/device-mapper/snapshot.rst).
 *
 *     <start> <length> snapshot-merge <origin> <COW device> P|PO <chunk size>
 *
 * Invariant: merging goes on while the table is live, and stops between two steps while it is suspended. On devices that take no
 * writes nothing is merged, and the origin has the snapshot's content all the same.
 */
import type { ExtentList } from '../../block/extents.ts';
import type { IoRequest } from '../../block/request.ts';
import type { TablePlace } from '../errors.ts';
import {
  type Mapping,
  type RequestSink,
  type StatusRange,
  type Target,
  type TargetContext,
  type TargetStatus,
  type TargetType,
} from '../target.ts';
import { changesSince } from './changes.ts';
import { CowLine } from './cow-line.ts';
import { MergeRequests } from './merge-requests.ts';
import type { Origin } from './origin.ts';
import { parseSnapshot, type SnapshotParams } from './params.ts';
import type { Snapshot } from './snapshot.ts';
import { snapshotStatus } from './status.ts';

class MergeTarget implements Target, RequestSink {
  readonly mapping: Mapping = { kind: 'submit', sink: this, splitBytes: 0, discards: false };
  readonly #line: CowLine;
  #live: { readonly snapshot: Snapshot; readonly requests: MergeRequests } | null = null;
  #origin: Origin | null = null;
  #resumed = false;

  constructor(params: SnapshotParams, context: TargetContext) {
    this.#line = new CowLine(params, context, true);
  }

  submit(request: IoRequest): void {
    this.#live!.requests.submit(request);
  }

  changes(since: string, range: StatusRange, extents: ExtentList): Promise<number> {
    return changesSince({ origin: this.#origin!, own: this.#live!.snapshot }, since, range, extents);
  }

  tableText(): string {
    return this.#line.text(this.#live?.snapshot ?? null);
  }

  status(): TargetStatus {
    const merge = this.#live?.requests.merge;
    const failure = merge?.failure ?? null;
    const { text, details } = snapshotStatus(this.#live?.snapshot ?? null, failure !== null);
    const more = failure === null ? {} : { mergeProblem: failure };
    return { text, details: { ...details, merged: merge?.done ?? false, ...more } };
  }

  resume(): void {
    const snapshot = this.#line.snapshot();
    if (this.#live?.snapshot !== snapshot) this.#live = { snapshot, requests: new MergeRequests(snapshot) };
    const { requests } = this.#live;
    const origin = this.#line.origin();
    this.#origin = origin;
    this.#resumed = true;
    const onLoaded = (): void => {
      requests.goOn();
      this.#mergeIfLive();
    };
    snapshot.adopt(this, this.#line.setup(origin, { merging: true, made: null, onLoaded }));
    origin.open(this.#line.originDevice, this.#line.params.snapshots ?? []);
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
    this.#origin?.close(this.#line.originDevice);
    this.#live.snapshot.letGo(this);
  }

  #mergeIfLive(): void {
    const { snapshot, requests } = this.#live!;
    const { originDevice, cow } = this.#line;
    if (originDevice.limits.readOnly || cow.limits.readOnly) return;
    if (this.#resumed && snapshot.isReadable) requests.merge.start();
  }
}

export const snapshotMerge: TargetType<SnapshotParams> = {
  name: 'snapshot-merge',
  version: '1.5.0',
  parse: (params: unknown, place: TablePlace): SnapshotParams => parseSnapshot(params, place, true),
  create: (params, context) => new MergeTarget(params, context),
};
