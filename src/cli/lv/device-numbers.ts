/**
 * Persistent device numbers: -M, --minor and --major, which Linux LVM2 uses when it activates the LV.
 *
 * Source: lvcreate(8); messages of lvcreate 2.03.16.
 */
import { readFileSync } from 'node:fs';
import { CommandError } from '../../lvm/edit/errors.ts';
import type { CommandContext } from '../command.ts';
import { isYes, readNumber } from './values.ts';

const MAX_MINOR = 1_048_575;
/** Where device-mapper's major is not known, as in a kernel without it. */
const NO_MAJOR = 0;

export interface DeviceNumbers {
  readonly major: number;
  readonly minor: number;
}

/** Null: the kernel's choice. Throws CommandError (5). */
export function readDeviceNumbers(context: CommandContext): DeviceNumbers | null {
  const { options } = context;
  const persistent = options.value('persistent');
  const minorText = options.value('minor');
  const majorText = options.value('major');
  if (persistent !== undefined && !isYes(persistent)) {
    if (minorText === undefined && majorText === undefined) return null;
    throw new CommandError('Options --major and --minor are incompatible with -Mn.');
  }
  if (persistent !== undefined && minorText === undefined) {
    throw new CommandError('Please specify minor number with --minor when using -My.');
  }
  const major = deviceMapperMajor();
  if (majorText !== undefined) {
    context.output.error(
      `WARNING: Ignoring supplied major number ${readNumber(majorText)} - kernel assigns major numbers dynamically. Using major number ${major} instead.`,
    );
  }
  if (minorText === undefined) return null;
  const minor = readNumber(minorText);
  if (minor > MAX_MINOR) throw new CommandError(`Minor number ${minor} outside range 0-${MAX_MINOR}.`);
  return { major, minor };
}

function deviceMapperMajor(): number {
  try {
    const line = /^\s*(\d+) device-mapper$/m.exec(readFileSync('/proc/devices', 'utf8'));
    return line === null ? NO_MAJOR : Number(line[1]);
  } catch {
    // No /proc: no kernel to ask.
    return NO_MAJOR;
  }
}
