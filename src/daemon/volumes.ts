/**
 * The volumes that are served: which LVs ought to be active (`DesiredVolume`), which are, and the change from one to the
 * other. To NBD it is the directory of exports.
 *
 * Invariants
 *  - An LV is either served with the table that its metadata demands or has a reason why not; never with another table.
 *  - A volume whose table did not change is not touched by `apply`: its clients notice nothing.
 *  - The clients of a volume that goes away are let go (what they sent is finished and answered) before it is closed.
 *  - `apply` and `close` are called one at a time.
 */
import assert from 'node:assert/strict';
import type { BlockDevice } from '../block/device.ts';
import type { StripedParams, Table } from '../dm/table.ts';
import { targets } from '../dm/targets.ts';
import { Volume } from '../dm/volume.ts';
import type { ExportDirectory, NbdExport } from '../nbd/exports.ts';
import { settleAll } from './errors.ts';
import type { Logger } from './log.ts';

const SECTOR_BYTES = 512;
const PREFERRED_BLOCK_BYTES = 4096;
const MAX_PREFERRED_BLOCK_BYTES = 2 ** 25;

/** An LV as the metadata has it. */
export interface DesiredVolume {
  /** `VG/LV`: the export's name. */
  readonly name: string;
  /** VG and LV uuid: what stays when the name changes. */
  readonly id: string;
  readonly description: string;
  readonly plan:
    | {
        readonly active: true;
        readonly table: Table;
        readonly readOnly: boolean;
        /** Why it is read-only; absent when it is not. */
        readonly note?: string;
        /** What is wrong with its VG, and does not end the serving of this table. */
        readonly problem?: string;
        /** Table and devices in one word: equal exactly when nothing has to be loaded. */
        readonly key: string;
      }
    | { readonly active: false; readonly reason: string };
}
type ActivePlan = Extract<DesiredVolume['plan'], { readonly active: true }>;

export interface ExportStatus {
  readonly name: string;
  readonly state: 'active' | 'inactive';
  readonly reason?: string;
  readonly sizeBytes?: number;
  readonly readOnly?: boolean;
  /** Why it is read-only. */
  readonly note?: string;
  /** What the last scan found wrong: the volume goes on as it was, and could not be made active now. */
  readonly problem?: string;
  /** Connections in the transmission phase. */
  readonly clients: number;
}

/** One active LV. */
class ServedVolume implements NbdExport {
  readonly name: string;
  readonly id: string;
  description: string;
  note: string | undefined;
  problem: string | undefined;
  readonly readOnly: boolean;
  readonly volume: Volume;
  canTrim = false;
  preferredBlockSize = PREFERRED_BLOCK_BYTES;
  key = '';
  clients = 0;

  constructor(desired: DesiredVolume, plan: ActivePlan) {
    this.name = desired.name;
    this.id = desired.id;
    this.description = desired.description;
    this.readOnly = plan.readOnly;
    this.volume = new Volume(desired.name, { targets });
  }

  describe(desired: DesiredVolume, plan: ActivePlan): void {
    this.description = desired.description;
    this.note = plan.note;
    this.problem = plan.problem;
  }

  /** Makes `plan` the live table. Throws TableError, and leaves what was live, if it can't be loaded. */
  async load(plan: ActivePlan, resolve: (path: string) => BlockDevice): Promise<void> {
    this.volume.load(plan.table, resolve, { readOnly: plan.readOnly });
    if (this.key !== '') await this.volume.suspend();
    this.volume.resume();
    this.key = plan.key;
    this.canTrim = this.volume.limits.canDiscard;
    this.preferredBlockSize = preferredBlockBytes(plan.table);
  }

  status(): ExportStatus {
    return {
      name: this.name,
      state: 'active',
      sizeBytes: this.volume.limits.sizeBytes,
      readOnly: this.readOnly,
      ...(this.note === undefined ? {} : { note: this.note }),
      ...(this.problem === undefined ? {} : { problem: this.problem }),
      clients: this.clients,
    };
  }
}

export class VolumeSet implements ExportDirectory {
  readonly #log: Logger;
  readonly #disconnect: (exportName: string) => Promise<void>;
  readonly #served = new Map<string, ServedVolume>();
  readonly #inactive = new Map<string, string>();
  /** Nothing was applied yet: what is served at the start is a summary, what changes later is news. */
  #fresh = true;

  /** `disconnect` lets go of an export's clients; it settles when none of them holds anything of it. */
  constructor(options: { readonly log: Logger; readonly disconnect: (exportName: string) => Promise<void> }) {
    this.#log = options.log;
    this.#disconnect = options.disconnect;
  }

  /** Makes the served volumes what `desired` says; `resolve` gives the device that a table names. */
  async apply(desired: readonly DesiredVolume[], resolve: (path: string) => BlockDevice): Promise<void> {
    const wanted = new Map(desired.map((volume) => [volume.name, volume]));
    await Promise.all(
      [...this.#served.values()].map(async (served) => {
        const reason = endOf(served, wanted.get(served.name));
        if (reason !== null) await this.#retire(served, reason);
      }),
    );
    const reported = new Map(this.#inactive);
    this.#inactive.clear();
    for (const volume of desired) {
      const reason = volume.plan.active ? await this.#activate(volume, volume.plan, resolve) : volume.plan.reason;
      if (reason === null) continue;
      this.#inactive.set(volume.name, reason);
      if (reported.get(volume.name) !== reason) this.#log.warn({ lv: volume.name, reason }, 'not served');
    }
    this.#fresh = false;
  }

  /** Gives the reason if the volume can't be served. */
  async #activate(
    desired: DesiredVolume,
    plan: ActivePlan,
    resolve: (path: string) => BlockDevice,
  ): Promise<string | null> {
    const existing = this.#served.get(desired.name);
    const { problem } = plan;
    if (problem !== undefined && problem !== existing?.problem)
      this.#log.warn({ lv: desired.name, problem }, 'served on');
    if (existing?.key === plan.key) {
      existing.describe(desired, plan);
      return null;
    }
    const served = existing ?? new ServedVolume(desired, plan);
    try {
      await served.load(plan, resolve);
    } catch (err) {
      this.#log.error({ err, lv: desired.name }, 'a table cannot be loaded');
      const reason = err instanceof Error ? err.message : String(err);
      if (existing !== undefined) await this.#retire(existing, reason);
      return reason;
    }
    served.describe(desired, plan);
    this.#served.set(desired.name, served);
    const news = { lv: desired.name, clients: served.clients };
    this.#log[this.#fresh ? 'debug' : 'info'](news, existing === undefined ? 'served' : 'table reloaded');
    return null;
  }

  async #retire(served: ServedVolume, reason: string): Promise<void> {
    this.#served.delete(served.name);
    this.#log.info({ lv: served.name, clients: served.clients, reason }, 'no longer served');
    await this.#disconnect(served.name);
    try {
      await served.volume.close();
    } catch (err) {
      this.#log.error({ err, lv: served.name }, 'a volume could not be flushed when it was closed');
    }
  }

  /** Flushes and closes every volume; no client may be connected any more. Tries all, then throws what failed. */
  async close(): Promise<void> {
    const volumes = [...this.#served.values()].map(({ volume }) => volume);
    this.#served.clear();
    const closing = volumes.map((volume) => volume.close());
    await settleAll(closing, 'some volumes could not be flushed and closed');
  }

  status(): readonly ExportStatus[] {
    const inactive = [...this.#inactive].map(([name, reason]) => ({
      name,
      state: 'inactive' as const,
      reason,
      clients: 0,
    }));
    const active = [...this.#served.values()].map((served) => served.status());
    return [...active, ...inactive].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** What is served by this name; null: nothing. */
  served(name: string): { readonly id: string; readonly key: string; readonly readOnly: boolean } | null {
    return this.#served.get(name) ?? null;
  }

  list(): readonly NbdExport[] {
    return [...this.#served.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  find(name: string): NbdExport | null {
    return this.#served.get(name) ?? null;
  }

  explain(name: string): string {
    if (name === '') return 'there is no default export: name one as VG/LV';
    const reason = this.#inactive.get(name);
    return reason === undefined ? `there is no logical volume ${name}` : `${name} is not served: ${reason}`;
  }

  opened(export_: NbdExport): void {
    assert(export_ instanceof ServedVolume);
    export_.clients++;
  }

  closed(export_: NbdExport): void {
    assert(export_ instanceof ServedVolume && export_.clients > 0);
    export_.clients--;
  }
}

/** Why the volume can't go on, even with another table; null if it can: the same LV, with the access that its clients were told. */
function endOf(served: ServedVolume, desired: DesiredVolume | undefined): string | null {
  if (desired === undefined) return 'no metadata that was found has such a logical volume';
  if (!desired.plan.active) return desired.plan.reason;
  if (desired.id !== served.id) return 'another logical volume has this name now';
  if (desired.plan.readOnly === served.readOnly) return null;
  return desired.plan.readOnly ? (desired.plan.note ?? 'it is read-only now') : 'it may be written now';
}

/** The chunk of a volume that is striped throughout, else 4096. LVM2's chunks are powers of two. */
function preferredBlockBytes(table: Table): number {
  const smallest = table.reduce((least, { target, params }) => {
    const chunk = target === 'striped' ? (params as StripedParams).chunkSize * SECTOR_BYTES : PREFERRED_BLOCK_BYTES;
    return Math.min(least, chunk);
  }, MAX_PREFERRED_BLOCK_BYTES);
  return smallest >= SECTOR_BYTES && Number.isInteger(Math.log2(smallest)) ? smallest : PREFERRED_BLOCK_BYTES;
}
