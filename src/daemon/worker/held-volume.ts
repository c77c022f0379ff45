/**
 * A worker's volume with what its clients are told of it, and the volume as one client has it.
 *
 * Invariants
 *  - Clients are told of the live table: what the inactive one changes counts from `resume`.
 *  - A client that may only read finds a volume that can only be read, whatever its table allows.
 */
import type { StatusSource } from '../../block/extents.ts';
import { VolumeError } from '../../dm/errors.ts';
import { targets } from '../../dm/targets.ts';
import { Volume } from '../../dm/volume.ts';
import type { VolumeId } from '../../lvm/live.ts';
import { ALLOCATION_CONTEXT } from '../../nbd/constants.ts';
import type { NbdExport } from '../../nbd/exports.ts';
import type { SelectedContext } from '../../nbd/features.ts';
import type { ContextSpec } from '../contexts.ts';
import { type VolumeContext, volumeContexts } from './context-sources.ts';
import type { Resumed, VolumeFacts, VolumeSpec, WorkerVolume } from './host.ts';

const SECTOR_BYTES = 512;

/** A volume with what its clients are told of it. */
export class HeldVolume {
  readonly id: VolumeId;
  name: string;
  readonly volume: Volume;
  preferredBlockSize: number;
  /** That of the inactive table. */
  nextBlockSize: number;
  /** By the context's name. */
  contexts: ReadonlyMap<string, VolumeContext> = new Map();
  /** performance.now() when the suspend in force began; null: it is not suspended. */
  suspendedAt: number | null = null;
  /** The suspend did not flush, and nothing has since. */
  #owesFlush = false;

  constructor(spec: VolumeSpec) {
    this.id = spec.id;
    this.name = spec.name;
    this.preferredBlockSize = spec.preferredBlockSize;
    this.nextBlockSize = spec.preferredBlockSize;
    this.volume = new Volume(spec.name, { targets });
  }

  setContexts(contexts: readonly ContextSpec[]): void {
    this.contexts = volumeContexts(contexts, this.volume);
  }

  /** What contexts that a client selects now are about. */
  subjectsOf(selected: readonly SelectedContext[]): readonly string[] {
    return selected.map(({ name }) => this.contexts.get(name)?.subject ?? '');
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

  /**
   * Flushes what was written so far, while requests go on: what comes before `suspend`, so that it takes little time. Throws VolumeError
   * when the signal aborts.
   */
  async flushBefore(signal: AbortSignal): Promise<void> {
    if (this.volume.state === 'active') await this.volume.flush(signal);
  }

  /**
   * Holds requests back. Throws what `Volume.suspend` throws; one that is suspended stays so. With `keepsDevices` (the next table flushes
   * the same devices) what was written since `flushBefore` is flushed by `settle`.
   */
  async suspend(signal: AbortSignal, keepsDevices: boolean): Promise<void> {
    const { volume } = this;
    if (volume.state === 'suspended' && (keepsDevices || !this.#owesFlush)) return;
    const begun = performance.now();
    await volume.suspend(signal, !keepsDevices);
    this.suspendedAt ??= begun;
    this.#owesFlush = keepsDevices;
  }

  resume(): void {
    this.volume.resume();
    this.preferredBlockSize = this.nextBlockSize;
  }

  /**
   * Gives a suspended volume a table of errors, and lets it go on: what waits fails, and nothing waits any more. One whose device takes
   * longer than that for what is left to be flushed goes on with the table that it has.
   */
  async wipe(timeoutMs: number): Promise<void> {
    const { volume } = this;
    if (volume.state !== 'suspended') return;
    const length = Math.ceil(volume.limits.sizeBytes / SECTOR_BYTES);
    try {
      // Its extents may be somebody else's then.
      await this.suspend(AbortSignal.timeout(timeoutMs), false);
      volume.load([{ start: 0, length, target: 'error', params: {} }], noDevice);
      volume.resume();
    } catch (error) {
      if (!(error instanceof VolumeError)) throw error;
    }
  }

  /** What `resume` has done, at `now` of performance.now(), when everything that goes on together with it did. */
  resumed(now: number): Resumed {
    const suspendedMs = this.suspendedAt === null ? null : now - this.suspendedAt;
    this.suspendedAt = null;
    return { id: this.id, ...this.facts(), suspendedMs };
  }

  /** Flushes what a suspend has left to be flushed. What hangs is not waited for: the flushes of clients wait for it, too. */
  async settle(timeoutMs: number): Promise<void> {
    if (!this.#owesFlush || this.volume.state !== 'active') return;
    this.#owesFlush = false;
    try {
      await this.volume.flush(AbortSignal.timeout(timeoutMs));
    } catch (error) {
      if (!(error instanceof VolumeError)) throw error;
    }
  }
}

/** The volume as one client has it. */
export class ClientExport implements NbdExport {
  readonly held: HeldVolume;
  readonly #onlyReading: boolean;
  /** What the contexts that it selected were about then, by name. */
  readonly #subjects: ReadonlyMap<string, string>;

  /** `subjects`: those of the `selected` contexts, in their order. */
  constructor(
    held: HeldVolume,
    onlyReading: boolean,
    selected: readonly SelectedContext[],
    subjects: readonly string[],
  ) {
    this.held = held;
    this.#onlyReading = onlyReading;
    this.#subjects = new Map(selected.map(({ name }, i) => [name, subjects[i] ?? '']));
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
    if (context === ALLOCATION_CONTEXT) return this.held.volume;
    const found = this.held.contexts.get(context);
    return found !== undefined && found.subject === this.#subjects.get(context) ? found.source : null;
  }
}

function noDevice(name: string): never {
  throw new Error(`a table of errors names no device, and not ${name}`);
}
