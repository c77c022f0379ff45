/** lvs: reports on logical volumes, or their segments with --segments. Exported VGs are left out, as LVM2 does. */
import type { Command } from '../command.ts';
import {
  ACCESS_OPTIONS,
  HISTORY_OPTION,
  PARTIAL_OPTION,
  REPORT_OPTIONS,
  SEGMENTS_OPTION,
  SIZE_OPTIONS,
} from '../report/options.ts';
import { runReport } from '../report/run.ts';

export const command: Command = {
  summary: 'Display information about logical volumes',
  argumentsUsage: '[ VG|LV|Tag ... ]',
  options: [...REPORT_OPTIONS, ...SIZE_OPTIONS, ...ACCESS_OPTIONS, PARTIAL_OPTION, SEGMENTS_OPTION, HISTORY_OPTION],
  run: (context) => runReport(context, context.options.has('segments') ? 'seg' : 'lv', false),
};
