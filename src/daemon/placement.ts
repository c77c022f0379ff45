/**
 * Which worker a volume is with.
 *
 * Invariants
 *  - Volumes that share something are with one worker.
 *  - A volume that shares nothing with others goes where the fewest volumes and clients are, and stays there.
 */
import type { VolumeId } from '../lvm/live.ts';
import type { ServedVolume } from './served-volume.ts';
import type { WorkerSlot } from './worker/pool.ts';

export class Placement {
  readonly #served: ReadonlyMap<VolumeId, ServedVolume>;
  readonly #slots: () => readonly WorkerSlot[];
  readonly #byShareKey = new Map<string, ServedVolume>();
  /** Volumes and clients of each slot. */
  readonly #loads = new Map<WorkerSlot, number>();

  /** `served`: the volumes that there are; what is added here is there before, and what is removed is gone from there before. */
  constructor(served: ReadonlyMap<VolumeId, ServedVolume>, slots: () => readonly WorkerSlot[]) {
    this.#served = served;
    this.#slots = slots;
  }

  /** Where volumes with this key are; null: there are none. */
  homeOf(shareKey: string): WorkerSlot | null {
    return this.#byShareKey.get(shareKey)?.slot ?? null;
  }

  /** A place for a new volume. */
  place(shareKey: string | null): WorkerSlot {
    const home = shareKey === null ? null : this.homeOf(shareKey);
    if (home !== null) return home;
    return this.#slots().reduce((best, slot) => (this.loadOf(slot) < this.loadOf(best) ? slot : best));
  }

  add(served: ServedVolume): void {
    if (served.shareKey !== null) this.#byShareKey.set(served.shareKey, served);
    this.loaded(served.slot, 1);
  }

  remove(served: ServedVolume): void {
    this.loaded(served.slot, -1);
    this.#unshare(served);
  }

  /** From now on it shares this. */
  share(served: ServedVolume, shareKey: string | null): void {
    this.#unshare(served);
    served.shareKey = shareKey;
    if (shareKey !== null) this.#byShareKey.set(shareKey, served);
  }

  #unshare(served: ServedVolume): void {
    const { shareKey } = served;
    if (shareKey === null || this.#byShareKey.get(shareKey) !== served) return;
    const mate = [...this.#served.values()].find((other) => other.shareKey === shareKey && other !== served);
    if (mate === undefined) this.#byShareKey.delete(shareKey);
    else this.#byShareKey.set(shareKey, mate);
  }

  /** Volumes and clients of a slot. */
  loadOf(slot: WorkerSlot): number {
    return this.#loads.get(slot) ?? 0;
  }

  /** A slot has so many volumes or clients more. */
  loaded(slot: WorkerSlot, by: number): void {
    this.#loads.set(slot, this.loadOf(slot) + by);
  }
}
