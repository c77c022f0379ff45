/**
 * The last look at a plan before a byte is written: whatever an edit forgot is refused here.
 *
 * Checked of the VG to commit, as a whole: all that a reader checks (ondisk/vg-validate.ts, lvm/validate.ts), its limits
 * (max_lv, max_pv, 32-bit extent counts), and against the devices: every new PV comes from somewhere, no two PVs are one device,
 * and extents and metadata areas lie inside their device without touching each other.
 *
 * Invariant: a plan that comes back can be committed and is read back as it is; one that does not has written nothing.
 */
import { FormatError } from '../../ondisk/errors.ts';
import { type DiskLocation, type Label, SECTOR_BYTES } from '../../ondisk/label.ts';
import type { PhysicalVolumeText, VolumeGroupText } from '../../ondisk/metadata.ts';
import { validateVolumeGroup } from '../../ondisk/vg-validate.ts';
import { allocationMapOf } from '../allocation-map.ts';
import type { LabelledDevice, ScannedDevice } from '../model.ts';
import { vgProblem } from '../validate.ts';
import { withBalancedAreas } from './area-balance.ts';
import { canonical } from './canonical.ts';
import { CommandError } from './errors.ts';
import { checkOwnLimits, type OwnLimits } from './limits.ts';
import type { Plan, PvLabelWrite } from './plan.ts';

const MAX_EXTENTS = 2 ** 32 - 1;
const LABEL_SECTORS = 4;
const MAX_NAME_LENGTH = 128;
const NAME_OVERHEAD = 3;

/** The plan, completed by the ignored metadata areas. `limits`: lvm.toml's. Throws CommandError for the first thing that is wrong. */
export function validatePlan(plan: Plan, limits?: OwnLimits): Plan {
  for (const write of plan.labels) checkLabel(write);
  if (limits !== undefined) checkOwnLimits(plan, limits);
  if (plan.after === null) return plan;
  const balanced = withBalancedAreas(plan);
  const after = canonical(plan.after);
  try {
    validateVolumeGroup(after, { device: 'new metadata', offset: 0 });
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    throw new CommandError(`Cannot write volume group ${after.name}: ${error.message}`, 5, { cause: error });
  }
  const problem = vgProblem(after);
  if (problem !== null) throw new CommandError(`Cannot write volume group ${after.name}: ${problem}`);
  checkLimits(after);
  checkNames(after);
  checkDevices(plan, after);
  return balanced;
}

function checkLimits(vg: VolumeGroupText): void {
  const visible = vg.logicalVolumes.filter((lv) => lv.status.includes('VISIBLE')).length;
  if (vg.maxLv > 0 && visible > vg.maxLv) {
    throw new CommandError(`Maximum number of logical volumes (${vg.maxLv}) reached in volume group ${vg.name}`);
  }
  const pvs = vg.physicalVolumes.length;
  if (pvs === 0) throw new CommandError(`Volume group ${vg.name} would be left without a physical volume.`);
  if (vg.maxPv > 0 && pvs > vg.maxPv) {
    throw new CommandError(`No space for ${pvs} physical volumes - volume group '${vg.name}' holds max ${vg.maxPv}.`);
  }
  const extents = vg.physicalVolumes.reduce((sum, pv) => sum + pv.peCount, 0);
  if (extents > MAX_EXTENTS) {
    throw new CommandError(`Unable to write ${vg.name}: new extent count (${extents}) exceeds limit (${MAX_EXTENTS}).`);
  }
}

/** LVM2 refuses to work on a VG in which the names of VG and LV with what dm puts between and behind them have 128 characters. */
function checkNames(vg: VolumeGroupText): void {
  for (const { name } of vg.logicalVolumes) {
    const length = vg.name.length + name.length + NAME_OVERHEAD;
    if (length < MAX_NAME_LENGTH) continue;
    throw new CommandError(`LV name "${vg.name}/${name}" length ${length} is not supported.`);
  }
}

/** A member's device and the areas of its header; both null when it is missing. */
interface Place {
  readonly device: ScannedDevice;
  /** The PV's size by its header (of one that was resized, by its VG's text): more than the device has, if the user said so (--setphysicalvolumesize). */
  readonly headerSizeBytes: number;
  readonly metadataAreas: readonly DiskLocation[];
}

function checkDevices(plan: Plan, after: VolumeGroupText): void {
  const places = placesOf(plan);
  const old = new Map(plan.before?.vg.physicalVolumes.map((pv) => [pv.id, pv]));
  const byDevice = new Map<string, string>();
  for (const pv of after.physicalVolumes) {
    const place = places.get(pv.id);
    if (place === undefined) {
      if (old.has(pv.id)) continue;
      throw new CommandError(`Physical volume ${pv.id} is added to ${after.name} without a device.`);
    }
    const { identity, path } = place.device;
    const other = byDevice.get(identity);
    if (other !== undefined)
      throw new CommandError(`${path}: holds both PV ${other} and PV ${pv.id} of ${after.name}.`);
    byDevice.set(identity, pv.id);
    const was = old.get(pv.id);
    // What was there before is not refused now: the device may have shrunk, and the command may be the cure.
    if (was === undefined || was.peCount < pv.peCount || was.peStartSectors !== pv.peStartSectors) {
      for (const extents of extentsToCheck(plan, after, pv)) checkExtents(after, pv, place, extents);
    }
  }
}

function placesOf(plan: Plan): ReadonlyMap<string, Place> {
  const places = new Map<string, Place>();
  const add = (found: LabelledDevice): void => void places.set(found.uuid, found);
  for (const { found } of plan.before?.pvs ?? []) if (found !== null) add(found);
  for (const found of plan.joining ?? []) add(found);
  for (const { device, label } of plan.labels) {
    places.set(label.uuid, { device, headerSizeBytes: label.deviceSizeBytes, metadataAreas: label.metadataAreas });
  }
  return places;
}

interface Extents {
  readonly first: number;
  readonly count: number;
}

/** All of the PV, but of restored places only what LVs are on. */
function extentsToCheck(plan: Plan, after: VolumeGroupText, pv: PhysicalVolumeText): readonly Extents[] {
  if (plan.restoresPlaces !== true) return [{ first: 0, count: pv.peCount }];
  const segments = allocationMapOf(after).pvs.get(pv.label)?.segments ?? [];
  return segments.flatMap(({ owner, startPe, length }) => (owner === null ? [] : { first: startPe, count: length }));
}

function checkExtents(
  vg: VolumeGroupText,
  pv: PhysicalVolumeText,
  { device, headerSizeBytes, metadataAreas }: Place,
  { first, count }: Extents,
): void {
  const extentBytes = vg.extentSizeSectors * SECTOR_BYTES;
  const start = pv.peStartSectors * SECTOR_BYTES + first * extentBytes;
  const end = start + count * extentBytes;
  const sizeBytes = Math.max(device.sizeBytes, headerSizeBytes, (pv.devSizeSectors ?? 0) * SECTOR_BYTES);
  if (end > sizeBytes) {
    throw new CommandError(
      `${device.path}: ${count} extents from byte ${start} don't fit: the device has ${sizeBytes} bytes.`,
    );
  }
  for (const area of metadataAreas) {
    if (area.offset < end && start < area.offset + area.size) {
      throw new CommandError(`${device.path}: extents would overlap the metadata area at byte ${area.offset}.`);
    }
  }
}

function checkLabel({ device, label }: PvLabelWrite): void {
  const { path, sizeBytes } = device;
  for (const area of [...label.metadataAreas, ...label.bootloaderAreas]) {
    if (area.offset + area.size > sizeBytes) {
      throw new CommandError(`${path}: an area of ${area.size} bytes at ${area.offset} lies outside the device.`);
    }
    if (area.offset < LABEL_SECTORS * SECTOR_BYTES) {
      throw new CommandError(`${path}: an area at byte ${area.offset} overlaps the label.`);
    }
  }
  checkApart(path, [...label.metadataAreas, ...label.bootloaderAreas]);
  checkHeaderRoom(path, label);
}

function checkApart(path: string, areas: readonly DiskLocation[]): void {
  const sorted = areas.toSorted((a, b) => a.offset - b.offset);
  for (const [index, area] of sorted.entries()) {
    const next = sorted[index + 1];
    if (next !== undefined && area.offset + area.size > next.offset) {
      throw new CommandError(`${path}: the areas at bytes ${area.offset} and ${next.offset} overlap.`);
    }
  }
}

function checkHeaderRoom(path: string, label: Label): void {
  if (label.metadataAreas.length <= 2 && label.bootloaderAreas.length <= 1 && label.dataAreas.length === 1) return;
  throw new CommandError(`${path}: a PV has one data area, at most two metadata areas and one bootloader area.`);
}
