/**
 * What reports show and sort by when nothing else is asked for: lvm.conf's report/*_cols and *_sort, or LVM2's defaults of them.
 */
import type { Settings } from '../../lvm/settings.ts';
import type { RowKind } from './report.ts';

export interface ReportDefaults {
  readonly options: string;
  readonly keys: string;
}

/** The part of a setting's name that stands for a report. */
const NAMES = {
  label: 'pvs',
  pv: 'pvs',
  pvseg: 'pvsegs',
  vg: 'vgs',
  lv: 'lvs',
  seg: 'segs',
  devtype: 'devtypes',
} as const;

/** Of a single report; `verbose`: with -v. */
export function reportDefaults(settings: Settings, kind: RowKind, verbose: boolean): ReportDefaults {
  const name = NAMES[kind];
  return {
    options: settings.string(verbose ? `report/${name}_cols_verbose` : `report/${name}_cols`),
    keys: settings.string(`report/${name}_sort`),
  };
}

export type FullKind = Exclude<RowKind, 'devtype'>;

/** The reports of fullreport, in its order. */
export const FULL_REPORTS: readonly FullKind[] = ['vg', 'pv', 'lv', 'pvseg', 'seg'];

/** Of one of the reports of fullreport. */
export function fullReportDefaults(settings: Settings, kind: FullKind): ReportDefaults {
  const name = NAMES[kind];
  return {
    options: settings.string(`report/${name}_cols_full`),
    keys: settings.string(`report/${name}_sort_full`),
  };
}
