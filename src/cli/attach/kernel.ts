/**
 * The kernel's side of attaching: its nbd devices, how they are connected (daemon/client/kernel-device.ts), and udev, which
 * names them.
 *
 * Invariant: what the kernel or the daemon refuses ends the command with the reason.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import {
  announceDevice,
  type AttachedDevice,
  type AttachSystem,
  forgetDevice,
  identityOf,
  isConnected,
  kernelSizeBytes,
  noteDevice,
  numberOf,
} from '../../daemon/client/attached.ts';
import { connectDevice, type ConnectOptions, reconnectDevice, refusalOf } from '../../daemon/client/kernel-device.ts';
import { CommandError, EXIT } from '../messages.ts';

const POLL_MS = 20;
const CONNECT_MS = 10_000;
const UDEV_SECONDS = 10;

function failed(message: string): CommandError {
  return new CommandError(EXIT.failed, [message]);
}

/** Runs a program; gives its exit code and what it said. Throws CommandError if it is not installed. */
export async function runTool(program: string, args: readonly string[]): Promise<{ code: number; said: string }> {
  const { promise, resolve, reject } = Promise.withResolvers<{ code: number; said: string }>();
  execFile(program, [...args], (error, stdout, stderr) => {
    const said = `${stdout}${stderr}`.trim();
    if (error === null) resolve({ code: 0, said });
    else if (error.code === 'ENOENT') reject(failed(`${program} is not installed: it is needed for kernel devices.`));
    else resolve({ code: typeof error.code === 'number' ? error.code : -1, said });
  });
  return promise;
}

/** Loads the nbd module if the kernel has no nbd devices. */
export async function loadModule(system: AttachSystem): Promise<void> {
  if (existsSync(join(system.sysBlock, 'nbd0'))) return;
  const { code, said } = await runTool('modprobe', ['nbd']);
  if (code !== 0) throw failed(`The kernel has no nbd devices, and module nbd cannot be loaded: ${said}`);
}

export interface AttachOptions extends ConnectOptions {
  readonly sizeBytes: number;
  /** What was noted of the device before. */
  readonly former: AttachedDevice | null;
}

/**
 * Notes a device, connects it, and waits until the kernel shows it with its size. The note comes first: if the connection is lost in
 * the next moment, the daemon knows whom to give another. Throws CommandError; the note is then what it was.
 */
export async function attachDevice(
  device: AttachedDevice,
  options: AttachOptions,
  system: AttachSystem,
): Promise<void> {
  const { kernelName } = device;
  await noteDevice(device, system);
  try {
    await told(kernelName, () => connectDevice(device, options, system));
    const ready = async (): Promise<boolean> =>
      (await isConnected(kernelName, system)) && (await kernelSizeBytes(kernelName, system)) === options.sizeBytes;
    if (!(await until(ready))) throw failed(`${kernelName} was connected, but does not show the volume's size.`);
  } catch (error) {
    await takeBack(device, options.former, system);
    throw error;
  }
}

/** The note as it was, unless the kernel did connect the device to the volume. */
async function takeBack(device: AttachedDevice, former: AttachedDevice | null, system: AttachSystem): Promise<void> {
  const { kernelName, volume } = device;
  const { backend } = await identityOf(kernelName, system);
  if (backend === volume && (await isConnected(kernelName, system))) return;
  if (former === null) await forgetDevice(kernelName, system);
  else await noteDevice(former, system);
}

/** Gives a connected device new connections where it has lost some, and the volume's size. Throws CommandError. */
export async function refreshDevice(device: AttachedDevice, system: AttachSystem): Promise<void> {
  await told(device.kernelName, () => reconnectDevice(device, system));
}

/** Disconnects a device and waits until the kernel has let it go. Throws CommandError. */
export async function disconnectDevice(kernelName: string, system: AttachSystem): Promise<void> {
  await told(kernelName, () => system.kernel.disconnect(numberOf(kernelName)));
  if (!(await until(async () => !(await isConnected(kernelName, system))))) {
    throw failed(`${kernelName} was told to disconnect and is still connected.`);
  }
}

async function told(kernelName: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    const refusal = refusalOf(error);
    if (refusal !== null) throw failed(`${kernelName}: ${refusal}.`);
    throw error;
  }
}

async function until(condition: () => Promise<boolean>): Promise<boolean> {
  const end = performance.now() + CONNECT_MS;
  while (!(await condition())) {
    if (performance.now() > end) return false;
    await delay(POLL_MS);
  }
  return true;
}

/** Has the kernel announce a device again, so that udev reads our note; waits until `link` is there, or gone. */
export async function announce(kernelName: string, link: string, system: AttachSystem): Promise<void> {
  await announceDevice(kernelName, system);
  if (!existsSync('/run/udev/control')) return;
  await runTool('udevadm', ['settle', `--timeout=${UDEV_SECONDS}`, `--exit-if-exists=${join(system.dev, link)}`]);
}
