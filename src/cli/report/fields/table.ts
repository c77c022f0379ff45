/**
 * Every field of every report, in the order of LVM2's `-o help`.
 *
 * Invariant: ids are unique; sections are contiguous and in the order of SECTIONS (a test compares both with the real tool).
 */
import type { ReportField } from '../field.ts';
import { LV_ATTR_FIELDS, LV_INFO_FIELDS, LV_STATUS_FIELDS } from './lv-live.ts';
import { LV_FIELDS } from './lv.ts';
import { LABEL_FIELDS, PV_FIELDS, PV_SEGMENT_FIELDS } from './pv.ts';
import { SEGMENT_FIELDS } from './segment.ts';
import { VDO_FIELDS } from './vdo.ts';
import { VG_FIELDS } from './vg.ts';

export const reportFields: readonly ReportField[] = [
  ...LV_FIELDS,
  ...LV_INFO_FIELDS,
  ...LV_STATUS_FIELDS,
  ...LV_ATTR_FIELDS,
  ...LABEL_FIELDS,
  ...PV_FIELDS,
  ...VG_FIELDS,
  ...SEGMENT_FIELDS,
  ...VDO_FIELDS,
  ...PV_SEGMENT_FIELDS,
];
