/**
 * vgreduce: PVs leave a volume group (facts: LVM2 tools/vgreduce.c, lib/metadata/vg.c vgreduce_single).
 *
 * Invariants
 *  - A PV with allocated extents never leaves; the last PV and the last metadata area stay.
 *  - --removemissing without --force removes no LV; with it, RAIDs stay, and mirrors of which something is left, and with
 *    --mirrorsonly no LV that is not one of those goes.
 */
import type { LogicalVolumeText, VolumeGroupText } from '../../ondisk/metadata.ts';
import { allocationMapOf } from '../allocation-map.ts';
import type { PhysicalVolume, VolumeGroup } from '../model.ts';
import { relationsOf } from '../relations.ts';
import { CommandError } from './errors.ts';
import { removeLv } from './lv-remove.ts';
import { partialMirror, withoutMissingImages } from './mirror-missing.ts';
import { emptyPlan, type Plan, type PlanMessage } from './plan.ts';
import { orphanLabel } from './vg-remove.ts';

/** One PV leaves. Throws CommandError with LVM2's reasons. */
export function reduceVgPlan(group: VolumeGroup, pv: PhysicalVolume): Plan {
  const { vg } = group;
  if (!vg.status.includes('RESIZEABLE')) throw new CommandError(`Volume group ${vg.name} is not resizeable.`);
  const { found } = pv;
  if (found === null) throw new CommandError('No device found for PV.');
  const { path } = found.device;
  if (allocated(vg, pv) > 0) throw new CommandError(`Physical volume "${path}" still in use`);
  if (group.pvs.length === 1) {
    throw new CommandError(`Can't remove final physical volume "${path}" from volume group "${vg.name}"`);
  }
  const others = group.pvs.filter((other) => other !== pv);
  if (others.every((other) => (other.found?.metadataAreas.length ?? 0) === 0)) {
    throw new CommandError(`Cannot remove final metadata area on "${path}" from "${vg.name}"`);
  }
  const text = `Removed "${path}" from volume group "${vg.name}"`;
  return {
    ...emptyPlan(group, without(vg, new Set([pv.uuid]))),
    labels: orphanLabel(found),
    messages: [{ stream: 'stdout', when: 'after', text }],
  };
}

function allocated(vg: VolumeGroupText, { text }: PhysicalVolume): number {
  return text === undefined ? 0 : (allocationMapOf(vg).pvs.get(text.label)?.allocated ?? 0);
}

function without(vg: VolumeGroupText, uuids: ReadonlySet<string>): VolumeGroupText {
  return { ...vg, physicalVolumes: vg.physicalVolumes.filter((pv) => !uuids.has(pv.id)) };
}

export interface MissingRemoval {
  /** Null: no PV is missing. */
  readonly plan: Plan | null;
  /** Something is left that the command could not remove. */
  readonly incomplete: boolean;
}

/** What becomes of LVs on missing PVs: nothing, or they are made whole or removed, but for `mirrors-only` only mirrors are. */
export type MissingMode = 'keep' | 'force' | 'mirrors-only';

/** vgreduce --removemissing: PVs that are missing leave if nothing is on them any more. Throws CommandError. */
export async function removeMissingPlan(group: VolumeGroup, mode: MissingMode): Promise<MissingRemoval> {
  const missing = group.pvs.filter((pv) => pv.missing);
  if (missing.length === 0) return { plan: null, incomplete: false };
  const messages: PlanMessage[] = [];
  const warn = (text: string): void => void messages.push({ stream: 'stderr', when: 'before', text });
  const labels = new Set(missing.map((pv) => pv.text?.label ?? ''));
  const repaired = mode === 'keep' ? group.vg : await withoutPartial(group.vg, labels, mode, messages);
  const left = partialVolumes(repaired, labels);
  for (const lv of left) warn(`WARNING: Partial LV ${lv.name} needs to be repaired or removed. `);
  if (left.length > 0) {
    warn(`There are still partial LVs in VG ${group.vg.name}.`);
    warn('To remove them unconditionally use: vgreduce --removemissing --force.');
    warn('To remove them unconditionally from mirror LVs use: vgreduce --removemissing --mirrorsonly --force.');
    warn('WARNING: Proceeding to remove empty missing PVs.');
    return { plan: { ...emptyPlan(group, repaired), messages }, incomplete: mode === 'keep' };
  }
  if (missing.length === group.pvs.length) throw new CommandError('Volume Groups must always contain at least one PV.');
  const after = without(repaired, new Set(missing.map((pv) => pv.uuid)));
  return { plan: { ...emptyPlan(group, after), messages }, incomplete: false };
}

/** LVs of which some part lies on these PVs, whatever is between. */
export function partialVolumes(vg: VolumeGroupText, pvLabels: ReadonlySet<string>): readonly LogicalVolumeText[] {
  const { lvs } = relationsOf(vg);
  const partial = new Set<string>();
  const pending: string[] = [];
  const mark = (name: string): void => {
    if (partial.has(name)) return;
    partial.add(name);
    pending.push(name);
  };
  for (const lv of vg.logicalVolumes) {
    const touches = lv.segments.some(
      (segment) =>
        (segment.type === 'striped' || segment.type === 'mirror') &&
        segment.areas.some((area) => pvLabels.has(area.name)),
    );
    if (touches) mark(lv.name);
  }
  for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
    for (const use of lvs.get(name)?.usedBy ?? []) mark(use.user);
  }
  return vg.logicalVolumes.filter((lv) => partial.has(lv.name));
}

/** The VG without its partial LVs: RAID images become error targets, mirrors lose their images, all else is removed. */
async function withoutPartial(
  vg: VolumeGroupText,
  pvLabels: ReadonlySet<string>,
  mode: MissingMode,
  messages: PlanMessage[],
): Promise<VolumeGroupText> {
  const say = (text: string): void => void messages.push({ stream: 'stderr', when: 'before', text });
  const spared = new Set<string>();
  let after = vg;
  for (;;) {
    const partial = partialVolumes(after, pvLabels);
    const raid = partial.find((lv) => isBrokenRaid(lv, partial));
    if (raid !== undefined) {
      after = withErrorImages(after, raid, partial);
      continue;
    }
    const mirror = partialMirror(after, partial);
    const repaired = mirror === null ? null : withoutMissingImages(after, mirror, partial);
    if (repaired !== null) {
      after = repaired;
      continue;
    }
    if (mirror !== null) say(`No usable images left in ${vg.name}/${mirror.name}.`);
    const next = mirror ?? partial.find((lv) => isRemovable(lv) && !spared.has(lv.name));
    if (next === undefined) return after;
    if (mode === 'mirrors-only' && mirror === null) {
      spared.add(next.name);
      say(`Non-mirror-image LV ${next.name} found: can't remove.`);
      continue;
    }
    if (mirror === null) say(`WARNING: Removing partial LV ${vg.name}/${next.name}.`);
    const removal = await removeLv(after, next.name, () => Promise.resolve(true));
    for (const text of removal.lines) messages.push({ stream: 'stdout', when: 'after', text });
    after = removal.vg;
  }
}

function isRemovable(lv: LogicalVolumeText): boolean {
  return lv.status.includes('VISIBLE') && !isRecord(lv);
}

/** The `snapshotN` LV that ties a COW store to its origin; the store is the volume. */
function isRecord(lv: LogicalVolumeText): boolean {
  return lv.segments[0]?.type === 'snapshot';
}

interface ImagePair {
  readonly metadata?: string;
  readonly data: string;
}

function imagesOf(lv: LogicalVolumeText): readonly ImagePair[] {
  const [segment] = lv.segments;
  if (segment?.type === 'raid0') return segment.images.map((data) => ({ data }));
  return segment?.type === 'raid' ? segment.images : [];
}

function isBroken(image: ImagePair, partial: readonly LogicalVolumeText[]): boolean {
  return partial.some(({ name }) => name === image.data || name === image.metadata);
}

/** LVM2 keeps every RAID, whether or not what is left of it is enough: that is for whoever repairs it to find out. */
function isBrokenRaid(lv: LogicalVolumeText, partial: readonly LogicalVolumeText[]): boolean {
  return imagesOf(lv).some((image) => isBroken(image, partial));
}

/** The RAID's broken images and their metadata as LVs of type error, which read as failed devices. */
function withErrorImages(
  vg: VolumeGroupText,
  raid: LogicalVolumeText,
  partial: readonly LogicalVolumeText[],
): VolumeGroupText {
  const broken = new Set(
    imagesOf(raid)
      .filter((image) => isBroken(image, partial))
      .flatMap((image) => (image.metadata === undefined ? [image.data] : [image.data, image.metadata])),
  );
  return {
    ...vg,
    logicalVolumes: vg.logicalVolumes.map((lv) => (broken.has(lv.name) ? asError(lv) : lv)),
  };
}

function asError(lv: LogicalVolumeText): LogicalVolumeText {
  const extentCount = lv.segments.reduce((sum, segment) => sum + segment.extentCount, 0);
  return {
    ...lv,
    segments: [{ type: 'error', startExtent: 0, extentCount, tags: [], typeFlags: [], extra: [] }],
  };
}
