/**
 * Backups of the metadata of the volume groups that are served, every so often (metadata_backup_interval): what commands do
 * after each change, for changes that others made, and for backups that were lost.
 *
 * Invariants
 *  - A backup that is up to date is not written again; one that fails is logged and tried again the next time.
 *  - One round at a time; closing waits for the round that runs.
 */
import { readFile } from 'node:fs/promises';
import { hostname, machine, release, type as systemName, version as systemVersion } from 'node:os';
import { join } from 'node:path';
import { writeBackup } from '../lvm/archive.ts';
import type { VolumeGroup } from '../lvm/model.ts';
import { Interval } from './interval.ts';
import type { Logger } from './log.ts';

export interface BackupOptions {
  readonly directory: string;
  readonly intervalSeconds: number;
  /** "Orion LVM version 0.1.0" */
  readonly generator: string;
  /** Scans for the volume groups as they are now. */
  readonly volumeGroups: () => Promise<readonly VolumeGroup[]>;
  readonly log: Logger;
}

export class MetadataBackups {
  readonly #options: BackupOptions;
  readonly #interval: Interval;
  #round: Promise<void> = Promise.resolve();

  constructor(options: BackupOptions) {
    this.#options = options;
    this.#interval = new Interval(options.intervalSeconds * 1000, () => void this.run());
  }

  /** One round, after the one that runs. */
  run(): Promise<void> {
    this.#round = this.#round.then(() => this.#backUp());
    return this.#round;
  }

  async close(): Promise<void> {
    this.#interval.stop();
    await this.#round;
  }

  async #backUp(): Promise<void> {
    const { directory, log, volumeGroups } = this.#options;
    try {
      for (const group of await volumeGroups()) {
        if (await isCurrent(join(directory, group.vg.name), group)) continue;
        await this.#write(group);
        log.info({ vg: group.vg.name, seqno: group.vg.seqno }, 'metadata backed up');
      }
    } catch (err) {
      log.error({ err, directory }, 'metadata could not be backed up');
    }
  }

  async #write({ vg, metadata }: VolumeGroup): Promise<void> {
    const { directory, generator } = this.#options;
    const uname = `${systemName()} ${hostname()} ${release()} ${systemVersion()} ${machine()}`;
    await writeBackup(join(directory, vg.name), metadata, {
      description: "Created by the daemon's metadata_backup_interval",
      print: { generator, uname, time: Math.floor(Date.now() / 1000) },
    });
  }
}

/** Whether the file is a backup of this VG at this seqno. */
async function isCurrent(path: string, { vg }: VolumeGroup): Promise<boolean> {
  try {
    const text = await readFile(path, 'utf8');
    return text.includes(`id = "${vg.id}"`) && new RegExp(`^\\s*seqno = ${vg.seqno}$`, 'm').test(text);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}
