/**
 * A worker's volume with what its clients are told of it, and the volume as one client has it.
 *
 * Invariants
 *  - Clients are told of the live table: what the inactive one changes counts from `resume`.
 *  - A client that may only read finds a volume that can only be read, whatever its table allows.
 */
import type { StatusSource } from '../../block/extents.ts';
import { targets } from '../../dm/targets.ts';
import { Volume } from '../../dm/volume.ts';
import type { VolumeId } from '../../lvm/live.ts';
import { ALLOCATION_CONTEXT } from '../../nbd/constants.ts';
import type { NbdExport } from '../../nbd/exports.ts';
import type { ContextSpec } from '../contexts.ts';
import { contextSource } from './context-sources.ts';
import type { Resumed, VolumeFacts, VolumeSpec, WorkerVolume } from './host.ts';

/** A volume with what its clients are told of it. */
export class HeldVolume {
  readonly id: VolumeId;
  name: string;
  readonly volume: Volume;
  preferredBlockSize: number;
  /** That of the inactive table. */
  nextBlockSize: number;
  /** By the context's name. */
  contexts: ReadonlyMap<string, StatusSource> = new Map();
  /** performance.now() when the suspend in force began; null: it is not suspended. */
  suspendedAt: number | null = null;

  constructor(spec: VolumeSpec) {
    this.id = spec.id;
    this.name = spec.name;
    this.preferredBlockSize = spec.preferredBlockSize;
    this.nextBlockSize = spec.preferredBlockSize;
    this.volume = new Volume(spec.name, { targets });
  }

  setContexts(contexts: readonly ContextSpec[]): void {
    this.contexts = new Map(contexts.map((context) => [context.name, contextSource(context, this.volume)]));
  }

  get canTrim(): boolean {
    return this.volume.limits.canDiscard;
  }

  facts(): VolumeFacts {
    const { sizeBytes, readOnly } = this.volume.limits;
    return { sizeBytes, readOnly, canTrim: this.canTrim, preferredBlockSize: this.preferredBlockSize };
  }

  status(): WorkerVolume {
    return { ...this.volume.status(), id: this.id, name: this.name, io: this.volume.stats.snapshotIfUsed() };
  }

  /** Holds requests back. Throws what `Volume.suspend` throws; one that is suspended stays so. */
  async suspend(timeoutMs: number): Promise<void> {
    if (this.volume.state === 'suspended') return;
    const begun = performance.now();
    await this.volume.suspend(AbortSignal.timeout(timeoutMs));
    this.suspendedAt = begun;
  }

  resume(): Resumed {
    this.volume.resume();
    this.preferredBlockSize = this.nextBlockSize;
    const suspendedMs = this.suspendedAt === null ? null : performance.now() - this.suspendedAt;
    this.suspendedAt = null;
    return { id: this.id, ...this.facts(), suspendedMs };
  }
}

/** The volume as one client has it. */
export class ClientExport implements NbdExport {
  readonly held: HeldVolume;
  readonly #onlyReading: boolean;

  constructor(held: HeldVolume, onlyReading: boolean) {
    this.held = held;
    this.#onlyReading = onlyReading;
  }

  get name(): string {
    return this.held.name;
  }

  get volume(): Volume {
    return this.held.volume;
  }

  get readOnly(): boolean {
    return this.#onlyReading || this.held.volume.limits.readOnly;
  }

  get canTrim(): boolean {
    return this.held.canTrim;
  }

  statusSource(context: string): StatusSource | null {
    return context === ALLOCATION_CONTEXT ? this.held.volume : (this.held.contexts.get(context) ?? null);
  }
}
