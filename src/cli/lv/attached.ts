/**
 * Volumes that this host's kernel has attached while no daemon runs: it waits for the daemon, with what is on them mounted or open.
 */
import { attachedDevices, type AttachSystem, HOST_SYSTEM } from '../../daemon/client/attached.ts';
import { CommandError } from '../../lvm/edit/errors.ts';
import type { VolumeId } from '../../lvm/live.ts';

/** Throws CommandError if one of these volumes, by id with their names, is attached: what it holds must not change under its user. */
export async function refuseAttached(
  volumes: ReadonlyMap<VolumeId, string>,
  system: AttachSystem = HOST_SYSTEM,
): Promise<void> {
  for (const { kernelName, volume } of await attachedDevices(system)) {
    const name = volumes.get(volume.replace('/', ' '));
    if (name === undefined) continue;
    throw new CommandError([
      `Logical volume ${name} in use: it is attached as /dev/${kernelName}, which waits for its daemon.`,
      'Start orion-lvmd, or detach it first.',
    ]);
  }
}
