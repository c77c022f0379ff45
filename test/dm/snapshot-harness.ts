/**
 * An origin and its snapshots as volumes over test devices, with plain buffers as models: what each must read as.
 *
 * Invariants
 *  - The model of a snapshot is a copy of the origin's at its creation, and its own writes.
 *  - What two requests in flight together leave behind is not modelled: callers don't let them overlap on one volume.
 */
import assert from 'node:assert/strict';
import type { BlockDevice } from '../../src/block/device.ts';
import { Op } from '../../src/block/request.ts';
import type { Table } from '../../src/dm/table.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { perform, readAt } from '../block/harness.ts';

export interface SnapshotSpec {
  readonly name: string;
  readonly cow: BlockDevice;
  /** Sectors. */
  readonly chunkSize: number;
  readonly persistent?: 'P' | 'PO' | 'N';
  /** What tables and questions call it; absent: its device. */
  readonly id?: string;
}

export function linearTable(sectors: number, device: string): Table {
  return [{ start: 0, length: sectors, target: 'linear', params: { device, offset: 0 } }];
}

export class Family {
  readonly origin: Volume = new Volume('vg/origin', { targets });
  readonly snapshots: Map<string, { readonly volume: Volume; readonly spec: SnapshotSpec }> = new Map();
  readonly #real: BlockDevice;
  readonly #sectors: number;

  /** `real` is the origin's own device. */
  constructor(real: BlockDevice) {
    this.#real = real;
    this.#sectors = real.limits.sizeBytes / 512;
    this.origin.load(linearTable(this.#sectors, 'real'), () => real);
    this.origin.resume();
  }

  get volumes(): readonly Volume[] {
    return [this.origin, ...[...this.snapshots.values()].map(({ volume }) => volume)];
  }

  snapshotTable({ cow, chunkSize, persistent = 'P', id }: SnapshotSpec): Table {
    const named = id === undefined ? {} : { cowId: id };
    const params = { origin: 'real', cow: cow.name, persistent, chunkSize, ...named };
    return [{ start: 0, length: this.#sectors, target: 'snapshot', params }];
  }

  mergeTable({ cow, chunkSize, persistent = 'P', id }: SnapshotSpec): Table {
    const named = id === undefined ? {} : { cowId: id };
    const params = { origin: 'real', cow: cow.name, persistent, chunkSize, ...named };
    return [{ start: 0, length: this.#sectors, target: 'snapshot-merge', params }];
  }

  resolver(cow: BlockDevice | null): (name: string) => BlockDevice {
    return (name) => {
      if (name === 'real') return this.#real;
      assert(cow !== null && name === cow.name);
      return cow;
    };
  }

  /** Makes a snapshot as LVM2 does: the origin is suspended, the snapshot begins, the origin goes on. */
  async snapshot(spec: SnapshotSpec): Promise<Volume> {
    const volume = new Volume(`vg/${spec.name}`, { targets });
    volume.load(this.snapshotTable(spec), this.resolver(spec.cow));
    this.loadOrigin('snapshot-origin');
    await this.origin.suspend();
    volume.resume();
    this.origin.resume();
    this.snapshots.set(spec.name, { volume, spec });
    return volume;
  }

  loadOrigin(target: 'snapshot-origin' | 'linear'): void {
    const params = target === 'linear' ? { device: 'real', offset: 0 } : { origin: 'real' };
    this.origin.load([{ start: 0, length: this.#sectors, target, params }], this.resolver(null));
  }

  /** The origin takes a snapshot in; its volume goes. */
  async merge(name: string): Promise<SnapshotSpec> {
    const { volume, spec } = this.#get(name);
    this.snapshots.delete(name);
    this.origin.load(this.mergeTable(spec), this.resolver(spec.cow));
    await this.origin.suspend();
    await volume.suspend();
    this.origin.resume();
    await volume.close();
    return spec;
  }

  /** As after `lvremove`. */
  async remove(name: string): Promise<void> {
    const { volume } = this.#get(name);
    await this.origin.suspend();
    await volume.close();
    this.snapshots.delete(name);
    this.origin.resume();
  }

  volume(name: string): Volume {
    return name === 'origin' ? this.origin : this.#get(name).volume;
  }

  statusOf(name: string): string {
    return this.volume(name).status().lines[0]?.text ?? '';
  }

  problemOf(name: string): string {
    const problem = this.volume(name).status().lines[0]?.details['problem'];
    return typeof problem === 'string' ? problem : '';
  }

  async close(): Promise<void> {
    await this.origin.close();
    for (const { volume } of this.snapshots.values()) await volume.close();
  }

  #get(name: string): { readonly volume: Volume; readonly spec: SnapshotSpec } {
    const found = this.snapshots.get(name);
    assert(found !== undefined);
    return found;
  }
}

/** The whole content of a volume, or null when its first byte can't be read. */
export async function contentOf(volume: Volume): Promise<Buffer | null> {
  const first = Buffer.alloc(1);
  if ((await perform(volume, { op: Op.read, offset: 0, buffer: first })) !== 0) return null;
  return readAt(volume, 0, volume.limits.sizeBytes);
}

/** Fails with the first byte that differs. */
export function same(actual: Buffer | null, expected: Buffer, what: string): void {
  assert(actual !== null, `${what}: unreadable`);
  if (actual.equals(expected)) return;
  const at = actual.findIndex((byte, i) => byte !== expected[i]);
  assert.fail(`${what}: byte ${at} (sector ${Math.floor(at / 512)}) is ${actual[at]} and not ${expected[at]}`);
}

/** Whether a status says that every exception has been merged. */
export function isMerged(status: string): boolean {
  const [, used, metadata] = /^(\d+)\/\d+ (\d+)$/.exec(status) ?? [];
  return used !== undefined && used === metadata;
}
