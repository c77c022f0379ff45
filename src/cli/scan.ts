/**
 * Which devices a command works on, and what it finds there.
 *
 *     --devices, else $ORION_LVM_DEVICES, else the config file's `devices`, else, as root, every block device
 *
 * Invariants
 *  - Without root and without any device named, that is an error which says what to do, not an empty answer.
 *  - The config file's parser is loaded only if there is a file: start-up time is the user's.
 *  - Warnings of the scan are printed before any result; those about one VG by whoever looks at that VG (report/walk.ts),
 *    so that commands on other VGs don't show them.
 */
import { existsSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import type { Config } from '../daemon/config-schema.ts';
import { listDevices } from '../lvm/devices.ts';
import type { Scan } from '../lvm/model.ts';
import { scanDevices } from '../lvm/scan.ts';
import type { CommandContext } from './command.ts';
import { CommandError, EXIT } from './messages.ts';

export interface Reading {
  readonly scan: Scan;
  /** The host's own system ID, if the config file gives one. */
  readonly systemId: string | null;
  readonly extraSystemIds: readonly string[];
}

interface ConfigValues {
  /** Absolute, or relative to the file's directory. */
  readonly devices: readonly string[];
  readonly systemId: string | null;
  readonly extraSystemIds: readonly string[];
}

const SYSTEM_CONFIG = '/etc/orion-lvm/lvm.toml';
const NO_CONFIG: ConfigValues = { devices: [], systemId: null, extraSystemIds: [] };

function splitList(list: string): string[] {
  return list.split(',').filter((path) => path !== '');
}

/** The config file and its values; null if there is none. Throws CommandError (3) for one that makes no sense. */
export async function readConfigFileOf(
  context: CommandContext,
): Promise<{ readonly path: string; readonly config: Config } | null> {
  const flag = context.options.value('config');
  const named = flag ?? context.env['ORION_LVM_CONFIG'] ?? '';
  if (named === '' && ![resolve(context.cwd, 'lvm.toml'), SYSTEM_CONFIG].some((path) => existsSync(path))) return null;
  const { readConfigFile } = await import('../daemon/config.ts');
  const around = { env: context.env, cwd: context.cwd, uid: context.uid, systemConfigFile: SYSTEM_CONFIG };
  try {
    return readConfigFile(flag, around);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    throw new CommandError(EXIT.badUsage, error.message.split('\n'));
  }
}

async function readConfig(context: CommandContext): Promise<ConfigValues> {
  const file = await readConfigFileOf(context);
  if (file === null) return NO_CONFIG;
  const base = dirname(file.path);
  return {
    devices: file.config.devices.map((path) => resolve(base, path)),
    systemId: file.config.system_id ?? null,
    extraSystemIds: file.config.extra_system_ids,
  };
}

/** What the user named: paths, globs and directories; empty: by default every block device. */
function specsOf(context: CommandContext, config: ConfigValues, hasMore: boolean): readonly string[] {
  const given = context.options.groups.flatMap((group) => splitList(group.get('devices') ?? ''));
  if (context.options.has('devices')) {
    if (given.length > 0) return given;
    throw new CommandError(EXIT.badUsage, ['Invalid argument for --devices: no device in it.']);
  }
  const fromEnvironment = splitList(context.env['ORION_LVM_DEVICES'] ?? '');
  if (fromEnvironment.length > 0) return fromEnvironment;
  if (config.devices.length > 0 || context.uid === 0 || hasMore) return config.devices;
  throw new CommandError(EXIT.failed, [
    'No devices to look at: give --devices, $ORION_LVM_DEVICES or devices in lvm.toml (only root looks at every block device).',
  ]);
}

async function pathsOf(specs: readonly string[], context: CommandContext): Promise<readonly string[]> {
  if (specs.length === 0) return listDevices([]);
  const there = specs.filter((spec) => {
    const found = existsSync(resolve(context.cwd, spec)) || /[*?[{]/.test(spec);
    if (!found) context.output.error(`Device not found for ${spec}.`);
    return found;
  });
  // No spec at all would mean every block device.
  if (there.length === 0) return [];
  return listDevices(there, { onProblem: (message) => context.output.error(message) });
}

/** Which devices a command works on, and what the config file says of this host. */
export interface CommandDevices {
  readonly paths: readonly string[];
  readonly systemId: string | null;
  readonly extraSystemIds: readonly string[];
}

/** Finds the devices that the user named, with `added` ones (PVs named as arguments). */
export async function commandDevices(context: CommandContext, added: readonly string[] = []): Promise<CommandDevices> {
  const config = await readConfig(context);
  const paths = await pathsOf(specsOf(context, config, added.length > 0), context);
  return { paths: [...paths, ...added], systemId: config.systemId, extraSystemIds: config.extraSystemIds };
}

/** Scans the devices, with `added` ones (PVs named as arguments), and prints what is wrong with them but for single VGs. */
export async function readVolumeGroups(context: CommandContext, added: readonly string[] = []): Promise<Reading> {
  const { paths, ...host } = await commandDevices(context, added);
  const scan = await scanDevices(paths);
  for (const { message, vgName, orphan } of scan.warnings) {
    if (vgName === undefined && orphan !== true) context.output.error(message);
  }
  return { scan, ...host };
}
