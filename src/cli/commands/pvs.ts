/** pvs: reports on physical volumes, their segments with --segments, and every device with -a. */
import type { Command } from '../command.ts';
import { ACCESS_OPTIONS, PARTIAL_OPTION, REPORT_OPTIONS, SEGMENTS_OPTION, SIZE_OPTIONS } from '../report/options.ts';
import { runReport } from '../report/run.ts';

export const command: Command = {
  summary: 'Display information about physical volumes',
  argumentsUsage: '[ PV|Tag ... ]',
  options: [...REPORT_OPTIONS, ...SIZE_OPTIONS, ...ACCESS_OPTIONS, PARTIAL_OPTION, SEGMENTS_OPTION],
  run: (context) => runReport(context, context.options.has('segments') ? 'pvseg' : 'label', true),
};
