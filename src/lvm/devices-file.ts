/**
 * LVM2's devices file (/etc/lvm/devices/system.devices): the devices that commands may use, where use_devicesfile is set.
 *
 *     # comments
 *     SYSTEMID=host1
 *     VERSION=1.1.7
 *     IDTYPE=sys_wwid IDNAME=naa.5000… DEVNAME=/dev/sda3 PVID=KH3x… PART=3
 *
 * Invariants
 *  - A file is replaced as a whole under LVM2's lock (D_<name> in the locking directory), its version counted up.
 *  - Entries of types that we don't know are kept as they are, and match no device.
 *  - A file of a newer major version is read, never written.
 *
 * Source: lvmdevices(8); the form observed with LVM2 2.03.16.
 */
import { constants } from 'node:fs';
import { type FileHandle, mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { flock, Lock } from '../native/addon.ts';
import { chooseDeviceId, type DeviceId, isIdType, partitionOf, readDeviceId } from './device-id.ts';
import { CommandError } from './edit/errors.ts';
import type { Plan } from './edit/plan.ts';
import type { HostDevice } from './host-devices.ts';
import type { LockMode } from './locks.ts';
import type { ScannedDevice } from './model.ts';

export interface DeviceEntry {
  readonly idType: string;
  /** Null: unknown, as after a devname was found to hold another PV. */
  readonly idName: string | null;
  readonly deviceName: string | null;
  /** Without hyphens; null: no PV is known on it. */
  readonly pvid: string | null;
  /** 0: a whole device. */
  readonly partition: number;
}

const MAJOR_VERSION = 1;
const MINOR_VERSION = 1;
const PAUSE_MS = 10;
const EWOULDBLOCK = 11;

export interface DevicesFileText {
  readonly systemId: string | null;
  readonly version: string | null;
  readonly entries: readonly DeviceEntry[];
}

export function parseDevicesFile(text: string): DevicesFileText {
  let systemId: string | null = null;
  let version: string | null = null;
  const entries: DeviceEntry[] = [];
  for (const line of text.split('\n')) {
    if (line.startsWith('#')) continue;
    if (line.startsWith('SYSTEMID')) systemId = fieldOf(line, 'SYSTEMID');
    else if (line.startsWith('VERSION')) version = fieldOf(line, 'VERSION');
    else if (line.includes('IDTYPE') && line.includes('IDNAME')) {
      entries.push({
        idType: fieldOf(line, 'IDTYPE') ?? '.',
        idName: fieldOf(line, 'IDNAME'),
        deviceName: fieldOf(line, 'DEVNAME'),
        pvid: fieldOf(line, 'PVID'),
        partition: Number.parseInt(fieldOf(line, 'PART') ?? '0', 10) || 0,
      });
    }
  }
  return { systemId, version, entries };
}

/** The word after "NAME="; null where there is none, or a point in its place. */
function fieldOf(line: string, name: string): string | null {
  const match = new RegExp(`(?:^|\\s)${name}=\\s*(\\S*)`).exec(line);
  const value = match?.[1] ?? '';
  return value === '' || value.startsWith('.') ? null : value;
}

export function lineOfEntry(entry: DeviceEntry): string {
  const { idType, idName, deviceName, pvid, partition } = entry;
  const part = partition === 0 ? '' : ` PART=${partition}`;
  return `IDTYPE=${idType} IDNAME=${idName ?? '.'} DEVNAME=${deviceName ?? '.'} PVID=${pvid ?? '.'}${part}`;
}

export interface DevicesFileOptions {
  /** $LVM_SYSTEM_DIR */
  readonly systemDirectory: string;
  /** "system.devices" */
  readonly name: string;
  /** Null: no locks (--nolocking). */
  readonly lockDirectory: string | null;
  /** For the file's first lines. */
  readonly commandName: string;
  readonly systemId: string | null;
  readonly warn: (line: string) => void;
}

export class DevicesFile {
  readonly path: string;
  readonly #options: DevicesFileOptions;

  constructor(options: DevicesFileOptions) {
    this.path = join(options.systemDirectory, 'devices', options.name);
    this.#options = options;
  }

  /** Null where there is no such file. Throws CommandError. */
  async read(): Promise<DevicesFileText | null> {
    return this.#locked('read', () => this.#read());
  }

  /** Replaces the entries by what `edit` makes of them (the same array: nothing is written); the file is made where it is missing. */
  async update(edit: (entries: readonly DeviceEntry[]) => Promise<readonly DeviceEntry[]>): Promise<void> {
    await this.#locked('write', async () => {
      const before = (await this.#read()) ?? { systemId: null, version: null, entries: [] };
      const entries = await edit(before.entries);
      if (entries !== before.entries) await this.#write(before.version, entries);
    });
  }

  async #read(): Promise<DevicesFileText | null> {
    const { systemId, warn } = this.#options;
    try {
      const text = parseDevicesFile(await readFile(this.path, 'utf8'));
      if (text.systemId !== null && text.systemId !== systemId) {
        warn(`WARNING: devices file has unmatching system id ${text.systemId} vs local ${systemId ?? 'none'}.`);
      }
      return text;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw new CommandError(['Cannot open devices file to read.', 'Failed to read the devices file.'], 5, {
        cause: error,
      });
    }
  }

  async #write(version: string | null, entries: readonly DeviceEntry[]): Promise<void> {
    const { warn } = this.#options;
    const numbers = /^(\d+)\.(\d+)\.(\d+)$/.exec(version ?? '1.1.0');
    if (numbers === null) return warn('WARNING: not updating devices file with unparsed version.');
    if (Number(numbers[1]) > MAJOR_VERSION) {
      return warn('WARNING: not updating devices file with larger major version.');
    }
    const { commandName, systemId } = this.#options;
    const lines = [
      '# LVM uses devices listed in this file.',
      `# Created by LVM command ${commandName} pid ${process.pid} at ${new Date().toUTCString()}`,
      ...(systemId === null ? [] : [`SYSTEMID=${systemId}`]),
      `VERSION=${MAJOR_VERSION}.${MINOR_VERSION}.${Number(numbers[3]) + 1}`,
      ...entries.map((entry) => lineOfEntry(entry)),
    ];
    await mkdir(dirname(this.path), { recursive: true, mode: 0o755 });
    await replaceFile(this.path, `${lines.join('\n')}\n`);
  }

  async #locked<Result>(mode: LockMode, body: () => Promise<Result>): Promise<Result> {
    const { lockDirectory, name } = this.#options;
    if (lockDirectory === null) return body();
    const lock = await takeLock(lockDirectory, `D_${name}`, mode);
    try {
      return await body();
    } finally {
      await lock.close();
    }
  }
}

/** Whether an entry stands for the device. */
export async function entryMatches(entry: DeviceEntry, device: HostDevice, sysfs = '/sys'): Promise<boolean> {
  if (entry.idName === null || !isIdType(entry.idType)) return false;
  if (entry.partition !== (await partitionOf(device, sysfs))) return false;
  if (entry.idType === 'devname') return device.names.includes(entry.idName);
  return (await readDeviceId(device, entry.idType, sysfs)) === entry.idName;
}

/** The entry of a device; null if it is not listed. */
export async function findEntry(entries: readonly DeviceEntry[], device: HostDevice): Promise<DeviceEntry | null> {
  for (const entry of entries) if (await entryMatches(entry, device)) return entry;
  return null;
}

/** The entries with one for the device, new or brought up to date. `id`: of a type that the user chose. */
export async function withDevice(
  entries: readonly DeviceEntry[],
  device: HostDevice,
  pvid: string | null,
  id?: DeviceId,
): Promise<readonly DeviceEntry[]> {
  const old = await findEntry(entries, device);
  const { type, name } = id ?? (await chooseDeviceId(device));
  const entry: DeviceEntry = {
    idType: type,
    idName: name,
    deviceName: device.path,
    pvid,
    partition: await partitionOf(device),
  };
  return [...entries.filter((other) => other !== old), entry];
}

/** Follows a committed plan: new PVs are listed, changed ones brought up to date, wiped ones are no PVs any more. */
export async function notePvs(file: DevicesFile, plan: Plan): Promise<void> {
  await file.update(async (before) => {
    let entries = before;
    for (const { device, label, kind } of plan.labels) {
      const host = asHostDevice(device);
      if (host === null || (kind !== 'create' && (await findEntry(entries, host)) === null)) continue;
      entries = await withDevice(entries, host, label.uuid.replaceAll('-', ''));
    }
    for (const found of plan.joining ?? []) {
      const host = asHostDevice(found.device);
      if (host !== null) entries = await withDevice(entries, host, found.uuid.replaceAll('-', ''));
    }
    for (const { device } of plan.wipes) {
      const host = asHostDevice(device);
      const entry = host === null ? null : await findEntry(entries, host);
      if (entry !== null) entries = entries.map((other) => (other === entry ? { ...entry, pvid: null } : other));
    }
    return entries;
  });
}

/** Null for a file, which no devices file lists. */
function asHostDevice({ path, major, minor }: ScannedDevice): HostDevice | null {
  if (major === undefined || minor === undefined) return null;
  // The file is for every working directory.
  const name = resolve(path);
  return { path: name, names: [name], major, minor };
}

async function replaceFile(path: string, text: string): Promise<void> {
  const temporary = `${path}_new`;
  await rm(temporary, { force: true });
  const file = await open(temporary, 'wx', 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
  const directory = await open(dirname(path), 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** As LVM2 locks this one: the lock file stays, and closing it lets go. Throws CommandError. */
async function takeLock(directory: string, name: string, mode: LockMode): Promise<FileHandle> {
  const path = join(directory, name);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const handle = await open(path, constants.O_CREAT | constants.O_RDWR, 0o600);
  for (;;) {
    const errno = flock(handle.fd, (mode === 'write' ? Lock.exclusive : Lock.shared) | Lock.nonBlocking);
    if (errno === 0) return handle;
    if (errno !== EWOULDBLOCK) {
      await handle.close();
      throw new CommandError(['Failed to lock the devices file.', `${path}: errno ${errno}`]);
    }
    await delay(PAUSE_MS);
  }
}
