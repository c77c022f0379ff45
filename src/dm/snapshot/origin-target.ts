/**
 * snapshot-origin: a device whose snapshots are told of every write before it happens (kernel: Documentation/admin-guide/
 * device-mapper/snapshot.rst).
 *
 *     <start> <length> snapshot-origin <origin>
 *
 * Invariant: reads, flushes, and writes that no snapshot needs the old content of, go to the device as they are; whole ones past this
 * target, to where the origin's layer would send them.
 */
import type { BlockDevice } from '../../block/device.ts';
import { blockStatusOf, type ExtentList, type StatusDone } from '../../block/extents.ts';
import { type IoRequest, Op } from '../../block/request.ts';
import { EndQueue } from '../end-queue.ts';
import type { TablePlace } from '../errors.ts';
import type { FlatMap } from '../flat-map.ts';
import {
  deviceWord,
  type Gate,
  type Mapping,
  type RequestSink,
  type StatusRange,
  type Target,
  type TargetContext,
  type TargetStatus,
  type TargetType,
} from '../target.ts';
import { Volume } from '../volume.ts';
import { changesSince } from './changes.ts';
import type { Origin } from './origin.ts';
import { parseOrigin, sharedKey, type SnapshotOriginParams } from './params.ts';
import { originOf, type SharedKey } from './registry.ts';

class OriginTarget implements Target, RequestSink, Gate {
  readonly mapping: Mapping = { kind: 'submit', sink: this, splitBytes: 0, discards: false, gate: this };
  readonly #params: SnapshotOriginParams;
  readonly #device: BlockDevice;
  readonly #key: SharedKey;
  readonly #discards = new EndQueue();
  #origin: Origin | null = null;

  constructor(params: SnapshotOriginParams, context: TargetContext) {
    this.#params = params;
    this.#device = context.device(params.origin, 'origin', 0, context.length);
    this.#key = sharedKey(params.originId, this.#device, params.origin, 'origin', context.place);
  }

  submit(request: IoRequest): void {
    if (request.op === Op.read || request.op === Op.flush) this.#device.submit(request);
    else if (request.op !== Op.discard) this.#origin!.write(request);
    // As the kernel's target, this one offers none: those that come all the same do nothing.
    else this.#discards.end(request, 0);
  }

  blockStatus(offset: number, length: number, extents: ExtentList, done: StatusDone): void {
    blockStatusOf(this.#device, offset, length, extents, done);
  }

  changes(since: string, range: StatusRange, extents: ExtentList): Promise<number> {
    return changesSince({ origin: this.#origin!, own: null }, since, range, extents);
  }

  passes({ op, offset, length }: IoRequest): boolean {
    return op === Op.read || (op !== Op.discard && this.#origin!.passes(offset, offset + length));
  }

  layerMap(): FlatMap | null {
    return this.#device instanceof Volume ? this.#device.map : null;
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
}

export const snapshotOrigin: TargetType<SnapshotOriginParams> = {
  name: 'snapshot-origin',
  version: '1.9.0',
  parse: (params: unknown, place: TablePlace): SnapshotOriginParams => parseOrigin(params, place),
  create: (params, context) => new OriginTarget(params, context),
};
