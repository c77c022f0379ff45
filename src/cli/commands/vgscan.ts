/** vgscan: a line for each volume group that is found. */
import { isExported } from '../../lvm/access.ts';
import type { Command, CommandContext } from '../command.ts';
import type { ExitCode } from '../messages.ts';
import { walkOf } from '../report/run.ts';
import { readVolumeGroups } from '../scan.ts';

async function run(context: CommandContext): Promise<ExitCode> {
  const walk = walkOf(context, await readVolumeGroups(context), true);
  for (const { vg } of walk.vgs({ vgNames: [], tags: [] })) {
    const exported = isExported(vg) ? 'exported ' : '';
    context.output.print(`Found ${exported}volume group "${vg.name}" using metadata type ${vg.format ?? 'lvm2'}`);
  }
  return walk.exitCode;
}

export const command: Command = {
  summary: 'Search for all volume groups',
  argumentsUsage: '',
  options: [{ long: 'ignorelockingfailure', description: 'Nothing to do here: reading commands take no locks.' }],
  run,
};
