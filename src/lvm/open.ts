/**
 * Opening devices to be changed, and closing them.
 *
 * Invariant: nobody else may have them, but the daemon that runs this command: its claim covers what the command does, under
 * the VG's lock, outside the extents of volumes that are served. Block devices are opened past the page cache, as LVM2 does it: what a disk
 * refuses is refused there and then, is not read back from memory as if it were on the disk, and is no loss of what others wrote.
 */
import type { OpenedDevice } from '../block/device.ts';
import { DeviceError } from '../block/errors.ts';
import { openBlockDevice } from '../block/open.ts';
import { CommandError } from './edit/errors.ts';
import type { LiveVolumes } from './live.ts';

/** Opens a device as a commit does. Throws CommandError when somebody else has it. */
export async function openExclusively(path: string): Promise<OpenedDevice> {
  try {
    return await openBlockDevice(path, { exclusive: true, direct: 'blocks' });
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    const lines = [`Can't open ${path} exclusively.  Mounted filesystem?`, error.message];
    if (error.code === 'IN_USE') {
      lines.push('If a running orion-lvmd serves it, stop it or take the device out of its configuration first.');
    }
    throw new CommandError(error.code === 'IN_USE' ? lines : error.message, 5, { cause: error });
  }
}

/** Opens devices as a commit does, in a command that the daemon may run. */
export function opener(live: LiveVolumes): (path: string) => Promise<OpenedDevice> {
  return live.present ? (path) => openHeld(path, live) : openExclusively;
}

async function openHeld(path: string, live: LiveVolumes): Promise<OpenedDevice> {
  const device = await openBlockDevice(path, { direct: 'blocks' });
  try {
    if (await live.holds(device.identity)) {
      device.onFlushLost = (errno) => {
        // If the daemon is no more, nobody has anything from it to lose; the command ends for that.
        void Promise.allSettled([live.flushLost(device.identity, errno)]);
      };
      return device;
    }
  } catch (error) {
    await device.close();
    throw error;
  }
  await device.close();
  return openExclusively(path);
}

/** Closes one after the other; a failure keeps none of the others open. Throws a CommandError that tells of every failure. */
export async function closeAll(things: Iterable<{ close(): Promise<void> }>): Promise<void> {
  const failures: CommandError[] = [];
  const faults: unknown[] = [];
  for (const thing of things) {
    try {
      await thing.close();
    } catch (error) {
      if (error instanceof CommandError) failures.push(error);
      else if (error instanceof DeviceError) failures.push(new CommandError(error.message, 5, { cause: error }));
      else faults.push(error);
    }
  }
  if (faults.length > 0) throw faults[0];
  if (failures.length === 0) return;
  throw new CommandError([...new Set(failures.flatMap(({ lines }) => lines))], 5, { cause: failures[0] });
}
