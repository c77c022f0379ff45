/**
 * lvpoll --polloperation merge ORIGIN: sees the merge of a snapshot into an LV through, to the commit that removes the snapshot. The
 * daemon runs it when its volumes have merged; by hand it goes on with a merge that was interrupted where no daemon serves the LV.
 */
import { withChanges } from '../../lvm/command.ts';
import { mergesOf } from '../../lvm/deferred-merges.ts';
import { changeContext } from '../change.ts';
import type { Command } from '../command.ts';
import { seeThrough } from '../lv/merge.ts';
import { defaultVg, splitLvName } from '../lv/names.ts';
import { INTERVAL_OPTION } from '../lv/poll-progress.ts';
import { badUsage } from '../lv/values.ts';
import { EXIT, noSuchSyntax } from '../messages.ts';
import { AUTOBACKUP_OPTION } from '../option-values.ts';

export const command: Command = {
  summary: 'Continue already initiated poll operation on a logical volume',
  argumentsUsage: 'LV ...',
  options: [
    {
      long: 'polloperation',
      argument: 'merge',
      check: (value) => value === 'merge',
      description: 'What is seen through: the merge of a COW snapshot into the LV.',
    },
    INTERVAL_OPTION,
    AUTOBACKUP_OPTION,
  ],
  async run(context) {
    const { options, args, output, name } = context;
    if (!options.has('polloperation') || args.length === 0) throw noSuchSyntax(name);
    const change = await changeContext(context);
    const merges = [];
    for (const argument of args) {
      const { vg, lv } = splitLvName(context, argument);
      const vgName = vg ?? defaultVg(context);
      if (vgName === null) throw badUsage('Please specify a logical volume path.');
      const merge = await withChanges(change, { vgs: [{ name: vgName, mode: 'read' }] }, async (changes) => {
        const group = await changes.volumeGroup({ vgName, mode: 'read' });
        return mergesOf(group.vg).find(({ originName }) => originName === lv);
      });
      if (merge === undefined) {
        output.print(`Logical volume ${vgName}/${lv} is no longer merging origin, polling has finished.`);
      } else merges.push({ vgName, ...merge });
    }
    return change.test ? EXIT.ok : seeThrough(context, change, merges);
  },
};
