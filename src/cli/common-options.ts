/**
 * The options that every command takes. LVM2's others that would need what we don't have (profiles, a devices file,
 * lvmlockd, the journal) are not here, so they are refused as unrecognized.
 *
 * Invariant: an option listed here has an effect, or says in its description that there is nothing to do.
 */
import type { OptionSpec } from './options.ts';

export function yesOrNo(value: string): boolean {
  return ['y', 'n', '0', '1'].includes(value.toLowerCase());
}

export const COMMON_OPTIONS: readonly OptionSpec[] = [
  {
    long: 'config',
    argument: 'File',
    description: 'The configuration file (lvm.toml) to use instead of the one found by the usual search.',
  },
  {
    long: 'devices',
    argument: 'PV',
    groupable: true,
    description:
      'Use only these devices: paths of files or block devices, globs or directories, separated by commas. May be repeated.',
  },
  {
    long: 'driverloaded',
    argument: 'y|n',
    check: yesOrNo,
    description: 'Nothing to do here: no device-mapper driver is ever used.',
  },
  { long: 'help', short: 'h', description: 'Display help.' },
  { long: 'longhelp', description: 'Display help with every option explained.' },
  { long: 'nohints', description: 'Nothing to do here: devices are always scanned, no hints are kept.' },
  {
    long: 'nolocking',
    description: 'Nothing to do for commands that only read: they take no locks.',
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
    countable: true,
    description: "Answer every prompt with yes. Reading commands don't prompt.",
  },
];
