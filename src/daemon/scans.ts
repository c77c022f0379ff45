/**
 * What the daemon knows of its devices, and how that, the devices that it holds and the volumes that it serves are brought up to
 * date:
 *
 *     scan, devices held  ──in turn──>  volumes follow  ──>  devices that nothing needs are let go
 *
 * Invariants
 *  - Scans go one after the other, and none begins while the daemon ends.
 *  - Changes of a VG follow each other as the scans did that found them; of a VG that a command changes, what is known stays.
 *  - A device is let go only when no worker has it any more.
 */
import type { LiveProblem, VolumeId } from '../lvm/live.ts';
import type { Scan, VolumeGroup } from '../lvm/model.ts';
import type { Settings } from './config.ts';
import type { DeviceSet } from './devices.ts';
import { type Inventory, mergeInventories } from './inventory.ts';
import type { Logger } from './log.ts';
import { groupOf } from './served-volume.ts';
import type { Stock } from './stock.ts';
import type { VolumeSet } from './volumes.ts';
import type { WorkerPool } from './worker/pool.ts';

export interface ScansOptions {
  readonly devices: DeviceSet;
  readonly stock: Stock;
  readonly volumes: VolumeSet;
  readonly workers: WorkerPool;
  /** Those in force. */
  readonly settings: () => Settings;
  /** Whether a command changes the VG at the moment. */
  readonly isChanging: (vgId: string) => boolean;
  /** Nothing is to begin any more. */
  readonly isEnding: () => boolean;
  readonly scanned: (scan: Scan) => void;
  /** Volumes have followed a scan. */
  readonly followed: () => Promise<void>;
  readonly log: Logger;
}

export interface RefreshOptions {
  /** Default those in force. */
  readonly settings?: Settings;
  /** The first look: what can't be had is an error. */
  readonly starting?: boolean;
  /** Which VGs follow; default all but those that a command changes at the moment. */
  readonly follows?: (vgId: string) => boolean;
  /** Volumes whose tables are loaded again, changed or not. */
  readonly reload?: ReadonlySet<VolumeId>;
}

export class Scans {
  readonly #options: ScansOptions;
  #inventory: Inventory | null = null;
  /** The last of what goes one after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: ScansOptions) {
    this.#options = options;
  }

  /** What the last scan found and what follows from it; null: nothing was scanned yet. */
  get inventory(): Inventory | null {
    return this.#inventory;
  }

  get last(): Scan | null {
    return this.#inventory?.scan ?? null;
  }

  get groups(): readonly VolumeGroup[] {
    return this.last?.volumeGroups ?? [];
  }

  /** "vg/lv" of a volume that is served or was found; null: unknown. */
  nameOf(id: VolumeId): string | null {
    const vgId = groupOf(id);
    const group = this.#inventory?.groups.get(vgId) ?? this.groups.find(({ vg }) => vg.id === vgId);
    const lv = group?.vg.logicalVolumes.find((each) => `${vgId} ${each.id}` === id);
    return group === undefined || lv === undefined ? null : `${group.vg.name}/${lv.name}`;
  }

  /** Does the work when no scan is under way and everything that was found before has begun to follow. */
  inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work);
    this.#turn = Promise.allSettled([turn]);
    return turn;
  }

  /** Knows what another process found, whose volumes this one takes over. */
  takeOver(inventory: Inventory): void {
    this.#inventory = inventory;
  }

  /**
   * Scans, holds the devices and makes the served volumes what the metadata says. Only the scan is waited for by others, not that
   * volumes follow. Gives what should be active and isn't, or has not followed.
   */
  async refresh(options: RefreshOptions): Promise<readonly LiveProblem[]> {
    const { devices, volumes, isChanging, isEnding, followed } = this.#options;
    const follows = options.follows ?? ((vgId: string): boolean => !isChanging(vgId));
    const following = await this.inTurn(async () => {
      if (isEnding()) return null;
      const inventory = await this.#look(options, follows);
      const reload = options.reload ?? new Set<VolumeId>();
      // Begun in this turn, so that changes of a VG follow each other as their scans did.
      const apply = volumes.apply(inventory.volumes, (path) => devices.find(path), { follows, reload });
      return { apply };
    });
    const problems = (await following?.apply) ?? [];
    await followed();
    await this.inTurn(() => this.letDevicesGo());
    return problems;
  }

  async #look(options: RefreshOptions, follows: (vgId: string) => boolean): Promise<Inventory> {
    const { stock, settings, scanned } = this.#options;
    const found = await stock.take({
      settings: options.settings ?? settings(),
      starting: options.starting ?? false,
      before: this.#inventory,
    });
    const inventory = mergeInventories(this.#inventory, found, follows);
    this.#inventory = inventory;
    scanned(inventory.scan);
    stock.tell(inventory);
    return inventory;
  }

  /** Lets go of the devices that nothing needs any more, in workers first. To be called in turn. */
  async letDevicesGo(): Promise<void> {
    const { devices, volumes, workers, isEnding, log } = this.#options;
    if (isEnding()) return;
    for (const slot of workers.slots) {
      // One whose device hangs does not keep the others waiting.
      slot.host?.keepDevices(volumes.deviceKeysOf(slot)).catch((err: unknown) => {
        log.debug({ err, worker: slot.index }, 'a device could not be closed');
      });
    }
    const used = volumes.deviceIdentities();
    const wanted = this.#inventory?.devices ?? [];
    const leaving = (this.last?.devices ?? []).filter(({ identity }) => used.has(identity));
    await devices.keepOnly([...wanted, ...leaving]);
  }
}
