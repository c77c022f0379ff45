/**
 * The volume group fields of reports. Rows without a VG (orphan PVs) show LVM2's dummy VG: read-only, no extents, no policy.
 *
 * Source: `vgs -o help`, and values compared field by field with LVM2 2.03.16.
 */
import { isExported, isShared } from '../../../lvm/access.ts';
import { allocationMapOf } from '../../../lvm/allocation-map.ts';
import type { LabelledDevice, VolumeGroup } from '../../../lvm/model.ts';
import { relationsOf } from '../../../lvm/relations.ts';
import type { AllocationPolicy } from '../../../ondisk/metadata.ts';
import type { FieldType, FieldValue, PvPart, ReportField } from '../field.ts';
import { fieldsOf, type FieldOptions } from './define.ts';
import { areasInUse, leastFreeSectors, leastSizeSectors } from './usage.ts';

const make = fieldsOf('vg');

/** A field of the VG; `none` is what rows without a VG show. */
function vgField(
  id: string,
  heading: string,
  type: FieldType,
  description: string,
  value: (group: VolumeGroup) => FieldValue,
  none: FieldValue = null,
  options: FieldOptions = {},
): ReportField {
  return make(id, heading, type, description, (row) => (row.vg === null ? none : value(row.vg)), options);
}

/** A status word of the VG as a yes/no field. */
function flag(
  id: string,
  heading: string,
  description: string,
  word: string,
  value: (group: VolumeGroup) => boolean,
): ReportField {
  return vgField(id, heading, 'binary', description, value, false, { words: [word], width: 10 });
}

/** Sectors of a number of the VG's extents. */
export function extentSectors(group: VolumeGroup, count: number): number {
  return count * group.vg.extentSizeSectors;
}

/** LVs that LVM2 counts: the visible ones. */
export function visibleLvCount(group: VolumeGroup): number {
  return [...relationsOf(group.vg).lvs.values()].filter((facts) => facts.visible).length;
}

/** COW snapshots, merging ones included. */
export function snapshotCount(group: VolumeGroup): number {
  return [...relationsOf(group.vg).lvs.values()].filter((facts) => facts.snapshotRecord).length;
}

export function isWritable(group: VolumeGroup): boolean {
  return group.vg.status.includes('WRITE');
}
export function isResizeable(group: VolumeGroup): boolean {
  return group.vg.status.includes('RESIZEABLE');
}
export function isClustered(group: VolumeGroup): boolean {
  return group.vg.status.includes('CLUSTERED');
}

/** The letter of an allocation policy in vg_attr and lv_attr. */
export const POLICY_LETTERS: Readonly<Record<string, string>> = {
  contiguous: 'c',
  cling: 'l',
  cling_by_tags: 'l',
  normal: 'n',
  anywhere: 'a',
  inherit: 'i',
};

/** LVM2's word for an allocation policy: cling_by_tags, an old name, reads as cling. */
export function policyWord(policy: AllocationPolicy): string {
  return policy === 'cling_by_tags' ? 'cling' : policy;
}

/** The six characters of vg_attr. */
export function vgAttr(group: VolumeGroup): string {
  return [
    isWritable(group) ? 'w' : 'r',
    isResizeable(group) ? 'z' : '-',
    isExported(group.vg) ? 'x' : '-',
    group.partial ? 'p' : '-',
    POLICY_LETTERS[group.vg.allocationPolicy ?? 'normal'] ?? '-',
    isClustered(group) ? 'c' : isShared(group.vg) ? 's' : '-',
  ].join('');
}

function labels(group: VolumeGroup): readonly LabelledDevice[] {
  return group.pvs.flatMap((pv) => (pv.found === null ? [] : [pv.found]));
}

/** Metadata areas of the PVs that were found. */
export function countAreas(group: VolumeGroup): number {
  return labels(group).reduce((sum, label) => sum + label.metadataAreas.length, 0);
}

/** Metadata areas of a VG that take part in commits. */
export function countAreasInUse(group: VolumeGroup): number {
  return labels(group).reduce((sum, label) => sum + areasInUse(label).length, 0);
}

/** The PV's header says that a VG uses it, which is not found. */
function isOfUnknownVg(part: PvPart | null): boolean {
  return part !== null && part.pv !== null && part.group === null && part.label?.inUse === true;
}

export const VG_FIELDS: readonly ReportField[] = [
  vgField('vg_fmt', 'Fmt', 'string', 'Type of metadata.', (group) => group.vg.format ?? 'lvm2'),
  vgField('vg_uuid', 'VG UUID', 'string', 'Unique identifier.', (group) => group.vg.id, null, { width: 38 }),
  make('vg_name', 'VG', 'string', 'Name.', ({ vg, pv }) => vg?.vg.name ?? (isOfUnknownVg(pv) ? '[unknown]' : null)),
  vgField('vg_attr', 'Attr', 'string', 'Various attributes - see man page.', vgAttr, 'r-----'),
  vgField(
    'vg_permissions',
    'VPerms',
    'string',
    'VG permissions.',
    (group) => (isWritable(group) ? 'writeable' : 'read-only'),
    'read-only',
    {
      width: 10,
      reserved: [
        { names: ['writeable', 'rw', 'read-write'], value: 'writeable' },
        { names: ['read-only', 'r', 'ro'], value: 'read-only' },
      ],
    },
  ),
  flag('vg_extendable', 'Extendable', 'Set if VG is extendable.', 'extendable', isResizeable),
  flag('vg_exported', 'Exported', 'Set if VG is exported.', 'exported', (group) => isExported(group.vg)),
  vgField(
    'vg_autoactivation',
    'AutoAct',
    'binary',
    'Set if VG autoactivation is enabled.',
    (group) => !group.vg.flags.includes('NOAUTOACTIVATE'),
    true,
    { words: ['enabled'] },
  ),
  flag('vg_partial', 'Partial', 'Set if VG is partial.', 'partial', (group) => group.partial),
  vgField(
    'vg_allocation_policy',
    'AllocPol',
    'string',
    'VG allocation policy.',
    (group) => policyWord(group.vg.allocationPolicy ?? 'normal'),
    'unknown',
    { width: 10 },
  ),
  flag('vg_clustered', 'Clustered', 'Set if VG is clustered.', 'clustered', isClustered),
  vgField('vg_shared', 'Shared', 'binary', 'Set if VG is shared.', (group) => isShared(group.vg), false, {
    words: ['shared'],
    width: 7,
  }),
  vgField(
    'vg_size',
    'VSize',
    'size',
    'Total size of VG in current units.',
    (group) => extentSectors(group, allocationMapOf(group.vg).total),
    0,
  ),
  vgField(
    'vg_free',
    'VFree',
    'size',
    'Total amount of free space in current units.',
    (group) => extentSectors(group, allocationMapOf(group.vg).free),
    0,
  ),
  vgField('vg_sysid', 'SYS ID', 'string', 'System ID of the VG indicating which host owns it.', systemId),
  vgField('vg_systemid', 'System ID', 'string', 'System ID of the VG indicating which host owns it.', systemId),
  vgField('vg_lock_type', 'LockType', 'string', 'Lock type of the VG used by lvmlockd.', (group) =>
    group.vg.lockType === 'none' ? null : (group.vg.lockType ?? null),
  ),
  vgField(
    'vg_lock_args',
    'VLockArgs',
    'string',
    'Lock args of the VG used by lvmlockd.',
    (group) => group.vg.lockArgs ?? null,
  ),
  vgField(
    'vg_extent_size',
    'Ext',
    'size',
    'Size of Physical Extents in current units.',
    (group) => group.vg.extentSizeSectors,
    0,
  ),
  vgField(
    'vg_extent_count',
    '#Ext',
    'number',
    'Total number of Physical Extents.',
    (group) => allocationMapOf(group.vg).total,
    0,
  ),
  vgField(
    'vg_free_count',
    'Free',
    'number',
    'Total number of unallocated Physical Extents.',
    (group) => allocationMapOf(group.vg).free,
    0,
  ),
  vgField(
    'max_lv',
    'MaxLV',
    'number',
    'Maximum number of LVs allowed in VG or 0 if unlimited.',
    (group) => group.vg.maxLv,
    0,
  ),
  vgField(
    'max_pv',
    'MaxPV',
    'number',
    'Maximum number of PVs allowed in VG or 0 if unlimited.',
    (group) => group.vg.maxPv,
    0,
  ),
  vgField('pv_count', '#PV', 'number', 'Number of PVs in VG.', (group) => group.pvs.length, 0),
  vgField(
    'vg_missing_pv_count',
    '#PV Missing',
    'number',
    'Number of PVs in VG which are missing.',
    (group) => group.pvs.filter((pv) => pv.missing).length,
    0,
  ),
  vgField('lv_count', '#LV', 'number', 'Number of LVs.', visibleLvCount, 0),
  vgField('snap_count', '#SN', 'number', 'Number of snapshots.', snapshotCount, 0),
  vgField(
    'vg_seqno',
    'Seq',
    'number',
    'Revision number of internal metadata.  Incremented whenever it changes.',
    (group) => group.vg.seqno,
    0,
  ),
  vgField('vg_tags', 'VG Tags', 'string-list', 'Tags, if any.', (group) => group.vg.tags),
  vgField(
    'vg_profile',
    'VProfile',
    'string',
    'Configuration profile attached to this VG.',
    (group) => group.vg.profile ?? null,
  ),
  vgField('vg_mda_count', '#VMda', 'number', 'Number of metadata areas on this VG.', countAreas, 0),
  vgField('vg_mda_used_count', '#VMdaUse', 'number', 'Number of metadata areas in use on this VG.', countAreasInUse, 0),
  vgField(
    'vg_mda_free',
    'VMdaFree',
    'size',
    'Free metadata area space for this VG in current units.',
    (group) => leastFreeSectors(labels(group).flatMap(areasInUse)),
    0,
    { width: 9 },
  ),
  vgField(
    'vg_mda_size',
    'VMdaSize',
    'size',
    'Size of smallest metadata area for this VG in current units.',
    (group) => leastSizeSectors(labels(group).flatMap(areasInUse)),
    0,
    { width: 9 },
  ),
  vgField(
    'vg_mda_copies',
    '#VMdaCps',
    'number',
    'Target number of in use metadata areas in the VG.',
    (group) => {
      const copies = group.vg.metadataCopies ?? 0;
      return copies === 0 ? UNMANAGED : copies;
    },
    { text: 'unmanaged', value: 0 },
    { reserved: [{ names: ['unmanaged'], value: 0 }] },
  ),
];

const UNMANAGED = { text: 'unmanaged', value: 0 } as const;

function systemId(group: VolumeGroup): string | null {
  return group.vg.systemId ?? null;
}
