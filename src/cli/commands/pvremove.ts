/** pvremove: takes the labels off physical volumes; with --wipe the whole device is overwritten. */
import { withChanges } from '../../lvm/command.ts';
import type { EraseMethod } from '../../lvm/edit/plan.ts';
import { removePvPlan } from '../../lvm/edit/pv-create.ts';
import { chooseDevices } from '../../lvm/pv-devices.ts';
import type { Command, CommandContext } from '../command.ts';
import { EXIT, type ExitCode, noSuchSyntax } from '../messages.ts';
import { FORCE_OPTION, REPORTFORMAT_OPTION } from '../option-values.ts';
import { deviceRules, pvChangeContext } from '../pv-options.ts';

function isEraseMethod(value: string | undefined): value is EraseMethod {
  return value === 'zero' || value === 'random' || value === 'discard';
}

export const command: Command = {
  summary: 'Remove LVM label(s) from physical volume(s)',
  argumentsUsage: 'PV ...',
  options: [
    FORCE_OPTION,
    REPORTFORMAT_OPTION,
    {
      long: 'wipe',
      argument: 'zero|random|discard',
      check: isEraseMethod,
      description: 'Then overwrite the whole device, so that nothing of it can be read again.',
    },
  ],
  run: pvremove,
};

async function pvremove(context: CommandContext): Promise<ExitCode> {
  const { args, options } = context;
  if (args.length === 0) throw noSuchSyntax(context.name);
  const wipe = options.value('wipe');
  const change = await pvChangeContext(context, args);
  return withChanges(change, { globalLock: 'write' }, async (changes) => {
    const { devices, failed } = await chooseDevices(changes, {
      names: args,
      purpose: 'remove',
      force: change.force,
      uuid: null,
      sizeSectors: 0,
      ...deviceRules(context),
    });
    for (const { name, device } of devices) {
      await changes.apply(removePvPlan(name, device, isEraseMethod(wipe) ? wipe : null));
    }
    return failed ? EXIT.failed : EXIT.ok;
  });
}
