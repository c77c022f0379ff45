/**
 * Manual pages in roff, one of each command and one of orion-lvm itself, written from the table of commands and options.
 *
 * Invariant: whatever a text holds, it is shown as it is: backslashes, hyphens and leading points are escaped.
 */
import type { describeFlags } from '../daemon/flags.ts';
import type { NamedCommand } from './command.ts';
import { COMMON_OPTIONS } from './common-options.ts';
import type { OptionSpec } from './options.ts';
import { VERSION } from './version.ts';

const SEE_ALSO = ['orion-lvm', 'orion-lvmd', 'lvm', 'lvm.conf', 'lvmreport'] as const;

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

const DAEMON_SIGNALS = [
  ['SIGTERM, SIGINT', 'Stop: no new clients, what is in flight is finished and flushed, then everything is closed.'],
  ['SIGHUP', 'Read the configuration again, and look at the devices again.'],
  ['SIGUSR2', 'Start the program again and hand everything over to that process, clients included.'],
] as const;

const DAEMON_EXITS = [
  ['0', 'It was told to stop, and everything is on the disks; or --check-config found nothing wrong.'],
  ['3', 'The command line or the configuration is wrong.'],
  ['5', 'It could not start, or something could not be flushed.'],
] as const;

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
    ['ORION_LVM_CONTROL', 'The control socket at which to look for a running daemon. Empty: none is asked.'],
    ['ORION_LVM_DEVICES', 'Devices to use where --devices is not given, separated by commas.'],
  ].flatMap(([name = '', meaning = '']) => ['.TP', bold(name), roff(meaning)]),
];

/** The page of the daemon. */
export function daemonPage({ summary, flags }: ReturnType<typeof describeFlags>): string {
  const options = flags.flatMap(({ flags: names, description, choices }) => {
    const [long = '', argument] = names.split(' ');
    const head = argument === undefined ? bold(long) : `${bold(long)} ${italic(argument.replaceAll(/[<>]/g, ''))}`;
    const text = choices.length === 0 ? description : `${description}: ${choices.join(', ')}`;
    return ['.TP', head, `${roff(text.charAt(0).toUpperCase() + text.slice(1))}.`];
  });
  const lines = [
    title('orion-lvmd'),
    '.SH NAME',
    `orion\\-lvmd \\- ${roff('serve logical volumes over NBD')}`,
    '.SH SYNOPSIS',
    `${bold('orion-lvmd')} [ ${italic('options')} ]`,
    '.SH DESCRIPTION',
    roff(`orion-lvmd ${summary.charAt(0).toLowerCase()}${summary.slice(1)}`),
    '.PP',
    roff(
      'Without an option it goes by its configuration, lvm.toml; lvm.toml.example explains every setting. Commands find a running ' +
        'daemon by its control socket, and go to it when it holds the devices that they would work on.',
    ),
    '.SH OPTIONS',
    ...options,
    '.SH SIGNALS',
    ...DAEMON_SIGNALS.flatMap(([name, meaning]) => ['.TP', bold(name), roff(meaning)]),
    '.SH EXIT STATUS',
    ...DAEMON_EXITS.flatMap(([code, meaning]) => ['.TP', bold(code), roff(meaning)]),
    '.SH FILES',
    '.TP',
    bold('/etc/orion-lvm/lvm.toml'),
    roff('The configuration, where --config, $ORION_LVM_CONFIG and the working directory have none.'),
    ...seeAlso('orion-lvmd'),
  ];
  return `${lines.join('\n')}\n`;
}

/** The name of a command's page: as LVM2 has lvm-fullreport(8), so that man(1), top(1) and others keep theirs. */
export function pageName({ name, inner }: Pick<NamedCommand, 'name' | 'inner'>): string {
  return inner ? `orion-lvm-${name}` : name;
}

/** The page of a command. */
export function commandPage(named: NamedCommand): string {
  const { name, command, inner } = named;
  const typed = inner ? `orion-lvm ${name}` : name;
  const page = pageName(named);
  const lines = [
    title(page),
    '.SH NAME',
    `${roff(page)} \\- ${roff(command.summary)}`,
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
      'Each command has a page: NAME(8) where it is also there by its own name, orion-lvm-NAME(8) where it is not. ' +
        'Where orion-lvmd(8) runs and has the devices, it runs the command.',
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
