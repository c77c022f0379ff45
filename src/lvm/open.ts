/** Opening devices to be changed: nobody else may have them. */
import type { OpenedDevice } from '../block/device.ts';
import { DeviceError } from '../block/errors.ts';
import { openBlockDevice } from '../block/open.ts';
import { CommandError } from './edit/errors.ts';

/** Opens a device as a commit does. Throws CommandError when somebody else has it. */
export async function openExclusively(path: string): Promise<OpenedDevice> {
  try {
    return await openBlockDevice(path, { exclusive: true });
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    const lines = [`Can't open ${path} exclusively.  Mounted filesystem?`, error.message];
    if (error.code === 'IN_USE') {
      lines.push('If a running orion-lvmd serves it, stop it or take the device out of its configuration first.');
    }
    throw new CommandError(error.code === 'IN_USE' ? lines : error.message, 5, { cause: error });
  }
}
