/**
 * LVM2's hints (/run/lvm/hints: which devices hold PVs): a pure cache of LVM2, which we never read. Whoever changes what is a
 * PV must drop it, or LVM2's next report looks in the wrong places (facts: LVM2 lib/label/hints.c).
 *
 * Invariant: dropping is harmless at any time; a host without LVM2's directory needs none.
 */
import { truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** LVM2's own directory. */
export const HINTS_DIRECTORY = '/run/lvm';

/** Empties the hints and asks LVM2's next command for new ones. Gives false where there is no such directory, or no right to it. */
export async function dropHints(directory: string): Promise<boolean> {
  try {
    await writeFile(join(directory, 'newhints'), '');
    await truncate(join(directory, 'hints'));
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'EACCES' || code === 'EROFS' || code === 'EPERM')
      return false;
    throw error;
  }
}
