/**
 * Opening image files and block devices.
 *
 * Invariants
 *  - What is neither is refused before it is opened: opening a FIFO would wait for a writer.
 *  - With `exclusive` a device is held until it is closed. Block devices by O_EXCL, which the kernel also uses for mounts
 *    and active device-mapper tables; files by flock, exclusive for writers and shared for readers.
 *  - On failure nothing stays open, and the DeviceError names the device, the fault and what can be done about it.
 */
import { constants, type BigIntStats } from 'node:fs';
import { open, stat, type FileHandle } from 'node:fs/promises';
import { directAlignment, flock, loadAddon, Lock } from '../native/addon.ts';
import { sharedAlignedMemory } from './aligned-memory.ts';
import type { DeviceLimits, OpenedDevice } from './device.ts';
import { DeviceError, Errno, errnoOf, errnoText, type DeviceErrorCode } from './errors.ts';
import { deviceNumbers, probeBlockDevice, probeFile } from './probe.ts';
import { readSysfs } from './sysfs.ts';
import type { SystemDeviceOptions } from './system-device.ts';
import { ThreadsDevice } from './threads.ts';
import { uringDevice, uringProblem } from './uring.ts';

export interface OpenOptions {
  /** Default false. */
  readonly readOnly?: boolean;
  /** Keep every other exclusive user out, or fail with IN_USE. Default false. */
  readonly exclusive?: boolean;
  /** Who carries requests out; "auto": io_uring where there is one, else threads. Default "threads". */
  readonly engine?: EngineName;
  /**
   * Whether to go past the page cache (O_DIRECT); then `limits.requestAlignment` is what the device demands. "auto": block
   * devices on the uring engine, if they can; "blocks": block devices on any engine, if they can. Default false.
   */
  readonly direct?: boolean | 'auto' | 'blocks';
}

export type EngineName = 'auto' | 'uring' | 'threads';

/** The largest unit of O_DIRECT that is used; aligned memory comes in whole pages. */
const MAX_DIRECT_ALIGNMENT = 4096;

/** What "auto" stands for here. */
export function engineOf(engine: EngineName): 'uring' | 'threads' {
  if (engine !== 'auto') return engine;
  return uringProblem() === null ? 'uring' : 'threads';
}

/** Opens an image file or block device. Throws DeviceError, or AddonError when the C addon is not built. */
export async function openBlockDevice(path: string, options: OpenOptions = {}): Promise<OpenedDevice> {
  const readOnly = options.readOnly ?? false;
  const exclusive = options.exclusive ?? false;
  const engine = engineOf(options.engine ?? 'threads');
  // Discards and zeroing need it.
  if (!readOnly) loadAddon();
  const named = await statPath(path);
  const kind = kindOf(path, named);
  const how = { kind, readOnly, exclusive, engine };
  const wish = options.direct ?? false;
  const may = wish === 'blocks' || (wish === 'auto' && engine === 'uring');
  if (wish === true || (may && kind === 'block')) {
    const device = await openAs(path, named, { ...how, direct: true });
    if (device !== null) return device;
    if (wish === true) {
      throw new DeviceError(
        'FAILED',
        path,
        'cannot be opened past the page cache: set direct to false or "auto" for it',
      );
    }
  }
  return (await openAs(path, named, { ...how, direct: false }))!;
}

interface OpenAs {
  readonly kind: 'file' | 'block';
  readonly readOnly: boolean;
  readonly exclusive: boolean;
  readonly engine: 'uring' | 'threads';
  readonly direct: boolean;
}

/** Null if it can't be opened `direct`. */
async function openAs(path: string, named: BigIntStats, how: OpenAs): Promise<OpenedDevice | null> {
  const { kind, readOnly, exclusive } = how;
  const handle = await openPath(path, named, how);
  if (handle === null) return null;
  try {
    const stats = await handle.stat({ bigint: true });
    if (kindOf(path, stats) !== kind)
      throw new DeviceError('WRONG_KIND', path, 'was replaced while it was being opened');
    if (kind === 'file' && exclusive) lockFile(path, handle, readOnly);
    const probe = (now: BigIntStats): DeviceLimits | Promise<DeviceLimits> =>
      kind === 'file' ? probeFile(path, now, readOnly) : probeBlockDevice(path, handle.fd, now, readOnly);
    const limits = await probe(stats);
    if (limits.readOnly && !readOnly) throw openError(path, Errno.EROFS, 'opened', undefined);
    const requestAlignment = how.direct ? directUnit(handle.fd, kind, limits) : 1;
    if (requestAlignment === null) {
      await handle.close();
      return null;
    }
    const opened: SystemDeviceOptions = {
      name: path,
      kind,
      identity: identityOf(kind, stats),
      limits: { ...limits, requestAlignment },
      handle,
      measure: async () => {
        const { sizeBytes, ...rest } = await probe(await handle.stat({ bigint: true }));
        return { ...rest, requestAlignment, sizeBytes: sizeBytes - (sizeBytes % requestAlignment) };
      },
      ...(how.direct ? { bounce: sharedAlignedMemory() } : {}),
    };
    return how.engine === 'uring' ? uringDevice(opened) : new ThreadsDevice(opened);
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** The unit of offsets and lengths that O_DIRECT demands; null if it demands what can't be given. */
function directUnit(fd: number, kind: 'file' | 'block', limits: DeviceLimits): number | null {
  const told = directAlignment(fd);
  const guess = kind === 'block' ? limits.logicalBlockSize : limits.physicalBlockSize;
  const { memory, offset } = typeof told === 'number' ? { memory: guess, offset: guess } : told;
  const possible = [memory, offset].every(
    (unit) => unit > 0 && unit <= MAX_DIRECT_ALIGNMENT && (unit & (unit - 1)) === 0,
  );
  return possible && limits.sizeBytes % offset === 0 ? offset : null;
}

async function statPath(path: string): Promise<BigIntStats> {
  try {
    return await stat(path, { bigint: true });
  } catch (error) {
    throw openError(path, errnoOf(error as NodeJS.ErrnoException), 'looked up', error);
  }
}

function kindOf(path: string, stats: BigIntStats): 'file' | 'block' {
  if (stats.isFile()) return 'file';
  if (stats.isBlockDevice()) return 'block';
  let what = 'a character device';
  if (stats.isDirectory()) what = 'a directory';
  else if (stats.isSocket()) what = 'a socket';
  else if (stats.isFIFO()) what = 'a FIFO';
  throw new DeviceError('WRONG_KIND', path, `is ${what}; a block device or a regular file is needed`);
}

/** Null where O_DIRECT is not known. */
async function openPath(path: string, named: BigIntStats, how: OpenAs): Promise<FileHandle | null> {
  const { kind, readOnly, exclusive, direct } = how;
  let flags = readOnly ? constants.O_RDONLY : constants.O_RDWR;
  if (kind === 'block' && exclusive) flags |= constants.O_EXCL;
  if (direct) flags |= constants.O_DIRECT;
  try {
    return await open(path, flags);
  } catch (error) {
    const errno = errnoOf(error as NodeJS.ErrnoException);
    if (direct && errno === Errno.EINVAL) return null;
    if (errno === Errno.EACCES && kind === 'block' && !readOnly) {
      const { major, minor } = deviceNumbers(named.rdev);
      const { readOnly: setReadOnly } = await readSysfs(major, minor);
      if (setReadOnly === true) throw openError(path, Errno.EROFS, 'opened', error);
    }
    throw openError(path, errno, readOnly ? 'opened for reading' : 'opened for reading and writing', error);
  }
}

function openError(path: string, errno: number, tried: string, cause: unknown): DeviceError {
  const details = { errno, cause };
  const fault = (code: DeviceErrorCode, text: string): DeviceError => new DeviceError(code, path, text, details);
  switch (errno) {
    case Errno.ENOENT:
    case Errno.ENOTDIR:
      return fault('NOT_FOUND', 'does not exist');
    case Errno.EACCES:
    case Errno.EPERM:
      return fault('NO_ACCESS', `cannot be ${tried}: permission denied`);
    case Errno.EROFS:
      return fault('READ_ONLY', 'is read-only; it can only be opened read-only');
    case Errno.EBUSY:
      return fault(
        'IN_USE',
        `is in use: mounted, part of an active device-mapper table, or held by another process; ${RELEASE}`,
      );
    default:
      return fault('FAILED', `cannot be ${tried}: ${errnoText(errno)}`);
  }
}

const RELEASE = 'stop its user, or leave it out of the devices';

function lockFile(path: string, handle: FileHandle, readOnly: boolean): void {
  const errno = flock(handle.fd, (readOnly ? Lock.shared : Lock.exclusive) | Lock.nonBlocking);
  if (errno === 0) return;
  if (errno === Errno.EWOULDBLOCK || errno === Errno.EAGAIN) {
    throw new DeviceError('IN_USE', path, `is in use by another process, which holds a lock on it; ${RELEASE}`, {
      errno,
    });
  }
  throw new DeviceError('FAILED', path, `cannot be locked: ${errnoText(errno)}`, { errno });
}

/** What stays the same however a device is named: OpenedDevice.identity. */
export function identityOf(kind: 'file' | 'block', stats: Pick<BigIntStats, 'dev' | 'ino' | 'rdev'>): string {
  if (kind === 'file') return `file:${stats.dev}:${stats.ino}`;
  const { major, minor } = deviceNumbers(stats.rdev);
  return `block:${major}:${minor}`;
}
