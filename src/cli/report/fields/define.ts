/**
 * How the field tables are written: one line of facts per field, with the row's part that its section describes already
 * picked out.
 *
 * Invariant: a table's order is the order of LVM2's `-o help`.
 */
import type { FieldType, FieldValue, ReportContext, ReportField, ReportRow, SectionId } from '../field.ts';

/** What is rarely needed: least width, alignment, words, reserved names, list order. */
export type FieldOptions = Pick<ReportField, 'width' | 'align' | 'words' | 'reserved' | 'unsorted' | 'delimiter'>;

export type FieldMaker = (
  id: string,
  heading: string,
  type: FieldType,
  description: string,
  value: (row: ReportRow, context: ReportContext) => FieldValue,
  options?: FieldOptions,
) => ReportField;

/** Gives the function that makes the fields of one section. */
export function fieldsOf(section: SectionId): FieldMaker {
  return (id, heading, type, description, value, options = {}) => ({
    id,
    heading,
    description,
    section,
    type,
    value,
    ...options,
  });
}

/** A value that is always blank: what LVM2 shows where only a loaded device-mapper table could tell. */
export const blank = (): null => null;
