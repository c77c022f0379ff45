/** rescan: makes the running orion-lvmd look for devices and volume groups that came, went or changed. Not in LVM2. */
import type { Command, CommandContext } from '../command.ts';
import { CommandError, EXIT, type ExitCode } from '../messages.ts';

export const command: Command = {
  summary: 'Make orion-lvmd look at its devices again',
  argumentsUsage: '',
  options: [],
  run,
};

async function run({ live, args, options }: CommandContext): Promise<ExitCode> {
  if (args.length > 0) throw new CommandError(EXIT.badUsage, [`Command does not accept argument: ${args[0]}.`]);
  if (!live.present) {
    throw new CommandError(EXIT.failed, ['No orion-lvmd runs here that could be told ($ORION_LVM_CONTROL, lvm.toml).']);
  }
  if (!options.has('test')) await live.rescan();
  return EXIT.ok;
}
