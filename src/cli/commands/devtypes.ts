/** devtypes: the kinds of block devices that LVM2 knows, as a report. No device is read for it. */
import type { Scan } from '../../lvm/model.ts';
import type { Command, CommandContext } from '../command.ts';
import { EXIT, type ExitCode, UnmatchedSyntax } from '../messages.ts';
import { reportDefaults } from '../report/defaults.ts';
import { DEVICE_TYPES } from '../report/device-types.ts';
import type { ReportRow } from '../report/field.ts';
import { DEVICE_TYPE_FIELDS } from '../report/fields/device-type.ts';
import { REPORT_OPTIONS, SIZE_OPTIONS } from '../report/options.ts';
import { Report } from '../report/report.ts';
import { requestOf } from '../report/request.ts';
import { showRows, withJson } from '../report/run.ts';
import { settingsOf } from '../report/settings.ts';

/** What of reports is about volume groups. */
const WITHOUT: ReadonlySet<string> = new Set(['all', 'configreport', 'units']);

export const command: Command = {
  summary: 'Display recognised built-in block device types',
  argumentsUsage: '',
  options: [...REPORT_OPTIONS, ...SIZE_OPTIONS].filter(({ long }) => !WITHOUT.has(long)),
  run: devtypes,
};

async function devtypes(context: CommandContext): Promise<ExitCode> {
  const [extra] = context.args;
  if (extra !== undefined) throw new UnmatchedSyntax([`Command does not accept argument: ${extra}.`]);
  const settings = settingsOf(context);
  return withJson(context, settings, () => {
    const defaults = reportDefaults(context.settings, 'devtype', context.options.has('verbose'));
    const report = new Report(requestOf(context, 'devtype', defaults, false), DEVICE_TYPE_FIELDS, context.output);
    return Promise.resolve({ groups: [[showRows(report, rows(), settings, context)]], exitCode: EXIT.ok });
  });
}

const NOTHING: Scan = {
  devices: [],
  volumeGroups: [],
  orphans: [],
  duplicates: [],
  unreadable: [],
  warnings: [],
};

function rows(): readonly ReportRow[] {
  const blank = { scan: NOTHING, vg: null, lv: null, historical: null, segment: null, pv: null, pvSegment: null };
  return DEVICE_TYPES.map((deviceType) => ({ ...blank, deviceType }));
}
