/**
 * A mirror without the images and logs that lie on missing PVs (facts: LVM2 tools/lvconvert.c mirror_remove_missing).
 *
 * Invariants
 *  - Whole images stay, and with them the data: a mirror of which one image is left becomes the LV that the image was.
 *  - A log that is gone leaves a mirror with its log in memory; what a linear LV does not need goes.
 */
import type { LogicalVolumeText, MirrorSegment, VolumeGroupText } from '../../ondisk/metadata.ts';

/** The segment of a mirror whose images are LVs; null for anything else (a pvmove's images are PVs). */
function mirrorOf(vg: VolumeGroupText, lv: LogicalVolumeText): MirrorSegment | null {
  const [segment, ...more] = lv.segments;
  if (segment?.type !== 'mirror' || more.length > 0 || segment.extentsMoved !== undefined) return null;
  const names = new Set(vg.logicalVolumes.map(({ name }) => name));
  return segment.areas.every(({ name }) => names.has(name)) ? segment : null;
}

/** A mirror to repair, inner ones (mirrored logs) first; null: there is none. */
export function partialMirror(vg: VolumeGroupText, partial: readonly LogicalVolumeText[]): LogicalVolumeText | null {
  const mirrors = partial.filter((lv) => mirrorOf(vg, lv) !== null);
  const names = new Set(mirrors.map(({ name }) => name));
  const inner = mirrors.find((lv) => !partsOf(mirrorOf(vg, lv)).some((name) => names.has(name)));
  return inner ?? null;
}

function partsOf(segment: MirrorSegment | null): readonly string[] {
  if (segment === null) return [];
  const images = segment.areas.map(({ name }) => name);
  return segment.mirrorLog === undefined ? images : [...images, segment.mirrorLog];
}

/** The VG with only what is whole of a mirror; null: nothing is. */
export function withoutMissingImages(
  vg: VolumeGroupText,
  mirror: LogicalVolumeText,
  partial: readonly LogicalVolumeText[],
): VolumeGroupText | null {
  const segment = mirrorOf(vg, mirror);
  if (segment === null) return null;
  const gone = new Set(partial.map(({ name }) => name));
  const left = segment.areas.filter(({ name }) => !gone.has(name));
  const [only] = left;
  if (only === undefined) return null;
  const { mirrorLog, ...withoutLog } = segment;
  const keepsLog = mirrorLog !== undefined && !gone.has(mirrorLog);
  const repaired =
    left.length === 1
      ? asImage(mirror, imageNamed(vg, only.name))
      : { ...mirror, segments: [{ ...withoutLog, ...(keepsLog ? { mirrorLog } : {}), areas: left }] };
  const kept = new Set(left.length === 1 ? [] : partsOf(mirrorOf(vg, repaired)));
  const removed = withParts(
    vg,
    partsOf(segment).filter((name) => !kept.has(name)),
  );
  const logicalVolumes = vg.logicalVolumes
    .filter(({ name }) => !removed.has(name))
    .map((lv) => (lv === mirror ? repaired : lv));
  return { ...vg, logicalVolumes };
}

function imageNamed(vg: VolumeGroupText, name: string): LogicalVolumeText {
  const image = vg.logicalVolumes.find((lv) => lv.name === name);
  if (image === undefined) throw new TypeError(`${name} is no LV of ${vg.name}`);
  return image;
}

/** What only says how far a mirror is in sync means nothing of a linear LV. */
function isLasting(flag: string): boolean {
  return flag !== 'NOTSYNCED';
}

/** The LV as its last image: the same LV to its users. */
function asImage(mirror: LogicalVolumeText, image: LogicalVolumeText): LogicalVolumeText {
  return {
    ...mirror,
    status: mirror.status.filter(isLasting),
    flags: mirror.flags.filter(isLasting),
    segments: image.segments,
  };
}

/** These LVs with the images of those that are mirrors themselves (mirrored logs). */
function withParts(vg: VolumeGroupText, names: readonly string[]): ReadonlySet<string> {
  const all = new Set(names);
  for (const name of names) {
    const lv = vg.logicalVolumes.find((candidate) => candidate.name === name);
    if (lv !== undefined) for (const part of partsOf(mirrorOf(vg, lv))) all.add(part);
  }
  return all;
}
