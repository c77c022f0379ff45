/**
 * attach: makes a volume that the daemon serves a block device of this kernel, /dev/nbdN; udev links it as /dev/VG/LV.
 * Attaching what is attached already brings its connections, size and names up to date and is no error.
 */
import type { Command, CommandContext } from '../command.ts';
import { servedVolume, type ServedVolume } from '../attach/daemon.ts';
import { announce, attachDevice, loadModule, refreshDevice } from '../attach/kernel.ts';
import type { ConnectOptions } from '../../daemon/client/kernel-device.ts';
import {
  type AttachedDevice,
  type AttachSystem,
  forgetDevice,
  HOST_SYSTEM,
  isConnected,
  kernelDevices,
  lockDevices,
  noteDevice,
  notedDevices,
} from '../../daemon/client/attached.ts';
import { CommandError, EXIT, type ExitCode } from '../messages.ts';

const BLOCK_SIZES = ['512', '1024', '2048', '4096'];
const MAX_CONNECTIONS = 16;
const RECONNECT_SECONDS = 60;

export const command: Command = {
  summary: 'Attach a logical volume to a kernel block device',
  argumentsUsage: 'VG/LV [ /dev/nbdN ]',
  options: [
    {
      long: 'blocksize',
      short: 'b',
      argument: BLOCK_SIZES.join('|'),
      check: (value) => BLOCK_SIZES.includes(value),
      description: "The device's logical block size in bytes. Default 512.",
    },
    {
      long: 'connections',
      short: 'C',
      argument: 'Number',
      check: (value) => /^\d+$/.test(value) && Number(value) >= 1 && Number(value) <= MAX_CONNECTIONS,
      description: `How many connections to the daemon the device has, 1 to ${MAX_CONNECTIONS}. Default 1.`,
    },
    { long: 'readonly', short: 'R', description: 'Let nobody write to the device.' },
    {
      long: 'reconnect',
      argument: 'Seconds',
      check: (value) => /^\d{1,6}$/.test(value),
      description: `How long requests wait for a new connection when all are lost; 0: they fail. Default ${RECONNECT_SECONDS}.`,
    },
    {
      long: 'timeout',
      argument: 'Seconds',
      check: (value) => /^\d{1,6}$/.test(value) && Number(value) > 0,
      description:
        'Give up a connection on which a request gets no answer for this long, and send it on another. Default: wait.',
    },
  ],
  async run(context) {
    const { exportName, device } = argumentsOf(context);
    if (context.uid !== 0) throw new CommandError(EXIT.failed, ['attach needs root: kernel devices belong to it.']);
    const system = HOST_SYSTEM;
    const volume = await servedVolume(exportName, context);
    await using lock = await lockDevices(system);
    void lock;
    const noted = await notedDevices(system);
    const before = noted.find(
      (each) =>
        each.volume === volume.volume || (each.exportName === exportName && volume.servers.includes(each.server)),
    );
    if (before !== undefined && (await isConnected(before.kernelName, system))) {
      return bringUpToDate(context, { ...before, exportName, server: volume.server }, device, system);
    }
    await loadModule(system);
    const others = new Set(noted.filter((each) => each !== before).map((each) => each.kernelName));
    const kernelName = await chooseDevice(device ?? before?.kernelName ?? null, others, system);
    if (before !== undefined && before.kernelName !== kernelName) await forgetDevice(before.kernelName, system);
    const { server } = volume;
    const connections = Number(context.options.value('connections') ?? 1);
    const attached: AttachedDevice = { kernelName, exportName, server, connections, volume: volume.volume };
    context.writing?.(null);
    const former = noted.find((each) => each.kernelName === kernelName) ?? null;
    await attachDevice(attached, { former, sizeBytes: volume.sizeBytes, ...optionsOf(context, volume) }, system);
    await announce(kernelName, exportName, system);
    context.output.print(`Logical volume ${exportName} attached to /dev/${kernelName}.`);
    return EXIT.ok;
  },
};

function argumentsOf({ args }: CommandContext): { exportName: string; device: string | null } {
  const [name, device, ...rest] = args;
  if (name === undefined) throw new CommandError(EXIT.badUsage, ['Please provide a logical volume as VG/LV.']);
  if (rest.length > 0) throw new CommandError(EXIT.badUsage, [`Too many arguments: ${rest.join(' ')}.`]);
  const exportName = name.replace(/^\/dev\/(?=[^/]+\/[^/]+$)/, '');
  if (!/^[\w.+][\w.+-]*\/[\w.+][\w.+-]*$/.test(exportName)) {
    throw new CommandError(EXIT.badUsage, [`"${name}" is no logical volume as VG/LV.`]);
  }
  const kernelName = device?.replace(/^\/dev\//, '') ?? null;
  if (kernelName !== null && !/^nbd\d+$/.test(kernelName)) {
    throw new CommandError(EXIT.badUsage, [`"${device}" is no device /dev/nbdN.`]);
  }
  return { exportName, device: kernelName };
}

function optionsOf({ options }: CommandContext, volume: ServedVolume): ConnectOptions {
  const timeout = options.value('timeout');
  return {
    timeoutSeconds: timeout === undefined ? null : Number(timeout),
    reconnectSeconds: Number(options.value('reconnect') ?? RECONNECT_SECONDS),
    readOnly: volume.readOnly || options.has('readonly'),
    blockSize: Number(options.value('blocksize') ?? 512),
  };
}

async function bringUpToDate(
  { output }: CommandContext,
  attached: AttachedDevice,
  wanted: string | null,
  system: AttachSystem,
): Promise<ExitCode> {
  const { kernelName, exportName } = attached;
  if (wanted !== null && wanted !== kernelName) {
    throw new CommandError(EXIT.failed, [`Logical volume ${exportName} is attached to /dev/${kernelName} already.`]);
  }
  await refreshDevice(attached, system);
  await noteDevice(attached, system);
  await announce(kernelName, exportName, system);
  output.print(`Logical volume ${exportName} is attached to /dev/${kernelName}.`);
  return EXIT.ok;
}

/** The device that was asked for, or the first that is free and that no other volume waits for. */
async function chooseDevice(wanted: string | null, others: ReadonlySet<string>, system: AttachSystem): Promise<string> {
  const devices = await kernelDevices(system);
  if (wanted !== null) {
    if (!devices.includes(wanted)) throw new CommandError(EXIT.failed, [`The kernel has no device /dev/${wanted}.`]);
    if (await isConnected(wanted, system))
      throw new CommandError(EXIT.failed, [`/dev/${wanted} is connected already.`]);
    return wanted;
  }
  for (const name of devices) if (!others.has(name) && !(await isConnected(name, system))) return name;
  throw new CommandError(EXIT.failed, [
    `All ${devices.length} nbd devices are connected: module nbd takes a larger number as nbds_max.`,
  ]);
}
