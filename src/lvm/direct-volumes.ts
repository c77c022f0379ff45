/**
 * An LV opened by a command itself, where no daemon serves it: through its own table, and with every volume that it shares something
 * with (an origin with its snapshots), so that what is written is copied out as it should be.
 *
 * Invariants
 *  - The devices are held exclusively until `close`: nobody else serves the LV meanwhile.
 *  - `close` settles when everything written is durable.
 */
import type { OpenedDevice } from '../block/device.ts';
import { DeviceError } from '../block/errors.ts';
import { openBlockDevice } from '../block/open.ts';
import { targets } from '../dm/targets.ts';
import { Volume } from '../dm/volume.ts';
import type { HostContext } from './access.ts';
import { activationPlan, type ActiveLv, type LvActivation } from './activate.ts';
import { CommandError } from './edit/errors.ts';
import { volumeId } from './live.ts';
import type { VolumeGroup } from './model.ts';
import { openExclusively } from './open.ts';

export interface DirectVolume {
  readonly volume: Volume;
  /** "VG-uuid/LV-uuid" */
  readonly id: string;
  readonly readOnly: boolean;
}

export interface DirectVolumes {
  readonly own: DirectVolume;
  /** By LV name: the LV, and those that it shares something with. */
  readonly volumes: ReadonlyMap<string, DirectVolume>;
  readonly close: () => Promise<void>;
}

type Planned = LvActivation & ActiveLv;

/** Opens an LV. Throws CommandError: it does not exist, can't be served, or somebody else has its devices. */
export async function openDirectly(
  group: VolumeGroup,
  lvName: string,
  { host, readOnly }: { readonly host: HostContext; readonly readOnly: boolean },
): Promise<DirectVolumes> {
  const family = familyOf(group, lvName, { host, readOnly });
  const devices = new Map<string, OpenedDevice>();
  const volumes = new Map<string, DirectVolume>();
  const close = async (): Promise<void> => {
    // The origin comes first: its writes need the snapshots.
    for (const { volume } of volumes.values()) await volume.close();
    for (const device of devices.values()) await device.close();
  };
  try {
    for (const path of new Set(family.flatMap((entry) => entry.devices))) {
      devices.set(path, await (readOnly ? openToRead(path) : openExclusively(path)));
    }
    for (const entry of family) {
      const volume = new Volume(entry.exportName, { targets });
      volume.load(entry.table, deviceIn(devices), { readOnly: entry.readOnly });
      const id = volumeId(group.vg, entry.lv).replace(' ', '/');
      volumes.set(entry.lv.name, { volume, id, readOnly: entry.readOnly });
    }
    for (const { volume } of volumes.values()) volume.resume();
    const own = volumes.get(lvName);
    if (own === undefined) throw new TypeError(`${lvName} is not among its own volumes`);
    return { own, volumes, close };
  } catch (error) {
    for (const device of devices.values()) await device.close();
    throw error;
  }
}

function deviceIn(devices: ReadonlyMap<string, OpenedDevice>): (path: string) => OpenedDevice {
  return (path) => {
    const device = devices.get(path);
    if (device === undefined) throw new TypeError(`${path} was not opened`);
    return device;
  };
}

function familyOf(
  group: VolumeGroup,
  lvName: string,
  { host, readOnly }: { readonly host: HostContext; readonly readOnly: boolean },
): readonly Planned[] {
  const plan = activationPlan(group, { host, readOnly, ignoreActivationSkip: true, ignoreNoAutoActivate: true });
  const name = `${group.vg.name}/${lvName}`;
  const entry = plan.find(({ lv }) => lv.name === lvName);
  if (entry === undefined) throw new CommandError(`Failed to find logical volume "${name}"`);
  if (!entry.active) throw new CommandError(`Cannot open logical volume ${name}: ${entry.reason}.`);
  const { shareKey } = entry;
  const family = plan.filter((other): other is Planned => {
    return other === entry || (other.active && shareKey !== undefined && other.shareKey === shareKey);
  });
  if (family.some(({ table }) => table.some(({ target }) => target === 'snapshot-merge'))) {
    throw new CommandError(`Cannot open logical volume ${name} while a snapshot merges into its origin.`);
  }
  return family.toSorted((a, b) => Number(a.follows !== undefined) - Number(b.follows !== undefined));
}

/** As `openExclusively`, for a device that may be read-only. */
async function openToRead(path: string): Promise<OpenedDevice> {
  try {
    return await openBlockDevice(path, { exclusive: true, readOnly: true });
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    throw new CommandError(error.message, 5, { cause: error });
  }
}
