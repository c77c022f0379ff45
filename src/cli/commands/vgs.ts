/** vgs: reports on volume groups. */
import type { Command } from '../command.ts';
import { ACCESS_OPTIONS, PARTIAL_OPTION, REPORT_OPTIONS, SIZE_OPTIONS } from '../report/options.ts';
import { runReport } from '../report/run.ts';

export const command: Command = {
  summary: 'Display information about volume groups',
  argumentsUsage: '[ VG|Tag ... ]',
  options: [...REPORT_OPTIONS, ...SIZE_OPTIONS, ...ACCESS_OPTIONS, PARTIAL_OPTION],
  run: (context) => runReport(context, 'vg', true),
};
