/**
 * snapshot: the content that an origin had, and what was written since (kernel: Documentation/admin-guide/device-mapper/
 * snapshot.rst).
 *
 *     <start> <length> snapshot <origin> <COW device> P|PO|N <chunk size>
 *
 * Invariant: a snapshot that can't be what it was answers with EIO, to every request.
 */
import { DeviceError } from '../../block/errors.ts';
import type { ExtentList } from '../../block/extents.ts';
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
import { FormatError } from '../../ondisk/errors.ts';
import { changesSince } from './changes.ts';
import { CowLine } from './cow-line.ts';
import { parseSnapshot, type SnapshotParams } from './params.ts';
import { PersistentStore } from './persistent-store.ts';
import { snapshotRangeStatus, snapshotZeroRun } from './range-status.ts';
import { SnapshotRequests } from './snapshot-requests.ts';
import type { Snapshot } from './snapshot.ts';
import { snapshotStatus } from './status.ts';

class SnapshotTarget implements Target {
  readonly mapping: Mapping;
  readonly #line: CowLine;
  /** Made by `prepare`, for the first `resume`. */
  #made: PersistentStore | null = null;
  #live: { readonly snapshot: Snapshot; readonly requests: SnapshotRequests } | null = null;

  constructor(params: SnapshotParams, context: TargetContext) {
    this.#line = new CowLine(params, context, false);
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
    return this.#line.text(this.#live?.snapshot ?? null);
  }

  status(): TargetStatus {
    return snapshotStatus(this.#live?.snapshot ?? null, false);
  }

  resume(): void {
    const snapshot = this.#line.snapshot();
    if (this.#live?.snapshot !== snapshot) this.#live = { snapshot, requests: new SnapshotRequests(snapshot) };
    const { requests } = this.#live;
    const own = { merging: false, made: this.#made, onLoaded: () => requests.goOn() };
    snapshot.adopt(this, this.#line.setup(this.#line.origin(), own));
    this.#made = null;
  }

  async prepare(): Promise<void> {
    const { params, cow } = this.#line;
    if (params.persistent === 'N') return;
    try {
      this.#made = await PersistentStore.make(cow, params.chunkSize);
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
