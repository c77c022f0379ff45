/**
 * A command's settings from its options and surroundings: --config, profiles, $LVM_SYSTEM_DIR.
 *
 * Invariants
 *  - A value of --config with "=" or "{" in it is in LVM2's grammar, any other is the path of lvm.toml.
 *  - --profile is a command profile, but for the commands that attach one to what they make or change (as in LVM2).
 */
import { existsSync } from 'node:fs';
import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { SYSTEM_CONFIG } from '../daemon/client/socket-path.ts';
import type { Config } from '../daemon/config-schema.ts';
import type { Settings, SettingsLayer } from '../lvm/settings.ts';
import type { ConfigNode } from '../ondisk/metadata.ts';
import { isConfigString, loadSettings } from '../lvm/settings/load.ts';
import { CommandError, EXIT, type Output } from './messages.ts';
import type { ParsedOptions } from './options.ts';

const ATTACHING: ReadonlySet<string> = new Set(['lvcreate', 'lvconvert', 'vgcreate', 'lvchange', 'vgchange']);
/** They show a profile instead of going by it. */
const SHOWING: ReadonlySet<string> = new Set(['lvmconfig', 'dumpconfig', 'config']);
const SYSTEM_DIRECTORY = '/etc/lvm';

/** $LVM_SYSTEM_DIR; set but empty, there is no configuration. */
export function systemDirectory(env: Readonly<Record<string, string | undefined>>): string {
  return env['LVM_SYSTEM_DIR'] ?? SYSTEM_DIRECTORY;
}

/** Reads LVM2's configuration for a command; what is wrong with it goes to `output`. Throws CommandError. */
export function settingsForCommand(
  name: string,
  options: ParsedOptions,
  env: Readonly<Record<string, string | undefined>>,
  output: Output,
  toml: ConfigFile | null,
): Settings {
  const config = options.value('config');
  const { command, metadata } = profilesOf(name, options, env);
  const settings = loadSettings({
    systemDirectory: systemDirectory(env),
    configStrings: config !== undefined && isConfigString(config) ? [config] : [],
    hostName: hostname(),
    ...(command === undefined ? {} : { commandProfile: command }),
    ...(metadata === undefined ? {} : { metadataProfile: metadata }),
    warn: (line) => output.error(line),
  });
  const layer = toml === null ? null : tomlLayer(toml);
  return layer === null ? settings : settings.with(layer);
}

interface Profiles {
  readonly command: string | undefined;
  readonly metadata: string | undefined;
}

function profilesOf(name: string, options: ParsedOptions, env: Readonly<Record<string, string | undefined>>): Profiles {
  const given = SHOWING.has(name) ? undefined : options.value('profile');
  const command = options.value('commandprofile');
  const metadata = options.value('metadataprofile');
  const attaching = ATTACHING.has(name);
  if (given !== undefined && (attaching ? metadata : command) !== undefined) {
    const other = attaching ? ' --metadataprofile' : '--commandprofile';
    throw new CommandError(EXIT.badUsage, [`Only one of --profile or ${other} allowed.`]);
  }
  const fromEnvironment = env['LVM_COMMAND_PROFILE'] === '' ? undefined : env['LVM_COMMAND_PROFILE'];
  return {
    command: (attaching ? undefined : given) ?? command ?? fromEnvironment,
    metadata: (attaching ? given : undefined) ?? metadata,
  };
}

/** lvm.toml as a command goes by it. */
export interface ConfigFile {
  readonly path: string;
  readonly config: Config;
}

export interface ConfigSurroundings {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  readonly uid: number;
  /** False: only a file that is named is read. */
  readonly searchConfig?: boolean;
}

/**
 * The config file and its values; null if there is none. Its parser is loaded only if there is a file: start-up time is the
 * user's. Throws CommandError (3) for a file that makes no sense.
 */
export async function readToml(options: ParsedOptions, around: ConfigSurroundings): Promise<ConfigFile | null> {
  const config = options.value('config');
  const flag = config === undefined || isConfigString(config) ? undefined : config;
  const named = flag ?? around.env['ORION_LVM_CONFIG'] ?? '';
  if (named === '' && around.searchConfig === false) return null;
  if (named === '' && ![resolve(around.cwd, 'lvm.toml'), SYSTEM_CONFIG].some((path) => existsSync(path))) return null;
  const { readConfigFile } = await import('../daemon/config.ts');
  try {
    return readConfigFile(flag, { ...around, systemConfigFile: SYSTEM_CONFIG });
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    throw new CommandError(EXIT.badUsage, error.message.split('\n'));
  }
}

const KIB = 1024;
const SECTOR_BYTES = 512;

/** The settings of lvm.toml that LVM2 has too: they override lvm.conf's, as --config and profiles override them. */
function tomlLayer({ config }: ConfigFile): SettingsLayer | null {
  const nodes: ConfigNode[] = [];
  const add = (section: string, key: string, value: number): void => {
    if (value === 0) return;
    nodes.push({ node: 'section', key: section, children: [{ node: 'value', key, value: { kind: 'int', value } }] });
  };
  add('devices', 'data_alignment', config.physical_volume_alignment / KIB);
  add('metadata', 'pvmetadatasize', config.physical_volume_metadata_size / SECTOR_BYTES);
  return nodes.length === 0 ? null : { source: 'file', nodes };
}
