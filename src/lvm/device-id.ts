/**
 * Device IDs: what a devices file knows a device by, so that it is found again under another name.
 *
 * Invariants
 *  - An ID is read from sysfs only, never from the device; blanks in it become underscores, as LVM2 writes them.
 *  - A device that sysfs says nothing of has one ID: its name.
 *
 * Source: lvmdevices(8); types and their order observed with LVM2 2.03.16.
 */
import { readFile } from 'node:fs/promises';
import type { HostDevice } from './host-devices.ts';

export const ID_TYPES = [
  'sys_wwid',
  'sys_serial',
  'mpath_uuid',
  'md_uuid',
  'loop_file',
  'crypt_uuid',
  'lvmlv_uuid',
  'devname',
] as const;
export type IdType = (typeof ID_TYPES)[number];

export interface DeviceId {
  readonly type: IdType;
  readonly name: string;
}

export function isIdType(text: string): text is IdType {
  return ID_TYPES.some((type) => type === text);
}

/** Attributes that give an ID of each type: the first that says something. */
const ATTRIBUTES: Readonly<Record<Exclude<IdType, 'devname'>, readonly string[]>> = {
  sys_wwid: ['device/wwid', 'wwid'],
  sys_serial: ['device/serial'],
  mpath_uuid: ['dm/uuid'],
  crypt_uuid: ['dm/uuid'],
  lvmlv_uuid: ['dm/uuid'],
  md_uuid: ['md/uuid'],
  loop_file: ['loop/backing_file'],
};
const DM_PREFIXES: readonly (readonly [IdType, string])[] = [
  ['mpath_uuid', 'mpath-'],
  ['crypt_uuid', 'CRYPT-'],
  ['lvmlv_uuid', 'LVM-'],
];
const LOOP_MAJOR = 7;
const MD_MAJOR = 9;

/** The device's ID of a type; null if it has none. */
export async function readDeviceId(device: HostDevice, type: IdType, sysfs = '/sys'): Promise<string | null> {
  if (type === 'devname') return device.path;
  // A partition is known by its disk's ID and its number.
  const directory = `${sysfs}/dev/block/${device.major}:${device.minor}${(await partitionOf(device, sysfs)) === 0 ? '' : '/..'}`;
  for (const attribute of ATTRIBUTES[type]) {
    const text = (await textOf(`${directory}/${attribute}`)).replaceAll(/[\s\p{Cc}]/gu, '_');
    // QEMU gives the same to many disks; a deleted file names nothing.
    if (text === '' || text.includes('QEMU_HARDDISK') || text.includes('(deleted)')) continue;
    return text;
  }
  return null;
}

/** The ID that LVM2 would choose for a new entry. */
export async function chooseDeviceId(device: HostDevice, sysfs = '/sys'): Promise<DeviceId> {
  for (const type of await likelyTypes(device, sysfs)) {
    const name = await readDeviceId(device, type, sysfs);
    if (name !== null) return { type, name };
  }
  return { type: 'devname', name: device.path };
}

async function likelyTypes(device: HostDevice, sysfs: string): Promise<readonly IdType[]> {
  if (device.major === LOOP_MAJOR) return ['loop_file'];
  if (device.major === MD_MAJOR) return ['md_uuid'];
  const uuid = await textOf(`${sysfs}/dev/block/${device.major}:${device.minor}/dm/uuid`);
  const mapped = DM_PREFIXES.find(([, prefix]) => uuid.startsWith(prefix));
  return mapped === undefined ? ['sys_wwid', 'sys_serial'] : [mapped[0]];
}

/** The number of a partition; 0: a whole device. */
export async function partitionOf({ major, minor }: HostDevice, sysfs = '/sys'): Promise<number> {
  const text = await textOf(`${sysfs}/dev/block/${major}:${minor}/partition`);
  return /^\d+$/.test(text) ? Number(text) : 0;
}

async function textOf(path: string): Promise<string> {
  try {
    return (await readFile(path, 'utf8')).trim();
  } catch {
    return '';
  }
}
