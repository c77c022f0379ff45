/** lvdisplay: logical volumes in blocks, with -c in lines of colons, -m with their segments, -C as lvs. */
import type { Command, CommandContext } from '../command.ts';
import { columnsReport, DISPLAY_OPTIONS, refuseMixed, refuseReportOptions } from '../display/columns.ts';
import { Display, selected } from '../display/lines.ts';
import {
  LV_KEY_WIDTH,
  lvView,
  showLv,
  showLvColons,
  showRemovedLv,
  showRemovedLvColons,
} from '../display/lv-display.ts';
import { showSegments } from '../display/segment-display.ts';
import { EXIT, type ExitCode } from '../messages.ts';
import { parseLvArguments } from '../report/arguments.ts';
import type { ReportRow } from '../report/field.ts';
import { HISTORY_OPTION, SEGMENTS_OPTION } from '../report/options.ts';
import { walkOf } from '../report/run.ts';
import { readVolumeGroups } from '../scan.ts';

function show(display: Display, row: ReportRow, form: { readonly colons: boolean; readonly maps: boolean }): void {
  const { vg, lv, historical } = row;
  if (vg === null) return;
  if (historical !== null) {
    if (form.colons) showRemovedLvColons(display, vg, historical);
    else showRemovedLv(display, vg, historical);
    return;
  }
  const view = lv === null ? null : lvView(vg, lv);
  if (view === null) return;
  if (form.colons) showLvColons(display, view);
  else showLv(display, view);
  if (form.maps) showSegments(display, vg, view.facts.lv);
}

async function run(context: CommandContext): Promise<ExitCode> {
  const { options } = context;
  if (options.has('columns')) {
    return columnsReport(context, options.has('segments') ? 'seg' : 'lv', ['colon', 'maps'], false);
  }
  refuseReportOptions(context, []);
  refuseMixed(context, 'Options -c and -m are incompatible.', 'colon', 'maps');
  const parsed = parseLvArguments(context.args, context.env['LVM_VG_NAME'], context.output);
  if (parsed === null) return EXIT.failed;
  const display = new Display(context, LV_KEY_WIDTH);
  const walk = walkOf(context, await readVolumeGroups(context), false);
  const form = { colons: options.has('colon'), maps: options.has('maps') };
  for (const row of selected(context, 'lv', walk.lvs(parsed))) show(display, row, form);
  return walk.exitCode;
}

export const command: Command = {
  summary: 'Display information about a logical volume',
  argumentsUsage: '[ VG|LV|Tag ... ]',
  options: [
    ...DISPLAY_OPTIONS,
    HISTORY_OPTION,
    { long: 'maps', short: 'm', description: 'Also show the segments of each logical volume.' },
    SEGMENTS_OPTION,
  ],
  run,
};
