/**
 * The transient exception store: chunks of the COW device from 0 on, and nothing about them on any device. What a snapshot
 * held is gone when its volume is.
 */
import type { BlockDevice } from '../../block/device.ts';
import { StoreGeometry } from '../../ondisk/snapshot-store.ts';
import type { ExceptionStore, StoreUsage } from './exception-store.ts';

export class TransientStore implements ExceptionStore {
  readonly geometry: StoreGeometry;
  device: BlockDevice;
  onCommitted: (errno: number) => void = () => {};
  readonly room: number = Infinity;
  #next = 0;
  readonly #onTurn = (): void => this.onCommitted(0);

  constructor(device: BlockDevice, chunkSectors: number) {
    this.device = device;
    this.geometry = new StoreGeometry(chunkSectors);
  }

  get nextChunk(): number {
    return (this.#next + 1) * this.geometry.chunkBytes <= this.device.limits.sizeBytes ? this.#next : -1;
  }

  allocate(): number {
    const chunk = this.nextChunk;
    if (chunk >= 0) this.#next++;
    return chunk;
  }

  put(): void {
    // The snapshot's own table is all there is.
  }

  commit(): void {
    setImmediate(this.#onTurn);
  }

  usage(): StoreUsage {
    const { chunkSectors } = this.geometry;
    return { used: this.#next * chunkSectors, total: this.device.limits.sizeBytes / 512, metadata: 0 };
  }
}
