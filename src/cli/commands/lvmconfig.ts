/** lvmconfig (and its old names dumpconfig and config): shows LVM2's settings as text that can be read back. */
import { writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { configProblems } from '../../lvm/settings/check.ts';
import { type Dump, DUMP_TYPES, dumpSettings, type DumpType } from '../../lvm/settings/dump.ts';
import { withProfile } from '../../lvm/settings/load.ts';
import type { Settings } from '../../lvm/settings.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandError, EXIT, type ExitCode } from '../messages.ts';
import { systemWords } from '../../lvm/system-error.ts';

function typeOf({ options }: CommandContext): DumpType {
  const given = options.value('type') ?? (options.has('list') ? 'list' : 'current');
  const type = DUMP_TYPES.find((name) => name === given);
  if (type !== undefined) return type;
  throw new CommandError(EXIT.badUsage, [
    `Incorrect type of configuration specified. Expected one of: ${DUMP_TYPES.join(', ')}.`,
  ]);
}

function refuse(line: string): never {
  throw new CommandError(EXIT.badUsage, [line]);
}

/** Throws CommandError for options that don't go together. */
function checkOptions({ options }: CommandContext, type: DumpType): void {
  if (options.has('type') && options.has('validate')) refuse('Only one of --type and --validate permitted.');
  if (options.has('type') && options.has('list')) refuse('Only one of --type and --list permitted.');
  if (options.has('mergedconfig') && type !== 'current' && type !== 'full') {
    refuse('--mergedconfig has no effect without --type current or --type full');
  }
}

/** With the profile that is only to be shown. */
function shownSettings(context: CommandContext): Settings {
  const { options, settings, output } = context;
  const name = options.value('profile');
  if (name === undefined) return settings;
  return withProfile(settings, name, 'command-profile', (line) => output.error(line));
}

function run(context: CommandContext): Promise<ExitCode> {
  const { options, output } = context;
  const type = typeOf(context);
  checkOptions(context, type);
  const settings = shownSettings(context);
  const merged = options.has('mergedconfig') || type === 'full' || type === 'diff';
  const [strongest] = settings.layers;
  // Without merging, only the configuration on top counts; the files are one.
  const layers = merged ? settings.layers : settings.layers.filter(({ source }) => source === strongest?.source);
  if (options.has('validate')) {
    const valid = layers.every(({ nodes, source }) => configProblems(nodes, source).length === 0);
    if (valid) output.print('LVM configuration valid.');
    else output.error('LVM configuration invalid.');
    return Promise.resolve(valid ? EXIT.ok : EXIT.failed);
  }
  const dump: Dump = { type, layers, wanted: context.args, spaces: options.has('withspaces') };
  const { lines, missing } = dumpSettings(settings, dump);
  write(context, lines);
  for (const path of missing) output.error(`Configuration node ${path} not found`);
  return Promise.resolve(missing.length === 0 ? EXIT.ok : EXIT.failed);
}

function write({ options, output, cwd }: CommandContext, lines: readonly string[]): void {
  const file = options.value('file');
  if (file === undefined) {
    for (const line of lines) output.printPlain(`${line}\n`);
    return;
  }
  try {
    writeFileSync(resolve(cwd, file), lines.map((line) => `${line}\n`).join(''));
  } catch (error) {
    throw new CommandError(EXIT.failed, [`${file}: open failed: ${systemWords(error)}`]);
  }
}

export const command: Command = {
  summary: 'Display and manipulate configuration information',
  argumentsUsage: '[ ConfigSection|ConfigSetting ... ]',
  options: [
    { long: 'file', short: 'f', argument: 'String', description: 'Write the configuration to this file.' },
    { long: 'list', short: 'l', description: 'List the names of all settings, as --type list.' },
    {
      long: 'mergedconfig',
      description: 'Merge --config, profiles and lvm.conf; else the strongest of them that is given is shown alone.',
    },
    {
      long: 'metadataprofile',
      argument: 'String',
      description: 'The metadata profile to go by: NAME of NAME.profile in config/profile_dir.',
    },
    {
      long: 'type',
      argument: DUMP_TYPES.join('|'),
      description:
        'What to show: current (what is set), default, diff (what is set to something else than the default), full ' +
        '(what holds), list (names), missing (what is not set), new (of this version: none), profilable and ' +
        'profilable-command or -metadata (what a profile may set).',
    },
    { long: 'validate', description: 'Only check the configuration.' },
    { long: 'withspaces', description: 'Where a setting is shown, put spaces around = and between items.' },
  ],
  run,
};
