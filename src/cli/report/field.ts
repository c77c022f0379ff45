/**
 * What a report is made of: fields (columns), the rows they are computed from, and the typed values they give. The field
 * tables (`fields/`) hold nothing but facts about volume groups; the engine renders, sorts, selects and writes JSON from the
 * typed values, so no field formats a size or pads a column.
 *
 * Invariants
 *  - A field's value is computed from one row alone and never throws on a sound volume group.
 *  - Sizes are numbers of 512-byte sectors, percentages 0 to 100, times Unix seconds.
 *  - `id`, `heading`, `description` and their order are LVM2's (lib/report/columns.h): scripts depend on them.
 *
 * Source of the sections and types: LVM2 lib/report/report.c, `lvs -o help`.
 */
import type { PhysicalVolume, LabelledDevice, Scan, ScannedDevice, VolumeGroup } from '../../lvm/model.ts';
import type { HistoricalLogicalVolumeText, LogicalVolumeText, Segment } from '../../ondisk/metadata.ts';

/**
 * How a field sorts, selects, aligns (numbers, percentages excepted, and sizes to the right) and appears in JSON.
 * `binary` is yes/no/unknown: shown as `words[0]` or blank, or 1/0/-1 with --binary.
 */
export type FieldType = 'string' | 'number' | 'binary' | 'size' | 'percent' | 'time' | 'string-list';

/** The kinds of objects that fields describe, in the order in which `-o help` lists them. */
export type SectionId =
  | 'lv'
  | 'lv-info'
  | 'lv-status'
  | 'lv-info-status'
  | 'label'
  | 'pv'
  | 'vg'
  | 'seg'
  | 'pvseg'
  | 'devtype';

export interface Section {
  readonly id: SectionId;
  /** Title in `-o help`, without " Fields". */
  readonly title: string;
  /** Prefix that a user may leave out of field names ("size" is lv_size in lvs); `${prefix}all` names the whole section. */
  readonly prefix: string;
}

export const SECTIONS: readonly Section[] = [
  { id: 'lv', title: 'Logical Volume', prefix: 'lv_' },
  { id: 'lv-info', title: 'Logical Volume Device Info', prefix: 'lv_' },
  { id: 'lv-status', title: 'Logical Volume Device Status', prefix: 'lv_' },
  { id: 'lv-info-status', title: 'Logical Volume Device Info and Status Combined', prefix: 'lv_' },
  { id: 'label', title: 'Physical Volume Label', prefix: 'pv_' },
  { id: 'pv', title: 'Physical Volume', prefix: 'pv_' },
  { id: 'vg', title: 'Volume Group', prefix: 'vg_' },
  { id: 'seg', title: 'Logical Volume Segment', prefix: 'seg_' },
  { id: 'pvseg', title: 'Physical Volume Segment', prefix: 'pvseg_' },
  { id: 'devtype', title: 'Device Types', prefix: 'devtype_' },
];

/** What a row says about a PV: a PV of a VG, an orphan, an unchosen duplicate, or (pvs -a) a device that is no PV. */
export interface PvPart {
  /** Null: a missing PV. */
  readonly device: ScannedDevice | null;
  /** Null: missing, or not a PV. */
  readonly label: LabelledDevice | null;
  /** Null: the device is no PV. */
  readonly pv: PhysicalVolume | null;
  /** The VG that it is in, also where its row tells nothing of one; null: none. */
  readonly group: VolumeGroup | null;
  readonly duplicate: boolean;
}

/** A run of extents of a PV: used by one area of one segment, or free. */
export interface PvSegmentPart {
  readonly start: number;
  readonly count: number;
}

/** A kind of block devices, by the driver that /proc/devices names. */
export interface DeviceType {
  readonly name: string;
  /** Minor numbers that each device takes. */
  readonly maxPartitions: number;
  readonly description: string;
}

/**
 * One row. A part is null where the report has no such object: `vg` for an orphan PV, `lv` and `segment` for free extents
 * or an empty VG, `pv` where no PV belongs to the row. LVM2 fills those with dummy objects, whose values are not always
 * blank ("free" as segtype of free extents): a field must give what LVM2 shows there.
 */
export interface ReportRow {
  readonly scan: Scan;
  readonly vg: VolumeGroup | null;
  readonly lv: LogicalVolumeText | null;
  /** Set instead of `lv` for a removed LV that the history still knows (lvs -H). */
  readonly historical: HistoricalLogicalVolumeText | null;
  readonly segment: Segment | null;
  readonly pv: PvPart | null;
  readonly pvSegment: PvSegmentPart | null;
  /** Of `devtypes` alone, whose rows have nothing else. */
  readonly deviceType?: DeviceType;
}

/** A value whose text is not the plain rendering of what it sorts and selects by ("[lv]" for a hidden LV, "auto", "-1"). */
export interface ShownValue {
  readonly text: string;
  /** Null in a number, size, percent or time field: undefined, which sorts after every number. */
  readonly value: string | number | readonly string[] | null;
  /** What json_std, which knows no words for numbers, says instead of `text`; absent: `value`. */
  readonly strict?: number;
}

/**
 * string: string; number, size, percent, time: number; binary: boolean; string-list: string[]; any: null (blank, undefined;
 * for binary: unknown) or a ShownValue.
 */
export type FieldValue = string | number | boolean | readonly string[] | ShownValue | null;

/** A name that selection accepts in place of a value (`lv_permissions=rw`, `lv_read_ahead=auto`). */
export interface ReservedName {
  readonly names: readonly string[];
  /** The value meant; null: undefined. */
  readonly value: string | number | null;
}

export interface ReportField {
  readonly id: string;
  readonly heading: string;
  readonly description: string;
  readonly section: SectionId;
  readonly type: FieldType;
  /** First width of the column (columns.h), grown by values only: a longer heading is cut. 0 or absent: the heading's length. */
  readonly width?: number;
  /** Only if it differs from what the type implies. */
  readonly align?: 'left' | 'right';
  /** binary: what "yes" is called; the first is shown. */
  readonly words?: readonly string[];
  readonly reserved?: readonly ReservedName[];
  /** string-list: keep the given order (default: sorted), and what joins the items (default ","). */
  readonly unsorted?: boolean;
  readonly delimiter?: string;
  value(row: ReportRow, context: ReportContext): FieldValue;
}

/** What a report's options change in the values themselves. */
export interface ReportContext {
  /** Hidden LVs are shown as [name] (LVM2 report/mark_hidden_devices, on by default). */
  readonly markHidden: boolean;
  /** Removed LVs are shown (-H). */
  readonly showHistory?: boolean;
}
