/**
 * Which physical extents of a volume group are allocated to what, and which are free: LVM2's PV segments.
 *
 * Invariants
 *  - The segments of a PV are sorted and tile [0, pe_count): every extent is in exactly one.
 *  - Free extents are merged into one segment per hole; allocated ones are one segment per area of an LV's segment.
 *  - Computed from a text that lvm/validate.ts accepted (areas inside their PV, none overlapping); on another one the
 *    offending areas are left out.
 */
import type { LogicalVolumeText, PhysicalVolumeText, Segment, VolumeGroupText } from '../ondisk/metadata.ts';
import { areaExtents, segmentAreas } from './references.ts';

/** A run of extents of one PV. */
export interface PvSegment {
  readonly startPe: number;
  /** Extents. */
  readonly length: number;
  /** What it is allocated to; null: free. */
  readonly owner: PvSegmentOwner | null;
}
export interface PvSegmentOwner {
  readonly lv: LogicalVolumeText;
  readonly segment: Segment;
  /** Index of the area in the segment. */
  readonly areaIndex: number;
}

export interface PvAllocation {
  readonly pv: PhysicalVolumeText;
  readonly segments: readonly PvSegment[];
  /** Extents. */
  readonly total: number;
  readonly allocated: number;
  readonly free: number;
}

export interface AllocationMap {
  /** By the label that segments use ("pv0"), in the text's order. */
  readonly pvs: ReadonlyMap<string, PvAllocation>;
  /** Extents of the whole VG, missing PVs included. */
  readonly total: number;
  readonly allocated: number;
  readonly free: number;
}

const known = new WeakMap<VolumeGroupText, AllocationMap>();

/** The allocation map of a VG's text; computed once per text. */
export function allocationMapOf(vg: VolumeGroupText): AllocationMap {
  let map = known.get(vg);
  if (map === undefined) {
    map = computeMap(vg);
    known.set(vg, map);
  }
  return map;
}

/** Allocated runs of a PV, unsorted and unchecked, as an LV's segments name them. */
export interface AllocatedRun {
  readonly startPe: number;
  readonly length: number;
  readonly owner: PvSegmentOwner;
}

/** Every run that LV segments allocate, by PV label. */
export function allocatedRuns(vg: VolumeGroupText): ReadonlyMap<string, readonly AllocatedRun[]> {
  const runs = new Map<string, AllocatedRun[]>(vg.physicalVolumes.map((pv) => [pv.label, []]));
  for (const lv of vg.logicalVolumes) {
    for (const segment of lv.segments) {
      const length = areaExtents(segment);
      for (const [areaIndex, area] of segmentAreas(segment).entries()) {
        runs.get(area.name)?.push({ startPe: area.extent, length, owner: { lv, segment, areaIndex } });
      }
    }
  }
  for (const list of runs.values()) list.sort((a, b) => a.startPe - b.startPe);
  return runs;
}

function computeMap(vg: VolumeGroupText): AllocationMap {
  const runs = allocatedRuns(vg);
  const pvs = new Map<string, PvAllocation>();
  let total = 0;
  let allocated = 0;
  for (const pv of vg.physicalVolumes) {
    const allocation = computePv(pv, runs.get(pv.label) ?? []);
    pvs.set(pv.label, allocation);
    total += allocation.total;
    allocated += allocation.allocated;
  }
  return { pvs, total, allocated, free: total - allocated };
}

function computePv(pv: PhysicalVolumeText, runs: readonly AllocatedRun[]): PvAllocation {
  const segments: PvSegment[] = [];
  let next = 0;
  let allocated = 0;
  for (const run of runs) {
    if (run.startPe < next || run.startPe + run.length > pv.peCount) continue;
    if (run.startPe > next) segments.push({ startPe: next, length: run.startPe - next, owner: null });
    segments.push({ startPe: run.startPe, length: run.length, owner: run.owner });
    next = run.startPe + run.length;
    allocated += run.length;
  }
  if (next < pv.peCount) segments.push({ startPe: next, length: pv.peCount - next, owner: null });
  return { pv, segments, total: pv.peCount, allocated, free: pv.peCount - allocated };
}
