/**
 * Reading LVM2's configuration: --config strings, lvm.conf, lvmlocal.conf, the files of host tags, and profiles.
 *
 * Invariants
 *  - A file that isn't there is no problem; one that can't be read or parsed ends the command, as in LVM2.
 *  - A profile with anything in it that a profile may not set is refused as a whole, whatever config/checks says.
 *  - What is wrong elsewhere is said (unless config/checks = 0) and has no effect.
 *
 * Source: lvm.conf(5), lvmconfig(8); messages observed with LVM2 2.03.16.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { FormatError } from '../../ondisk/errors.ts';
import { parseConfig } from '../../ondisk/config-parser.ts';
import type { ConfigNode } from '../../ondisk/metadata.ts';
import { isValidName } from '../../ondisk/vg-validate.ts';
import { CommandError } from '../edit/errors.ts';
import { Settings } from '../settings.ts';
import { configProblems } from './check.ts';
import { hostTags } from './host.ts';

export interface SettingsSources {
  /** $LVM_SYSTEM_DIR or /etc/lvm; empty: no file is read. */
  readonly systemDirectory: string;
  /** Values of --config that are configurations, weakest last. */
  readonly configStrings: readonly string[];
  readonly hostName: string;
  readonly commandProfile?: string;
  readonly metadataProfile?: string;
  /** Told what is wrong with the configuration. */
  readonly warn: (line: string) => void;
}

/** Whether the value of --config is a configuration in LVM2's grammar, not the path of lvm.toml. */
export function isConfigString(value: string): boolean {
  return /[={]/.test(value) || value.trim() === '';
}

/** Reads everything that a command goes by. Throws CommandError. */
export function loadSettings(sources: SettingsSources): Settings {
  const { systemDirectory, warn } = sources;
  let settings = new Settings(
    filesOf(systemDirectory, sources.hostName).map((nodes) => ({ source: 'file', nodes })),
    systemDirectory,
  );
  for (const text of sources.configStrings.toReversed()) {
    settings = settings.with({ source: 'string', nodes: parseString(text) });
  }
  reportProblems(settings, warn);
  if (sources.metadataProfile !== undefined) {
    settings = withProfile(settings, sources.metadataProfile, 'metadata-profile', warn);
  }
  if (sources.commandProfile !== undefined) {
    settings = withProfile(settings, sources.commandProfile, 'command-profile', warn);
  }
  return settings;
}

/** The settings with a profile's on top of the weaker ones. Throws CommandError if there is no such profile, or it is invalid. */
export function withProfile(
  settings: Settings,
  name: string,
  source: 'command-profile' | 'metadata-profile',
  warn: (line: string) => void,
): Settings {
  const kind = source === 'command-profile' ? 'command profile' : 'metadata profile';
  const failed = `Failed to apply ${kind} ${name}.`;
  if (name === '') throw new CommandError(['Undefined profile name.', `Failed to add ${kind} ${name}.`]);
  if (name.includes('/')) {
    throw new CommandError([`${name}: bad profile name, it contains '/'.`, `Failed to add ${kind} ${name}.`]);
  }
  const path = join(settings.string('config/profile_dir'), `${name}.profile`);
  const nodes = readConfigFile(path, [failed]);
  if (nodes === null) {
    throw new CommandError([`${path}: stat failed: No such file or directory`, failed]);
  }
  const problems = configProblems(nodes, source);
  if (problems.length > 0) {
    if (settings.bool('config/checks')) for (const line of problems) warn(line);
    throw new CommandError([`Ignoring invalid ${kind} ${name}.`, failed]);
  }
  return settings.with({ source, nodes });
}

/** lvmlocal.conf, lvm.conf, and lvm_TAG.conf of the host's tags: the strongest first. */
function filesOf(directory: string, hostName: string): (readonly ConfigNode[])[] {
  if (directory === '') return [];
  const main = readConfigFile(join(directory, 'lvm.conf')) ?? [];
  const local = readConfigFile(join(directory, 'lvmlocal.conf')) ?? [];
  const tagged: (readonly ConfigNode[])[] = [];
  const read = new Set<string>();
  // The file of a tag may give the host more tags.
  const pending = [...hostTags([main, local], hostName)];
  for (let tag = pending.shift(); tag !== undefined; tag = pending.shift()) {
    if (read.has(tag)) continue;
    if (!isValidName(tag)) throw new CommandError(`Invalid tag in config file: ${tag}`);
    read.add(tag);
    const nodes = readConfigFile(join(directory, `lvm_${tag}.conf`));
    if (nodes === null) continue;
    tagged.unshift(nodes);
    pending.push(...hostTags([nodes], hostName));
  }
  return [...tagged, local, main].filter((nodes) => nodes.length > 0);
}

function readConfigFile(path: string, more: readonly string[] = []): readonly ConfigNode[] | null {
  let text: Buffer;
  try {
    text = readFileSync(path);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return null;
    throw new CommandError([`${path}: ${message}`, `Failed to load config file ${path}`, ...more], 5, { cause: error });
  }
  try {
    return parseConfig(text, { device: path, offset: 0 });
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    throw new CommandError([error.message, `Failed to load config file ${path}`, ...more], 5, { cause: error });
  }
}

function parseString(text: string): readonly ConfigNode[] {
  try {
    return parseConfig(text, { device: '--config', offset: 0 });
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    throw new CommandError([error.message, 'Failed to set overridden configuration entries.'], 3, { cause: error });
  }
}

function reportProblems(settings: Settings, warn: (line: string) => void): void {
  if (!settings.bool('config/checks')) return;
  const problems = settings.layers.flatMap(({ nodes, source }) => configProblems(nodes, source));
  for (const line of problems) warn(line);
  if (problems.length > 0 && settings.bool('config/abort_on_errors')) {
    throw new CommandError('LVM_ configuration invalid.');
  }
}
