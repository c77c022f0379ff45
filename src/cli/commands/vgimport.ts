/** vgimport: makes exported volume groups this host's. */
import { importVgPlan } from '../../lvm/edit/vg-change.ts';
import { changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { SELECT_OPTION } from '../criteria.ts';
import { CommandError, EXIT, type ExitCode } from '../messages.ts';
import { FORCE_OPTION, REPORTFORMAT_OPTION } from '../option-values.ts';
import { eachVgArgument } from '../vg-targets.ts';

export const command: Command = {
  summary: 'Register exported volume group with system',
  argumentsUsage: '[ VG|Tag ... ]',
  options: [
    { long: 'all', short: 'a', description: 'All exported VGs.' },
    FORCE_OPTION,
    REPORTFORMAT_OPTION,
    SELECT_OPTION,
  ],
  run: vgimport,
};

async function vgimport(context: CommandContext): Promise<ExitCode> {
  const { options, args, output } = context;
  const all = options.has('all');
  if (!all && args.length === 0 && !options.has('select')) {
    throw new CommandError(EXIT.badUsage, ['Please supply volume groups or -S for selection or use -a for all.']);
  }
  if (all && args.length > 0) {
    throw new CommandError(EXIT.badUsage, ['No arguments permitted when using -a for all.']);
  }
  const force = options.has('force');
  if (force) output.error('WARNING: Volume groups with missing PVs will be imported with --force.');
  const change = await changeContext(context);
  const request = { allowExported: true, handlesMissing: force };
  await eachVgArgument(context, change, request, async (group, changes) => {
    await changes.apply(importVgPlan(group, change.host.systemId, force));
  });
  return EXIT.ok;
}
