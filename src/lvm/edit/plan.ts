/**
 * What a command is going to do, as plain data: computed from what was read, with no I/O, checked as a whole, shown by
 * `--test`, and only then carried out by lvm/commit.ts.
 *
 * Invariants
 *  - `after` is a whole volume group; its seqno is that of `before` (the commit raises it), or the one to write if there is
 *    no `before`. PVs of `before` that it no longer lists become orphans, but for those that moved away.
 *  - Labels are listed only where their content changes: the commit adds what the protocol itself demands.
 *  - Effects run after the commit, in order, unless they say otherwise; a crash between them leaves a valid volume group.
 */
import type { VolumeGroupText } from '../../ondisk/metadata.ts';
import type { LabelledDevice, ScannedDevice, VolumeGroup } from '../model.ts';
import type { Label } from '../../ondisk/label.ts';

/** A label (and PV header) to write. The commit sets or clears its USED flag by itself. */
export interface PvLabelWrite {
  readonly device: ScannedDevice;
  readonly label: Label;
  /**
   * `create`: a new PV: labels in sectors 0-3 are wiped and all metadata areas start empty. `update`: a PV that was read: areas
   * that stay where they were keep what they hold, new ones start empty.
   */
  readonly kind: 'create' | 'update';
  /** For `update`: the PV as read. */
  readonly found?: LabelledDevice;
  /** Zero the first 2048 bytes before (pvcreate -Z y). */
  readonly zeroHead: boolean;
  /** The metadata areas (by index) whose header carries the ignored flag. Only for `create`; see also Plan.ignoredAreas. */
  readonly ignoredAreas: readonly number[];
  /** For `update`: before the VG's texts, or after its commit. A created label is always written before. */
  readonly when: 'before' | 'after';
}

/** A label to wipe (pvremove). */
export interface PvLabelWipe {
  readonly device: ScannedDevice;
}

/** How bytes that nobody may read again are made unreadable. */
export type EraseMethod = 'zero' | 'random' | 'discard';

/** What follows a commit, or comes right before it. */
export type Effect =
  /** Zero the first bytes of a new LV and wipe known signatures; extents as in `after`. */
  | {
      readonly kind: 'wipe-lv';
      readonly lvName: string;
      readonly zeroBytes: number;
      readonly signatures: boolean;
      /** Its extents are still free then: once the LV is there, nobody ever sees what they held, not even after a crash. */
      readonly beforeCommit?: true;
    }
  /** Overwrite ranges of devices (secure deletion). Bytes. */
  | {
      readonly kind: 'erase';
      readonly method: EraseMethod;
      readonly what: string;
      readonly ranges: readonly { readonly device: string; readonly offset: number; readonly length: number }[];
    };

export interface PlanMessage {
  readonly stream: 'stdout' | 'stderr';
  /** Before the commit starts, or once it (and the effects) succeeded. */
  readonly when: 'before' | 'after';
  /** Without the two-space indent. */
  readonly text: string;
}

export interface Plan {
  /** As read; null for a VG that does not exist yet, or for a plan that only writes labels (pvcreate). */
  readonly before: VolumeGroup | null;
  /** Null: the VG is removed, or there is none. */
  readonly after: VolumeGroupText | null;
  /** PVs that become members with the labels and areas that they have: orphans, or PVs of another VG (vgsplit, vgmerge). */
  readonly joining?: readonly LabelledDevice[];
  /** By PV uuid: the indices of its metadata areas that are to be ignored (vgmetadatacopies). Absent: as found. */
  readonly ignoredAreas?: ReadonlyMap<string, readonly number[]>;
  /** PVs (uuids) of `before` that another VG has taken already: their areas are that VG's, and left alone (vgsplit). */
  readonly movedAway?: readonly string[];
  /** Repair metadata areas whose header or text is damaged, where that is safe (vgck --updatemetadata). */
  readonly repairDamaged?: boolean;
  /** Where PVs' extents lie is stated by a backup (vgcfgrestore): free ones are not held against headers and devices. */
  readonly restoresPlaces?: boolean;
  /** Clear the metadata of devices that hold an old copy of this VG and are no longer its PVs (vgremove, vgck). */
  readonly clearOutdated?: boolean;
  readonly labels: readonly PvLabelWrite[];
  readonly wipes: readonly PvLabelWipe[];
  readonly effects: readonly Effect[];
  readonly messages: readonly PlanMessage[];
}

/** A plan that does nothing yet. */
export function emptyPlan(before: VolumeGroup | null, after: VolumeGroupText | null): Plan {
  return { before, after, labels: [], wipes: [], effects: [], messages: [] };
}
