/**
 * One LV: as the metadata has it (`DesiredVolume`), and as it is served (`ServedVolume`).
 *
 * Invariants
 *  - Two tables are the same exactly when their keys are; then nothing has to be loaded.
 *  - What is behind a volume's physical volumes stays the same as long as its clients stay: another device may hold something else.
 *  - A served volume is live where `liveOn` says, as long as that is its slot's worker, and at its branches (branches.ts).
 */
import type { IoSnapshot } from '../dm/io-stats.ts';
import type { StripedParams, Table } from '../dm/table.ts';
import type { VolumeId } from '../lvm/live.ts';
import type { ListedExport } from '../nbd/exports.ts';
import type { ExportUse } from './configured-exports.ts';
import { contextNames, type ContextSpec } from './contexts.ts';
import type { VolumeFacts, VolumeSpec, WorkerHost } from './worker/host.ts';
import type { WorkerSlot } from './worker/pool.ts';
import { type SegmentInfo, segmentsOf } from './worker/segment-status.ts';

const SECTOR_BYTES = 512;
const PREFERRED_BLOCK_BYTES = 4096;
const MAX_PREFERRED_BLOCK_BYTES = 2 ** 25;

/** VG uuid of a volume's id. */
export function groupOf(id: VolumeId): string {
  return id.split(' ', 1)[0] ?? '';
}

/** An LV as the metadata has it. */
export interface DesiredVolume {
  /** `VG/LV`: the export's name. */
  readonly name: string;
  /** VG and LV uuid: what stays when the name changes. */
  readonly id: VolumeId;
  readonly description: string;
  /** Meta contexts besides `base:allocation`. */
  readonly contexts: readonly ContextSpec[];
  readonly plan:
    | {
        readonly active: true;
        readonly table: Table;
        /** Paths that the table names. */
        readonly devices: readonly string[];
        readonly readOnly: boolean;
        /** Why it is read-only; absent when it is not. */
        readonly note?: string;
        /** What is wrong with its VG, and does not end the serving of this table. */
        readonly problem?: string;
        /** Physical volumes that the table names: the identity of each one's device, by its uuid. */
        readonly disks: ReadonlyMap<string, string>;
        /** Table and devices in one word: equal exactly when nothing has to be loaded. */
        readonly key: string;
        /** Volumes with the same one have to be with one worker; null: it shares nothing. */
        readonly shareKey: string | null;
      }
    | { readonly active: false; readonly reason: string };
}
export type ActivePlan = Extract<DesiredVolume['plan'], { readonly active: true }>;

export interface ExportStatus {
  readonly name: string;
  readonly id: VolumeId;
  readonly state: 'active' | 'inactive';
  readonly reason?: string;
  readonly sizeBytes?: number;
  readonly readOnly?: boolean;
  /** Why it is read-only. */
  readonly note?: string;
  /** What the last scan found wrong: the volume goes on as it was, and could not be made active now. */
  readonly problem?: string;
  /** Its worker's number. */
  readonly worker?: number;
  /** Those of all workers that serve it, if there are more than one. */
  readonly workers?: readonly number[];
  /** Milliseconds that I/O was held back by the last change of its table; absent: it had none. */
  readonly lastSuspendMs?: number;
  /** Connections in the transmission phase. */
  readonly clients: number;
  /** Clients that may write, each once. */
  readonly writers?: readonly string[];
}

/** What `GET /v1/segments/VG/LV` answers: the numbers of x-orion:segment. */
export interface ExportSegments {
  readonly export: string;
  readonly segments: readonly SegmentInfo[];
  /** Of the whole VG; a missing one has no path. */
  readonly physicalVolumes: readonly { readonly number: number; readonly path: string | null }[];
}

/** What is loaded, or to be loaded, for a volume. */
export interface Load {
  readonly spec: VolumeSpec;
  readonly key: string;
}

/** One active LV. */
export class ServedVolume {
  readonly id: VolumeId;
  readonly slot: WorkerSlot;
  shareKey: string | null;
  name: string;
  description: string;
  contexts: readonly ContextSpec[];
  note: string | undefined;
  problem: string | undefined;
  /** Of the plan, for `keep.ts`. */
  planKey = '';
  /** Of the plan, too. */
  disks: ReadonlyMap<string, string> = new Map();
  readOnly: boolean;
  /** Its live table, or the one that it gets next: what a new worker has to load. */
  load: Load;
  facts: VolumeFacts = { sizeBytes: 0, readOnly: true, canTrim: false, preferredBlockSize: PREFERRED_BLOCK_BYTES };
  /** Loaded into the inactive slot. */
  next: Load | null = null;
  /** Where its table is live; null: nowhere. */
  liveOn: WorkerHost | null = null;
  /** Other workers that have its live table, too. */
  readonly branches: Map<WorkerSlot, WorkerHost> = new Map();
  /** What branches have counted that have ended since. */
  pastIo: IoSnapshot | null = null;
  /** What can be at one worker only, as another one said. */
  aloneWith: Load | null = null;
  /** It has been suspended until further notice. */
  held = false;
  leaving = false;
  lastSuspendMs: number | null = null;
  /** Connections that use it, or are about to. */
  readonly clients: Map<number, ExportUse> = new Map();

  constructor(desired: DesiredVolume, plan: ActivePlan, slot: WorkerSlot, load: Load) {
    this.id = desired.id;
    this.name = desired.name;
    this.description = desired.description;
    this.contexts = desired.contexts;
    this.readOnly = plan.readOnly;
    this.shareKey = plan.shareKey;
    this.slot = slot;
    this.load = load;
  }

  /** Whether it ever had a live table: before that there is nothing to show. */
  get shown(): boolean {
    return this.planKey !== '' && !this.leaving;
  }

  get live(): boolean {
    return this.liveOn !== null && this.liveOn === this.slot.host;
  }

  /** The worker of a slot, if this is live there; null: it isn't. */
  hostAt(slot: WorkerSlot): WorkerHost | null {
    if (slot === this.slot) return this.live ? this.liveOn : null;
    return this.branches.get(slot) ?? null;
  }

  /** Every worker where it is live. */
  hosts(): readonly WorkerHost[] {
    return [...(this.liveOn === null ? [] : [this.liveOn]), ...this.branches.values()];
  }

  describe(desired: DesiredVolume, plan: ActivePlan): void {
    this.name = desired.name;
    this.description = desired.description;
    this.contexts = desired.contexts;
    this.note = plan.note;
    this.problem = plan.problem;
    this.planKey = plan.key;
    this.disks = plan.disks;
    this.readOnly = plan.readOnly;
  }

  went(host: WorkerHost, facts: VolumeFacts & { readonly suspendedMs: number | null }): void {
    const { sizeBytes, readOnly, canTrim, preferredBlockSize, suspendedMs } = facts;
    this.facts = { sizeBytes, readOnly, canTrim, preferredBlockSize };
    this.liveOn = host;
    this.held = false;
    this.next = null;
    if (suspendedMs !== null) this.lastSuspendMs = suspendedMs;
  }

  listed(): ListedExport {
    const contexts = contextNames(this.contexts);
    return { name: this.name, description: this.description, contexts, ...this.facts };
  }

  status(): ExportStatus {
    return {
      name: this.name,
      id: this.id,
      state: 'active',
      sizeBytes: this.facts.sizeBytes,
      readOnly: this.facts.readOnly,
      ...(this.note === undefined ? {} : { note: this.note }),
      ...this.#problemStatus(),
      worker: this.slot.index,
      ...this.#workersStatus(),
      ...(this.lastSuspendMs === null ? {} : { lastSuspendMs: Math.round(this.lastSuspendMs * 1000) / 1000 }),
      clients: this.clients.size,
      ...this.#writerStatus(),
    };
  }

  segments(): ExportSegments {
    const devices = this.contexts.flatMap((context) => (context.kind === 'segment' ? context.devices : []));
    const physicalVolumes = devices.map((path, i) => ({ number: i + 1, path: path === '' ? null : path }));
    return { export: this.name, segments: segmentsOf(this.load.spec.table, devices), physicalVolumes };
  }

  #workersStatus(): { readonly workers?: readonly number[] } {
    const slots = [this.slot, ...this.branches.keys()];
    return slots.length === 1 ? {} : { workers: slots.map(({ index }) => index).toSorted((a, b) => a - b) };
  }

  #writerStatus(): { readonly writers?: readonly string[] } {
    const writing = [...this.clients.values()].filter(({ writes }) => writes).map(({ identity }) => identity);
    return writing.length === 0 ? {} : { writers: [...new Set(writing)] };
  }

  #problemStatus(): { readonly problem?: string } {
    if (this.live) return this.problem === undefined ? {} : { problem: this.problem };
    return { problem: this.problem ?? 'its worker is being started again' };
  }
}

/** Which are not served, and why. */
export function unservedOf(
  exports: readonly ExportStatus[],
): readonly { readonly name: string; readonly reason: string }[] {
  return exports.flatMap(({ name, state, reason }) =>
    state === 'active' || reason === undefined ? [] : [{ name, reason }],
  );
}

/** The chunk of a volume that is striped throughout, else 4096. LVM2's chunks are powers of two. */
export function preferredBlockBytes(table: Table): number {
  const smallest = table.reduce((least, { target, params }) => {
    const chunk = target === 'striped' ? (params as StripedParams).chunkSize * SECTOR_BYTES : PREFERRED_BLOCK_BYTES;
    return Math.min(least, chunk);
  }, MAX_PREFERRED_BLOCK_BYTES);
  return smallest >= SECTOR_BYTES && Number.isInteger(Math.log2(smallest)) ? smallest : PREFERRED_BLOCK_BYTES;
}

/** The uuid of a physical volume that is another device in one place than in the other; null: there is none. */
export function exchangedDisk(before: ActivePlan['disks'], after: ActivePlan['disks']): string | null {
  const exchanged = [...after].find(([uuid, identity]) => (before.get(uuid) ?? identity) !== identity);
  return exchanged?.[0] ?? null;
}

export function byName(a: { readonly name: string }, b: { readonly name: string }): number {
  return a.name < b.name ? -1 : 1;
}
