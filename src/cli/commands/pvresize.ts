/** pvresize: PVs get the size of their devices, or a stated one. */
import { resizePvPlan } from '../../lvm/edit/pv-resize.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandError, EXIT, type ExitCode, noSuchSyntax } from '../messages.ts';
import { REPORTFORMAT_OPTION, sectorsOf, sizeText } from '../option-values.ts';
import { pvChangeContext, SETPHYSICALVOLUMESIZE_OPTION } from '../pv-options.ts';
import { eachPv, type PvTarget } from '../pv-targets.ts';

const SECTOR_BYTES = 512;

export const command: Command = {
  summary: 'Resize physical volume(s)',
  argumentsUsage: 'PV ...',
  options: [SETPHYSICALVOLUMESIZE_OPTION, REPORTFORMAT_OPTION],
  run: pvresize,
};

async function pvresize(context: CommandContext): Promise<ExitCode> {
  const { options, args, output } = context;
  if (args.length === 0) throw noSuchSyntax(context.name);
  const size = sectorsOf(options, 'setphysicalvolumesize', 'm') ?? 0;
  const change = await pvChangeContext(context, args);
  let total = 0;
  let done = 0;
  const code = await eachPv(context, change, { all: false, names: args, globalLock: 'read' }, async (target) => {
    total++;
    await resizeOne(target, size);
    done++;
  });
  output.print(`${done} physical volume(s) resized or updated / ${total - done} physical volume(s) not resized`);
  return code;
}

async function resizeOne({ changes, group, pv }: PvTarget, wanted: number): Promise<void> {
  const { context } = changes;
  const device = pv.found?.device;
  const path = device?.path ?? pv.uuid;
  const real = (device?.sizeBytes ?? 0) / SECTOR_BYTES;
  if (wanted > real) {
    context.err(`WARNING: ${path}: Overriding real size ${sizeText(real)}. You could lose data.`);
  }
  if (wanted !== 0 && wanted !== real) {
    const compared = wanted > real ? 'exceeds' : 'is less than';
    const question = `${path}: Requested size ${sizeText(wanted)} ${compared} real size ${sizeText(real)}. Proceed?  [y/n]: `;
    if (!(await context.prompt(question))) {
      throw new CommandError(EXIT.failed, [`Physical Volume ${path} not resized.`]);
    }
    context.err(`WARNING: ${path}: Pretending size is ${wanted} not ${real} sectors.`);
  }
  await changes.apply(resizePvPlan(group, pv, wanted === 0 ? real : wanted));
}
