/**
 * The options of reports (pvs, vgs, lvs, fullreport), and of what prints sizes (display and scan commands).
 *
 * Invariant: as in common-options.ts, what is listed has its effect or says why there is nothing to do.
 */
import type { OptionSpec } from '../options.ts';

export const UNITS_ARGUMENT = '[Number]r|R|h|H|b|B|s|S|k|K|m|M|g|G|t|T|p|P|e|E';
/** Names of the reports that --configreport takes. */
export const REPORT_NAMES = ['vg', 'lv', 'pv', 'pvseg', 'seg'] as const;

function oneOf(...words: readonly string[]): (value: string) => boolean {
  return (value) => words.includes(value);
}

/** --units and --nosuffix: for every command that prints sizes. */
export const SIZE_OPTIONS: readonly OptionSpec[] = [
  { long: 'nosuffix', description: 'Suppress the suffix on sizes. Use with --units (except h, H, r and R).' },
  {
    long: 'units',
    argument: UNITS_ARGUMENT,
    description:
      'Units of sizes: (h)uman-readable, human-readable with (r)ounding indicator, (b)ytes, (s)ectors, (k)ilobytes, ' +
      '(m)egabytes, (g)igabytes, (t)erabytes, (p)etabytes, (e)xabytes; capitals for multiples of 1000 instead of 1024. ' +
      'A number before the letter makes a custom unit: --units 3m.',
  },
];

/** Which volume groups are shown. */
export const ACCESS_OPTIONS: readonly OptionSpec[] = [
  { long: 'foreign', description: 'Also show foreign volume groups, those of another system ID.' },
  { long: 'ignorelockingfailure', description: 'Nothing to do here: reading commands take no locks.' },
  { long: 'readonly', description: 'Nothing to do here: devices are only read, without locks.' },
  { long: 'shared', description: 'Also show shared volume groups, those whose lock type needs lvmlockd.' },
];

export const REPORT_OPTIONS: readonly OptionSpec[] = [
  { long: 'aligned', description: 'Use with --separator to align the columns.' },
  { long: 'all', short: 'a', description: 'Show internal logical volumes and, in pvs, devices that are not PVs.' },
  { long: 'binary', description: 'Use 0 and 1 (and -1 for unknown) instead of words for fields that are yes or no.' },
  {
    long: 'configreport',
    argument: REPORT_NAMES.join('|'),
    groupable: true,
    startsGroup: true,
    check: oneOf(...REPORT_NAMES),
    description: 'The report that the following -o, -O and -S are for, in a command with several reports.',
  },
  {
    long: 'headings',
    argument: 'none|abbrev|full|0|1|2',
    check: oneOf('none', 'abbrev', 'full', '0', '1', '2'),
    description: 'No headings, abbreviated column names (the default), or full column names.',
  },
  { long: 'nameprefixes', description: "Print each field as LVM2_NAME='value', for shells. Use with --noheadings." },
  { long: 'noheadings', description: 'Leave out the line of headings.' },
  {
    long: 'options',
    short: 'o',
    argument: 'String',
    groupable: true,
    description:
      'Fields to show, separated by commas, in this order. A first + adds to the fields chosen so far, - removes from ' +
      'them, # leaves out those that are blank in every row. -o help lists the fields. May be repeated.',
  },
  {
    long: 'reportformat',
    argument: 'basic|json|json_std',
    check: oneOf('basic', 'json', 'json_std'),
    description: 'Columns, JSON with every value as a string, or JSON with numbers, nulls and arrays.',
  },
  { long: 'rows', description: 'Print columns as rows.' },
  {
    long: 'select',
    short: 'S',
    argument: 'String',
    groupable: true,
    description: 'Show only rows that match these criteria. -S help explains them.',
  },
  { long: 'separator', argument: 'String', description: 'What to print between fields.' },
  {
    long: 'sort',
    short: 'O',
    argument: 'String',
    groupable: true,
    description: 'Fields to sort by, separated by commas; a - before a name sorts downwards.',
  },
  { long: 'unbuffered', description: 'Print rows as they are found: not sorted, columns not widened.' },
  { long: 'unquoted', description: 'With --nameprefixes, leave out the quotes.' },
];

export const PARTIAL_OPTION: OptionSpec = {
  long: 'partial',
  short: 'P',
  description: 'Nothing to do here: what is there of volume groups with missing PVs is shown anyway.',
};

export const SEGMENTS_OPTION: OptionSpec = {
  long: 'segments',
  description: 'One row per segment.',
};

export const HISTORY_OPTION: OptionSpec = {
  long: 'history',
  short: 'H',
  description: 'Also show historical logical volumes.',
};
