/** man: prints manual pages in roff, or writes all of them. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Command, CommandContext } from '../command.ts';
import { commandPage, daemonPage, overviewPage, pageName } from '../man.ts';
import { CommandError, EXIT, type ExitCode } from '../messages.ts';

async function run(context: CommandContext): Promise<ExitCode> {
  const { args, options, output, cwd } = context;
  const commands = await context.everyCommand();
  const { describeFlags } = await import('../../daemon/flags.ts');
  const pages = new Map<string, () => string>([
    ['orion-lvm', () => overviewPage(commands)],
    ['orion-lvmd', () => daemonPage(describeFlags())],
  ]);
  for (const named of commands) pages.set(pageName(named), () => commandPage(named));
  const directory = options.value('directory');
  if (directory === undefined) {
    for (const name of args.length === 0 ? ['orion-lvm'] : args) {
      const page = pages.get(name) ?? pages.get(`orion-lvm-${name}`);
      if (page === undefined) throw new CommandError(EXIT.failed, [`There is no command ${name}.`]);
      output.printPlain(page());
    }
    return EXIT.ok;
  }
  const section = join(resolve(cwd, directory), 'man8');
  try {
    mkdirSync(section, { recursive: true });
    for (const [name, page] of pages) writeFileSync(join(section, `${name}.8`), page());
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    throw new CommandError(EXIT.failed, [`Cannot write manual pages: ${error.message}.`]);
  }
  return EXIT.ok;
}

export const command: Command = {
  summary: 'Print manual pages',
  argumentsUsage: '[ Command ... ]',
  options: [
    {
      long: 'directory',
      argument: 'Directory',
      description:
        'Write the pages of all commands below this directory, as man8/COMMAND.8 and man8/orion-lvm-COMMAND.8, instead.',
    },
  ],
  run,
};
