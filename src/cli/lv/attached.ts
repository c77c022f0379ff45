/**
 * Volumes that this host's kernel has attached while no daemon runs: it waits for the daemon, with what is on them mounted or open.
 *
 * Invariant: nobody takes away, cuts or replaces such a volume unless he insists (-f). When the daemon comes, its device would find
 * another size, other contents, or nothing, and nobody would have been asked.
 */
import { attachedDevices, type AttachSystem, HOST_SYSTEM } from '../../daemon/client/attached.ts';
import { CommandError } from '../../lvm/edit/errors.ts';
import { type LiveVolumes, type VolumeId, volumeId } from '../../lvm/live.ts';
import type { VolumeGroupText } from '../../ondisk/metadata.ts';

/** Throws CommandError if one of these volumes, by id with their names, is attached: what it holds must not change under its user. */
export async function refuseAttached(
  volumes: ReadonlyMap<VolumeId, string>,
  system: AttachSystem = HOST_SYSTEM,
): Promise<void> {
  for (const { kernelName, volume } of await attachedDevices(system)) {
    const name = volumes.get(volume.replace('/', ' '));
    if (name !== undefined) throw new CommandError(inUse(name, kernelName));
  }
}

/** What is to be said of an attached volume ("vg/lv"). */
export function inUse(name: string, kernelName: string): readonly string[] {
  return [
    `Logical volume ${name} in use: it is attached as /dev/${kernelName}, which waits for its daemon.`,
    'Start orion-lvmd, or detach it first.',
  ];
}

/** Attached LVs by name, with their devices ("nbd0"). */
export type AttachedLvs = ReadonlyMap<string, string>;

/** LVs of a VG that are attached. A daemon that runs says itself what is open: then none. */
export async function attachedLvs(live: LiveVolumes | undefined, vg: VolumeGroupText): Promise<AttachedLvs> {
  if (live?.present === true) return new Map();
  const devices = await attachedDevices();
  if (devices.length === 0) return new Map();
  const byVolume = new Map(devices.map(({ volume, kernelName }) => [volume.replace('/', ' '), kernelName]));
  return new Map(
    vg.logicalVolumes.flatMap((lv) => {
      const kernelName = byVolume.get(volumeId(vg, lv));
      return kernelName === undefined ? [] : [[lv.name, kernelName] as const];
    }),
  );
}

/** Throws CommandError if one of these LVs, by name, is attached. */
export function refuseAmong(attached: AttachedLvs, vgName: string, names: readonly string[]): void {
  if (attached.size === 0) return;
  for (const name of names) {
    const kernelName = attached.get(name);
    if (kernelName !== undefined) throw new CommandError(inUse(`${vgName}/${name}`, kernelName));
  }
}

/**
 * Throws CommandError if one of these LVs, by name, is attached; by default any of the VG. Looks through the whole VG: who asks for
 * one LV after the other asks `attachedLvs` once.
 */
export async function refuseAttachedLvs(
  live: LiveVolumes | undefined,
  vg: VolumeGroupText,
  names: readonly string[] | null = null,
): Promise<void> {
  const attached = await attachedLvs(live, vg);
  refuseAmong(attached, vg.name, names ?? [...attached.keys()]);
}
