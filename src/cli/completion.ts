/**
 * Completion for bash, written from the table of commands and options: `. <(orion-lvm completion)`.
 *
 *     names of commands         after orion-lvm
 *     options                   after a hyphen, with the values of those that are one of several words
 *     names of VGs and LVs      where a command takes them, asked of vgs and lvs
 *     files                     anywhere else
 *
 * Invariant: the script runs nothing of ours to complete names and options; only VGs and LVs are asked for.
 */
import type { NamedCommand } from './command.ts';
import { COMMON_OPTIONS } from './common-options.ts';
import type { OptionSpec } from './options.ts';

/** A word for single quotes. */
function quoted(words: readonly string[]): string {
  return `'${words.join(' ').replaceAll("'", `'\\''`)}'`;
}

/** The words that an option takes, if it is one of several: "y|n"; none for "[Number]k|m" and free values. */
function choices({ argument }: OptionSpec): readonly string[] {
  return argument !== undefined && /^[\w-]+(\|[\w-]+)+$/.test(argument) && !/[A-Z]/.test(argument)
    ? argument.split('|')
    : [];
}

function optionWords(options: readonly OptionSpec[]): readonly string[] {
  const words = options.flatMap(({ short, long }) => [`--${long}`, ...(short === undefined ? [] : [`-${short}`])]);
  return [...new Set(words)].toSorted((a, b) => (a < b ? -1 : 1));
}

/** What a command's arguments are, as the script asks for them. */
function kindOf(argumentsUsage: string): string {
  const kinds = ['VG', 'LV'].filter((word) => new RegExp(`\\b${word}\\b`).test(argumentsUsage));
  return kinds.join('').toLowerCase();
}

function valueCases(commands: readonly NamedCommand[]): readonly string[] {
  const seen = new Map<string, readonly string[]>();
  for (const option of [...commands.flatMap(({ command }) => command.options), ...COMMON_OPTIONS]) {
    const words = choices(option);
    if (words.length === 0) continue;
    for (const name of [`--${option.long}`, ...(option.short === undefined ? [] : [`-${option.short}`])]) {
      // A short letter means different things to different commands: only the long name is sure.
      if (name.startsWith('--')) seen.set(name, [...new Set([...(seen.get(name) ?? []), ...words])]);
    }
  }
  return [...seen].map(([name, words]) => `    ${name}) words=${quoted(words)} ;;`);
}

/** The script. */
export function bashCompletion(commands: readonly NamedCommand[]): string {
  const outer = commands.filter(({ inner }) => !inner).map(({ name }) => name);
  const lines = [
    '# Completion of orion-lvm and its commands for bash.',
    '_orion_lvm() {',
    '  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[0]##*/} words= kind=',
    '  COMPREPLY=()',
    '  if [ "$command" = orion-lvm ]; then',
    '    if [ "$COMP_CWORD" = 1 ]; then',
    `      COMPREPLY=($(compgen -W ${quoted([...commands.map(({ name }) => name), 'help'])} -- "$cur"))`,
    '      return',
    '    fi',
    '    command=${COMP_WORDS[1]}',
    '  fi',
    '  # A value: of --option value, or of --option=value, which bash takes for three words.',
    '  [ "$cur" = = ] && cur=',
    '  [ "$prev" = = ] && prev=${COMP_WORDS[COMP_CWORD-2]}',
    '  case $prev in',
    ...valueCases(commands),
    '  esac',
    '  if [ -n "$words" ]; then',
    '    COMPREPLY=($(compgen -W "$words" -- "$cur"))',
    '    return',
    '  fi',
    '  case $command in',
    ...commands.map(({ name, command }) => {
      const kind = kindOf(command.argumentsUsage);
      const words = quoted(optionWords([...command.options, ...COMMON_OPTIONS]));
      return `    ${name}) words=${words}${kind === '' ? '' : ` kind=${kind}`} ;;`;
    }),
    '  esac',
    '  case $cur in',
    '    -*) COMPREPLY=($(compgen -W "$words" -- "$cur")); return ;;',
    '  esac',
    '  case $kind in',
    '    *vg*) words=$(orion-lvm vgs --noheadings -o vg_name 2>/dev/null) ;;',
    '    *) words= ;;',
    '  esac',
    '  case $kind in',
    '    *lv*) words="$words $(orion-lvm lvs --noheadings --separator / -o vg_name,lv_name 2>/dev/null)" ;;',
    '  esac',
    '  COMPREPLY=($(compgen -W "$words" -- "$cur") $(compgen -f -- "$cur"))',
    '}',
    `complete -o filenames -F _orion_lvm orion-lvm ${outer.join(' ')}`,
  ];
  return `${lines.join('\n')}\n`;
}
