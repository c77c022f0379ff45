/**
 * The block devices of this host as LVM2 finds them: every block node below devices/scan, with all its names, the preferred
 * one first, let through by what its kind, the filters or the devices file say.
 *
 * Invariants
 *  - A device has one path, however many nodes and links lead to it, and it does not depend on the order of directories.
 *  - What is not let through has a reason, in LVM2's words, for a command that was asked for it by name.
 *
 * Source: lvm.conf(5) devices/*; order of names compared with LVM2 2.03.16.
 */
import type { Dirent, Stats } from 'node:fs';
import { lstat, readdir, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join, normalize } from 'node:path';
import { compileRegex } from './dm-regex.ts';
import { type DeviceRules, exclusionReason } from './devices.ts';
import type { DeviceFilter } from './filter.ts';
import type { Settings } from './settings.ts';

export interface HostDevice {
  /** The preferred name. */
  readonly path: string;
  /** All of them, the preferred first. */
  readonly names: readonly string[];
  readonly major: number;
  readonly minor: number;
}

/** What decides about a device besides its kind: the regex filters, or the devices file. */
export interface DeviceGate {
  readonly filters: readonly DeviceFilter[];
  /** Null: no devices file is used. */
  readonly listed: ((device: HostDevice) => Promise<boolean>) | null;
}

export interface HostDevices {
  readonly usable: readonly HostDevice[];
  /** Why others are not, by every name that they have. */
  readonly excluded: ReadonlyMap<string, string>;
  /** Every device by every name. */
  readonly byName: ReadonlyMap<string, HostDevice>;
}

/** Why a device is excluded that the devices file does not list. */
export const NOT_LISTED = 'device is not in devices file';

/** Looks at every device. `sysfs` is /sys, but for tests. */
export async function findHostDevices(settings: Settings, gate: DeviceGate, sysfs = '/sys'): Promise<HostDevices> {
  const usable: HostDevice[] = [];
  const excluded = new Map<string, string>();
  const byName = new Map<string, HostDevice>();
  const rules = { scanLvs: settings.bool('devices/scan_lvs'), minSectors: minPvSectors(settings) };
  for (const found of await allDevices(settings)) {
    const passed = await pass(found, gate, rules, sysfs);
    if (typeof passed === 'string') for (const name of found.names) excluded.set(name, passed);
    else usable.push(passed);
    for (const name of found.names) byName.set(name, typeof passed === 'string' ? found : passed);
  }
  return { usable, excluded, byName };
}

/** The smallest value of devices/pv_min_size that counts, in KiB. */
export const LEAST_PV_KIB = 512;

/** devices/pv_min_size in sectors. */
export function minPvSectors(settings: Settings): number {
  return Math.max(LEAST_PV_KIB, settings.int('devices/pv_min_size')) * 2;
}

/** The device by the name to use, or why it is not to be used. */
async function pass(
  device: HostDevice,
  gate: DeviceGate,
  rules: DeviceRules,
  sysfs: string,
): Promise<HostDevice | string> {
  const named = gate.listed === null ? filtered(device, gate.filters) : device;
  if (named === null) return 'device is rejected by filter config';
  if (gate.listed !== null && !(await gate.listed(device))) return NOT_LISTED;
  return (await kindReason(device, rules, sysfs)) ?? named;
}

function filtered(device: HostDevice, filters: readonly DeviceFilter[]): HostDevice | null {
  let { path } = device;
  for (const filter of filters) {
    const name = filter.nameOf([path, ...device.names.filter((other) => other !== path)]);
    if (name === null) return null;
    path = name;
  }
  return path === device.path ? device : { ...device, path };
}

async function kindReason({ major, minor }: HostDevice, rules: DeviceRules, sysfs: string): Promise<string | null> {
  const directory = `${sysfs}/dev/block/${major}:${minor}`;
  try {
    return await exclusionReason(directory, basename(await realpath(directory)), rules);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    // Without sysfs (a container) nothing is known; with it, the node has no device.
    return (await statOrNull(`${sysfs}/dev/block`)) === null ? null : 'device is missing sysfs info';
  }
}

async function allDevices(settings: Settings): Promise<readonly HostDevice[]> {
  const found = new Map<number, string[]>();
  for (const directory of settings.strings('devices/scan')) await walk(normalize(directory), found);
  const preferred = (settings.strings('devices/preferred_names') ?? []).flatMap((text) => compileRegex(text) ?? []);
  const rank = new NameRank(settings.string('devices/dir'), preferred);
  const devices: HostDevice[] = [];
  for (const [rdev, all] of found) {
    const names = await rank.sorted([...new Set(all)]);
    devices.push({ path: names[0] ?? '', names, major: majorOf(rdev), minor: minorOf(rdev) });
  }
  return devices;
}

/** glibc's makedev, from its low 32 bits: no device number in use is larger. */
function majorOf(rdev: number): number {
  return (rdev >>> 8) & 0xfff;
}
function minorOf(rdev: number): number {
  return (rdev & 0xff) | ((rdev >>> 12) & 0xfff00);
}

async function walk(directory: string, found: Map<number, string[]>): Promise<void> {
  for (const entry of await entriesOf(directory)) {
    if (entry.name.startsWith('.')) continue;
    const path = join(directory, entry.name);
    if (entry.isDirectory()) await walk(path, found);
    else if (entry.isBlockDevice() || entry.isSymbolicLink()) {
      const stats = await statOrNull(path);
      if (stats?.isBlockDevice() !== true) continue;
      const names = found.get(stats.rdev);
      if (names === undefined) found.set(stats.rdev, [path]);
      else names.push(path);
    }
  }
}

/** Sorted; a single device may stand in a directory's place, and what can't be read holds nothing. */
async function entriesOf(directory: string): Promise<readonly Dirent[]> {
  try {
    const entries = await readdir(directory, { withFileTypes: true });
    return entries.toSorted((a, b) => (a.name < b.name ? -1 : 1));
  } catch {
    return [];
  }
}

async function statOrNull(path: string): Promise<Stats | null> {
  try {
    return await stat(path);
  } catch {
    return null;
  }
}

/** Which name of a device to use: LVM2's order. */
class NameRank {
  readonly #preferred: readonly RegExp[];
  /** Directories whose names are used only if there is no other, the least wanted first. */
  readonly #last: readonly string[];

  constructor(devDirectory: string, preferred: readonly RegExp[]) {
    this.#preferred = preferred;
    this.#last = ['block/', 'dm-', 'disk/', 'mapper/'].map((part) => `${devDirectory.replace(/\/*$/, '/')}${part}`);
  }

  async sorted(names: readonly string[]): Promise<readonly string[]> {
    const ranked: { name: string; rank: readonly number[] }[] = [];
    for (const name of names) ranked.push({ name, rank: await this.#rank(name) });
    ranked.sort((a, b) => {
      for (const [at, value] of a.rank.entries()) {
        const other = b.rank[at] ?? 0;
        if (value !== other) return value - other;
      }
      return a.name < b.name ? -1 : 1;
    });
    return ranked.map(({ name }) => name);
  }

  async #rank(name: string): Promise<readonly number[]> {
    const preference = this.#preferred.findIndex((regex) => regex.test(name));
    const last = this.#last.findIndex((prefix) => name.startsWith(prefix));
    return [
      preference < 0 ? this.#preferred.length : preference,
      last < 0 ? 0 : this.#last.length - last,
      name.split('/').length,
      await linkDepth(name),
    ];
  }
}

/** How many parts of a path come before its first link; a path with a link is preferred, the sooner the better. */
async function linkDepth(path: string): Promise<number> {
  const parents: string[] = [path];
  while (dirname(parents[0] ?? '/') !== '/') parents.unshift(dirname(parents[0] ?? '/'));
  for (const [depth, part] of parents.entries()) {
    try {
      if ((await lstat(part)).isSymbolicLink()) return depth;
    } catch {
      return parents.length;
    }
  }
  return parents.length;
}
