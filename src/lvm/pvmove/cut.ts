/**
 * Cutting the segments of an LV at extents of what lies under it, so that every area is wholly inside or outside a range.
 *
 * Invariant: the pieces tile what the segment covered, on the same extents.
 */
import type { Segment, StripedSegment } from '../../ondisk/metadata.ts';

/** Cuts a striped (or linear) segment at `offsets` within its areas; those at or beyond its ends are left out. */
export function cutSegment(segment: StripedSegment, offsets: readonly number[]): readonly StripedSegment[] {
  const width = segment.areas.length;
  const length = segment.extentCount / width;
  const inside = offsets.filter((offset) => offset > 0 && offset < length);
  const cuts = [...new Set([0, ...inside, length])].toSorted((a, b) => a - b);
  const pieces: StripedSegment[] = [];
  for (const [index, offset] of cuts.slice(0, -1).entries()) {
    const areas = segment.areas.map(({ name, extent }) => ({ name, extent: extent + offset }));
    const extentCount = ((cuts[index + 1] ?? length) - offset) * width;
    pieces.push({ ...segment, startExtent: segment.startExtent + offset * width, extentCount, areas });
  }
  return pieces;
}

/** Cuts all segments that have areas called `name` where these areas cross one of its extents `boundaries`, sorted. */
export function cutAt(segments: readonly Segment[], name: string, boundaries: readonly number[]): readonly Segment[] {
  return segments.flatMap((segment): readonly Segment[] => {
    if (segment.type !== 'striped') return [segment];
    const own = segment.areas.filter((area) => area.name === name);
    if (own.length === 0) return [segment];
    const length = segment.extentCount / segment.areas.length;
    const offsets = own.flatMap(({ extent }) => within(boundaries, extent, extent + length).map((at) => at - extent));
    return cutSegment(segment, offsets);
  });
}

/** Those of sorted numbers that lie between two, the second one excluded. */
function within(sorted: readonly number[], from: number, to: number): readonly number[] {
  return sorted.slice(countBelow(sorted, from), countBelow(sorted, to));
}

/** How many of sorted numbers are below `limit`. */
export function countBelow(sorted: readonly number[], limit: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((sorted[middle] ?? 0) < limit) low = middle + 1;
    else high = middle;
  }
  return low;
}
