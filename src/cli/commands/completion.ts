/** completion: prints the completion script for bash. */
import { bashCompletion } from '../completion.ts';
import type { Command } from '../command.ts';
import { EXIT } from '../messages.ts';

export const command: Command = {
  summary: 'Print the completion script for bash',
  argumentsUsage: '',
  options: [],
  async run(context) {
    context.output.printPlain(bashCompletion(await context.everyCommand()));
    return EXIT.ok;
  },
};
