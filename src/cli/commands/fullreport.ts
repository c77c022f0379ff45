/** fullreport: for each volume group, reports on it, its PVs, LVs, PV segments and LV segments. */
import type { Command } from '../command.ts';
import { runFullReport } from '../report/full.ts';
import { ACCESS_OPTIONS, HISTORY_OPTION, REPORT_OPTIONS, SIZE_OPTIONS } from '../report/options.ts';

export const command: Command = {
  summary: 'Display full report',
  argumentsUsage: '[ VG ... ]',
  options: [...REPORT_OPTIONS, ...SIZE_OPTIONS, ...ACCESS_OPTIONS, HISTORY_OPTION],
  run: (context) => runFullReport(context),
};
