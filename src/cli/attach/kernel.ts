/**
 * The kernel's side of attaching: its nbd devices, the program that connects them, and udev, which names them.
 *
 * Devices are connected without netlink: only then the kernel takes a new size of a connected device by ioctl, which is how a
 * volume that grows or shrinks while it is attached is followed (daemon/client/attached.ts).
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type AttachSystem, isConnected, kernelSizeBytes } from '../../daemon/client/attached.ts';
import { CommandError, EXIT } from '../messages.ts';

const POLL_MS = 20;
const CONNECT_MS = 10_000;
const UDEV_SECONDS = 10;

/** What the kernel is asked for. */
export interface ConnectOptions {
  readonly connections: number;
  /** Seconds until a request that gets no answer fails; null: never. */
  readonly timeoutSeconds: number | null;
  readonly readOnly: boolean;
  readonly blockSize: number;
}

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

/** How nbd-client is told where a server listens, given as in --listen. */
function serverArguments(server: string): readonly string[] {
  if (server.startsWith('unix:')) return ['-unix', server.slice('unix:'.length)];
  const match = /^tcp:\[?(.+?)\]?:(\d+)$/.exec(server);
  const [, host = '', port = ''] = match ?? [];
  if (match === null) throw failed(`The daemon serves at ${server}, which nbd-client cannot reach.`);
  const any: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '::': '::1' };
  return [any[host] ?? host, port];
}

/** Connects a device to an export and waits until the kernel shows it with its size. */
export async function connectDevice(
  kernelName: string,
  volume: { readonly exportName: string; readonly server: string; readonly sizeBytes: number },
  options: ConnectOptions,
  system: AttachSystem,
): Promise<void> {
  const args = [
    ...serverArguments(volume.server),
    '-name',
    volume.exportName,
    join(system.dev, kernelName),
    '-nonetlink',
    '-block-size',
    String(options.blockSize),
    '-connections',
    String(options.connections),
    ...(options.timeoutSeconds === null ? [] : ['-timeout', String(options.timeoutSeconds)]),
    ...(options.readOnly ? ['-readonly'] : []),
  ];
  const { code, said } = await runTool('nbd-client', args);
  if (code !== 0) throw failed(`nbd-client failed: ${said}`);
  const ready = async (): Promise<boolean> =>
    (await isConnected(kernelName, system)) && (await kernelSizeBytes(kernelName, system)) === volume.sizeBytes;
  if (!(await until(ready))) throw failed(`${kernelName} was connected, but does not show the volume's size.`);
}

/** Disconnects a device and waits until the kernel has let it go. */
export async function disconnectDevice(kernelName: string, system: AttachSystem): Promise<void> {
  const { code, said } = await runTool('nbd-client', ['-d', join(system.dev, kernelName)]);
  if (code !== 0) throw failed(`nbd-client failed: ${said}`);
  if (!(await until(async () => !(await isConnected(kernelName, system))))) {
    throw failed(`${kernelName} was told to disconnect and is still connected.`);
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
  await writeFile(join(system.sysBlock, kernelName, 'uevent'), 'change');
  if (!existsSync('/run/udev/control')) return;
  await runTool('udevadm', ['settle', `--timeout=${UDEV_SECONDS}`, `--exit-if-exists=${join(system.dev, link)}`]);
}
