/** -S of commands that change LVs: which LVs of a VG match the criteria, by the fields of lvs. */
import type { Scan, VolumeGroup } from '../../lvm/model.ts';
import type { CommandContext } from '../command.ts';
import type { OptionSpec } from '../options.ts';
import { reportFields } from '../report/fields/table.ts';
import { Report } from '../report/report.ts';
import { settingsOf } from '../report/settings.ts';
import { Walk } from '../report/walk.ts';
import { PLAIN_HOST } from '../../lvm/access.ts';

export const SELECT: OptionSpec = {
  long: 'select',
  short: 'S',
  argument: 'String',
  description: 'Take only LVs that match these criteria; lvs -S help explains them.',
};

/** Ids of the LVs that match; null: no criteria were given. Throws CommandError (5) for bad criteria. */
export function selectedLvs(context: CommandContext, scan: Scan, group: VolumeGroup): ReadonlySet<string> | null {
  const selection = context.options.value('select');
  if (selection === undefined) return null;
  const { output, now } = context;
  const report = new Report({ base: 'lv', options: 'lv_uuid', keys: '', selection, now }, reportFields, output);
  const { cells, context: shown } = settingsOf(context);
  const host = { ...PLAIN_HOST, systemId: group.vg.systemId ?? null };
  const walk = new Walk({ scan, host, all: true, history: false, exported: false, verbose: false, output });
  const volumes = walk.lvsOf(group);
  const rows = report.kind === 'seg' ? walk.segments(volumes) : volumes;
  return new Set(report.cells(rows, cells, shown, false).flatMap(([uuid]) => (uuid === undefined ? [] : [uuid.text])));
}
