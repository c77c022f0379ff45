/**
 * From what a scan found to what ought to be served: one entry per visible LV, and the devices that must be held for it.
 * Pure: nothing is opened.
 *
 * Invariants
 *  - Every visible LV has one entry, active or with the reason why not; a name that two LVs share is not served at all.
 *  - All physical volumes of a VG are held when anything of it is served, so that nobody else changes its metadata.
 *  - A VG of which another program holds a device is not served; a device that fails otherwise takes only its own LVs.
 */
import type { DeviceError } from '../block/errors.ts';
import { activationPlan, type LvActivation } from '../lvm/activate.ts';
import type { Scan, ScannedDevice, VolumeGroup } from '../lvm/model.ts';
import { relationsOf, segmentTypeName } from '../lvm/relations.ts';
import type { Settings } from './config.ts';
import type { DesiredVolume } from './volumes.ts';

export interface Inventory {
  readonly scan: Scan;
  readonly volumes: readonly DesiredVolume[];
  /** Devices to hold, each once. */
  readonly devices: readonly ScannedDevice[];
}

type InventorySettings = Pick<Settings, 'readOnly' | 'systemId' | 'extraSystemIds' | 'activationList'>;

/** What to serve of a scan; `failures` are the devices that could not be held, by path. */
export function takeInventory(
  scan: Scan,
  settings: InventorySettings,
  failures: ReadonlyMap<string, DeviceError> = new Map(),
): Inventory {
  const identities = new Map(scan.devices.map(({ path, identity }) => [path, identity]));
  const devices = new Map<string, ScannedDevice>();
  const volumes: DesiredVolume[] = [];
  for (const group of scan.volumeGroups) {
    const entries = planGroup(group, settings).map((entry) => withFailures(entry, group, failures));
    if (entries.some((entry) => entry.active)) {
      for (const device of devicesOf(group)) devices.set(device.identity, device);
    }
    volumes.push(...entries.map((entry) => desired(group, entry, identities)));
  }
  return { scan, volumes: refuseSharedNames(volumes), devices: [...devices.values()] };
}

function planGroup(group: VolumeGroup, settings: InventorySettings): readonly LvActivation[] {
  const host = {
    systemId: settings.systemId,
    extraSystemIds: settings.extraSystemIds,
    allowForeign: false,
    allowShared: false,
  };
  const plan = activationPlan(group, { host, readOnly: settings.readOnly });
  const list = settings.activationList;
  if (list === null) return plan;
  return plan.map((entry) =>
    !entry.active || isListed(list, group, entry)
      ? entry
      : inactive(entry, 'not in activation.auto_activation_volume_list'),
  );
}

/** Whether the list names the VG, the LV, or a tag of one of them. */
function isListed(list: readonly string[], group: VolumeGroup, { lv, exportName }: LvActivation): boolean {
  return list.some((pattern) => {
    if (!pattern.startsWith('@')) return pattern === group.vg.name || pattern === exportName;
    const tag = pattern.slice(1);
    return lv.tags.includes(tag) || group.vg.tags.includes(tag);
  });
}

function devicesOf(group: VolumeGroup): readonly ScannedDevice[] {
  return group.pvs.flatMap(({ found }) => (found === null ? [] : [found.device]));
}

function withFailures(
  entry: LvActivation,
  group: VolumeGroup,
  failures: ReadonlyMap<string, DeviceError>,
): LvActivation {
  if (!entry.active || failures.size === 0) return entry;
  const held = devicesOf(group).map(({ path }) => failures.get(path));
  const taken = held.find((error) => error?.code === 'IN_USE');
  const failed = taken ?? entry.devices.map((path) => failures.get(path)).find((error) => error !== undefined);
  return failed === undefined ? entry : inactive(entry, failed.message);
}

function inactive({ lv, exportName }: LvActivation, reason: string): LvActivation {
  return { lv, exportName, active: false, reason };
}

function desired(group: VolumeGroup, entry: LvActivation, identities: ReadonlyMap<string, string>): DesiredVolume {
  const name = entry.exportName;
  const id = `${group.vg.id} ${entry.lv.id}`;
  const description = describe(group, entry);
  if (!entry.active) return { name, id, description, plan: { active: false, reason: entry.reason } };
  const { table, readOnly, note } = entry;
  // The path is not enough: another disk may be behind it since the last scan.
  const key = JSON.stringify([table, entry.devices.map((path) => identities.get(path))]);
  const plan = { active: true as const, table, readOnly, key, ...(note === undefined ? {} : { note }) };
  return { name, id, description, plan };
}

/** One line for LIST: "linear logical volume of volume group vg0". */
function describe(group: VolumeGroup, { lv }: LvActivation): string {
  const types = new Set(
    relationsOf(group.vg)
      .lvs.get(lv.name)
      ?.lv.segments.map((segment) => segmentTypeName(segment)),
  );
  return `${[...types].join(' and ')} logical volume of volume group ${group.vg.name}`;
}

function refuseSharedNames(volumes: readonly DesiredVolume[]): readonly DesiredVolume[] {
  const counts = new Map<string, number>();
  for (const { name } of volumes) counts.set(name, (counts.get(name) ?? 0) + 1);
  const unique = volumes.filter(({ name }) => counts.get(name) === 1);
  const shared = [...counts].filter(([, count]) => count > 1);
  const reason = 'two volume groups have this name: rename one of them, or leave its devices out';
  const refused = shared.map(([name]) => ({
    name,
    id: '',
    description: '',
    plan: { active: false as const, reason },
  }));
  return [...unique, ...refused];
}
