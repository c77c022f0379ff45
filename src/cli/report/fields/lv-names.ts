/**
 * What reports call a logical volume: its name, brackets and hyphens of hidden and historical ones, paths, its parent's name.
 *
 * Source: as lv.ts.
 */
import type { VolumeGroup } from '../../../lvm/model.ts';
import type { LvFacts } from '../../../lvm/relations.ts';
import type { FieldValue, ReportField, ReportRow } from '../field.ts';
import { fieldsOf } from './define.ts';
import { removedName } from './lv-lineage.ts';
import { lvField, lvRow, shownName } from './lv-row.ts';

const make = fieldsOf('lv');

/** A name inside a device-mapper name, whose parts are joined by a hyphen. */
function mangle(name: string): string {
  return name.replaceAll('-', '--');
}

/** "/dev/vg/lv", or null for LVs that never get such a node: hidden ones and thin pools. */
export function lvPath(group: VolumeGroup, facts: LvFacts): string | null {
  return facts.lv.segments[0]?.type === 'thin-pool' || !facts.visible ? null : `/dev/${group.vg.name}/${facts.name}`;
}

/** Name of a row's LV, live or removed; "" for none. */
function rowLvName(row: ReportRow): string {
  return row.lv?.name ?? (row.historical === null ? '' : removedName(row.historical));
}

function nameValue(row: ReportRow, markHidden: boolean): FieldValue {
  if (row.historical !== null) return { text: `-${removedName(row.historical)}`, value: removedName(row.historical) };
  const lv = lvRow(row);
  return lv === null ? null : shownName(lv.relations, lv.facts.name, { markHidden });
}

function pathValue(row: ReportRow): string | null {
  if (row.vg === null) return null;
  if (row.historical !== null) return `/dev/${row.vg.vg.name}/${removedName(row.historical)}`;
  const lv = lvRow(row);
  // Free extents have an LV without a name.
  return lv === null ? `/dev/${row.vg.vg.name}/` : lvPath(row.vg, lv.facts);
}

export const NAME_FIELDS: readonly ReportField[] = [
  make('lv_uuid', 'LV UUID', 'string', 'Unique identifier.', (row) => row.lv?.id ?? row.historical?.id ?? null, {
    width: 38,
  }),
  make(
    'lv_name',
    'LV',
    'string',
    'Name.  LVs created for internal use are enclosed in brackets.',
    (row, context) => nameValue(row, context.markHidden),
    { width: 4 },
  ),
  make(
    'lv_full_name',
    'LV',
    'string',
    'Full name of LV including its VG, namely VG/LV.',
    (row) => `${row.vg?.vg.name ?? ''}/${rowLvName(row)}`,
    { width: 4 },
  ),
  make('lv_path', 'Path', 'string', 'Full pathname for LV. Blank for internal LVs.', pathValue),
  make(
    'lv_dm_path',
    'DMPath',
    'string',
    'Internal device-mapper pathname for LV (in /dev/mapper directory).',
    (row) => {
      return row.vg === null ? null : `/dev/mapper/${mangle(row.vg.vg.name)}-${mangle(rowLvName(row))}`;
    },
  ),
  lvField(
    'lv_parent',
    'Parent',
    'string',
    'For LVs that are components of another LV, the parent LV.',
    ({ relations, facts }, context) => {
      const parent = facts.parent === null ? undefined : relations.lvs.get(facts.parent);
      // LVM2 doesn't count the data of VDO pools as a component.
      return parent?.lv.segments[0]?.type === 'vdo-pool' ? null : shownName(relations, facts.parent, context);
    },
  ),
];
