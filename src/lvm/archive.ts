/**
 * Backup and archive files of VG metadata, as LVM2 keeps them (facts: LVM2 lib/format_text/archive.c, archiver.c):
 *
 *     ARCHIVE/<vg>_NNNNN-<random>.vg   the VG before a change; the oldest go when there are more than `retainMin` and they are
 *                                      older than `retainDays`
 *     BACKUP/<vg>                      the VG after its last change
 *
 * Invariants
 *  - A file is complete or absent: written under another name, synced, renamed.
 *  - As in LVM2, a VG that can't be archived is not changed (then -An says not to); a backup that fails is an error message.
 *  - A VG is archived once per command, before its first change.
 */
import { open, mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { randomInt } from 'node:crypto';
import { join } from 'node:path';
import { encodeText } from '../ondisk/text-bytes.ts';
import type { MetadataText } from '../ondisk/metadata.ts';
import { printMetadataText } from '../ondisk/vg-text.ts';
import type { PrintContext } from '../ondisk/vg-print.ts';
import { CommandError } from './edit/errors.ts';
import { systemWords } from './system-error.ts';

export interface ArchiveOptions {
  /** Null: no archive (`backup/archive = 0`, -An). */
  readonly archive: { readonly directory: string; readonly retainMin: number; readonly retainDays: number } | null;
  /** Null: no backup (`backup/backup = 0`, -An). */
  readonly backup: { readonly directory: string } | null;
}

interface ArchiveFile {
  readonly name: string;
  readonly index: number;
}

const MS_PER_DAY = 24 * 60 * 60 * 1000;
const MAX_RANDOM = 2 ** 31;

/** The files of one command. */
export class BackupFiles {
  readonly #options: ArchiveOptions;
  readonly #warn: (line: string) => void;
  readonly #archived = new Set<string>();
  #saidNotBackedUp = false;

  constructor(options: ArchiveOptions, warn: (line: string) => void) {
    this.#options = options;
    this.#warn = warn;
  }

  /** Keeps a VG as it was before the command; the first time only. Throws CommandError. */
  async archive(before: MetadataText, writer: { readonly commandLine: string }, print: PrintContext): Promise<void> {
    const { archive } = this.#options;
    if (archive === null || this.#archived.has(before.vg.id)) return;
    const { name } = before.vg;
    const text = fileText(before, `Created *before* executing '${writer.commandLine}'`, print);
    try {
      await mkdir(archive.directory, { recursive: true, mode: 0o700 });
      const files = await archivesOf(archive.directory, name);
      const index = Math.max(-1, ...files.map((file) => file.index)) + 1;
      const file = `${name}_${String(index).padStart(5, '0')}-${randomInt(MAX_RANDOM)}.vg`;
      await writeWhole(archive.directory, file, text);
      await removeExpired(archive, files);
    } catch (error) {
      throw new CommandError(
        [
          `Cannot archive volume group metadata for ${name} in ${archive.directory}: ${systemWords(error)}`,
          'Nothing was changed.  -An (--autobackup n) changes a volume group without archive and backup.',
        ],
        5,
        { cause: error },
      );
    }
    this.#archived.add(before.vg.id);
  }

  /** Keeps a VG as it is now. A failure is a message: the VG was changed already. */
  async backup(after: MetadataText, writer: { readonly commandLine: string }, print: PrintContext): Promise<void> {
    const { backup } = this.#options;
    if (backup === null) {
      if (!this.#saidNotBackedUp) this.#warn('WARNING: This metadata update is NOT backed up.');
      this.#saidNotBackedUp = true;
      return;
    }
    try {
      await writeBackup(join(backup.directory, after.vg.name), after, {
        description: `Created *after* executing '${writer.commandLine}'`,
        print,
      });
    } catch (error) {
      this.#warn(`${backup.directory}: ${systemWords(error)}`);
      this.#warn(`Backup of volume group ${after.vg.name} metadata failed.`);
    }
  }

  /** Removes the backup of a VG that is no more, or has another name. */
  async remove(vgName: string): Promise<void> {
    if (this.#options.backup === null) return;
    try {
      await rm(join(this.#options.backup.directory, vgName), { force: true });
    } catch (error) {
      this.#warn(`WARNING: Failed to remove the backup of volume group ${vgName}: ${systemWords(error)}`);
    }
  }
}

/** Writes a VG to a backup file (vgcfgbackup -f): directories are made, the file is complete or absent. */
export async function writeBackup(
  path: string,
  metadata: MetadataText,
  options: { readonly description: string; readonly print: PrintContext },
): Promise<void> {
  const slash = path.lastIndexOf('/');
  const directory = slash < 0 ? '.' : path.slice(0, slash + 1);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await writeWhole(directory, path.slice(slash + 1), fileText(metadata, options.description, options.print));
}

function fileText(metadata: MetadataText, description: string, print: PrintContext): Buffer {
  const header = { ...metadata.header, description, creationTime: print.time };
  return encodeText(printMetadataText({ ...metadata, header }, 'backup', print));
}

/** The archive files of a VG, newest (highest index) first. */
export async function archivesOf(directory: string, vgName: string): Promise<readonly ArchiveFile[]> {
  const files: ArchiveFile[] = [];
  for (const name of await readdir(directory)) {
    const match = /^(.*)_(\d+)[^_]*\.vg$/s.exec(name);
    if (match?.[1] === vgName) files.push({ name, index: Number(match[2]) });
  }
  return files.toSorted((a, b) => b.index - a.index || (a.name < b.name ? 1 : -1));
}

/** `files` are those that were there before one more was written. */
async function removeExpired(
  options: { readonly directory: string; readonly retainMin: number; readonly retainDays: number },
  files: readonly ArchiveFile[],
): Promise<void> {
  const oldest = Date.now() - options.retainDays * MS_PER_DAY;
  let count = files.length + 1;
  for (const { name } of files.toReversed()) {
    if (count <= options.retainMin) return;
    const path = join(options.directory, name);
    if ((await stat(path)).mtimeMs > oldest) continue;
    await rm(path, { force: true });
    count--;
  }
}

async function writeWhole(directory: string, name: string, text: Buffer): Promise<void> {
  const temporary = join(directory, `.lvm_${process.pid}_${randomInt(MAX_RANDOM)}`);
  try {
    const file = await open(temporary, 'wx', 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, join(directory, name));
    await syncDirectory(directory);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** Makes the rename durable. */
async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
