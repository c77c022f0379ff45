/**
 * A daemon's volumes without a daemon: real volumes over a test's devices that follow the metadata as lvm/live.ts says, for tests of
 * commands that change what is in use.
 */
import assert from 'node:assert/strict';
import type { BlockDevice } from '../../src/block/device.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { PLAIN_HOST } from '../../src/lvm/access.ts';
import { activationPlan } from '../../src/lvm/activate.ts';
import {
  type LiveActivation,
  type LiveChange,
  type LiveProblem,
  type LiveStatus,
  type LiveVolumes,
  type MoveStatus,
  type VolumeId,
  volumeId,
} from '../../src/lvm/live.ts';
import type { VolumeGroup } from '../../src/lvm/model.ts';
import { moveLayerName, moveStatusOf } from '../../src/lvm/pvmove/live-status.ts';

export interface LiveLabOptions {
  readonly group: () => Promise<VolumeGroup | null>;
  readonly device: (path: string) => BlockDevice;
}

export class LiveLab implements LiveVolumes {
  readonly present = true;
  readonly volumes: Map<VolumeId, Volume> = new Map();
  /** What stays inactive. */
  readonly inactive: Set<VolumeId> = new Set();
  /** Calls, for tests to look at: "prepare", "committed", … */
  readonly calls: string[] = [];
  readonly #options: LiveLabOptions;
  readonly #keys = new Map<VolumeId, string>();

  constructor(options: LiveLabOptions) {
    this.#options = options;
  }

  volume(name: string): Volume {
    const found = [...this.volumes.values()].find((volume) => volume.name === name);
    assert(found !== undefined, `${name} is not active`);
    return found;
  }

  /** Makes the volumes what the metadata says. */
  async follow(again: ReadonlySet<VolumeId> = new Set()): Promise<void> {
    const group = await this.#options.group();
    assert(group !== null);
    const wanted = new Set<VolumeId>();
    for (const entry of activationPlan(group, { host: PLAIN_HOST, moves: 'mirror' })) {
      const id = volumeId(group.vg, entry.lv);
      if (this.inactive.has(id)) continue;
      assert(entry.active, JSON.stringify(entry));
      wanted.add(id);
      const volume = this.volumes.get(id) ?? new Volume(entry.exportName, { targets });
      this.volumes.set(id, volume);
      const key = JSON.stringify(entry.table);
      if (this.#keys.get(id) !== key || again.has(id)) {
        volume.load(entry.table, this.#options.device);
        if (volume.state === 'active') await volume.suspend();
        volume.resume();
        this.#keys.set(id, key);
      } else if (volume.state === 'suspended') volume.resume();
    }
    for (const [id, volume] of this.volumes) {
      if (wanted.has(id)) continue;
      this.volumes.delete(id);
      this.#keys.delete(id);
      await volume.close();
    }
  }

  async close(): Promise<void> {
    for (const volume of this.volumes.values()) await volume.close();
    this.volumes.clear();
  }

  /** The same daemon, but for some of its answers. */
  with(changes: Partial<LiveVolumes>): LiveVolumes {
    const { present, holds, prepare, committed, abandoned, activate, status, moveStatus, rescan, flushLost } = this;
    const own = { present, holds, prepare, committed, abandoned, activate, status, moveStatus, rescan, flushLost };
    return { ...own, ...changes };
  }

  readonly holds = (): Promise<boolean> => Promise.resolve(true);

  readonly flushLost = (): Promise<void> => Promise.resolve();

  readonly prepare = async (change: LiveChange): Promise<void> => {
    this.calls.push('prepare');
    for (const { id } of change.losing) await this.volumes.get(id)?.suspend();
  };

  readonly committed = async (): Promise<readonly LiveProblem[]> => {
    this.calls.push('committed');
    await this.follow();
    return [];
  };

  readonly abandoned = async (): Promise<void> => {
    this.calls.push('abandoned');
    await this.follow();
  };

  readonly activate = async ({ decisions, refresh }: LiveActivation): Promise<readonly LiveProblem[]> => {
    this.calls.push('activate');
    for (const { volume, active } of decisions) {
      if (active) this.inactive.delete(volume.id);
      else this.inactive.add(volume.id);
    }
    await this.follow(new Set(refresh.map(({ id }) => id)));
    return [];
  };

  readonly status = (): Promise<ReadonlyMap<VolumeId, LiveStatus>> => {
    const entries = [...this.volumes].map(([id, volume]): [VolumeId, LiveStatus] => {
      const { state, readOnly, hasInactiveTable } = volume.status();
      const suspended = state === 'suspended';
      return [id, { id, active: true, suspended, readOnly, openCount: 0, inactiveTable: hasInactiveTable }];
    });
    return Promise.resolve(new Map(entries));
  };

  readonly moveStatus = async (pvmoveLv: VolumeId): Promise<MoveStatus | null> => {
    const group = await this.#options.group();
    const lv = group?.vg.logicalVolumes.find((candidate) => volumeId(group.vg, candidate) === pvmoveLv);
    if (group === null || lv === undefined) return null;
    const volumes = [...this.volumes.values()];
    const layer = moveLayerName(group.vg.name, lv.name);
    const statuses = volumes.map((volume) => volume.status());
    return moveStatusOf(statuses, layer, async (index, sector) => {
      await volumes[index]?.message(sector, ['seal']);
    });
  };

  readonly rescan = (): Promise<void> => this.follow();
}
