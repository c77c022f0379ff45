/**
 * What the kernel says of a block device in /sys/dev/block/MAJOR:MINOR: everything that has no ioctl, and the rest as a
 * fallback for it.
 *
 * Invariants
 *  - A missing file, directory or number is `null`, never an error: containers hide sysfs, and old kernels lack attributes.
 *  - Partitions have no queue of their own: their disk's is used.
 */
import { readFile, stat } from 'node:fs/promises';

/** Sector of the `size` attribute, whatever the device's blocks are. */
const SECTOR_BYTES = 512;

export interface SysfsFacts {
  readonly sizeBytes: number | null;
  readonly readOnly: boolean | null;
  readonly logicalBlockSize: number | null;
  readonly physicalBlockSize: number | null;
  /** Bytes; 0 when the device cannot discard. */
  readonly discardMaxBytes: number | null;
  readonly discardGranularity: number | null;
  readonly minimumIoSize: number | null;
  readonly optimalIoSize: number | null;
  readonly alignmentOffset: number | null;
}

/** Reads what sysfs knows of the device with these numbers. `root` is /sys, but for tests. */
export async function readSysfs(major: number, minor: number, root = '/sys'): Promise<SysfsFacts> {
  const device = `${root}/dev/block/${major}:${minor}`;
  const isDisk = await exists(`${device}/queue`);
  // The kernel's directory of a partition lies inside its disk's; the path is resolved through the link to it.
  const queue = isDisk ? `${device}/queue` : `${device}/../queue`;
  const sectors = await readNumber(`${device}/size`);
  const readOnly = await readNumber(`${device}/ro`);
  return {
    sizeBytes: sectors === null ? null : sectors * SECTOR_BYTES,
    readOnly: readOnly === null ? null : readOnly !== 0,
    logicalBlockSize: await readNumber(`${queue}/logical_block_size`),
    physicalBlockSize: await readNumber(`${queue}/physical_block_size`),
    discardMaxBytes: await readNumber(`${queue}/discard_max_bytes`),
    discardGranularity: await readNumber(`${queue}/discard_granularity`),
    minimumIoSize: await readNumber(`${queue}/minimum_io_size`),
    optimalIoSize: await readNumber(`${queue}/optimal_io_size`),
    alignmentOffset: await readNumber(`${device}/alignment_offset`),
  };
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch {
    return false;
  }
}

/** A non-negative decimal number; the kernel's -1 (a misaligned stack) counts as unknown. */
async function readNumber(path: string): Promise<number | null> {
  try {
    const text = (await readFile(path, 'ascii')).trim();
    return /^\d+$/.test(text) ? Number(text) : null;
  } catch {
    return null;
  }
}
