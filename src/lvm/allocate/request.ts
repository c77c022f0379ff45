/**
 * What the allocator is asked for and what it answers.
 *
 * Invariant: plain data about one VG text; an allocation changes nothing, it names extents that are free.
 */
import type { AllocationPolicy, LogicalVolumeText, VolumeGroupText } from '../../ondisk/metadata.ts';

/** A policy that says what to do. */
export type ConcretePolicy = Exclude<AllocationPolicy, 'inherit'>;

export interface ExtentRange {
  readonly start: number;
  readonly count: number;
}

/** A PV that may be allocated from. */
export interface CandidatePv {
  /** As segments name it. */
  readonly label: string;
  readonly tags: readonly string[];
  /** Null: all of it. They don't overlap. */
  readonly ranges: readonly ExtentRange[] | null;
}

/** lvm.conf's section allocation. */
export interface AllocationSettings {
  /** `maximise_cling`: stay on PVs that are used already wherever that is possible. */
  readonly maximiseCling: boolean;
  /** `cling_tag_list`: "@tag" or "@*"; null: not set. */
  readonly clingTagList: readonly string[] | null;
}
export const DEFAULT_ALLOCATION: AllocationSettings = { maximiseCling: true, clingTagList: null };

/** PVs that some extents of the new space must not share a PV with: those of parallel volumes. */
export interface AvoidedPvs {
  /** Logical extents of the LV. */
  readonly startExtent: number;
  readonly extentCount: number;
  /** Labels. */
  readonly pvs: readonly string[];
}

export interface AllocationRequest {
  readonly vg: VolumeGroupText;
  /** In the order in which they are tried. */
  readonly candidates: readonly CandidatePv[];
  readonly policy: ConcretePolicy;
  /** New logical extents: a multiple of `areaMultiple`. */
  readonly extents: number;
  /** Areas side by side: stripes, parity included. */
  readonly areaCount: number;
  /** Logical extents that one extent of every area makes: stripes without parity, 1 for copies. */
  readonly areaMultiple: number;
  /** Go on after this LV's last segment; null: a new LV, or space for a part of its own. */
  readonly extending: LogicalVolumeText | null;
  /** Less than asked for will do (%FREE, %PVS, %VG). */
  readonly approximate: boolean;
  readonly avoid?: readonly AvoidedPvs[];
  /** For messages. */
  readonly lvName: string;
  readonly settings: AllocationSettings;
}

/** Areas of one length side by side: a segment. */
export interface AllocatedRow {
  /** Extents of each area. */
  readonly length: number;
  readonly areas: readonly { readonly name: string; readonly extent: number }[];
}

export interface Allocation {
  /** In the order of the LV's extents. */
  readonly rows: readonly AllocatedRow[];
  /** Logical extents. */
  readonly extents: number;
}
