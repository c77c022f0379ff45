/**
 * Settings of lvm.conf that stand for options which were not typed: global/test is --test, log/verbose is -v, log/silent is -qq.
 * And what -qq does: remarks on what was done are not printed, reports, warnings and errors are.
 *
 * Source: lvm.conf(5), lvm(8) "--quiet"; which commands are silenced was observed with 2.03.16.
 */
import { LEAST_PV_KIB } from '../lvm/host-devices.ts';
import type { Settings } from '../lvm/settings.ts';
import { CommandError, EXIT, type Output } from './messages.ts';
import type { ParsedOptions } from './options.ts';
import { isTimeFormat } from './report/strftime.ts';

/** What these print is what they were called for. */
const ASKED_FOR: ReadonlySet<string> = new Set(
  `pvs vgs lvs fullreport pvdisplay vgdisplay lvdisplay lvmdiskscan pvck lvmdevices lvmconfig dumpconfig config completion man
  version formats segtypes tags systemid help status top audit tls`.split(/\s+/),
);
const SILENT = 2;

/**
 * Lets settings count as options, says what must be said of that, and gives where the command is to print. Throws CommandError
 * (5) for settings without which LVM2 does not begin.
 */
export function applyHabits(name: string, options: ParsedOptions, settings: Settings, output: Output): Output {
  const timeFormat = settings.string('report/time_format');
  if (!isTimeFormat(timeFormat)) {
    const changed = options.has('config') ? ['Updated config file invalid. Aborting.'] : [];
    throw new CommandError(EXIT.failed, [`Invalid time format "${timeFormat}" supplied.`, ...changed]);
  }
  const pvMinKib = settings.int('devices/pv_min_size');
  if (pvMinKib < LEAST_PV_KIB) {
    output.error(`Ignoring too small pv_min_size ${pvMinKib}KB, using default ${LEAST_PV_KIB}KB.`);
  }
  if (settings.bool('global/test') && !options.has('test')) {
    options.imply('test', 1);
    sayTest(output);
  }
  options.imply('verbose', settings.int('log/verbose'));
  if (settings.bool('log/silent')) options.imply('quiet', SILENT);
  const silent = options.count('quiet') >= SILENT && !ASKED_FOR.has(name) && !options.has('list');
  return silent ? withoutRemarks(output) : output;
}

export function sayTest(output: Output): void {
  output.error('TEST MODE: Metadata will NOT be updated and volumes will not be (de)activated.');
}

function withoutRemarks(output: Output): Output {
  return {
    print: () => undefined,
    printPlain: (text) => output.printPlain(text),
    error: (line) => output.error(line),
    plainError: (line) => output.plainError(line),
    flush: () => output.flush?.(),
    indentBy: (indent) => output.indentBy?.(indent),
  };
}
