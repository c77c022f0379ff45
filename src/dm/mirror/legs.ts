/**
 * The legs of a mirror: where they are, which one is the primary, and what failed on them.
 *
 * Invariants
 *  - The default leg holds every acknowledged write, in sync or not: what is out of sync is read from it alone, and copied from it.
 *  - Failures are kept per leg until they are forgotten; a leg that failed in a change or in copying ends the copying.
 */
import type { BlockDevice } from '../../block/device.ts';

/** What failed on a leg, by the kernel's letters. */
export const Failure = { flush: 1, write: 2, sync: 4, read: 8 } as const;
export type Failure = (typeof Failure)[keyof typeof Failure];

export interface MirrorLeg {
  readonly name: string;
  readonly device: BlockDevice;
  /** Bytes. */
  readonly offset: number;
}

export class Legs {
  readonly all: readonly MirrorLeg[];
  /** Index of the leg that is the truth. */
  primary = 0;
  /** How many different ones there are. */
  readonly devices: number;
  readonly #failures: Uint8Array;
  readonly #shares: readonly boolean[];

  constructor(all: readonly MirrorLeg[]) {
    this.all = all;
    this.#shares = all.map(({ device }, i) => all.findIndex((other) => other.device === device) < i);
    this.devices = this.#shares.filter((shares) => !shares).length;
    this.#failures = new Uint8Array(all.length);
  }

  /** Whether a leg before it is on the same device. */
  sharesDevice(leg: number): boolean {
    return this.#shares[leg]!;
  }

  fail(leg: number, failure: Failure): void {
    this.#failures[leg]! |= failure;
  }

  forgetFailures(): void {
    this.#failures.fill(0);
  }

  isAlive(leg: number): boolean {
    return this.#failures[leg] === 0;
  }

  /** Whether the legs can't be brought in sync: a failed read is no reason, unless it was the copying's. */
  get broken(): boolean {
    return this.#failures.some((failures) => (failures & ~Failure.read) !== 0);
  }

  /** The first leg after `leg`, in turn, that has not failed; -1: there is none. */
  aliveAfter(leg: number): number {
    const count = this.all.length;
    for (let step = 1; step < count; step++) {
      const other = (leg + step) % count;
      if (this.isAlive(other)) return other;
    }
    return -1;
  }

  /** As the kernel prints it: A alive; F, D, S, R: a flush, a write, copying, a read failed, in this order of weight. */
  letter(leg: number): string {
    const failures = this.#failures[leg]!;
    if (failures === 0) return 'A';
    if ((failures & Failure.flush) !== 0) return 'F';
    if ((failures & Failure.write) !== 0) return 'D';
    return (failures & Failure.sync) !== 0 ? 'S' : 'R';
  }
}
