/**
 * Picks an LV out of a row, and names LVs as reports do: hidden ones in brackets.
 *
 * Invariant: an LV that is named by another one but doesn't exist (a text that no LVM2 would write) is shown by its name.
 */
import { relationsOf, type LvFacts, type VgRelations } from '../../../lvm/relations.ts';
import type { VolumeGroup } from '../../../lvm/model.ts';
import type { FieldType, FieldValue, ReportContext, ReportField, ReportRow, ShownValue } from '../field.ts';
import { fieldsOf, type FieldOptions } from './define.ts';

export interface LvRow {
  readonly group: VolumeGroup;
  readonly relations: VgRelations;
  readonly facts: LvFacts;
}

/** The LV of a row; null for free extents, PVs in no VG and removed LVs. */
export function lvRow(row: ReportRow): LvRow | null {
  if (row.vg === null || row.lv === null) return null;
  const relations = relationsOf(row.vg.vg);
  const facts = relations.lvs.get(row.lv.name);
  return facts === undefined ? null : { group: row.vg, relations, facts };
}

const make = fieldsOf('lv');

/** A field of the LV itself; `none` is what rows without one show. */
export function lvField(
  id: string,
  heading: string,
  type: FieldType,
  description: string,
  value: (lv: LvRow, context: ReportContext) => FieldValue,
  none: FieldValue = null,
  options: FieldOptions = {},
): ReportField {
  const valueOf = (row: ReportRow, context: ReportContext): FieldValue => {
    const lv = lvRow(row);
    return lv === null ? none : value(lv, context);
  };
  return make(id, heading, type, description, valueOf, options);
}

/** The name of an LV as shown; it sorts and selects without the brackets. */
export function shownName(relations: VgRelations, name: string | null, context: ReportContext): ShownValue | null {
  if (name === null) return null;
  const visible = relations.lvs.get(name)?.visible ?? true;
  return { text: visible || !context.markHidden ? name : `[${name}]`, value: name };
}

/** The uuid of a named LV. */
export function uuidOf(relations: VgRelations, name: string | null): string | null {
  return name === null ? null : (relations.lvs.get(name)?.lv.id ?? null);
}
