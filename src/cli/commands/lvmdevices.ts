/** lvmdevices: shows and edits the devices file, by device, by PV, or by device ID. */
import { chooseDeviceId, type DeviceId, isIdType, readDeviceId } from '../../lvm/device-id.ts';
import { type DeviceEntry, type DevicesFile, entryMatches, findEntry, withDevice } from '../../lvm/devices-file.ts';
import { deviceFilters } from '../../lvm/filter.ts';
import { dropHints, HINTS_DIRECTORY } from '../../lvm/hints.ts';
import { findHostDevices, type HostDevice, type HostDevices } from '../../lvm/host-devices.ts';
import { scanDevices } from '../../lvm/scan.ts';
import { isUuid } from '../../ondisk/uuid.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandError, EXIT, type ExitCode } from '../messages.ts';
import { devicesFileOf, hostIds } from '../scan.ts';

class Editor {
  readonly #context: CommandContext;
  readonly #file: DevicesFile;
  readonly #host: HostDevices;

  constructor(context: CommandContext, file: DevicesFile, host: HostDevices) {
    this.#context = context;
    this.#file = file;
    this.#host = host;
  }

  async list(): Promise<ExitCode> {
    for (const entry of (await this.#read()).values()) {
      const device = await this.#deviceOf(entry);
      const { idType, idName, deviceName, pvid, partition } = entry;
      const part = partition === 0 ? '' : ` PART=${partition}`;
      this.#context.output.print(
        `Device ${device?.path ?? 'none'} IDTYPE=${idType} IDNAME=${idName ?? 'none'} DEVNAME=${deviceName ?? 'none'} PVID=${pvid ?? 'none'}${part}`,
      );
    }
    return EXIT.ok;
  }

  async addDevice(name: string): Promise<ExitCode> {
    const device = this.#host.byName.get(name);
    if (device === undefined) throw failure(`No device found for ${name}.`);
    const reason = this.#host.excluded.get(name);
    if (reason !== undefined) {
      this.#context.output.error(`WARNING: adding device ${device.path} that is excluded: ${reason}.`);
    }
    return this.#add(device, await pvidOf(device, true));
  }

  async addPvid(text: string): Promise<ExitCode> {
    const pvid = plainPvid(text);
    await this.#file.update(async (entries) => {
      const old = entries.find((entry) => entry.pvid === pvid);
      if (old !== undefined) throw failure(`PVID already exists in devices file for ${old.deviceName ?? 'none'}.`);
      return Promise.resolve(entries);
    });
    for (const device of this.#host.usable) if ((await pvidOf(device)) === pvid) return this.#add(device, pvid);
    throw failure(`PVID ${pvid} not found on any devices.`);
  }

  async #add(device: HostDevice, pvid: string | null): Promise<ExitCode> {
    const id = await this.#chosenId(device);
    await this.#edit((entries) => withDevice(entries, device, pvid, id));
    return EXIT.ok;
  }

  /** Of the type that --deviceidtype asks for, where the device has one. */
  async #chosenId(device: HostDevice): Promise<DeviceId> {
    const type = this.#context.options.value('deviceidtype');
    if (type === undefined) return chooseDeviceId(device);
    if (!isIdType(type)) {
      this.#context.output.error(`WARNING: ignoring unknown device_id type ${type}.`);
      return chooseDeviceId(device);
    }
    const name = await readDeviceId(device, type);
    if (name !== null) return { type, name };
    this.#context.output.error(`WARNING: ignoring deviceidtype ${type} which is not available for device.`);
    return chooseDeviceId(device);
  }

  async deleteDevice(name: string): Promise<ExitCode> {
    const type = this.#context.options.value('deviceidtype');
    if (type !== undefined) return this.#deleteId(type, name);
    if (!name.startsWith('/dev/')) {
      this.#context.output.error('WARNING: to remove a device by device id, include --deviceidtype.');
    }
    const device = this.#host.byName.get(name);
    await this.#edit(async (entries) => {
      const matched = device === undefined ? null : await findEntry(entries, device);
      const entry = matched ?? entries.find(({ deviceName }) => deviceName === name);
      if (entry === undefined) throw failure(`No devices file entry for ${name}.`);
      return entries.filter((other) => other !== entry);
    });
    return EXIT.ok;
  }

  async #deleteId(type: string, name: string): Promise<ExitCode> {
    if (!isIdType(type)) throw failure('Unknown device_id type.');
    if (name.startsWith('/dev/')) {
      this.#context.output.error('WARNING: to remove a device by name, do not include --deviceidtype.');
    }
    await this.#edit((entries) => {
      const entry = entries.find(({ idType, idName }) => idType === type && idName === name);
      if (entry === undefined) throw failure(`No devices file entry with device id ${type} ${name}.`);
      return Promise.resolve(entries.filter((other) => other !== entry));
    });
    return EXIT.ok;
  }

  async deletePvid(text: string): Promise<ExitCode> {
    const pvid = plainPvid(text);
    await this.#edit((entries) => {
      const [entry, second] = entries.filter((other) => other.pvid === pvid);
      if (entry === undefined) throw failure('PVID not found in devices file.');
      if (second !== undefined) {
        throw failure(
          `Multiple devices file entries for PVID ${pvid} (${entry.deviceName ?? '.'} ${second.deviceName ?? '.'}), remove by device name.`,
        );
      }
      return Promise.resolve(entries.filter((other) => other !== entry));
    });
    return EXIT.ok;
  }

  /** --check, and with `update` --update: whether names and PVs of the entries are still right. */
  async check(update: boolean): Promise<ExitCode> {
    const { output } = this.#context;
    let wrong = 0;
    const corrected: DeviceEntry[] = [];
    for (const entry of await this.#read()) {
      const device = await this.#deviceOf(entry);
      const right = device === null ? entry : { ...entry, deviceName: device.path, pvid: await pvidOf(device) };
      corrected.push(right);
      const at = `Device ${entry.deviceName ?? '.'}`;
      if (right.pvid !== entry.pvid) {
        output.error(`${at} has PVID ${right.pvid ?? 'none'} (devices file ${entry.pvid ?? 'none'})`);
        wrong++;
      }
      if (right.deviceName !== entry.deviceName) {
        output.error(`${at} has updated name (devices file ${entry.deviceName ?? 'none'})`);
        wrong++;
      }
    }
    if (!update) {
      if (wrong > 0) throw failure('Updates needed for devices file.');
      return EXIT.ok;
    }
    if (wrong === 0) output.print('No update for devices file is needed.');
    else {
      await this.#edit(() => Promise.resolve(corrected));
      output.print(`Updated devices file to version ${(await this.#file.read())?.version ?? ''}`);
    }
    return EXIT.ok;
  }

  async #read(): Promise<readonly DeviceEntry[]> {
    const text = await this.#file.read();
    if (text === null) throw failure('Devices file does not exist.');
    return text.entries;
  }

  async #edit(change: (entries: readonly DeviceEntry[]) => Promise<readonly DeviceEntry[]>): Promise<void> {
    await this.#file.update(change);
    // LVM2's hints go with the default devices file.
    if (!this.#context.options.has('devicesfile') && this.#context.uid === 0) await dropHints(HINTS_DIRECTORY);
  }

  async #deviceOf(entry: DeviceEntry): Promise<HostDevice | null> {
    for (const device of new Set(this.#host.byName.values())) if (await entryMatches(entry, device)) return device;
    return null;
  }
}

function failure(line: string): CommandError {
  return new CommandError(EXIT.failed, [line]);
}

/** With or without hyphens. */
function plainPvid(text: string): string {
  const plain = text.replaceAll('-', '');
  const display = plain.replace(/^(.{6})(.{4})(.{4})(.{4})(.{4})(.{4})(.{6})$/, '$1-$2-$3-$4-$5-$6-$7');
  if (!isUuid(display)) throw failure('Invalid PVID.');
  return plain;
}

/** The uuid of the PV on a device, without hyphens; null: there is none, or it can't be read. */
async function pvidOf({ path }: HostDevice, mustRead = false): Promise<string | null> {
  const { devices, orphans, volumeGroups } = await scanDevices([path]);
  if (mustRead && !devices.some(({ sizeBytes }) => sizeBytes > 0)) throw failure(`Failed to read ${path}.`);
  const pvs = [...orphans, ...volumeGroups.flatMap((group) => group.pvs)];
  return pvs.find(({ found }) => found !== null)?.uuid.replaceAll('-', '') ?? null;
}

/** The options of which at most one says what to do, and what each does with its value. */
const ACTIONS: readonly (readonly [string, (editor: Editor, value: string) => Promise<ExitCode>])[] = [
  ['adddev', (editor, value) => editor.addDevice(value)],
  ['deldev', (editor, value) => editor.deleteDevice(value)],
  ['addpvid', (editor, value) => editor.addPvid(value)],
  ['delpvid', (editor, value) => editor.deletePvid(value)],
  ['check', (editor) => editor.check(false)],
  ['update', (editor) => editor.check(true)],
];

async function run(context: CommandContext): Promise<ExitCode> {
  const { options, settings } = context;
  const given = ACTIONS.filter(([name]) => options.has(name));
  const [action, second] = given;
  if (action !== undefined && second !== undefined) {
    throw new CommandError(EXIT.badUsage, [`Only one of --${action[0]} and --${second[0]} is allowed.`]);
  }
  const { systemId } = hostIds(context);
  const file = devicesFileOf(context, systemId);
  if (file === null) throw failure('Devices file not enabled.');
  const gate = { filters: deviceFilters(settings), listed: (): Promise<boolean> => Promise.resolve(true) };
  const editor = new Editor(context, file, await findHostDevices(settings, gate));
  return action === undefined ? editor.list() : action[1](editor, options.value(action[0]) ?? '');
}

export const command: Command = {
  summary: 'Manage the devices file',
  argumentsUsage: '',
  options: [
    { long: 'adddev', argument: 'PV', description: 'Add a device to the devices file.' },
    {
      long: 'addpvid',
      argument: 'String',
      description: 'Find the device with the given PVID and add it to the devices file.',
    },
    { long: 'check', description: 'Check the devices file and report incorrect values.' },
    {
      long: 'deldev',
      argument: 'PV|String',
      description: 'Remove a device from the devices file; with --deviceidtype, by its device ID.',
    },
    { long: 'delpvid', argument: 'String', description: 'Remove the devices file entry for the given PVID.' },
    {
      long: 'deviceidtype',
      argument: 'String',
      description:
        'The type of device ID to use: sys_wwid, sys_serial, mpath_uuid, md_uuid, loop_file, crypt_uuid, lvmlv_uuid, devname.',
    },
    { long: 'update', description: 'Update the devices file to fix incorrect values.' },
  ],
  run,
};
