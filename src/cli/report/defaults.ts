/**
 * What reports show and sort by when nothing else is asked for: LVM2's defaults (lvm.conf report/*_cols, *_sort).
 */
import type { RowKind } from './report.ts';

export interface ReportDefaults {
  readonly options: string;
  /** With -v. */
  readonly verbose: string;
  readonly keys: string;
}

const PV: ReportDefaults = {
  options: 'pv_name,vg_name,pv_fmt,pv_attr,pv_size,pv_free',
  verbose: 'pv_name,vg_name,pv_fmt,pv_attr,pv_size,pv_free,dev_size,pv_uuid',
  keys: 'pv_name',
};

export const DEFAULTS: Readonly<Record<RowKind, ReportDefaults>> = {
  label: PV,
  pv: PV,
  pvseg: {
    options: 'pv_name,vg_name,pv_fmt,pv_attr,pv_size,pv_free,pvseg_start,pvseg_size',
    verbose:
      'pv_name,vg_name,pv_fmt,pv_attr,pv_size,pv_free,pvseg_start,pvseg_size,lv_name,seg_start_pe,segtype,seg_pe_ranges',
    keys: 'pv_name,pvseg_start',
  },
  vg: {
    options: 'vg_name,pv_count,lv_count,snap_count,vg_attr,vg_size,vg_free',
    verbose: 'vg_name,vg_attr,vg_extent_size,pv_count,lv_count,snap_count,vg_size,vg_free,vg_uuid,vg_profile',
    keys: 'vg_name',
  },
  lv: {
    options:
      'lv_name,vg_name,lv_attr,lv_size,pool_lv,origin,data_percent,metadata_percent,move_pv,mirror_log,copy_percent,convert_lv',
    verbose:
      'lv_name,vg_name,seg_count,lv_attr,lv_size,lv_major,lv_minor,lv_kernel_major,lv_kernel_minor,pool_lv,origin,' +
      'data_percent,metadata_percent,move_pv,copy_percent,mirror_log,convert_lv,lv_uuid,lv_profile',
    keys: 'vg_name,lv_name',
  },
  seg: {
    options: 'lv_name,vg_name,lv_attr,stripes,segtype,seg_size',
    verbose: 'lv_name,vg_name,lv_attr,seg_start,seg_size,stripes,segtype,stripesize,chunksize',
    keys: 'vg_name,lv_name,seg_start',
  },
};

/** The reports of fullreport, in its order. */
export const FULL_REPORTS: readonly (readonly [RowKind, Pick<ReportDefaults, 'options' | 'keys'>])[] = [
  ['vg', { options: 'vg_all', keys: 'vg_name' }],
  ['pv', { options: 'pv_all', keys: 'pv_name' }],
  ['lv', { options: 'lv_all', keys: 'vg_name,lv_name' }],
  ['pvseg', { options: 'pvseg_all,pv_uuid,lv_uuid', keys: 'pv_uuid,pvseg_start' }],
  ['seg', { options: 'seg_all,lv_uuid', keys: 'lv_uuid,seg_start' }],
];
