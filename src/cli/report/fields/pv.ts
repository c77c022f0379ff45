/**
 * The physical volume fields of reports: those read from the label (section "label") and those of the PV in its VG.
 *
 * A row's PV is one of four: a PV of a VG (found or missing), an orphan, an unchosen duplicate, a device that is no PV (pvs -a).
 * Of the last two LVM2 knows no more than the device, so that sizes and counts are 0.
 *
 * Source: `pvs -o help`, and values compared field by field with LVM2 2.03.16.
 */
import { isExported } from '../../../lvm/access.ts';
import type { PhysicalVolume, VolumeGroup } from '../../../lvm/model.ts';
import type { FieldType, FieldValue, PvPart, ReportField } from '../field.ts';
import { fieldsOf, type FieldOptions } from './define.ts';
import { areasInUse, leastFreeSectors, leastSizeSectors, usedExtents } from './usage.ts';

const SECTOR = 512;
/** What LVM2 calls a device that it can't find. */
export const UNKNOWN_DEVICE = '[unknown]';

const label = fieldsOf('label');
const make = fieldsOf('pv');

/** A field of a row's PV; rows without one (none of pvs' reports) are blank. */
function pvField(
  id: string,
  heading: string,
  type: FieldType,
  description: string,
  value: (part: PvPart) => FieldValue,
  options: FieldOptions = {},
): ReportField {
  return make(id, heading, type, description, (row) => (row.pv === null ? null : value(row.pv)), options);
}
function labelField(
  id: string,
  heading: string,
  type: FieldType,
  description: string,
  value: (part: PvPart) => FieldValue,
  options: FieldOptions = {},
): ReportField {
  return label(id, heading, type, description, (row) => (row.pv === null ? null : value(row.pv)), options);
}

/** The PV when LVM2 reads it as one: an unchosen duplicate is only a device. */
function usable(part: PvPart): PhysicalVolume | null {
  return part.duplicate ? null : part.pv;
}

function usableLabel(part: PvPart): NonNullable<PvPart['label']> | null {
  return part.duplicate ? null : part.label;
}

/** Sectors of a PV that may be of use: its extents in a VG, else what its header says. */
export function pvSizeSectors(pv: PhysicalVolume, group: VolumeGroup | null): number {
  if (pv.text !== undefined && group !== null) return pv.text.peCount * group.vg.extentSizeSectors;
  return pv.found === null ? 0 : Math.floor(pv.found.headerSizeBytes / SECTOR);
}

/** Sectors of the whole device, as the VG knows it, else as its header says. */
export function pvDeviceSectors({ text, found }: PhysicalVolume): number {
  return text?.devSizeSectors ?? Math.floor((found?.headerSizeBytes ?? 0) / SECTOR);
}

/** What `pv_size` says: of a PV that is too small for one extent the whole of it. */
function shownSectors(pv: PhysicalVolume, group: VolumeGroup | null): number {
  return pv.text?.peCount === 0 ? pvDeviceSectors(pv) : pvSizeSectors(pv, group);
}

/** Sectors of a PV that its VG has allocated; 0 for an orphan. */
export function pvUsedSectors(pv: PhysicalVolume, group: VolumeGroup | null): number {
  return group === null ? 0 : usedExtents(group, pv) * group.vg.extentSizeSectors;
}

export function isAllocatable(pv: PhysicalVolume): boolean {
  return pv.text?.status.includes('ALLOCATABLE') ?? false;
}

/** A VG holds it, or its header says that one does. */
function isUsed(part: PvPart): boolean {
  if (part.pv?.text !== undefined) return true;
  return part.label?.inUse ?? false;
}

/** The three characters of pv_attr. */
export function pvAttr(part: PvPart, group: VolumeGroup | null): string {
  const pv = usable(part);
  const first = part.duplicate ? 'd' : pv !== null && isAllocatable(pv) ? 'a' : pv !== null && isUsed(part) ? 'u' : '-';
  const exported = group !== null && isExported(group.vg) ? 'x' : '-';
  return `${first}${exported}${pv !== null && pv.missing ? 'm' : '-'}`;
}

/** The path of a PV's device, as every command names it. */
export function pvName(part: Pick<PvPart, 'device'>): string {
  return part.device?.path ?? UNKNOWN_DEVICE;
}

/** First byte of the data, in sectors: the text's word, or the header's for an orphan. */
function peStart(part: PvPart): number {
  const pv = usable(part);
  if (pv?.text !== undefined) return pv.text.peStartSectors;
  return Math.floor((usableLabel(part)?.dataAreas[0]?.offset ?? 0) / SECTOR);
}

/** The first bootloader area in sectors. */
function bootloader(part: PvPart, edge: 'offset' | 'size'): number {
  const pv = usable(part);
  const inText = edge === 'offset' ? pv?.text?.baStartSectors : pv?.text?.baSizeSectors;
  return inText ?? Math.floor((usableLabel(part)?.bootloaderAreas[0]?.[edge] ?? 0) / SECTOR);
}

/** A device number; files have none, and neither has a missing device: 0, as LVM2 shows for the latter. */
function deviceNumber(part: PvPart, half: 'major' | 'minor'): number {
  return part.device?.[half] ?? 0;
}

export const LABEL_FIELDS: readonly ReportField[] = [
  labelField('pv_fmt', 'Fmt', 'string', 'Type of metadata.', (part) =>
    part.pv === null && !part.duplicate ? null : 'lvm2',
  ),
  labelField(
    'pv_uuid',
    'PV UUID',
    'string',
    'Unique identifier.',
    (part) => part.pv?.uuid ?? part.label?.uuid ?? null,
    {
      width: 38,
    },
  ),
  labelField('dev_size', 'DevSize', 'size', 'Size of underlying device in current units.', (part) =>
    Math.floor((part.device?.sizeBytes ?? 0) / SECTOR),
  ),
  labelField('pv_name', 'PV', 'string', 'Name.', pvName, { width: 10 }),
  labelField('pv_major', 'Maj', 'number', 'Device major number.', (part) => deviceNumber(part, 'major'), {
    align: 'left',
  }),
  labelField('pv_minor', 'Min', 'number', 'Device minor number.', (part) => deviceNumber(part, 'minor'), {
    align: 'left',
  }),
  labelField(
    'pv_mda_free',
    'PMdaFree',
    'size',
    'Free metadata area space on this device in current units.',
    (part) => {
      const device = usableLabel(part);
      return device === null ? 0 : leastFreeSectors(device.metadataAreas);
    },
    { width: 9 },
  ),
  labelField(
    'pv_mda_size',
    'PMdaSize',
    'size',
    'Size of smallest metadata area on this device in current units.',
    (part) => leastSizeSectors(usableLabel(part)?.metadataAreas ?? []),
    { width: 9 },
  ),
  labelField(
    'pv_ext_vsn',
    'PExtVsn',
    'number',
    'PV header extension version.',
    (part) => usableLabel(part)?.extensionVersion ?? null,
  ),
];

export const PV_FIELDS: readonly ReportField[] = [
  pvField('pe_start', '1st PE', 'size', 'Offset to the start of data on the underlying device.', peStart, { width: 7 }),
  pvField('pv_size', 'PSize', 'size', 'Size of PV in current units.', (part) => {
    const pv = usable(part);
    return pv === null ? 0 : shownSectors(pv, part.group);
  }),
  pvField('pv_free', 'PFree', 'size', 'Total amount of unallocated space in current units.', (part) => {
    const pv = usable(part);
    return pv === null ? 0 : pvSizeSectors(pv, part.group) - pvUsedSectors(pv, part.group);
  }),
  pvField('pv_used', 'Used', 'size', 'Total amount of allocated space in current units.', (part) => {
    const pv = usable(part);
    return pv === null ? 0 : pvUsedSectors(pv, part.group);
  }),
  pvField('pv_attr', 'Attr', 'string', 'Various attributes - see man page.', (part) => pvAttr(part, part.group)),
  pvField(
    'pv_allocatable',
    'Allocatable',
    'binary',
    'Set if this device can be used for allocation.',
    (part) => {
      const pv = usable(part);
      return pv !== null && isAllocatable(pv);
    },
    { words: ['allocatable'] },
  ),
  pvField(
    'pv_exported',
    'Exported',
    'binary',
    'Set if this device is exported.',
    ({ group }) => group !== null && isExported(group.vg),
    { words: ['exported'], width: 10 },
  ),
  pvField(
    'pv_missing',
    'Missing',
    'binary',
    'Set if this device is missing in system.',
    (part) => usable(part)?.missing ?? false,
    { words: ['missing'], width: 10 },
  ),
  pvField(
    'pv_pe_count',
    'PE',
    'number',
    'Total number of Physical Extents.',
    (part) => usable(part)?.text?.peCount ?? 0,
    {
      width: 3,
    },
  ),
  pvField('pv_pe_alloc_count', 'Alloc', 'number', 'Total number of allocated Physical Extents.', (part) => {
    const pv = usable(part);
    return pv === null || part.group === null ? 0 : usedExtents(part.group, pv);
  }),
  pvField('pv_tags', 'PV Tags', 'string-list', 'Tags, if any.', (part) => usable(part)?.text?.tags ?? null),
  pvField(
    'pv_mda_count',
    '#PMda',
    'number',
    'Number of metadata areas on this device.',
    (part) => usableLabel(part)?.metadataAreas.length ?? 0,
  ),
  pvField('pv_mda_used_count', '#PMdaUse', 'number', 'Number of metadata areas in use on this device.', (part) => {
    const device = usableLabel(part);
    return device === null ? 0 : areasInUse(device).length;
  }),
  pvField(
    'pv_ba_start',
    'BA Start',
    'size',
    'Offset to the start of PV Bootloader Area on the underlying device in current units.',
    (part) => bootloader(part, 'offset'),
  ),
  pvField('pv_ba_size', 'BA Size', 'size', 'Size of PV Bootloader Area in current units.', (part) =>
    bootloader(part, 'size'),
  ),
  pvField('pv_in_use', 'PInUse', 'binary', 'Set if PV is used.', isUsed, { words: ['used', 'in use'] }),
  pvField('pv_duplicate', 'Duplicate', 'binary', 'Set if PV is an unchosen duplicate.', (part) => part.duplicate, {
    words: ['duplicate'],
  }),
  pvField(
    'pv_device_id',
    'DeviceID',
    'string',
    'Device ID such as the WWID.',
    (part) => usable(part)?.text?.deviceId ?? null,
  ),
  pvField(
    'pv_device_id_type',
    'DeviceIDType',
    'string',
    'Type of device ID such as WWID.',
    (part) => usable(part)?.text?.deviceIdType ?? null,
  ),
];

export const PV_SEGMENT_FIELDS: readonly ReportField[] = [
  fieldsOf('pvseg')(
    'pvseg_start',
    'Start',
    'number',
    'Physical Extent number of start of segment.',
    (row) => row.pvSegment?.start ?? 0,
  ),
  fieldsOf('pvseg')(
    'pvseg_size',
    'SSize',
    'number',
    'Number of extents in segment.',
    (row) => row.pvSegment?.count ?? 0,
  ),
];
