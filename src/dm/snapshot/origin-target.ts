/**
 * snapshot-origin: a device whose snapshots are told of every write before it happens (kernel: Documentation/admin-guide/
 * device-mapper/snapshot.rst).
 *
 *     <start> <length> snapshot-origin <origin>
 *
 * Invariant: reads, flushes, and writes that no snapshot needs the old content of, go to the device as they are.
 */
import type { BlockDevice } from '../../block/device.ts';
import { blockStatusOf, type ExtentList, type StatusDone } from '../../block/extents.ts';
import { type IoRequest, Op, RequestQueue } from '../../block/request.ts';
import type { TablePlace } from '../errors.ts';
import {
  deviceWord,
  type Mapping,
  type RequestSink,
  type StatusRange,
  type Target,
  type TargetContext,
  type TargetStatus,
  type TargetType,
} from '../target.ts';
import { changesSince } from './changes.ts';
import type { Origin } from './origin.ts';
import { parseOrigin, sharedKey, type SnapshotOriginParams } from './params.ts';
import { originOf, type SharedKey } from './registry.ts';

class OriginTarget implements Target, RequestSink {
  readonly mapping: Mapping = { kind: 'submit', sink: this, splitBytes: 0, discards: false };
  readonly #params: SnapshotOriginParams;
  readonly #device: BlockDevice;
  readonly #key: SharedKey;
  readonly #discards = new RequestQueue();
  #origin: Origin | null = null;
  readonly #onTurn = (): void => this.#endDiscards();

  constructor(params: SnapshotOriginParams, context: TargetContext) {
    this.#params = params;
    this.#device = context.device(params.origin, 'origin', 0, context.length);
    this.#key = sharedKey(params.originId, this.#device, params.origin, 'origin', context.place);
  }

  submit(request: IoRequest): void {
    if (request.op === Op.read || request.op === Op.flush) this.#device.submit(request);
    else if (request.op !== Op.discard) this.#origin!.write(request);
    else if (this.#discards.size > 0) this.#discards.push(request);
    else {
      this.#discards.push(request);
      setImmediate(this.#onTurn);
    }
  }

  blockStatus(offset: number, length: number, extents: ExtentList, done: StatusDone): void {
    blockStatusOf(this.#device, offset, length, extents, done);
  }

  changes(since: string, range: StatusRange, extents: ExtentList): Promise<number> {
    return changesSince({ origin: this.#origin!, own: null }, since, range, extents);
  }

  tableText(): string {
    return deviceWord(this.#params.origin);
  }

  status(): TargetStatus {
    const origin = this.#origin;
    return { text: '', details: { snapshots: origin?.snapshots.length ?? 0, missing: origin?.missing ?? 0 } };
  }

  resume(): void {
    this.#origin = originOf(this.#key);
    this.#origin.open(this.#device, this.#params.snapshots ?? []);
  }

  presuspend(): void {
    this.#origin?.giveBack();
  }

  close(): void {
    this.#origin?.close(this.#device);
  }

  /** Discards that came all the same do nothing: as the kernel's target, this one offers none. */
  #endDiscards(): void {
    for (let count = this.#discards.size; count > 0; count--) {
      const request = this.#discards.shift()!;
      request.error = 0;
      request.owner.ioDone(request);
    }
    if (this.#discards.size > 0) setImmediate(this.#onTurn);
  }
}

export const snapshotOrigin: TargetType<SnapshotOriginParams> = {
  name: 'snapshot-origin',
  version: '1.9.0',
  parse: (params: unknown, place: TablePlace): SnapshotOriginParams => parseOrigin(params, place),
  create: (params, context) => new OriginTarget(params, context),
};
