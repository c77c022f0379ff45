/** Options that commands which change LVs share. */
import { yesOrNo } from '../common-options.ts';
import { REPORTFORMAT_OPTION } from '../option-values.ts';
import type { OptionSpec } from '../options.ts';
import {
  activateCheck,
  extentsCheck,
  numberCheck,
  permissionCheck,
  plainly,
  readAheadCheck,
  sizeCheck,
} from './values.ts';

export const CONTIGUOUS: OptionSpec = {
  long: 'contiguous',
  short: 'C',
  argument: 'y|n',
  check: yesOrNo,
  description: 'The allocation policy: y is contiguous, n is inherit.',
};
export const STRIPES: OptionSpec = {
  long: 'stripes',
  short: 'i',
  argument: 'Number',
  check: numberCheck,
  description: 'The number of stripes: PVs that data is spread over.',
};
export const STRIPESIZE: OptionSpec = {
  long: 'stripesize',
  short: 'I',
  argument: 'Size[k|UNIT]',
  check: sizeCheck('k', '-'),
  description: 'How much is written to one PV before the next one is used.',
};
export const PERMISSION: OptionSpec = {
  long: 'permission',
  short: 'p',
  argument: 'rw|r',
  check: permissionCheck,
  description: 'Whether the LV may be written to.',
};
export const READAHEAD: OptionSpec = {
  long: 'readahead',
  short: 'r',
  argument: 'auto|none|Sectors',
  check: readAheadCheck,
  description: 'The read ahead count kept for the LV.',
};
export const PERSISTENT: OptionSpec = {
  long: 'persistent',
  short: 'M',
  argument: 'y|n',
  check: yesOrNo,
  description: 'Whether the minor number is kept.',
};
export const MINOR: OptionSpec = {
  long: 'minor',
  argument: 'Number',
  check: numberCheck,
  description: 'The minor number for Linux device-mapper.',
};
export const MAJOR: OptionSpec = {
  long: 'major',
  short: 'j',
  argument: 'Number',
  check: numberCheck,
  description: 'Ignored, with a warning, as the kernel chooses major numbers.',
};
export const SETACTIVATIONSKIP: OptionSpec = {
  long: 'setactivationskip',
  short: 'k',
  argument: 'y|n',
  check: yesOrNo,
  description: 'Whether the LV is skipped at activation, unless -K is used.',
};
export const IGNOREACTIVATIONSKIP: OptionSpec = {
  long: 'ignoreactivationskip',
  short: 'K',
  description: 'Activate the LV although it is flagged to be skipped.',
};
export const SETAUTOACTIVATION: OptionSpec = {
  long: 'setautoactivation',
  argument: 'y|n',
  check: yesOrNo,
  description: 'Whether the LV is activated automatically.',
};
export const ACTIVATE: OptionSpec = {
  long: 'activate',
  short: 'a',
  argument: 'y|n|ay',
  check: activateCheck,
  description: 'Whether the LV is to be active. Active LVs are those that orion-lvmd serves when it runs.',
};

/** What may be said of an activation. */
export const ACTIVATION_OPTIONS: readonly OptionSpec[] = [
  { long: 'partial', short: 'P', description: 'As --activationmode partial.' },
  {
    long: 'activationmode',
    argument: 'partial|degraded|complete',
    check: (value) => ['partial', 'degraded', 'complete'].includes(value),
    description: 'partial: activate LVs whose PVs are missing too, with errors in their place.',
  },
  { long: 'sysinit', description: 'Nothing to do here: there is no polling or monitoring to leave out.' },
  { long: 'ignorelockingfailure', description: 'Nothing to do here: a command that only looks needs no lock.' },
];

/** What scripts pass for the sake of udev, dmeventd and polling, none of which take part here. */
export const SURROUNDINGS: readonly OptionSpec[] = [
  { long: 'noudevsync', description: 'Nothing to do here: udev takes no part.' },
  { long: 'ignoremonitoring', description: 'Nothing to do here: lvm.conf says whether orion-lvmd extends snapshots.' },
  {
    long: 'monitor',
    argument: 'y|n',
    check: yesOrNo,
    description: 'Nothing to do here: lvm.conf says whether orion-lvmd extends snapshots.',
  },
  {
    long: 'poll',
    argument: 'y|n',
    check: yesOrNo,
    description: 'Nothing to do here: orion-lvmd ends merges by itself.',
  },
  REPORTFORMAT_OPTION,
];

/** -L and -l; signs in `refused` are errors. */
export function sizeOptions(refused: '+' | '-' | null, what: string): readonly OptionSpec[] {
  const sign = refused === null ? '[+|-]' : refused === '-' ? '[+]' : '[-]';
  return [
    {
      long: 'size',
      short: 'L',
      argument: `${sign}Size[m|UNIT]`,
      check: sizeCheck('m', refused),
      description: `${what} as a size; units are powers of 1024.`,
    },
    {
      long: 'extents',
      short: 'l',
      argument: `${sign}Number[%VG|%FREE|%PVS|%LV]`,
      check: plainly(extentsCheck(refused)),
      description: `${what} in extents, or as a part of something.`,
    },
  ];
}
