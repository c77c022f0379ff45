/**
 * Manual pages in roff, one of each command and one of orion-lvm itself, written from the table of commands and options.
 *
 * Invariant: whatever a text holds, it is shown as it is: backslashes, hyphens and leading points are escaped.
 */
import type { NamedCommand } from './command.ts';
import { COMMON_OPTIONS } from './common-options.ts';
import type { OptionSpec } from './options.ts';
import { VERSION } from './version.ts';

const SEE_ALSO = ['orion-lvm', 'lvm', 'lvm.conf', 'lvmreport'] as const;

/** Text for roff. */
export function roff(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll(/^([.'])/gm, '\\&$1');
}

function bold(text: string): string {
  return `\\fB${roff(text)}\\fR`;
}

function italic(text: string): string {
  return `\\fI${roff(text)}\\fR`;
}

function optionHead({ short, long, argument }: OptionSpec): string {
  const names = short === undefined ? bold(`--${long}`) : `${bold(`-${short}`)}|${bold(`--${long}`)}`;
  return argument === undefined ? names : `${names} ${italic(argument)}`;
}

function optionList(options: readonly OptionSpec[]): string[] {
  const sorted = options.toSorted((a, b) => (a.long < b.long ? -1 : 1));
  return sorted.flatMap((option) => ['.TP', optionHead(option), roff(option.description)]);
}

function title(name: string): string {
  return `.TH ${name.toUpperCase()} 8 "" "Orion LVM ${VERSION}" "System administration"`;
}

function seeAlso(own: string): string[] {
  const pages = SEE_ALSO.filter((name) => name !== own).map(
    (name) => `${bold(name)}(${name === 'lvmreport' ? 7 : name.includes('.') ? 5 : 8})`,
  );
  return ['.SH SEE ALSO', pages.join(', ')];
}

const EXIT_STATUS: readonly string[] = [
  '.SH EXIT STATUS',
  ...[
    ['0', 'The command did what was asked.'],
    ['2', 'There is no such command.'],
    ['3', 'The command line is wrong; nothing was done.'],
    ['5', 'The command failed, as a whole or for some of the things it was asked to work on.'],
  ].flatMap(([code = '', meaning = '']) => ['.TP', bold(code), roff(meaning)]),
];

const ENVIRONMENT: readonly string[] = [
  '.SH ENVIRONMENT',
  ...[
    ['LVM_SYSTEM_DIR', 'The directory of lvm.conf, instead of /etc/lvm. Empty: no lvm.conf is read.'],
    ['LVM_COMMAND_PROFILE', 'The command profile to use where --commandprofile is not given.'],
    ['LVM_VG_NAME', 'The volume group of logical volumes that are named without one.'],
    ['ORION_LVM_CONFIG', 'The lvm.toml to use where --config names none.'],
    ['ORION_LVM_DEVICES', 'Devices to use where --devices is not given, separated by commas.'],
  ].flatMap(([name = '', meaning = '']) => ['.TP', bold(name), roff(meaning)]),
];

/** The page of a command. */
export function commandPage({ name, command, inner }: NamedCommand): string {
  const typed = inner ? `orion-lvm ${name}` : name;
  const lines = [
    title(name),
    '.SH NAME',
    `${roff(name)} \\- ${roff(command.summary)}`,
    '.SH SYNOPSIS',
    `${bold(typed)} [ ${italic('option_args')} ]${command.argumentsUsage === '' ? '' : ` ${roff(command.argumentsUsage)}`}`,
  ];
  if (command.options.length > 0) lines.push('.SH OPTIONS', ...optionList(command.options));
  lines.push('.SH COMMON OPTIONS', ...optionList(COMMON_OPTIONS), ...EXIT_STATUS, ...ENVIRONMENT, ...seeAlso(name));
  return `${lines.join('\n')}\n`;
}

/** The page of orion-lvm, which lists all commands. */
export function overviewPage(commands: readonly NamedCommand[]): string {
  const lines = [
    title('orion-lvm'),
    '.SH NAME',
    `orion\\-lvm \\- ${roff('LVM2 in userspace')}`,
    '.SH SYNOPSIS',
    `${bold('orion-lvm')} ${italic('command')} [ ${italic('arguments')} ]`,
    '.br',
    `${bold('orion-lvm')} < ${italic('commands')}`,
    '.SH DESCRIPTION',
    roff(
      "orion-lvm runs LVM2's commands on block devices and image files without device-mapper. The commands have LVM2's names, " +
        'options, output and exit codes, and what they write is what LVM2 reads. Most are also there by their own names. ' +
        'Without arguments, commands are read from standard input, a line each.',
    ),
    '.PP',
    roff(
      'Devices are those of --devices, else of $ORION_LVM_DEVICES, else of devices in lvm.toml, else, for root, every block device ' +
        "that lvm.conf's filters or the devices file let through. Physical volumes that are named as arguments are added.",
    ),
    '.SH COMMANDS',
    ...commands.flatMap(({ name, command }) => ['.TP', bold(name), roff(command.summary)]),
    '.SH COMMON OPTIONS',
    ...optionList(COMMON_OPTIONS),
    ...EXIT_STATUS,
    ...ENVIRONMENT,
    ...seeAlso('orion-lvm'),
  ];
  return `${lines.join('\n')}\n`;
}
