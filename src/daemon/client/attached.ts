/**
 * Volumes that are attached to the kernel as /dev/nbdN: which device belongs to which export, and the size that the kernel
 * shows. `orion-lvm attach` notes it in a file per device, which the daemon, `orion-lvm status` and the udev rule read.
 *
 *     /run/orion-lvm/attached/nbd0:   ORION_LVM_EXPORT=vg0/data
 *                                     ORION_LVM_MAPPER=vg0-data
 *                                     ORION_LVM_SERVER=unix:/run/orion-lvm/nbd.sock
 *                                     ORION_LVM_CONNECTIONS=1
 *                                     ORION_LVM_VOLUME=VG-uuid/LV-uuid
 *
 * Invariants
 *  - A file says what was attached; whether it still is, only the kernel knows (/sys/block/nbdN/pid). Both are asked.
 *  - A file appears and goes whole. Lines that are not understood are passed over.
 *  - A device is changed only if its export comes from the server that asks. The kernel itself refuses a connection to another
 *    volume than the device was connected with: it knows the volume's uuid too.
 */
import { type FileHandle, mkdir, open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { flock, Lock } from '../../native/addon.ts';
import { connectNbd, disconnectNbd, type NbdChange, type NbdConnection, reconfigureNbd } from '../../native/netlink.ts';

/** Where things are; tests have their own. */
export interface AttachSystem {
  /** Notes on attached devices. The udev rule knows this path. */
  readonly directory: string;
  readonly sysBlock: string;
  readonly dev: string;
  readonly proc: string;
  readonly kernel: NbdKernel;
}

/** The kernel's NBD client. Each throws a NetlinkError. */
export interface NbdKernel {
  readonly connect: (connection: NbdConnection) => Promise<void>;
  readonly reconfigure: (change: NbdChange) => Promise<void>;
  readonly disconnect: (index: number) => Promise<void>;
}

export const HOST_SYSTEM: AttachSystem = {
  directory: '/run/orion-lvm/attached',
  sysBlock: '/sys/block',
  dev: '/dev',
  proc: '/proc',
  kernel: { connect: connectNbd, reconfigure: reconfigureNbd, disconnect: disconnectNbd },
};

export interface AttachedDevice {
  /** "nbd0" */
  readonly kernelName: string;
  /** "vg0/data" */
  readonly exportName: string;
  /** As in --listen: where the client was told to connect. */
  readonly server: string;
  /** How many connections it has when none is lost. */
  readonly connections: number;
  /** What stays when names change: "VG-uuid/LV-uuid". */
  readonly volume: string;
}

const SECTOR_BYTES = 512;
const LOCK_POLL_MS = 20;

/** Every device that is noted, by number. An unreadable directory is none. */
export async function notedDevices(system: AttachSystem = HOST_SYSTEM): Promise<readonly AttachedDevice[]> {
  const names = (await namesIn(system.directory)).filter((name) => /^nbd\d+$/.test(name));
  const notes = await Promise.all(names.map((name) => readNote(system, name)));
  return notes.filter((note) => note !== null).toSorted((a, b) => numberOf(a.kernelName) - numberOf(b.kernelName));
}

/** Those of them that the kernel has connected now. */
export async function attachedDevices(system: AttachSystem = HOST_SYSTEM): Promise<readonly AttachedDevice[]> {
  const noted = await notedDevices(system);
  const connected = await Promise.all(noted.map(({ kernelName }) => isConnected(kernelName, system)));
  return noted.filter((_, index) => connected[index]);
}

async function readNote(system: AttachSystem, kernelName: string): Promise<AttachedDevice | null> {
  const text = await textOf(join(system.directory, kernelName));
  const values = new Map(text?.split('\n').map((line) => cut(line)));
  const exportName = values.get('ORION_LVM_EXPORT');
  if (exportName === undefined) return null;
  return {
    kernelName,
    exportName,
    server: values.get('ORION_LVM_SERVER') ?? '',
    connections: Number(values.get('ORION_LVM_CONNECTIONS') ?? '1'),
    volume: values.get('ORION_LVM_VOLUME') ?? '',
  };
}

function cut(line: string): [string, string] {
  const at = line.indexOf('=');
  return [line.slice(0, Math.max(at, 0)), line.slice(at + 1)];
}

/**
 * One attach or detach at a time: waits for the others, and keeps them out until the file is closed. The waiting blocks nothing: who
 * has the lock may be waiting for an answer of this very process. An abort ends it, and is thrown.
 */
export async function lockDevices(system: AttachSystem = HOST_SYSTEM, signal?: AbortSignal): Promise<FileHandle> {
  await mkdir(system.directory, { recursive: true, mode: 0o755 });
  const file = await open(join(system.directory, '.lock'), 'w', 0o600);
  try {
    while (flock(file.fd, Lock.exclusive | Lock.nonBlocking) !== 0) {
      await delay(LOCK_POLL_MS, undefined, signal === undefined ? {} : { signal });
    }
  } catch (error) {
    await file.close();
    throw error;
  }
  return file;
}

/** Has the kernel announce a device again, so that udev reads its note and names it. */
export async function announceDevice(kernelName: string, system: AttachSystem = HOST_SYSTEM): Promise<void> {
  await writeFile(join(system.sysBlock, kernelName, 'uevent'), 'change');
}

/** Notes a device. */
export async function noteDevice(device: AttachedDevice, system: AttachSystem = HOST_SYSTEM): Promise<void> {
  await mkdir(system.directory, { recursive: true, mode: 0o755 });
  const path = join(system.directory, device.kernelName);
  const lines = [
    `ORION_LVM_EXPORT=${device.exportName}`,
    `ORION_LVM_MAPPER=${mapperName(device.exportName)}`,
    `ORION_LVM_SERVER=${device.server}`,
    `ORION_LVM_CONNECTIONS=${device.connections}`,
    `ORION_LVM_VOLUME=${device.volume}`,
  ];
  const part = join(system.directory, `.${device.kernelName}.${process.pid}`);
  await writeFile(part, `${lines.join('\n')}\n`, { mode: 0o644 });
  await rename(part, path);
}

/** Takes a device's note away. */
export async function forgetDevice(kernelName: string, system: AttachSystem = HOST_SYSTEM): Promise<void> {
  await rm(join(system.directory, kernelName), { force: true });
}

/** The name under /dev/mapper, as device-mapper makes it: hyphens inside names are doubled. */
export function mapperName(exportName: string): string {
  return exportName
    .split('/')
    .map((part) => part.replaceAll('-', '--'))
    .join('-');
}

/** Names of the kernel's nbd devices, by number. */
export async function kernelDevices(system: AttachSystem = HOST_SYSTEM): Promise<readonly string[]> {
  const names = (await namesIn(system.sysBlock)).filter((name) => /^nbd\d+$/.test(name));
  return names.toSorted((a, b) => numberOf(a) - numberOf(b));
}

/** Whether a client is connected: the kernel then tells its process. */
export async function isConnected(kernelName: string, system: AttachSystem = HOST_SYSTEM): Promise<boolean> {
  return (await textOf(join(system.sysBlock, kernelName, 'pid'))) !== null;
}

/** The size that the kernel shows, in bytes; 0 where there is no such device. */
export async function kernelSizeBytes(kernelName: string, system: AttachSystem = HOST_SYSTEM): Promise<number> {
  return Number((await textOf(join(system.sysBlock, kernelName, 'size'))) ?? '0') * SECTOR_BYTES;
}

/** What became of a device whose volume has another size than the kernel shows. */
export interface Resized {
  readonly kernelName: string;
  readonly exportName: string;
  readonly sizeBytes: number;
  /** Why it could not be done; null: it is done. */
  readonly problem: string | null;
}

/** What a server serves. */
export interface ServedSizes {
  /** Bytes; null: there is no such volume. */
  readonly sizeOf: (exportName: string) => number | null;
  /** Where it is served, as in --listen: devices that other servers serve are left alone. */
  readonly servers: readonly string[];
}

/**
 * Gives kernel devices the sizes of the volumes that they are attached to, where they have others. Needs CAP_SYS_ADMIN. Never
 * rejects.
 */
export async function resizeAttached(
  { sizeOf, servers }: ServedSizes,
  system: AttachSystem = HOST_SYSTEM,
): Promise<readonly Resized[]> {
  const done: Resized[] = [];
  for (const { kernelName, exportName, server } of await attachedDevices(system)) {
    const sizeBytes = servers.includes(server) ? sizeOf(exportName) : null;
    if (sizeBytes === null || (await kernelSizeBytes(kernelName, system)) === sizeBytes) continue;
    done.push({ kernelName, exportName, sizeBytes, problem: await setKernelSize(kernelName, sizeBytes, system) });
  }
  return done;
}

async function setKernelSize(kernelName: string, sizeBytes: number, system: AttachSystem): Promise<string | null> {
  try {
    await system.kernel.reconfigure({ ...(await identityOf(kernelName, system)), sizeBytes });
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** How the kernel knows a connected device; where it was told a volume's uuid it wants to hear it again. */
export async function identityOf(kernelName: string, system: AttachSystem): Promise<NbdChange> {
  const backend = await textOf(join(system.sysBlock, kernelName, 'backend'));
  return { index: numberOf(kernelName), ...(backend === null ? {} : { backend }) };
}

/** N of "nbdN". */
export function numberOf(kernelName: string): number {
  return Number(kernelName.slice('nbd'.length));
}

async function namesIn(directory: string): Promise<readonly string[]> {
  try {
    return await readdir(directory);
  } catch {
    // Nobody attached anything yet; or the nbd module is not loaded.
    return [];
  }
}

/** A small file's text without its last newline; null if there is none. */
async function textOf(path: string): Promise<string | null> {
  try {
    return (await readFile(path, 'utf8')).trimEnd();
  } catch {
    return null;
  }
}
