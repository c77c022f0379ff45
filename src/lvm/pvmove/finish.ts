/**
 * Going on with a pvmove and ending it, in the metadata: a step that is done is marked, and at the end, or when the move is
 * aborted, the LVs are put on the PVs where their data is then.
 *
 * Invariants
 *  - An area goes to the destination exactly if its step is marked as done. Of an atomic move all steps are, or none.
 *  - Nothing of the move is left: neither the temporary LV nor the LOCKED marks, and cut segments are whole again.
 */
import type { LogicalVolumeText, SegmentArea, VolumeGroupText } from '../../ondisk/metadata.ts';
import { withStripes } from '../allocate/segments.ts';
import { CommandError } from '../edit/errors.ts';
import { replaceLv, withStatus } from '../edit/lv-facts.ts';
import { emptyPlan, type Plan } from '../edit/plan.ts';
import { withAreas } from '../edit/vg-parts.ts';
import type { VolumeGroup } from '../model.ts';
import { countBelow, cutAt } from './cut.ts';
import { type MoveStep, placeOf, type PvMove } from './moves.ts';

/** The commit that says that a step's data is on its destination. */
export function stepDone(group: VolumeGroup, { lv }: PvMove, step: MoveStep): Plan {
  const segments = lv.segments.map((segment, index) =>
    index === step.index && segment.type === 'mirror' ? { ...segment, extentsMoved: segment.extentCount } : segment,
  );
  return emptyPlan(group, replaceLv(group.vg, lv.name, { ...lv, segments }));
}

/** The commit that ends a move, done or not. `copied` are steps that were done since the text was written. */
export function endMove(group: VolumeGroup, move: PvMove, copied: readonly MoveStep[] = []): Plan {
  const done = new Set(copied);
  const steps = move.steps.map((step) => (done.has(step) ? { ...step, done: true } : step));
  const starts = steps.map((step) => step.start);
  const others = group.vg.logicalVolumes.filter((lv) => lv.id !== move.lv.id && !move.images.includes(lv.name));
  const logicalVolumes = others.map((lv) => settled(group.vg, lv, move.lv.name, { steps, starts }));
  return emptyPlan(group, { ...group.vg, logicalVolumes });
}

/** The steps of a move, in the order of the extents of its temporary LV, and the first extent of each. */
interface Layer {
  readonly steps: readonly MoveStep[];
  readonly starts: readonly number[];
}

function settled(vg: VolumeGroupText, lv: LogicalVolumeText, name: string, layer: Layer): LogicalVolumeText {
  const uses = lv.segments.some((segment) => segment.type === 'striped' && segment.areas.some((a) => a.name === name));
  if (!uses) return lv;
  const place = (area: SegmentArea): SegmentArea => (area.name === name ? placeFor(vg, area, layer) : area);
  const segments = cutAt(lv.segments, name, layer.starts).map((segment) => withAreas(segment, place));
  const free = withStatus({ ...lv, segments }, 'LOCKED', false);
  return { ...free, segments: withStripes(free, [], 0) };
}

function placeFor(vg: VolumeGroupText, area: SegmentArea, { steps, starts }: Layer): SegmentArea {
  const step = steps[countBelow(starts, area.extent + 1) - 1];
  if (step === undefined || area.extent >= step.start + step.length) {
    throw new CommandError(
      `Cannot end the pvmove in ${vg.name}: extent ${area.extent} of ${area.name} does not exist.`,
    );
  }
  const { name, extent } = placeOf(step);
  return { name, extent: extent + area.extent - step.start };
}
