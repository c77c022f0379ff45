/**
 * Which devices a command works on, and what it finds there.
 *
 *     --devices, else $ORION_LVM_DEVICES, else the config file's `devices`, else, as root, every block device
 *
 * Invariants
 *  - Without root and without any device named, that is an error which says what to do, not an empty answer.
 *  - Warnings of the scan are printed before any result; those about one VG by whoever looks at that VG (report/walk.ts),
 *    so that commands on other VGs don't show them.
 */
import { existsSync } from 'node:fs';
import { hostname } from 'node:os';
import { dirname, resolve } from 'node:path';
import { chooseDeviceId } from '../lvm/device-id.ts';
import { describeDevice, listDevices } from '../lvm/devices.ts';
import { deviceFilters } from '../lvm/filter.ts';
import { type DeviceEntry, DevicesFile, findEntry } from '../lvm/devices-file.ts';
import {
  type DeviceGate,
  findHostDevices,
  type HostDevice,
  type HostDevices,
  NOT_LISTED,
} from '../lvm/host-devices.ts';
import type { Scan } from '../lvm/model.ts';
import { scanDevices, type ScanOptions } from '../lvm/scan.ts';
import { withServed } from '../lvm/served.ts';
import { systemIdOf } from '../lvm/settings/host.ts';
import { isValidName } from '../ondisk/vg-validate.ts';
import type { CommandContext } from './command.ts';
import { CommandError, EXIT } from './messages.ts';
import { systemDirectory } from './settings.ts';

export interface Reading {
  readonly scan: Scan;
  /** The host's own system ID, if the config file gives one. */
  readonly systemId: string | null;
  readonly extraSystemIds: readonly string[];
}

interface ConfigValues {
  /** Absolute. */
  readonly devices: readonly string[];
  readonly systemId: string | null;
  readonly extraSystemIds: readonly string[];
}

const NO_CONFIG: ConfigValues = { devices: [], systemId: null, extraSystemIds: [] };

function splitList(list: string): string[] {
  return list.split(',').filter((path) => path !== '');
}

function configOf({ toml: file }: CommandContext): ConfigValues {
  if (file === null) return NO_CONFIG;
  const base = dirname(file.path);
  return {
    devices: file.config.devices.map((path) => resolve(base, path)),
    systemId: file.config.system_id ?? null,
    extraSystemIds: file.config.extra_system_ids,
  };
}

/** What the user named: paths, globs and directories; null: by default every block device. */
function specsOf(context: CommandContext, config: ConfigValues, hasMore: boolean): readonly string[] | null {
  const given = context.options.groups.flatMap((group) => splitList(group.get('devices') ?? ''));
  if (context.options.has('devices')) {
    if ((context.options.value('devicesfile') ?? '') !== '') {
      throw new CommandError(EXIT.badUsage, ['A --devices list cannot be used with --devicesfile.']);
    }
    if (given.length > 0) return given;
    throw new CommandError(EXIT.badUsage, ['Invalid argument for --devices: no device in it.']);
  }
  const fromEnvironment = splitList(context.env['ORION_LVM_DEVICES'] ?? '');
  if (fromEnvironment.length > 0) return fromEnvironment;
  if (config.devices.length > 0) return config.devices;
  if (context.uid === 0) return null;
  if (hasMore) return [];
  throw new CommandError(EXIT.failed, [
    'No devices to look at: give --devices, $ORION_LVM_DEVICES or devices in lvm.toml (only root looks at every block device).',
  ]);
}

async function pathsOf(specs: readonly string[], context: CommandContext): Promise<readonly string[]> {
  const there = specs.filter((spec) => {
    const found = existsSync(resolve(context.cwd, spec)) || /[*?[{]/.test(spec);
    if (!found) context.output.error(`Device not found for ${spec}.`);
    return found;
  });
  // No spec at all would mean every block device.
  if (there.length === 0) return [];
  return listDevices(there, { onProblem: (message) => context.output.error(message) });
}

/** The devices file that the command goes by; null: none. Throws CommandError (3) for a name that is none. */
export function devicesFileOf(context: CommandContext, systemId: string | null): DevicesFile | null {
  const { options, settings, output } = context;
  const given = options.value('devicesfile');
  if (given === '' || (given === undefined && !settings.bool('devices/use_devicesfile'))) return null;
  const name = given ?? settings.string('devices/devicesfile');
  if (!isValidName(name)) {
    throw given === undefined
      ? new CommandError(EXIT.failed, [`Invalid devices file name from config setting "${name}".`])
      : new CommandError(EXIT.badUsage, ['Invalid devices file name.']);
  }
  return new DevicesFile({
    systemDirectory: systemDirectory(context.env),
    name,
    lockDirectory: options.has('nolocking') || context.uid !== 0 ? null : settings.string('global/locking_dir'),
    commandName: context.name,
    systemId,
    warn: (line) => output.error(line),
  });
}

/** Every block device, gated by the devices file or by the filters. */
async function hostDevices(
  context: CommandContext,
  file: DevicesFile | null,
): Promise<HostDevices & { readonly listed: readonly DeviceEntry[] | null }> {
  const listed = (await file?.read())?.entries ?? null;
  const gate: DeviceGate = {
    filters: deviceFilters(context.settings),
    listed: listed === null ? null : async (device) => (await findEntry(listed, device)) !== null,
  };
  if (listed !== null) {
    for (const name of ['filter', 'global_filter'] as const) {
      if (!context.settings.has(`devices/${name}`)) continue;
      context.output.error(`Please remove the lvm.conf ${name}, it is ignored with the devices file.`);
    }
  }
  return { ...(await findHostDevices(context.settings, gate)), listed };
}

/** Commands that make the devices file of a host that has no VG yet. */
const MAKERS: ReadonlySet<string> = new Set(['pvcreate', 'vgcreate']);

/** Which devices a command works on, and what the configuration says of this host. */
export interface CommandDevices {
  readonly paths: readonly string[];
  readonly systemId: string | null;
  readonly extraSystemIds: readonly string[];
  /** How to scan them: what nobody named and can't be opened is passed over; devices get their IDs. */
  readonly scan: ScanOptions;
  /** Why devices that are there must not be used, in LVM2's words, by every name that they have. */
  readonly excluded: ReadonlyMap<string, string>;
  /** Where devices that become PVs are noted; null: nowhere. */
  readonly devicesFile: DevicesFile | null;
  /** It is to be used and is not there: only the first PVs of a host make it (LVM2 lib/device/device_id.c). */
  readonly devicesFileMissing: boolean;
}

/** Finds the devices that the user named, with `added` ones (PVs named as arguments). */
export async function commandDevices(context: CommandContext, added: readonly string[] = []): Promise<CommandDevices> {
  const config = configOf(context);
  const host = hostOf(context, config);
  const checkPvSizes = context.settings.bool('metadata/check_pv_device_sizes');
  const specs = specsOf(context, config, added.length > 0);
  if (specs !== null) {
    return {
      ...host,
      paths: [...(await pathsOf(specs, context)), ...added],
      scan: { checkPvSizes },
      excluded: new Map(),
      devicesFile: null,
      devicesFileMissing: false,
    };
  }
  const file = devicesFileOf(context, host.systemId);
  const named = context.options.has('devicesfile');
  const { usable, byName, excluded, listed } = await hostDevices(context, file);
  // A name that LVM2 does not know of (an image file, a node elsewhere) was meant as it is; what isn't listed is to be.
  const others = added.filter((path) => {
    const name = resolve(context.cwd, path);
    return !byName.has(name) || excluded.get(name) === NOT_LISTED;
  });
  return {
    ...host,
    paths: [...usable.map(({ path }) => path), ...others],
    scan: {
      checkPvSizes,
      skipUnopenable: true,
      describe: listed === null ? describeDevice : describer(byName, listed, context.cwd),
    },
    excluded,
    devicesFile: listed !== null || named || MAKERS.has(context.name) ? file : null,
    devicesFileMissing: file !== null && listed === null && !named,
  };
}

/** Describes devices with the IDs by which the devices file knows them, or will. */
function describer(
  byName: ReadonlyMap<string, HostDevice>,
  listed: readonly DeviceEntry[],
  cwd: string,
): NonNullable<ScanOptions['describe']> {
  return async (opened) => {
    const device = await describeDevice(opened);
    const host = byName.get(resolve(cwd, device.path));
    if (host === undefined) return device;
    const entry = await findEntry(listed, host);
    if (entry === null) return { ...device, deviceId: await chooseDeviceId(host) };
    return entry.idName === null ? device : { ...device, deviceId: { type: entry.idType, name: entry.idName } };
  };
}

/** The host's system IDs: lvm.toml's, or lvm.conf's. */
export function hostIds(context: CommandContext): HostIds {
  return hostOf(context, configOf(context));
}

interface HostIds {
  readonly systemId: string | null;
  readonly extraSystemIds: readonly string[];
}

function hostOf(context: CommandContext, config: ConfigValues): HostIds {
  const { settings, output } = context;
  const facts = { hostName: hostname(), warn: (line: string): void => output.error(line) };
  return {
    systemId: config.systemId ?? systemIdOf(settings, facts),
    extraSystemIds: [...config.extraSystemIds, ...(settings.strings('local/extra_system_ids') ?? [])],
  };
}

/** Scans the devices, with `added` ones (PVs named as arguments), and prints what is wrong with them but for single VGs. */
export async function readVolumeGroups(context: CommandContext, added: readonly string[] = []): Promise<Reading> {
  const { paths, scan: options, systemId, extraSystemIds } = await commandDevices(context, added);
  const scan = await withServed(await scanDevices(paths, options), context.live);
  for (const { message, vgName, orphan } of scan.warnings) {
    if (vgName === undefined && orphan !== true) context.output.error(message);
  }
  return { scan, systemId, extraSystemIds };
}
