/**
 * The options that every command takes: LVM2's, and lvm.toml's path as a form of --config.
 *
 * Invariant: an option listed here has an effect, or says in its description that there is nothing to do.
 */
import type { OptionSpec } from './options.ts';

export function yesOrNo(value: string): boolean {
  return ['y', 'n', '0', '1'].includes(value.toLowerCase());
}

export const COMMON_OPTIONS: readonly OptionSpec[] = [
  {
    long: 'commandprofile',
    argument: 'String',
    description: 'The command profile to use for this command: NAME of NAME.profile in config/profile_dir.',
  },
  {
    long: 'config',
    argument: 'String|File',
    description:
      "Settings for this command that override lvm.conf's, in its syntax: 'devices/scan=\"/dev\" backup { archive=0 }'. " +
      'A value without = and { is the path of an lvm.toml to use instead of the one found by the usual search.',
  },
  { long: 'debug', short: 'd', countable: true, description: 'Nothing to do here: there are no debug messages.' },
  {
    long: 'devices',
    argument: 'PV',
    groupable: true,
    description:
      'Use only these devices: paths of files or block devices, globs or directories, separated by commas. May be repeated.',
  },
  {
    long: 'devicesfile',
    argument: 'String',
    description:
      'The devices file to use, a name in the devices directory of $LVM_SYSTEM_DIR; an empty name uses none. It ' +
      'overrides devices/use_devicesfile and devices/devicesfile of lvm.conf.',
  },
  {
    long: 'driverloaded',
    argument: 'y|n',
    check: yesOrNo,
    description: 'Nothing to do here: no device-mapper driver is ever used.',
  },
  { long: 'help', short: 'h', description: 'Display help.' },
  { long: 'longhelp', description: 'Display help with every option explained.' },
  { long: 'journal', argument: 'String', description: 'Nothing to do here: commands write nothing to the journal.' },
  { long: 'lockopt', argument: 'String', description: 'Nothing to do here: there is no lvmlockd to pass it to.' },
  { long: 'nohints', description: 'Nothing to do here: devices are always scanned, no hints are kept.' },
  {
    long: 'nolocking',
    description: 'Take no file locks. Reading commands take none anyway.',
  },
  {
    long: 'profile',
    argument: 'String',
    description:
      'As --commandprofile; of lvcreate, lvconvert, lvchange, vgcreate and vgchange as --metadataprofile, which is ' +
      'attached to the LV or VG.',
  },
  {
    long: 'quiet',
    short: 'q',
    countable: true,
    description: 'Suppress remarks; results, warnings and errors are printed. Repeat to answer prompts with no.',
  },
  {
    long: 'test',
    short: 't',
    description: 'Run in test mode: nothing is changed, which is said on standard error.',
  },
  { long: 'verbose', short: 'v', countable: true, description: 'Show more: reports have more columns.' },
  { long: 'version', description: 'Display version information.' },
  {
    long: 'yes',
    short: 'y',
    description: "Answer every prompt with yes. Reading commands don't prompt.",
  },
];
