/** Every command with its options loaded, for what is generated from them: manual pages and completion. */
import type { NamedCommand } from './command.ts';
import { COMMANDS } from './commands/table.ts';

export async function everyCommand(): Promise<readonly NamedCommand[]> {
  const commands: NamedCommand[] = [];
  for (const [name, entry] of COMMANDS) {
    commands.push({ name, command: (await entry.load()).command, inner: entry.inner === true });
  }
  return commands;
}
