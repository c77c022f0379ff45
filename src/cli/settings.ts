/**
 * A command's settings from its options and surroundings: --config, profiles, $LVM_SYSTEM_DIR.
 *
 * Invariants
 *  - A value of --config with "=" or "{" in it is in LVM2's grammar, any other is the path of lvm.toml.
 *  - --profile is a command profile, but for the commands that attach one to what they make or change (as in LVM2).
 */
import { hostname } from 'node:os';
import type { Settings } from '../lvm/settings.ts';
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
): Settings {
  const config = options.value('config');
  const { command, metadata } = profilesOf(name, options, env);
  return loadSettings({
    systemDirectory: systemDirectory(env),
    configStrings: config !== undefined && isConfigString(config) ? [config] : [],
    hostName: hostname(),
    ...(command === undefined ? {} : { commandProfile: command }),
    ...(metadata === undefined ? {} : { metadataProfile: metadata }),
    warn: (line) => output.error(line),
  });
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

/** A path of --config that is not a configuration in LVM2's grammar: lvm.toml's. */
export function tomlPath(options: ParsedOptions): string | undefined {
  const config = options.value('config');
  return config === undefined || isConfigString(config) ? undefined : config;
}
