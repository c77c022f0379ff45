/**
 * The limits of an open file or block device.
 *
 * Invariants
 *  - A size is a whole number of 512-byte sectors below 2^53; what is left of a file after its last whole sector is unused.
 *  - Limits that a device does not tell, or tells as nonsense, get the smallest value that is safe: 512-byte blocks, no discard.
 */
import type { BigIntStats } from 'node:fs';
import type { DeviceLimits, DeviceTopology } from './device.ts';
import { DeviceError } from './errors.ts';
import { deviceSizeBytes, isReadOnly, logicalBlockSize, physicalBlockSize } from './ioctl.ts';
import { readSysfs, type SysfsFacts } from './sysfs.ts';

const SECTOR_BYTES = 512;
const PAGE_BYTES = 4096;

/** Limits of a regular file, which the page cache serves at any byte. */
export function probeFile(path: string, stats: Pick<BigIntStats, 'size' | 'blksize'>, readOnly: boolean): DeviceLimits {
  const fileSystemBlock = blockSizeOr(Number(stats.blksize), PAGE_BYTES);
  return {
    sizeBytes: checkedSize(path, Number(stats.size)),
    logicalBlockSize: SECTOR_BYTES,
    physicalBlockSize: Math.min(fileSystemBlock, PAGE_BYTES),
    requestAlignment: 1,
    readOnly,
    canDiscard: !readOnly,
    discardGranularity: readOnly ? 0 : fileSystemBlock,
  };
}

/** Limits of a block device: by ioctl, and by sysfs for the rest. */
export async function probeBlockDevice(
  path: string,
  fd: number,
  stats: Pick<BigIntStats, 'rdev'>,
  readOnly: boolean,
): Promise<DeviceLimits> {
  const { major, minor } = deviceNumbers(stats.rdev);
  const sysfs = await readSysfs(major, minor);
  const sizeBytes = deviceSizeBytes(fd) ?? sysfs.sizeBytes;
  if (sizeBytes === null) {
    throw new DeviceError(
      'FAILED',
      path,
      `its size is not known: neither BLKGETSIZE64 nor /sys/dev/block/${major}:${minor}/size answers`,
    );
  }
  const logical = blockSizeOr(logicalBlockSize(fd) ?? sysfs.logicalBlockSize, SECTOR_BYTES);
  const physical = blockSizeOr(physicalBlockSize(fd) ?? sysfs.physicalBlockSize, logical);
  const writable = !readOnly && !(isReadOnly(fd) ?? sysfs.readOnly ?? false);
  const canDiscard = writable && (sysfs.discardMaxBytes ?? 0) > 0;
  return {
    sizeBytes: checkedSize(path, sizeBytes),
    logicalBlockSize: logical,
    physicalBlockSize: Math.max(physical, logical),
    requestAlignment: 1,
    readOnly: !writable,
    canDiscard,
    discardGranularity: canDiscard ? Math.max(sysfs.discardGranularity ?? 0, logical) : 0,
    topology: topologyOf(sysfs, physical),
  };
}

/** Takes a dev_t apart as makedev(3) packs it; the kernel has 12 bits of major and 20 of minor, so 32 in all. */
export function deviceNumbers(rdev: bigint): { major: number; minor: number } {
  const packed = Number(rdev);
  return { major: (packed >>> 8) & 0xfff, minor: (packed & 0xff) | ((packed >>> 12) & 0xfff00) };
}

function topologyOf(sysfs: SysfsFacts, physical: number): DeviceTopology {
  return {
    minimumIoSize: sysfs.minimumIoSize ?? physical,
    optimalIoSize: sysfs.optimalIoSize ?? 0,
    alignmentOffset: sysfs.alignmentOffset ?? 0,
  };
}

function blockSizeOr(value: number | null, otherwise: number): number {
  const isBlockSize = value !== null && value >= SECTOR_BYTES && Number.isInteger(Math.log2(value));
  return isBlockSize ? value : otherwise;
}

function checkedSize(path: string, bytes: number): number {
  if (bytes > Number.MAX_SAFE_INTEGER)
    throw new DeviceError(
      'TOO_LARGE',
      path,
      `${bytes} bytes; devices of 2^53 bytes (8 PiB) and more are not supported`,
    );
  return bytes - (bytes % SECTOR_BYTES);
}
