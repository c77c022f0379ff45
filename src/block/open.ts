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
import { flock, loadAddon, Lock } from '../native/addon.ts';
import type { DeviceLimits, OpenedDevice } from './device.ts';
import { DeviceError, Errno, errnoOf, errnoText, type DeviceErrorCode } from './errors.ts';
import { deviceNumbers, probeBlockDevice, probeFile } from './probe.ts';
import { readSysfs } from './sysfs.ts';
import { ThreadsDevice, type ThreadsDeviceOptions } from './threads.ts';

export interface OpenOptions {
  /** Default false. */
  readonly readOnly?: boolean;
  /** Keep every other exclusive user out, or fail with IN_USE. Default false. */
  readonly exclusive?: boolean;
  /** Who carries requests out. Default "threads". */
  readonly engine?: EngineName;
}

type EngineName = 'threads';

const ENGINES: Readonly<Record<EngineName, (options: ThreadsDeviceOptions) => OpenedDevice>> = {
  threads: (options) => new ThreadsDevice(options),
};

/** Opens an image file or block device. Throws DeviceError, or AddonError when the C addon is not built. */
export async function openBlockDevice(path: string, options: OpenOptions = {}): Promise<OpenedDevice> {
  const readOnly = options.readOnly ?? false;
  const exclusive = options.exclusive ?? false;
  // Discards and zeroing need it.
  if (!readOnly) loadAddon();
  const named = await statPath(path);
  const kind = kindOf(path, named);
  const handle = await openPath(path, kind, readOnly, exclusive, named);
  try {
    const stats = await handle.stat({ bigint: true });
    if (kindOf(path, stats) !== kind)
      throw new DeviceError('WRONG_KIND', path, 'was replaced while it was being opened');
    if (kind === 'file' && exclusive) lockFile(path, handle, readOnly);
    const probe = (now: BigIntStats): DeviceLimits | Promise<DeviceLimits> =>
      kind === 'file' ? probeFile(path, now, readOnly) : probeBlockDevice(path, handle.fd, now, readOnly);
    const limits = await probe(stats);
    if (limits.readOnly && !readOnly) throw openError(path, Errno.EROFS, 'opened', undefined);
    return ENGINES[options.engine ?? 'threads']({
      name: path,
      kind,
      identity: identityOf(kind, stats),
      limits,
      handle,
      measure: async () => probe(await handle.stat({ bigint: true })),
    });
  } catch (error) {
    await handle.close();
    throw error;
  }
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

async function openPath(
  path: string,
  kind: 'file' | 'block',
  readOnly: boolean,
  exclusive: boolean,
  named: BigIntStats,
): Promise<FileHandle> {
  const access = readOnly ? constants.O_RDONLY : constants.O_RDWR;
  try {
    return await open(path, kind === 'block' && exclusive ? access | constants.O_EXCL : access);
  } catch (error) {
    const errno = errnoOf(error as NodeJS.ErrnoException);
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

function identityOf(kind: 'file' | 'block', stats: BigIntStats): string {
  if (kind === 'file') return `file:${stats.dev}:${stats.ino}`;
  const { major, minor } = deviceNumbers(stats.rdev);
  return `block:${major}:${minor}`;
}
