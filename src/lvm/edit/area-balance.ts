/**
 * Which metadata areas of a VG are in use: `metadata_copies` of them, all others ignored (facts: LVM2 lib/metadata/metadata.c
 * vg_write; it chooses at random, we choose so that copies are spread over PVs).
 *
 *     0 (unmanaged)   as they are; but if none is in use, one is
 *     N               exactly N in use, or all if there are fewer
 *
 * Invariant: only as many areas change as needed, so a plan writes no more than it must.
 */
import type { VolumeGroupText } from '../../ondisk/metadata.ts';
import type { Plan } from './plan.ts';

interface Area {
  readonly uuid: string;
  readonly index: number;
  ignored: boolean;
}

/** The plan with every PV's ignored areas stated. */
export function withBalancedAreas(plan: Plan): Plan {
  if (plan.after === null) return plan;
  const areas = areasAfter(plan, plan.after);
  balance(areas, plan.after.metadataCopies ?? 0);
  const ignoredAreas = new Map<string, number[]>();
  for (const { uuid, index, ignored } of areas) {
    const list = ignoredAreas.get(uuid) ?? [];
    if (ignored) list.push(index);
    ignoredAreas.set(uuid, list);
  }
  return { ...plan, ignoredAreas };
}

/** The areas of all members whose devices are there, as the edit left them, in the order of the PVs. */
function areasAfter(plan: Plan, after: VolumeGroupText): readonly Area[] {
  const byUuid = new Map<string, Area[]>();
  const found = [...(plan.before?.pvs ?? []).flatMap((pv) => pv.found ?? []), ...(plan.joining ?? [])];
  for (const { uuid, metadataAreas } of found) {
    const stated = plan.ignoredAreas?.get(uuid);
    const usable = metadataAreas.filter(({ ignored, problem }) => ignored || problem === undefined);
    byUuid.set(
      uuid,
      usable.map(({ index, ignored }) => ({ uuid, index, ignored: stated?.includes(index) ?? ignored })),
    );
  }
  for (const { label, ignoredAreas } of plan.labels) {
    const { uuid } = label;
    const stated = plan.ignoredAreas?.get(uuid) ?? (byUuid.has(uuid) ? undefined : ignoredAreas);
    const known = byUuid.get(uuid);
    byUuid.set(
      uuid,
      label.metadataAreas.map((_, index) => {
        const was = known?.find((area) => area.index === index)?.ignored ?? false;
        return { uuid, index, ignored: stated?.includes(index) ?? was };
      }),
    );
  }
  return after.physicalVolumes.flatMap((pv) => byUuid.get(pv.id) ?? []);
}

function balance(areas: readonly Area[], copies: number): void {
  const used = areas.filter((area) => !area.ignored).length;
  if (copies === 0) {
    if (used === 0) take(areas, 1);
    return;
  }
  const wanted = Math.min(copies, areas.length);
  if (used < wanted) take(areas, wanted - used);
  else drop(areas, used - wanted);
}

/** Puts ignored areas into use: on PVs that have none in use first, first areas before second ones. */
function take(areas: readonly Area[], count: number): void {
  for (let left = count; left > 0; left--) {
    const candidates = areas.filter((area) => area.ignored);
    const best = candidates.toSorted((a, b) => usedOn(areas, a.uuid) - usedOn(areas, b.uuid) || a.index - b.index)[0];
    if (best !== undefined) best.ignored = false;
  }
}

/** Ignores areas: on PVs with two in use first, then from the last PV back. */
function drop(areas: readonly Area[], count: number): void {
  for (let left = count; left > 0; left--) {
    const candidates = areas.filter((area) => !area.ignored).toReversed();
    const worst = candidates.toSorted((a, b) => usedOn(areas, b.uuid) - usedOn(areas, a.uuid) || b.index - a.index)[0];
    if (worst !== undefined) worst.ignored = true;
  }
}

function usedOn(areas: readonly Area[], uuid: string): number {
  return areas.filter((area) => area.uuid === uuid && !area.ignored).length;
}
