/**
 * detach: lets go of the kernel device of an attached volume, after everything written to it is durable.
 *
 * Invariant: a device that is mounted, swap space, part of another device or opened exclusively stays attached.
 */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command, CommandContext } from '../command.ts';
import { announce, disconnectDevice } from '../attach/kernel.ts';
import { usesOf } from '../attach/use.ts';
import {
  type AttachedDevice,
  type AttachSystem,
  forgetDevice,
  HOST_SYSTEM,
  isConnected,
  lockDevices,
  notedDevices,
} from '../../daemon/client/attached.ts';
import { CommandError, EXIT } from '../messages.ts';
import { systemWords } from '../../lvm/system-error.ts';

export const command: Command = {
  summary: 'Detach a logical volume from its kernel block device',
  argumentsUsage: 'VG/LV | /dev/nbdN',
  options: [],
  async run(context) {
    const [name, ...rest] = context.args;
    if (name === undefined) throw new CommandError(EXIT.badUsage, ['Please provide a logical volume as VG/LV.']);
    if (rest.length > 0) throw new CommandError(EXIT.badUsage, [`Too many arguments: ${rest.join(' ')}.`]);
    if (context.uid !== 0) throw new CommandError(EXIT.failed, ['detach needs root: kernel devices belong to it.']);
    const system = HOST_SYSTEM;
    await using lock = await lockDevices(system);
    void lock;
    const devices = await notedAs(name.replace(/^\/dev\//, ''), system);
    context.writing?.(null);
    for (const device of devices) await detach(device, context, system);
    return EXIT.ok;
  },
};

async function notedAs(name: string, system: AttachSystem): Promise<readonly AttachedDevice[]> {
  const devices = (await notedDevices(system)).filter(
    ({ kernelName, exportName }) => kernelName === name || exportName === name,
  );
  if (devices.length === 0) throw new CommandError(EXIT.failed, [`${name} is not attached by orion-lvm attach.`]);
  return devices;
}

async function detach(
  { kernelName, exportName }: AttachedDevice,
  { output }: CommandContext,
  system: AttachSystem,
): Promise<void> {
  const path = join(system.dev, kernelName);
  const uses = await usesOf(kernelName, system);
  if (uses.length > 0) {
    throw new CommandError(
      EXIT.failed,
      uses.map((use) => `Logical volume ${exportName} in use: ${path} ${use}.`),
    );
  }
  if (await isConnected(kernelName, system)) {
    await makeDurable(path, exportName);
    await disconnectDevice(kernelName, system);
  }
  await forgetDevice(kernelName, system);
  await announce(kernelName, exportName, system);
  output.print(`Logical volume ${exportName} detached from ${path}.`);
}

/** Nobody else has it exclusively, and what was written to it is on its way to no cache any more. */
async function makeDurable(path: string, exportName: string): Promise<void> {
  await using file = await openAlone(path, exportName);
  await file.sync();
}

async function openAlone(path: string, exportName: string): Promise<FileHandle> {
  try {
    return await open(path, constants.O_RDONLY | constants.O_EXCL);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    const reason = code === 'EBUSY' ? 'somebody holds it exclusively' : systemWords(error);
    throw new CommandError(EXIT.failed, [`Logical volume ${exportName} in use: ${path}: ${reason}.`]);
  }
}
