/** lvscan: a line for each logical volume: state, role in snapshots, path, size, allocation policy. */
import { relationsOf, type LvFacts } from '../../lvm/relations.ts';
import { servedStatus } from '../../lvm/served.ts';
import type { Command, CommandContext } from '../command.ts';
import { Display } from '../display/lines.ts';
import { LV_KEY_WIDTH } from '../display/lv-display.ts';
import type { ExitCode } from '../messages.ts';
import { lvPolicy } from '../report/fields/lv-attr.ts';
import { walkOf } from '../report/run.ts';
import { readVolumeGroups } from '../scan.ts';

function roleWord(facts: LvFacts): string {
  if (facts.snapshots.length > 0) return ' Original';
  return facts.snapshot === null ? '         ' : ' Snapshot';
}

async function run(context: CommandContext): Promise<ExitCode> {
  const display = new Display(context, LV_KEY_WIDTH);
  const walk = walkOf(context, await readVolumeGroups(context), false);
  for (const { vg, lv } of walk.lvs({ vgNames: [], tags: [], wholeVgs: [], lvNames: new Map() })) {
    const facts = vg === null || lv === null ? undefined : relationsOf(vg.vg).lvs.get(lv.name);
    if (vg === null || facts === undefined) continue;
    const size = display.size(facts.sizeSectors);
    const state = servedStatus(vg, facts.lv) === null ? 'inactive' : 'ACTIVE  ';
    display.print(`${state}${roleWord(facts)} '/dev/${vg.vg.name}/${facts.name}' [${size}] ${lvPolicy(facts.lv)}`);
  }
  return walk.exitCode;
}

export const command: Command = {
  summary: 'List all logical volumes in all volume groups',
  argumentsUsage: '',
  options: [
    { long: 'all', short: 'a', description: 'Also list internal logical volumes.' },
    { long: 'ignorelockingfailure', description: 'Nothing to do here: reading commands take no locks.' },
    { long: 'readonly', description: 'Nothing to do here: devices are only read, without locks.' },
  ],
  run,
};
