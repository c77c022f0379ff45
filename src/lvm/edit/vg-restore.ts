/**
 * vgcfgrestore: a volume group as a backup file states it, on the PVs that the file names (facts: LVM2
 * lib/format_text/archiver.c backup_restore_vg).
 *
 * Invariants
 *  - Every PV of the file must be there, and none may belong to a VG that would be left with other PVs.
 *  - Extents may be restored to places that the PV's header denies, as in LVM2, but no LV is.
 *  - The VG as it is now is what the commit starts from: its seqno is exceeded, and PVs that the file does not list become
 *    orphans. (LVM2 leaves them with metadata of a higher seqno, which then wins.)
 */
import { SECTOR_BYTES } from '../../ondisk/label.ts';
import type { MetadataText, VolumeGroupText } from '../../ondisk/metadata.ts';
import type { LabelledDevice, Scan, VolumeGroup } from '../model.ts';
import { CommandError } from './errors.ts';
import { emptyPlan, type Plan, type PlanMessage } from './plan.ts';

/** Throws CommandError with LVM2's reasons. */
export function restoreVgPlan(scan: Scan, { vg: restored }: MetadataText, force: boolean): Plan {
  const messages = checkThin(restored, force);
  const found = devicesFor(scan, restored);
  const before = groupToReplace(scan, restored, found);
  const known = new Set(before?.pvs.map((pv) => pv.uuid));
  const joining = [...found.values()].filter(({ uuid }) => !known.has(uuid));
  return {
    ...emptyPlan(before, { ...restored, seqno: restored.seqno + 1 }),
    joining,
    repairDamaged: true,
    restoresPlaces: true,
    clearOutdated: true,
    messages: [
      ...messages,
      ...overlapWarnings(restored, found),
      { stream: 'stdout', when: 'after', text: `Restored volume group ${restored.name}.` },
    ],
  };
}

/** A pool's own metadata is not in the file, and may not fit to it any more. */
function checkThin(vg: VolumeGroupText, force: boolean): readonly PlanMessage[] {
  const isThin = vg.logicalVolumes.some((lv) =>
    lv.segments.some(({ type }) => type === 'thin' || type === 'thin-pool'),
  );
  if (!isThin) return [];
  if (!force) {
    throw new CommandError(`Consider using option --force to restore Volume Group ${vg.name} with thin volumes.`);
  }
  const text = `WARNING: Forced restore of Volume Group ${vg.name} with thin volumes.`;
  return [{ stream: 'stderr', when: 'before', text }];
}

/** Extents that lie on a metadata area; if an LV is on them, the plan is refused. */
function overlapWarnings(vg: VolumeGroupText, found: ReadonlyMap<string, LabelledDevice>): readonly PlanMessage[] {
  return vg.physicalVolumes.flatMap((pv) => {
    const start = pv.peStartSectors * SECTOR_BYTES;
    const end = start + pv.peCount * vg.extentSizeSectors * SECTOR_BYTES;
    const device = found.get(pv.id);
    const area = device?.metadataAreas.find(({ offset, size }) => offset < end && start < offset + size);
    if (device === undefined || area === undefined) return [];
    const text = `WARNING: extents of PV ${device.device.path} overlap its metadata area at byte ${area.offset}.`;
    return { stream: 'stderr' as const, when: 'before' as const, text };
  });
}

/** Every device with a label, by PV uuid; of duplicates the one that is used. */
function labelledDevices(scan: Scan): ReadonlyMap<string, LabelledDevice> {
  const pvs = [...scan.volumeGroups.flatMap((group) => group.pvs), ...scan.orphans];
  const all = [
    ...scan.unreadable.flatMap(({ devices }) => devices),
    ...scan.volumeGroups.flatMap(({ outdated }) => outdated),
    ...pvs.flatMap((pv) => pv.found ?? []),
  ];
  return new Map(all.map((found) => [found.uuid, found]));
}

function devicesFor(scan: Scan, vg: VolumeGroupText): ReadonlyMap<string, LabelledDevice> {
  const devices = labelledDevices(scan);
  const lines: string[] = [];
  const found = new Map<string, LabelledDevice>();
  for (const { id, flags, status } of vg.physicalVolumes) {
    const device = devices.get(id);
    if (device === undefined) lines.push(`WARNING: Couldn't find device with uuid ${id}.`);
    if (device === undefined || flags.includes('MISSING') || status.includes('MISSING')) continue;
    found.set(id, device);
  }
  const missing = vg.physicalVolumes.length - found.size;
  if (missing === 0) return found;
  throw new CommandError([...lines, `Cannot restore Volume Group ${vg.name} with ${missing} PVs marked as missing.`]);
}

/** The VG whose place is taken; null: there is none. */
function groupToReplace(
  scan: Scan,
  restored: VolumeGroupText,
  found: ReadonlyMap<string, LabelledDevice>,
): VolumeGroup | null {
  const owners = scan.volumeGroups.filter(
    ({ vg, pvs }) => vg.id === restored.id || pvs.some((pv) => found.has(pv.uuid)),
  );
  for (const owner of owners) {
    if (owner.vg.id === restored.id) continue;
    const left = owner.pvs.some((pv) => !found.has(pv.uuid));
    if (left || owners.length > 1) {
      throw new CommandError(`Cannot restore Volume Group ${restored.name}: PVs of it are in VG ${owner.vg.name}.`);
    }
  }
  const [owner = null] = owners;
  const namesake = scan.volumeGroups.find((group) => group.vg.name === restored.name && group !== owner);
  if (namesake === undefined) return owner;
  throw new CommandError(`Cannot restore Volume Group ${restored.name}: another VG has this name (${namesake.vg.id}).`);
}
