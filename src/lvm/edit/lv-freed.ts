/** Extents that a change gives back: what `issue_discards` discards and secure deletion overwrites. */
import type { VolumeGroupText } from '../../ondisk/metadata.ts';
import { allocatedRuns } from '../allocation-map.ts';
import type { VolumeGroup } from '../model.ts';
import type { Effect } from './plan.ts';

type Ranges = Extract<Effect, { readonly kind: 'erase' }>['ranges'];

const SECTOR_BYTES = 512;

/** Byte ranges of devices that were allocated in the group and are free in `after`; those of missing PVs are left out. */
export function freedRanges(group: VolumeGroup, after: VolumeGroupText): Ranges {
  const extentBytes = group.vg.extentSizeSectors * SECTOR_BYTES;
  const kept = allocatedRuns(after);
  const ranges: { readonly device: string; readonly offset: number; readonly length: number }[] = [];
  for (const [label, runs] of allocatedRuns(group.vg)) {
    const pv = group.pvs.find((candidate) => candidate.text?.label === label);
    if (pv?.text === undefined || pv.found === null) continue;
    const start = pv.text.peStartSectors * SECTOR_BYTES;
    for (const { from, to } of without(runs, kept.get(label) ?? [])) {
      const offset = start + from * extentBytes;
      ranges.push({ device: pv.found.device.path, offset, length: (to - from) * extentBytes });
    }
  }
  return ranges;
}

/** The effect of `issue_discards`. */
export function discardsOf(group: VolumeGroup, after: VolumeGroupText): readonly Effect[] {
  const ranges = freedRanges(group, after);
  if (ranges.length === 0) return [];
  return [{ kind: 'erase', method: 'discard', what: `what volume group ${group.vg.name} gave back`, ranges }];
}

interface Run {
  readonly startPe: number;
  readonly length: number;
}

/** Sorted runs without what other sorted runs cover. */
function without(
  runs: readonly Run[],
  others: readonly Run[],
): readonly { readonly from: number; readonly to: number }[] {
  const left: { readonly from: number; readonly to: number }[] = [];
  let index = 0;
  for (const { startPe, length } of runs) {
    let from = startPe;
    const end = startPe + length;
    while (from < end) {
      let other = others[index];
      while (other !== undefined && other.startPe + other.length <= from) other = others[++index];
      const to = Math.min(end, other === undefined ? end : Math.max(other.startPe, from));
      if (to > from) left.push({ from, to });
      from = other === undefined || other.startPe >= end ? end : other.startPe + other.length;
    }
  }
  return left;
}
