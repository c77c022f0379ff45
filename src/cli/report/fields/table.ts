/**
 * Every report field, in the order in which `-o help` lists them: sections as in SECTIONS, fields as in LVM2's columns.h.
 */
import type { ReportField } from '../field.ts';

export const reportFields: readonly ReportField[] = [];
