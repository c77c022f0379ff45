/**
 * What the daemon sees to by itself while it serves: the kernel's devices that are attached to its volumes, copies of the metadata,
 * merges that end and snapshots' stores that fill up.
 *
 * Invariants
 *  - Begins when everything is served, and ends before anything of that is closed or given away.
 *  - Where nothing may be written, nothing is begun that would.
 */
import type { VolumeGroup } from '../lvm/model.ts';
import { AttachedDevices } from './attached-devices.ts';
import { MetadataBackups } from './backups.ts';
import type { OwnSurroundings, OwnRunner } from './commands/own.ts';
import type { Settings } from './config.ts';
import { extendPolicy } from './extend-policy.ts';
import { formatListenUri } from './listen-uri.ts';
import type { Listeners } from './listeners.ts';
import type { Logger } from './log.ts';
import type { Scans } from './scans.ts';
import { type SnapshotProblem, SnapshotWatch } from './snapshot-watch.ts';
import type { Stock } from './stock.ts';
import { packageVersion } from './version.ts';
import type { VolumeSet } from './volumes.ts';

export interface UpkeepOptions {
  readonly volumes: VolumeSet;
  readonly stock: Stock;
  readonly scans: Scans;
  readonly listeners: () => Listeners;
  readonly surroundings: () => OwnSurroundings;
  readonly log: Logger;
}

export class Upkeep {
  readonly #options: UpkeepOptions;
  readonly #attached: AttachedDevices;
  /** Null: not begun, or nothing can be changed. */
  #snapshotWatch: SnapshotWatch | null = null;
  #backups: MetadataBackups | null = null;

  constructor(options: UpkeepOptions) {
    const { volumes, listeners, log } = options;
    this.#options = options;
    this.#attached = new AttachedDevices({
      servers: () => listeners().addresses.map(formatListenUri),
      sizeOf: (name) => volumes.clients.viewFor().find(name)?.sizeBytes ?? null,
      nameOf: (volume) => volumes.nameOf(volume.replace('/', ' ')),
      log,
    });
  }

  get snapshotProblems(): readonly SnapshotProblem[] {
    return this.#snapshotWatch?.problems ?? [];
  }

  /** `runner` runs the commands that are the daemon's own. */
  start(settings: Settings, runner: OwnRunner): void {
    this.#attached.start();
    if (!settings.readOnly) this.#watchSnapshots(runner);
    if (settings.backups !== null) this.#backUp(settings.backups);
  }

  /** Attached devices get the sizes and names that volumes have now. */
  follow(): Promise<void> {
    return this.#attached.follow();
  }

  /** Settles when nothing of it is under way any more. */
  async close(): Promise<void> {
    await Promise.all([this.#attached.close(), this.#snapshotWatch?.close(), this.#backups?.close()]);
  }

  #watchSnapshots(runner: OwnRunner): void {
    const { volumes, scans, surroundings, log } = this.#options;
    this.#snapshotWatch = new SnapshotWatch({
      served: () => volumes.snapshots(),
      policy: extendPolicy(process.env, log),
      seqnoOf: (vgId) => scans.groups.find(({ vg }) => vg.id === vgId)?.vg.seqno ?? null,
      runner,
      own: surroundings,
      log,
    });
    this.#snapshotWatch.start();
  }

  #backUp(backups: NonNullable<Settings['backups']>): void {
    const { stock, scans, log } = this.#options;
    this.#backups = new MetadataBackups({
      ...backups,
      generator: `Orion LVM version ${packageVersion()}`,
      volumeGroups: async (): Promise<readonly VolumeGroup[]> => {
        const paths = scans.last?.devices.map(({ path }) => path) ?? [];
        return (await stock.scan(paths)).scan.volumeGroups;
      },
      log,
    });
    void this.#backups.run();
  }
}
