/**
 * Extents that were allocated, as segments at the end of an LV.
 *
 * Invariants
 *  - The segments tile [0, size) as before; neighbours that continue each other on every area are one segment.
 *  - LVs that a pvmove works on keep their segments as they are: it counts on them.
 */
import type { LogicalVolumeText, Segment, StripedSegment } from '../../ondisk/metadata.ts';
import type { AllocatedRow } from './request.ts';

/** An LV's segments with striped (or linear) ones for `rows` behind them. */
export function withStripes(
  lv: Pick<LogicalVolumeText, 'segments' | 'status'>,
  rows: readonly AllocatedRow[],
  stripeSizeSectors: number,
): readonly Segment[] {
  const segments = [...lv.segments];
  let startExtent = sizeOf(segments);
  for (const { length, areas } of rows) {
    const extentCount = length * areas.length;
    const stripes = areas.length > 1 ? { stripeSizeSectors } : {};
    segments.push({ type: 'striped', startExtent, extentCount, ...stripes, areas, tags: [], typeFlags: [], extra: [] });
    startExtent += extentCount;
  }
  return lv.status.includes('LOCKED') || lv.status.includes('PVMOVE') ? segments : merged(segments);
}

/** An LV's segments with `extents` of a type without storage behind them. */
export function withVirtual(
  lv: Pick<LogicalVolumeText, 'segments'>,
  type: 'error' | 'zero',
  extents: number,
): readonly Segment[] {
  const last = lv.segments.at(-1);
  if (last?.type === type) {
    return [...lv.segments.slice(0, -1), { ...last, extentCount: last.extentCount + extents }];
  }
  const startExtent = sizeOf(lv.segments);
  return [...lv.segments, { type, startExtent, extentCount: extents, tags: [], typeFlags: [], extra: [] }];
}

/**
 * An LV's segments without what lies behind `extents`. Only for segments of areas side by side and for those without storage;
 * `extents` must end on whole rows of stripes. Throws RangeError otherwise.
 */
export function cutTo(segments: readonly Segment[], extents: number): readonly Segment[] {
  const kept: Segment[] = [];
  for (const segment of segments) {
    const left = extents - segment.startExtent;
    if (left <= 0) break;
    if (left >= segment.extentCount) kept.push(segment);
    else if (segment.type === 'striped' && left % segment.areas.length !== 0) {
      throw new RangeError(`${left} extents are no whole rows of ${segment.areas.length} stripes`);
    } else kept.push({ ...segment, extentCount: left });
  }
  return kept;
}

/** Extents of an LV. */
export function sizeOf(segments: readonly Segment[]): number {
  return segments.reduce((sum, segment) => sum + segment.extentCount, 0);
}

function merged(segments: readonly Segment[]): readonly Segment[] {
  const result: Segment[] = [];
  for (const segment of segments) {
    const last = result.at(-1);
    if (last?.type === 'striped' && segment.type === 'striped' && continues(last, segment)) {
      result[result.length - 1] = { ...last, extentCount: last.extentCount + segment.extentCount };
    } else result.push(segment);
  }
  return result;
}

function continues(first: StripedSegment, second: StripedSegment): boolean {
  const length = first.extentCount / first.areas.length;
  return (
    first.areas.length === second.areas.length &&
    first.stripeSizeSectors === second.stripeSizeSectors &&
    first.areas.every(({ name, extent }, index) => {
      const next = second.areas[index];
      return name === next?.name && extent + length === next.extent;
    }) &&
    first.tags.length === second.tags.length &&
    first.tags.every((tag) => second.tags.includes(tag))
  );
}
