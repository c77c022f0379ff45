/**
 * Which devices to look at: what the user named (paths, globs, directories), or by default, as root, every block device.
 *
 * Invariants
 *  - A device is listed once, under the first name that led to it, however many names it has.
 *  - Every spec gives at least one device or a message that says what is wrong with it; nothing is silently empty.
 *  - By default the same block devices are left out as LVM2 leaves out: empty ones, RAM disks and drives with removable discs,
 *    active LVs, parts of MD arrays and multipath maps, disks that are divided into partitions; and NBD devices, which
 *    may well be connected to ourselves. Whoever names one explicitly gets it.
 */
import { constants } from 'node:fs';
import type { BigIntStats } from 'node:fs';
import { access, glob, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { OpenedDevice } from '../block/device.ts';
import { identityOf } from '../block/open.ts';
import { LvmError } from './errors.ts';
import type { ScannedDevice } from './model.ts';

export interface ListOptions {
  /** Told of specs that give no device; without it, the first such spec throws an LvmError. */
  readonly onProblem?: (message: string) => void;
  /** /sys and /dev, but for tests. */
  readonly sysfs?: string;
  readonly devDirectory?: string;
}

/**
 * Paths of the devices that specs name. A spec is a path of a file or block device, a glob, or a directory: then its
 * files and block devices. Without specs: every block device, if we are root, else none.
 */
export async function listDevices(specs: readonly string[], options: ListOptions = {}): Promise<string[]> {
  if (specs.length === 0) return process.geteuid?.() === 0 ? await distinct(await everyBlockDevice(options)) : [];
  const paths: string[] = [];
  for (const spec of specs) {
    const found = await expand(spec);
    if (typeof found !== 'string') paths.push(...found);
    else if (options.onProblem === undefined) throw new LvmError('DEVICE_NOT_FOUND', found);
    else options.onProblem(found);
  }
  return distinct(paths);
}

/** OpenedDevice.identity of what is at a path; null: no file and no block device. */
export async function identityAt(path: string): Promise<string | null> {
  const stats = await statOrNull(path);
  return stats === null || !isDevice(stats) ? null : identityOf(stats.isFile() ? 'file' : 'block', stats);
}

/** What the model says of an open device. */
export async function describeDevice(device: OpenedDevice): Promise<ScannedDevice> {
  const { sizeBytes, logicalBlockSize } = device.limits;
  const base = { path: device.name, sizeBytes, logicalBlockSize, identity: device.identity, kind: device.kind };
  const numbers = /^block:(\d+):(\d+)$/.exec(device.identity);
  if (numbers === null) return { ...base, readOnly: !(await isWritable(device.name)) };
  const directory = `/sys/dev/block/${numbers[1]}:${numbers[2]}`;
  return {
    ...base,
    readOnly: (await attribute(`${directory}/ro`)) === '1',
    major: Number(numbers[1]),
    minor: Number(numbers[2]),
    held: (await entries(`${directory}/holders`)).length > 0,
  };
}

/** The devices of a spec, or why there are none. */
async function expand(spec: string): Promise<readonly string[] | string> {
  const stats = await statOrNull(spec);
  if (stats === null) return expandGlob(spec);
  if (!stats.isDirectory()) return isDevice(stats) ? [spec] : `${spec}: is neither a block device nor a regular file`;
  const devices = await onlyDevices((await entries(spec)).map((name) => join(spec, name)));
  return devices.length > 0 ? devices : `${spec}: the directory holds no block device and no regular file`;
}

async function expandGlob(spec: string): Promise<readonly string[] | string> {
  if (!/[*?[{]/.test(spec)) return `${spec}: No such file or directory`;
  const matches = await Array.fromAsync(glob(spec));
  const devices = await onlyDevices(matches.toSorted());
  return devices.length > 0 ? devices : `${spec}: no block device and no regular file matches`;
}

async function onlyDevices(paths: readonly string[]): Promise<readonly string[]> {
  const devices: string[] = [];
  for (const path of paths) {
    const stats = await statOrNull(path);
    if (stats !== null && isDevice(stats)) devices.push(path);
  }
  return devices;
}

function isDevice(stats: BigIntStats): boolean {
  return stats.isFile() || stats.isBlockDevice();
}

/** The first path of each device; what has vanished meanwhile is kept, so that opening it says so. */
async function distinct(paths: readonly string[]): Promise<string[]> {
  const seen = new Set<string>();
  const kept: string[] = [];
  for (const path of paths) {
    const stats = await statOrNull(path);
    const identity = stats === null ? path : `${stats.isBlockDevice() ? stats.rdev : `${stats.dev}:${stats.ino}`}`;
    if (seen.has(identity)) continue;
    seen.add(identity);
    kept.push(path);
  }
  return kept;
}

const SKIPPED_NAMES = /^(?:ram|zram|sr|fd|nbd)\d/;

async function everyBlockDevice(options: ListOptions): Promise<readonly string[]> {
  const root = `${options.sysfs ?? '/sys'}/class/block`;
  const names = await entries(root);
  const paths: string[] = [];
  for (const name of names.toSorted()) {
    if ((await exclusionReason(`${root}/${name}`, name)) !== null) continue;
    // The kernel writes "!" for a "/" in a device's name.
    const path = join(options.devDirectory ?? '/dev', name.replaceAll('!', '/'));
    const mapped = await attribute(`${root}/${name}/dm/name`);
    const preferred = mapped === null ? path : join(options.devDirectory ?? '/dev', 'mapper', mapped);
    paths.push((await statOrNull(preferred)) === null ? path : preferred);
  }
  return onlyDevices(paths);
}

export interface DeviceRules {
  readonly scanLvs: boolean;
  readonly minSectors: number;
}

/**
 * Why LVM2 would by default not look for a PV on a block device, in its words; null if it would. `directory` is the device's
 * in /sys, `name` the kernel's name of it. `rules`: devices/scan_lvs and devices/pv_min_size.
 */
export async function exclusionReason(
  directory: string,
  name: string,
  { scanLvs, minSectors }: DeviceRules = { scanLvs: false, minSectors: 1 },
): Promise<string | null> {
  if (SKIPPED_NAMES.test(name)) return 'device type is unknown';
  const sectors = await attribute(`${directory}/size`);
  if (sectors === null) return 'device is missing sysfs info';
  if (Number(sectors) < minSectors) return 'device is too small (pv_min_size)';
  const uuid = await attribute(`${directory}/dm/uuid`);
  if (!scanLvs && uuid?.startsWith('LVM-') === true) return 'device is an LV';
  for (const holder of await entries(`${directory}/holders`)) {
    if (/^md\d/.test(holder)) return 'device is an md component';
    const holderUuid = await attribute(`${directory}/holders/${holder}/dm/uuid`);
    if (holderUuid?.startsWith('mpath-') === true) return 'device is a multipath component';
  }
  return (await hasPartitions(directory, name)) ? 'device is partitioned' : null;
}

async function hasPartitions(directory: string, name: string): Promise<boolean> {
  for (const child of await entries(directory)) {
    if (child.startsWith(name) && (await attribute(`${directory}/${child}/partition`)) !== null) return true;
  }
  return false;
}

async function attribute(path: string): Promise<string | null> {
  try {
    return (await readFile(path, 'utf8')).trim();
  } catch {
    return null;
  }
}

/** Names in a directory; none if it can't be read. */
async function entries(directory: string): Promise<readonly string[]> {
  try {
    return (await readdir(directory)).toSorted();
  } catch {
    return [];
  }
}

/** Whether the file may be opened for writing: its permissions and its file system allow it. */
async function isWritable(path: string): Promise<boolean> {
  try {
    await access(path, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

async function statOrNull(path: string): Promise<BigIntStats | null> {
  try {
    return await stat(path, { bigint: true });
  } catch {
    return null;
  }
}
