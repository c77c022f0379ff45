/**
 * The limits that lvm.toml sets (physical_volume_size_limit, volume_group_max_*, logical_volume_max_size,
 * logical_volume_snapshot_limit): a plan that would
 * go over one is refused.
 *
 * Invariant: what is over a limit already may stay so and be changed otherwise; only what grows is refused.
 */
import { SECTOR_BYTES } from '../../ondisk/label.ts';
import type { LogicalVolumeText, VolumeGroupText } from '../../ondisk/metadata.ts';
import { CommandError } from './errors.ts';
import type { Plan } from './plan.ts';

/** Zero: no limit. */
export interface OwnLimits {
  readonly physicalVolumeBytes: number;
  readonly pvsPerVg: number;
  readonly lvsPerVg: number;
  readonly extentsPerVg: number;
  readonly logicalVolumeBytes: number;
  /** Absent: no limit. */
  readonly snapshotsPerLv?: number;
}

/** Throws CommandError for the first limit that the plan would go over. */
export function checkOwnLimits(plan: Plan, limits: OwnLimits): void {
  for (const { device, label, found } of plan.labels) {
    const was = found?.headerSizeBytes ?? 0;
    refuse(
      `${device.path}: size`,
      'bytes',
      label.deviceSizeBytes,
      was,
      limits.physicalVolumeBytes,
      'physical_volume_size_limit',
    );
  }
  const { after } = plan;
  if (after === null) return;
  const before = plan.before?.vg ?? null;
  const vg = `Volume group ${after.name}`;
  const counts = [
    [
      'physical volumes',
      (group: VolumeGroupText): number => group.physicalVolumes.length,
      limits.pvsPerVg,
      'volume_group_max_pvs',
    ],
    ['logical volumes', visibleLvs, limits.lvsPerVg, 'volume_group_max_lvs'],
    ['extents', extents, limits.extentsPerVg, 'volume_group_max_pes'],
  ] as const;
  for (const [what, count, limit, key] of counts) {
    refuse(vg, what, count(after), before === null ? 0 : count(before), limit, key);
  }
  const old = new Map(before?.logicalVolumes.map((lv) => [lv.id, lvBytes(lv, before)]));
  for (const lv of after.logicalVolumes) {
    const name = `Logical volume ${after.name}/${lv.name}`;
    refuse(
      name,
      'bytes',
      lvBytes(lv, after),
      old.get(lv.id) ?? 0,
      limits.logicalVolumeBytes,
      'logical_volume_max_size',
    );
  }
  checkSnapshots(before, after, limits.snapshotsPerLv ?? 0);
}

/** Of snapshots, those that are merging included. */
function checkSnapshots(before: VolumeGroupText | null, after: VolumeGroupText, limit: number): void {
  if (limit === 0) return;
  const old = before === null ? new Map<string, number>() : snapshotCounts(before);
  const names = new Map(before?.logicalVolumes.map(({ id, name }) => [id, name]));
  const ids = new Map(after.logicalVolumes.map(({ id, name }) => [name, id]));
  for (const [name, count] of snapshotCounts(after)) {
    const was = old.get(names.get(ids.get(name) ?? '') ?? '') ?? 0;
    refuse(`Logical volume ${after.name}/${name}`, 'snapshots', count, was, limit, 'logical_volume_snapshot_limit');
  }
}

/** By origin: COW snapshots, and thin ones. */
function snapshotCounts({ logicalVolumes }: VolumeGroupText): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const { segments } of logicalVolumes) {
    const [first] = segments;
    const origin = first?.type === 'snapshot' || first?.type === 'thin' ? first.origin : undefined;
    if (origin !== undefined) counts.set(origin, (counts.get(origin) ?? 0) + 1);
  }
  return counts;
}

function refuse(who: string, what: string, now: number, was: number, limit: number, key: string): void {
  if (limit === 0 || now <= limit || now <= was) return;
  throw new CommandError(`${who}: ${now} ${what} would exceed ${key} of lvm.toml, which is ${limit}.`);
}

function visibleLvs(vg: VolumeGroupText): number {
  return vg.logicalVolumes.filter((lv) => lv.status.includes('VISIBLE')).length;
}

function extents(vg: VolumeGroupText): number {
  return vg.physicalVolumes.reduce((sum, pv) => sum + pv.peCount, 0);
}

function lvBytes(lv: LogicalVolumeText, vg: VolumeGroupText): number {
  return lv.segments.reduce((sum, segment) => sum + segment.extentCount, 0) * vg.extentSizeSectors * SECTOR_BYTES;
}
