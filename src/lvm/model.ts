/**
 * The volume groups as found on devices: what a scan assembles, what commands, reports and activation read.
 *
 * Invariants
 *  - The metadata text is the truth about a VG; this adds only where its parts were found (devices, labels, metadata areas)
 *    and what was wrong with them. Edits (VG -> VG') work on `metadata` and never on devices.
 *  - A PV of a VG whose device was not found is present with `device: null`: it is missing and the VG is partial.
 *  - Everything is plain readonly data: no handle, no I/O.
 */
import type { LiveStatus, VolumeId } from './live.ts';
import type { MetadataText, PhysicalVolumeText, VolumeGroupText } from '../ondisk/metadata.ts';

/** A device as the scan saw it. */
export interface ScannedDevice {
  /** The path by which the user knows it. */
  readonly path: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** "block:MAJOR:MINOR" or "file:DEV:INODE": two paths with one identity are one device. */
  readonly identity: string;
  readonly kind: 'file' | 'block';
  /** Block devices only: major and minor number. */
  readonly major?: number;
  readonly minor?: number;
  /** Block devices only: the kernel has it in use by another block device (an active LV, a RAID). */
  readonly held?: boolean;
  /** Bytes; a power of two. */
  readonly logicalBlockSize?: number;
  /** Where a devices file is used: what it knows the device by. */
  readonly deviceId?: { readonly type: string; readonly name: string };
}

/** An area of a PV's header, in bytes; size 0 means "to the end". */
export interface ByteRange {
  readonly offset: number;
  readonly size: number;
}

/** One metadata area of a PV as the scan found it. */
export interface MetadataArea extends ByteRange {
  /** Index in the header's list: 0 or 1. */
  readonly index: number;
  /** RAW_LOCN_IGNORED is set: the area exists and is not used. */
  readonly ignored: boolean;
  /** The committed text's place in the area, absent if there is none or it is ignored. */
  readonly text?: {
    readonly offset: number;
    readonly size: number;
    readonly checksum: number;
    readonly vgName: string;
    readonly seqno: number;
  };
  /** A precommitted slot was left over by a crash. */
  readonly precommit: boolean;
  /** Why the area can't be used (bad header, bad text), as a message; absent when it is sound. */
  readonly problem?: string;
  /** Bytes, as LVM2 reports mda_free: what the committed text may still grow by, in whole sectors. */
  readonly freeBytes: number;
}

/** A device with an LVM2 label. */
export interface LabelledDevice {
  readonly device: ScannedDevice;
  /** PV uuid, display form. */
  readonly uuid: string;
  /** Sector that holds the label: 0 to 3. */
  readonly labelSector: number;
  /** Size in the PV header, bytes. */
  readonly headerSizeBytes: number;
  readonly dataAreas: readonly ByteRange[];
  readonly metadataAreas: readonly MetadataArea[];
  readonly bootloaderAreas: readonly ByteRange[];
  /** PV header extension version; 0 when there is none. */
  readonly extensionVersion: number;
  /** PV_EXT_USED: some VG uses this PV, even if its metadata can't be found. */
  readonly inUse: boolean;
}

/** A PV: of a VG (then `text` is its entry in the metadata) or an orphan. */
export interface PhysicalVolume {
  readonly uuid: string;
  /** Null: missing. */
  readonly found: LabelledDevice | null;
  /** Absent for an orphan. */
  readonly text?: PhysicalVolumeText;
  /**
   * LVM2 counts it as missing: its device was not found, or it is flagged MISSING in the text and holds allocated extents
   * (an empty PV that came back is used again, as LVM2 does).
   */
  readonly missing: boolean;
}

export interface VolumeGroup {
  readonly metadata: MetadataText;
  readonly vg: VolumeGroupText;
  /** In the order of the metadata. */
  readonly pvs: readonly PhysicalVolume[];
  /** Some PV is missing. */
  readonly partial: boolean;
  /** Some PV of it was seen on more than one device: LVM2 then refuses to activate or change the VG. */
  readonly hasDuplicates: boolean;
  /** Devices that still hold an older copy of this VG's metadata, which no longer lists them. */
  readonly outdated: readonly LabelledDevice[];
  /** Exact bytes of the chosen text (without the trailing NUL), for dumps and comparison. */
  readonly rawText: Buffer;
  /** Which metadata areas hold an older or a different copy, or can't be read: they are rewritten at the next change. */
  readonly staleAreas: readonly {
    readonly devicePath: string;
    readonly areaIndex: number;
    readonly reason: string;
    /** Whether a commit can write it anew. */
    readonly repairable: boolean;
  }[];
  /** What the daemon that serves volumes of it says of them, by id (lvm/served.ts); absent: there is none. */
  readonly served?: ReadonlyMap<VolumeId, LiveStatus>;
}

/** Something worth telling on stderr; LVM2's wording where LVM2 has one, without the leading "  ". */
export interface ScanWarning {
  readonly severity: 'warning' | 'error';
  readonly message: string;
  /** The VG it concerns, if any: commands on other VGs don't print it. */
  readonly vgName?: string;
  /** It concerns a PV in no VG: only commands that look at PVs print it. */
  readonly orphan?: true;
  /** It is about a device that is smaller than its PV. */
  readonly pvSize?: true;
}

/** A VG whose metadata was found, and is refused: nothing of it can be used, and its PVs are nobody else's. */
export interface UnreadableVolumeGroup {
  readonly name: string;
  readonly id: string;
  /** Why, for the best copy. */
  readonly reason: string;
  readonly devices: readonly LabelledDevice[];
}

/** Everything a scan found. */
export interface Scan {
  /** Every device that was opened, in the order given. */
  readonly devices: readonly ScannedDevice[];
  /** Sorted by name, then id; two VGs may share a name (then their ids differ). */
  readonly volumeGroups: readonly VolumeGroup[];
  /** PVs in no VG. */
  readonly orphans: readonly PhysicalVolume[];
  /** PVs whose uuid was seen on another device, which was preferred. */
  readonly duplicates: readonly LabelledDevice[];
  readonly unreadable: readonly UnreadableVolumeGroup[];
  readonly warnings: readonly ScanWarning[];
}
