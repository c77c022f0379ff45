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

/** LVs of a VG that are attached, by name, with their devices ("nbd0"). A daemon that runs says itself what is open: then none. */
export async function attachedLvs(
  live: LiveVolumes | undefined,
  vg: VolumeGroupText,
): Promise<ReadonlyMap<string, string>> {
  if (live?.present === true) return new Map();
  const devices = await attachedDevices();
  // As a rule; commands ask for each LV that they are given.
  if (devices.length === 0) return new Map();
  const byVolume = new Map(devices.map(({ volume, kernelName }) => [volume.replace('/', ' '), kernelName]));
  return new Map(
    vg.logicalVolumes.flatMap((lv) => {
      const kernelName = byVolume.get(volumeId(vg, lv));
      return kernelName === undefined ? [] : [[lv.name, kernelName] as const];
    }),
  );
}

/** Throws CommandError if one of these LVs, by name, is attached; by default any of the VG. */
export async function refuseAttachedLvs(
  live: LiveVolumes | undefined,
  vg: VolumeGroupText,
  names: readonly string[] | null = null,
): Promise<void> {
  for (const [name, kernelName] of await attachedLvs(live, vg)) {
    if (names === null || names.includes(name)) throw new CommandError(inUse(`${vg.name}/${name}`, kernelName));
  }
}
