/**
 * vgmerge: all of one volume group goes into another (facts: LVM2 tools/vgmerge.c).
 *
 *     1  the group that is merged, EXPORTED      a crash here: it is whole, `vgimport` it
 *     2  the destination with everything         from the first copy of it on, the PVs are the destination's
 *
 * LVM2 has only the second commit, and a crash inside it leaves two groups that claim the same PVs; the first one tells readers
 * which of the two is to be believed.
 */
import type { VolumeGroup } from '../model.ts';
import { emptyPlan, type Effect, type Plan, type PlanMessage } from './plan.ts';
import { type SpareContext, withOneSpare, withPoolSpare } from './pool-spare.ts';
import { asExported, checkCompatible, foundDevices, labelledByIds, withParts } from './vg-parts.ts';

/** The first commit. */
export function exportForMerge(from: VolumeGroup): Plan {
  return emptyPlan(from, asExported(from.vg, true));
}

/** When the second commit failed: the group as it was. */
export function importAgain(exported: VolumeGroup): Plan {
  return emptyPlan(exported, asExported(exported.vg, false));
}

/** The second commit. Throws CommandError with LVM2's reasons. */
export function mergePlan(from: VolumeGroup, to: VolumeGroup, spare: SpareContext): Plan {
  const texts = withOneSpare(from.vg, to.vg);
  checkCompatible(texts.from, texts.to);
  const source = labelledByIds(texts.from);
  const joined = withParts(labelledByIds(texts.to), source.physicalVolumes, source.logicalVolumes);
  const historical = [...joined.historicalLogicalVolumes, ...source.historicalLogicalVolumes];
  const merged = withPoolSpare({ ...joined, historicalLogicalVolumes: historical }, spare);
  const effects: readonly Effect[] =
    merged.changed === null ? [] : [{ kind: 'wipe-lv', lvName: merged.changed, zeroBytes: 4096, signatures: false }];
  const done = `Volume group "${from.vg.name}" successfully merged into "${to.vg.name}"`;
  const messages: readonly PlanMessage[] = [
    ...merged.warnings.map((text) => ({ stream: 'stderr', when: 'before', text }) as const),
    { stream: 'stdout', when: 'after', text: done },
  ];
  return {
    ...emptyPlan(to, merged.vg),
    joining: foundDevices(from, new Set(from.pvs.map((pv) => pv.uuid))),
    effects,
    messages,
  };
}
