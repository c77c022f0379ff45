/**
 * --help and --longhelp of a command, in LVM2's layout, written from its table of options.
 */
import type { Command } from './command.ts';
import { COMMON_OPTIONS } from './common-options.ts';
import type { Output } from './messages.ts';
import type { OptionSpec } from './options.ts';

/** What a command is called, and what people type to run it: "status", "orion-lvm status". */
export interface CommandName {
  readonly name: string;
  readonly typed: string;
}

/** Width of help texts, indent not counted. */
const LINE = 78;

function optionUsage(option: OptionSpec): string {
  const short = option.short === undefined ? '   ' : `-${option.short}|`;
  return `${short}--${option.long}${option.argument === undefined ? '' : ` ${option.argument}`}`;
}

function rank(option: OptionSpec): number {
  return option.short === undefined ? 1 : 0;
}

/** Those with a short form first, then by name. */
function inUsageOrder(options: readonly OptionSpec[]): OptionSpec[] {
  return options.toSorted((a, b) => rank(a) - rank(b) || (a.long < b.long ? -1 : 1));
}

/** Breaks a text at spaces into lines of at most `width`. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line];
}

/** Prints what the command takes, and how it is `typed`; `long` explains every option. */
export function printUsage({ name, typed }: CommandName, command: Command, long: boolean, output: Output): void {
  output.print(`${name} - ${command.summary}`);
  output.print('');
  output.print(typed);
  for (const option of inUsageOrder(command.options)) output.print(`\t[ ${optionUsage(option)} ]`);
  output.print('\t[ COMMON_OPTIONS ]');
  if (command.argumentsUsage !== '') output.print(`\t${command.argumentsUsage}`);
  output.print('');
  output.print('Common options for orion-lvm:');
  for (const option of inUsageOrder(COMMON_OPTIONS)) output.print(`\t[ ${optionUsage(option)} ]`);
  output.print('');
  if (!long) {
    output.print('Use --longhelp to show what every option does.');
    return;
  }
  for (const option of inUsageOrder([...command.options, ...COMMON_OPTIONS])) {
    output.print(optionUsage(option).trim());
    for (const line of wrap(option.description, LINE - 8)) output.print(`\t${line}`);
    output.print('');
  }
}
