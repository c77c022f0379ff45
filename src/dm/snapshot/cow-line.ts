/**
 * What the lines of snapshot and snapshot-merge have in common: an origin, a COW store, and how exceptions are kept.
 *
 * Invariant: origin and snapshot are looked up when a table becomes live, not before: until then another table may have them.
 */
import type { BlockDevice } from '../../block/device.ts';
import { deviceWord, SECTOR_BYTES, type TargetContext } from '../target.ts';
import type { Origin } from './origin.ts';
import { sharedKey, type SnapshotParams } from './params.ts';
import { originOf, type SharedKey, snapshotOf } from './registry.ts';
import type { Snapshot, SnapshotSetup } from './snapshot.ts';

export class CowLine {
  readonly params: SnapshotParams;
  readonly originDevice: BlockDevice;
  readonly cow: BlockDevice;
  readonly #originKey: SharedKey;
  readonly #cowKey: SharedKey;
  readonly #sizeBytes: number;

  /** Only a merge writes to the origin: whatever else has this line only reads it, while the origin's own table may have it, too. */
  constructor(params: SnapshotParams, context: TargetContext, merges: boolean) {
    const { place } = context;
    this.params = params;
    this.originDevice = context[merges ? 'device' : 'readDevice'](params.origin, 'origin', 0, context.length);
    this.cow = context.device(params.cow, 'cow', 0, 1);
    this.#originKey = sharedKey(params.originId, this.originDevice, params.origin, 'origin', place);
    this.#cowKey = sharedKey(params.cowId, this.cow, params.cow, 'cow', place);
    this.#sizeBytes = context.length * SECTOR_BYTES;
  }

  /** Whoever takes it opens it, or attaches to it. */
  origin(): Origin {
    return originOf(this.#originKey);
  }

  /** Whoever takes it adopts it. */
  snapshot(): Snapshot {
    return snapshotOf(this.#cowKey);
  }

  /** The line's parameters, as the kernel prints them; `snapshot`: where it is live. */
  text(snapshot: Snapshot | null): string {
    const { origin, cow, persistent, chunkSize } = this.params;
    return `${deviceWord(origin)} ${deviceWord(cow)} ${persistent} ${snapshot?.chunkSectors ?? chunkSize}`;
  }

  setup(origin: Origin, own: Pick<SnapshotSetup, 'merging' | 'made' | 'onLoaded'>): SnapshotSetup {
    return {
      origin,
      originDevice: this.originDevice,
      cow: this.cow,
      sizeBytes: this.#sizeBytes,
      persistent: this.params.persistent,
      chunkSectors: this.params.chunkSize,
      ...own,
    };
  }
}
