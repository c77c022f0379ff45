/** lvmdiskscan: every device with its size, and which of them are physical volumes. */
import type { Command, CommandContext } from '../command.ts';
import { EXIT, type ExitCode } from '../messages.ts';
import { SIZE_OPTIONS } from '../report/options.ts';
import { sizeFormatOf } from '../report/settings.ts';
import { readVolumeGroups } from '../scan.ts';
import { formatSize } from '../units.ts';

const SECTOR_BYTES = 512;

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

async function run(context: CommandContext): Promise<ExitCode> {
  const { options, output } = context;
  const onlyPvs = options.has('lvmpartition');
  if (onlyPvs) output.error('WARNING: only considering LVM devices');
  const { scan } = await readVolumeGroups(context);
  const pvs = new Set(
    [...scan.orphans, ...scan.volumeGroups.flatMap((group) => group.pvs)].map((pv) => pv.found?.device),
  );
  const format = { ...sizeFormatOf(context), style: 'short' as const };
  const width = Math.max(0, ...scan.devices.map(({ path }) => path.length));
  const counts = { disk: 0, part: 0, pvDisk: 0, pvPart: 0 };
  for (const device of scan.devices) {
    const isPv = pvs.has(device);
    if (onlyPvs && !isPv) continue;
    // LVM2 takes what ends in a digit for a partition.
    const isPart = /\d$/.test(device.path);
    if (isPv) counts[isPart ? 'pvPart' : 'pvDisk']++;
    else counts[isPart ? 'part' : 'disk']++;
    const size = formatSize(Math.floor(device.sizeBytes / SECTOR_BYTES), format).padStart(15);
    output.print(`${device.path.padEnd(width)} [${size}] ${isPv ? 'LVM physical volume' : ''}`);
  }
  if (!onlyPvs) {
    output.print(counted(counts.disk, 'disk'));
    output.print(counted(counts.part, 'partition'));
  }
  output.print(counted(counts.pvDisk, 'LVM physical volume whole disk'));
  output.print(counted(counts.pvPart, 'LVM physical volume'));
  return EXIT.ok;
}

export const command: Command = {
  summary: 'List devices that may be used as physical volumes',
  argumentsUsage: '',
  options: [
    { long: 'lvmpartition', short: 'l', description: 'Only physical volumes.' },
    { long: 'readonly', description: 'Nothing to do here: devices are only read, without locks.' },
    ...SIZE_OPTIONS,
  ],
  run,
};
