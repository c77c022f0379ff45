/**
 * The LV fields that name other LVs or PVs: origin, ancestors, log, pool and its parts, the PV that a pvmove empties.
 *
 * Each name has a twin that gives the uuid of the same object.
 */
import { isPvmove } from '../../../lvm/relations.ts';
import type { PhysicalVolume } from '../../../lvm/model.ts';
import type { ReportContext, ReportField, ReportRow } from '../field.ts';
import { fieldsOf } from './define.ts';
import { LvKind } from './lv-attr.ts';
import { ancestors, descendants } from './lv-lineage.ts';
import { lvField, shownName, uuidOf, type LvRow } from './lv-row.ts';
import { UNKNOWN_DEVICE } from './pv.ts';
import { pvByLabel } from './segment-areas.ts';

const make = fieldsOf('lv');

/** A field that names an LV, and the field with that LV's uuid. */
function linkFields(
  id: string,
  [heading, uuidHeading]: readonly [string, string],
  [description, uuidDescription]: readonly [string, string],
  name: (lv: LvRow) => string | null,
): readonly ReportField[] {
  return [
    lvField(id, heading, 'string', description, (lv, context) => shownName(lv.relations, name(lv), context)),
    lvField(`${id}_uuid`, uuidHeading, 'string', uuidDescription, (lv) => uuidOf(lv.relations, name(lv)), null, {
      width: 38,
    }),
  ];
}

/** Of COW snapshots and their origins, and of thin LVs with an external origin: the origin's sectors. */
function originSize({ relations, facts }: LvRow): number | null {
  if (facts.snapshots.length > 0) return facts.sizeSectors;
  const external = facts.uses.find((use) => use.kind === 'external-origin')?.name;
  const origin = facts.snapshot?.origin ?? external;
  return origin === undefined ? null : (relations.lvs.get(origin)?.sizeSectors ?? null);
}

export const ORIGIN_FIELDS: readonly ReportField[] = [
  ...linkFields(
    'origin',
    ['Origin', 'Origin UUID'],
    [
      'For snapshots and thins, the origin device of this LV.',
      'For snapshots and thins, the UUID of origin device of this LV.',
    ],
    ({ facts }) => facts.origin,
  ),
  lvField('origin_size', 'OSize', 'size', 'For snapshots, the size of the origin device of this LV.', originSize),
];

type Walk = typeof ancestors;

function lineage(row: ReportRow, context: ReportContext, walk: Walk, full: boolean): readonly string[] | null {
  if (row.vg === null) return null;
  const options = { full, showRemoved: full && context.showHistory === true };
  if (row.historical !== null) return full ? walk(row.vg.vg, { removed: row.historical }, options) : null;
  return row.lv === null ? null : walk(row.vg.vg, { live: row.lv.name }, options);
}

function lineageField(id: string, heading: string, description: string, walk: Walk, full: boolean): ReportField {
  const value = (row: ReportRow, context: ReportContext): readonly string[] | null => lineage(row, context, walk, full);
  return make(id, heading, 'string-list', description, value, { unsorted: true });
}

export const LINEAGE_FIELDS: readonly ReportField[] = [
  lineageField(
    'lv_ancestors',
    'Ancestors',
    'LV ancestors ignoring any stored history of the ancestry chain.',
    ancestors,
    false,
  ),
  lineageField(
    'lv_full_ancestors',
    'FAncestors',
    'LV ancestors including stored history of the ancestry chain.',
    ancestors,
    true,
  ),
  lineageField(
    'lv_descendants',
    'Descendants',
    'LV descendants ignoring any stored history of the ancestry chain.',
    descendants,
    false,
  ),
  lineageField(
    'lv_full_descendants',
    'FDescendants',
    'LV descendants including stored history of the ancestry chain.',
    descendants,
    true,
  ),
];

/** The PV that a pvmove LV moves extents from: the first area of its first mirrored segment. */
export function moveSource({ group, facts }: LvRow): PhysicalVolume | null {
  if (!isPvmove(facts.lv)) return null;
  const mirrored = facts.lv.segments.find((segment) => segment.type === 'mirror');
  const label = mirrored?.type === 'mirror' ? mirrored.areas[0]?.name : undefined;
  return label === undefined ? null : pvByLabel(group, label);
}

export const LINK_FIELDS: readonly ReportField[] = [
  lvField('move_pv', 'Move', 'string', 'For pvmove, Source PV of temporary LV created by pvmove.', (lv) => {
    const pv = moveSource(lv);
    return pv === null ? null : (pv.found?.device.path ?? UNKNOWN_DEVICE);
  }),
  lvField(
    'move_pv_uuid',
    'Move UUID',
    'string',
    'For pvmove, the UUID of Source PV of temporary LV created by pvmove.',
    (lv) => moveSource(lv)?.uuid ?? null,
    null,
    { width: 38 },
  ),
  ...linkFields(
    'convert_lv',
    ['Convert', 'Convert UUID'],
    [
      'For lvconvert, Name of temporary LV created by lvconvert.',
      'For lvconvert, UUID of temporary LV created by lvconvert.',
    ],
    ({ group, facts }) => new LvKind(group, facts).conversionLayer,
  ),
  ...linkFields(
    'mirror_log',
    ['Log', 'Log UUID'],
    [
      'For mirrors, the LV holding the synchronisation log.',
      'For mirrors, the UUID of the LV holding the synchronisation log.',
    ],
    ({ facts }) => facts.mirrorLog,
  ),
  ...linkFields(
    'data_lv',
    ['Data', 'Data UUID'],
    [
      'For cache/thin/vdo pools, the LV holding the associated data.',
      'For cache/thin/vdo pools, the UUID of the LV holding the associated data.',
    ],
    ({ facts }) => facts.dataLv,
  ),
  ...linkFields(
    'metadata_lv',
    ['Meta', 'Meta UUID'],
    [
      'For cache/thin pools, the LV holding the associated metadata.',
      'For cache/thin pools, the UUID of the LV holding the associated metadata.',
    ],
    ({ facts }) => facts.metadataLv,
  ),
  ...linkFields(
    'pool_lv',
    ['Pool', 'Pool UUID'],
    [
      'For cache/thin/vdo volumes, the cache/thin/vdo pool LV for this volume.',
      'For cache/thin/vdo volumes, the UUID of the cache/thin/vdo pool LV for this volume.',
    ],
    ({ facts }) => facts.pool,
  ),
];
