/**
 * What a block device says of itself through ioctl(2). The only file that imports the `ioctl` package.
 *
 * Invariants
 *  - Every answer is `null` when the package is not built, or the device or kernel does not know the request: the caller
 *    then asks sysfs. Nothing here throws.
 *  - Only calls that return at once are made here: they run on the event loop's thread. Discards and zeroing, which can
 *    take seconds, go through the addon's thread pool calls instead.
 */
import { createRequire } from 'node:module';

/** linux/fs.h. BLKGETSIZE64 is _IOR(0x12, 114, size_t): the number differs on 32-bit machines, which are not supported. */
const BLKGETSIZE64 = 0x8008_1272;
const BLKSSZGET = 0x1268;
const BLKPBSZGET = 0x127b;
const BLKROGET = 0x125e;

type Ioctl = (fd: number, request: number, argument: Buffer) => number;

let loaded: Ioctl | null | undefined;

function load(): Ioctl | null {
  try {
    const require = createRequire(import.meta.url);
    const ioctl: Ioctl = require('ioctl');
    return ioctl;
  } catch {
    // Not built: sysfs knows the same facts.
    return null;
  }
}

/** Calls `request` with a zeroed 8-byte argument and gives the argument back, or null when the call failed. */
function query(fd: number, request: number): Buffer | null {
  if (loaded === undefined) loaded = load();
  if (loaded === null) return null;
  const argument = Buffer.alloc(8);
  try {
    loaded(fd, request, argument);
    return argument;
  } catch {
    // ENOTTY and the like: not known here.
    return null;
  }
}

/** The size in bytes; may be 2^53 or more, then rounded as numbers are. */
export function deviceSizeBytes(fd: number): number | null {
  const argument = query(fd, BLKGETSIZE64);
  return argument === null ? null : Number(argument.readBigUInt64LE());
}

/** Bytes per logical block. */
export function logicalBlockSize(fd: number): number | null {
  return query(fd, BLKSSZGET)?.readUInt32LE() ?? null;
}

/** Bytes per physical block. */
export function physicalBlockSize(fd: number): number | null {
  return query(fd, BLKPBSZGET)?.readUInt32LE() ?? null;
}

/** Whether the device takes no writes. */
export function isReadOnly(fd: number): boolean | null {
  const argument = query(fd, BLKROGET);
  return argument === null ? null : argument.readUInt32LE() !== 0;
}
