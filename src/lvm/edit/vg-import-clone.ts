/**
 * vgimportclone: a copy of a volume group, made device by device, becomes a volume group of its own (facts: LVM2
 * tools/vgimportclone.c): new uuids for the VG and its PVs, a new name, this host's.
 *
 * Invariants
 *  - Only a complete VG is imported, and only if exactly its PVs were named.
 *  - LVs keep their ids: together with the VG's new id they are new.
 */
import { PV_EXT_USED } from '../../ondisk/label.ts';
import type { LogicalVolumeText, VolumeGroupText } from '../../ondisk/metadata.ts';
import { newUuid } from '../../ondisk/uuid.ts';
import type { LabelledDevice, ScannedDevice, VolumeGroup } from '../model.ts';
import { CommandError } from './errors.ts';
import { emptyPlan, type Plan, type PvLabelWrite } from './plan.ts';

export interface ImportCloneRequest {
  readonly group: VolumeGroup;
  /** Those that the user named. */
  readonly devices: readonly ScannedDevice[];
  readonly newName: string;
  /** --import: an exported VG is imported. */
  readonly importExported: boolean;
  /** This host's; null: none. */
  readonly systemId: string | null;
}

/** Throws CommandError with LVM2's reasons. */
export function importClonePlan(request: ImportCloneRequest): Plan {
  const { group, newName, systemId, importExported } = request;
  checkImportable(request);
  const ids = new Map(group.pvs.map((pv) => [pv.uuid, newUuid()]));
  const { lockType: _type, lockArgs: _args, systemId: _owner, ...vg } = group.vg;
  const imported = (words: readonly string[]): readonly string[] =>
    importExported ? words.filter((word) => word !== 'EXPORTED') : words;
  const after: VolumeGroupText = {
    ...vg,
    name: newName,
    id: newUuid(),
    status: imported(vg.status).filter((word) => word !== 'SHARED'),
    ...(systemId === null ? {} : { systemId }),
    physicalVolumes: vg.physicalVolumes.map((pv) => ({
      ...pv,
      id: ids.get(pv.id) ?? pv.id,
      status: imported(pv.status),
    })),
    logicalVolumes: vg.logicalVolumes.map(withoutLockArgs),
  };
  const labels = group.pvs.flatMap(({ uuid, found }) => {
    const id = ids.get(uuid);
    return found === null || id === undefined ? [] : [relabelled(found, id)];
  });
  return { ...emptyPlan(group, after), labels };
}

/** The name for the copy: the base (else the old name) with the first number that makes it unused. */
export function cloneName(oldName: string, base: string | null, taken: readonly string[]): string {
  const names = new Set(taken);
  if (base !== null && !names.has(base)) return base;
  for (let count = 1; ; count++) {
    const name = `${base ?? oldName}${count}`;
    if (!names.has(name)) return name;
  }
}

function checkImportable({ group, devices, importExported }: ImportCloneRequest): void {
  const { vg, pvs } = group;
  const failed = 'Failed to update VG on devices being imported.';
  if (vg.status.includes('EXPORTED') && !importExported) {
    throw new CommandError([`VG ${vg.name} is exported, use the --import option.`, failed]);
  }
  if (group.partial) {
    // Devices of a partial VG are mostly those that were not named.
    const missing = pvs.find((pv) => pv.found === null);
    throw new CommandError([
      `VG ${vg.name} is partial, it must be complete.`,
      ...(missing === undefined ? [] : [`PV with UUID ${missing.uuid} is not on the devices to import.`]),
      failed,
    ]);
  }
  const own = new Set(pvs.flatMap((pv) => pv.found?.device.identity ?? []));
  const stranger = devices.find((device) => !own.has(device.identity));
  if (stranger === undefined) return;
  throw new CommandError([
    `Device ${stranger.path} was not found in VG ${vg.name}.`,
    'The devices to import must match the devices in the VG.',
    failed,
  ]);
}

function withoutLockArgs({ lockArgs: _args, ...lv }: LogicalVolumeText): LogicalVolumeText {
  return lv;
}

function relabelled(found: LabelledDevice, uuid: string): PvLabelWrite {
  return {
    device: found.device,
    found,
    kind: 'update',
    zeroHead: false,
    ignoredAreas: [],
    when: 'before',
    label: {
      sector: found.labelSector,
      uuid,
      deviceSizeBytes: found.headerSizeBytes,
      dataAreas: found.dataAreas,
      metadataAreas: found.metadataAreas.map(({ offset, size }) => ({ offset, size })),
      bootloaderAreas: found.bootloaderAreas,
      extensionVersion: found.extensionVersion,
      extensionFlags: found.inUse ? PV_EXT_USED : 0,
    },
  };
}
