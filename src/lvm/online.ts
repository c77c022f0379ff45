/**
 * Which PVs have come online since the system started, as LVM2 records it for activation by events:
 *
 *     /run/lvm/pvs_online/PVID     "MAJOR:MINOR\nvg:NAME\ndev:PATH\n"
 *     /run/lvm/vgs_online/NAME     empty: somebody activates (or activated) this VG
 *     /run/lvm/pvs_lookup/NAME     the PVIDs of a VG, a line each, for PVs without metadata
 *
 * Invariants
 *  - Files are LVM2's own, so that its pvscan and ours count the same PVs. PVIDs are uuids without hyphens.
 *  - Of several that record the same, one is told that it was the first.
 *
 * Source: LVM2 lib/device/online.c, tools/pvscan.c.
 */
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { LabelledDevice, VolumeGroup } from './model.ts';

const FOLDERS = ['pvs_online', 'vgs_online', 'pvs_lookup'] as const;

export class OnlineRecords {
  readonly #directory: string;

  private constructor(directory: string) {
    this.#directory = directory;
  }

  /** `directory`: /run/lvm. */
  static async open(directory: string): Promise<OnlineRecords> {
    for (const folder of FOLDERS) await mkdir(join(directory, folder), { recursive: true, mode: 0o755 });
    return new OnlineRecords(directory);
  }

  /** Forgets everything. */
  async clear(): Promise<void> {
    for (const folder of FOLDERS) {
      for (const name of await readdir(join(this.#directory, folder))) {
        await rm(join(this.#directory, folder, name), { force: true });
      }
    }
  }

  /** Records a PV; `vgName` is null where it is not known, or for an orphan. */
  async notePv({ uuid, device }: LabelledDevice, vgName: string | null): Promise<void> {
    const { major = 0, minor = 0, path } = device;
    const vg = vgName === null ? '' : `vg:${vgName}\n`;
    await writeOnce(this.#pvFile(uuid), `${major}:${minor}\n${vg}dev:${path}\n`);
  }

  /** Forgets the PV that a device, which is gone, held. */
  async forgetDevice(major: number, minor: number): Promise<void> {
    const folder = join(this.#directory, 'pvs_online');
    for (const name of await readdir(folder)) {
      const text = await readFile(join(folder, name), 'utf8');
      if (text.startsWith(`${major}:${minor}\n`)) await rm(join(folder, name), { force: true });
    }
  }

  /** How many PVs of a VG are not recorded. */
  async countOffline({ vg }: VolumeGroup): Promise<number> {
    let offline = 0;
    for (const pv of vg.physicalVolumes) if (!(await exists(this.#pvFile(pv.id)))) offline++;
    return offline;
  }

  /** Lists a VG's PVs for those that hold no metadata. */
  async noteMembers({ vg }: VolumeGroup): Promise<void> {
    if (vg.physicalVolumes.length < 2) return;
    const lines = vg.physicalVolumes.map(({ id }) => `${id.replaceAll('-', '')}\n`);
    await writeOnce(join(this.#directory, 'pvs_lookup', vg.name), lines.join(''));
  }

  /** Records that a VG is being activated; false: somebody was faster. */
  noteVg(name: string): Promise<boolean> {
    return writeOnce(join(this.#directory, 'vgs_online', name), '');
  }

  #pvFile(uuid: string): string {
    return join(this.#directory, 'pvs_online', uuid.replaceAll('-', ''));
  }
}

/** Writes a file that is not there yet; false: it is. */
async function writeOnce(path: string, text: string): Promise<boolean> {
  try {
    await writeFile(path, text, { flag: 'wx', mode: 0o644 });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}
