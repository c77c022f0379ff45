/**
 * From what a scan found to what ought to be served: one entry per visible LV, and the devices that must be held for it.
 * Pure: nothing is opened.
 *
 * Invariants
 *  - Every visible LV has one entry, active or with the reason why not; a name that two LVs share is not served at all.
 *  - All physical volumes of a VG are held when anything of it is served, so that nobody else changes its metadata.
 *  - A VG of which another program holds a device is not served; a device that fails otherwise takes only its own LVs.
 *  - What is served already, and whose table the newest metadata still demands, goes on with the problem told (keep.ts).
 */
import type { DeviceError } from '../block/errors.ts';
import { activationPlan, type LvActivation } from '../lvm/activate.ts';
import type { Scan, ScannedDevice, VolumeGroup } from '../lvm/model.ts';
import { relationsOf, segmentTypeName } from '../lvm/relations.ts';
import type { Settings } from './config.ts';
import { type Candidate, candidates, duplicateProblem, type Holding, NOTHING_HELD } from './keep.ts';
import type { DesiredVolume } from './volumes.ts';

export interface Inventory {
  readonly scan: Scan;
  readonly volumes: readonly DesiredVolume[];
  /** Devices to hold, each once. */
  readonly devices: readonly ScannedDevice[];
  /** By VG id: groups of which something is served, as they are last known. */
  readonly groups: ReadonlyMap<string, VolumeGroup>;
}

type InventorySettings = Pick<Settings, 'readOnly' | 'systemId' | 'extraSystemIds' | 'activationList'>;

/** What to serve of a scan; `failures` are the devices that could not be held, by path, `holding` is what is served now. */
export function takeInventory(
  scan: Scan,
  settings: InventorySettings,
  failures: ReadonlyMap<string, DeviceError> = new Map(),
  holding: Holding = NOTHING_HELD,
): Inventory {
  const devices = new Map<string, ScannedDevice>();
  const volumes: DesiredVolume[] = [];
  const groups = new Map<string, VolumeGroup>();
  for (const candidate of candidates(scan, holding)) {
    const { group, asServed } = candidate;
    const found = planCandidate(candidate, settings, failures);
    const own = goingOn(candidate, found, { scan, settings, holding });
    if (own.some(({ plan }) => plan.active)) {
      for (const device of devicesOf(asServed)) devices.set(device.identity, device);
      // Which devices are copies is for each scan to find out.
      groups.set(group.vg.id, { ...asServed, hasDuplicates: false });
    }
    volumes.push(...own);
  }
  return { scan, volumes: refuseSharedNames(volumes, holding), devices: [...devices.values()], groups };
}

/** What the metadata demands, whatever is served now. */
function planCandidate(
  { group, problem }: Candidate,
  settings: InventorySettings,
  failures: ReadonlyMap<string, DeviceError>,
): readonly LvActivation[] {
  const plan = planGroup(group, settings);
  if (problem === null) return plan.map((entry) => withFailures(entry, group, failures));
  return plan.map((entry) => (entry.active ? inactive(entry, problem) : entry));
}

/** The same as volumes; what could not be made active now and is served with the table that it would have goes on. */
function goingOn(
  { group, asServed }: Candidate,
  plan: readonly LvActivation[],
  now: { readonly scan: Scan; readonly settings: InventorySettings; readonly holding: Holding },
): readonly DesiredVolume[] {
  const volumes = plan.map((entry) => desired(group, entry));
  if (!holdsSome(now.holding, volumes)) return volumes;
  const duplicates = duplicateProblem(asServed, now.scan);
  const active = new Map(planGroup(asServed, now.settings, true).map((entry) => [entry.lv.id, entry]));
  return volumes.map((volume, index) => {
    const entry = active.get(plan[index]?.lv.id ?? '');
    if (volume.plan.active || entry?.active !== true) return volume;
    const served = now.holding.served(volume.name);
    const same = desired(asServed, entry);
    if (!same.plan.active || served?.id !== same.id) return volume;
    if (served.key !== same.plan.key || served.readOnly !== same.plan.readOnly) return volume;
    return { ...same, plan: { ...same.plan, problem: duplicates ?? volume.plan.reason } };
  });
}

function holdsSome(holding: Holding, volumes: readonly DesiredVolume[]): boolean {
  return volumes.some(({ name, id, plan }) => !plan.active && holding.served(name)?.id === id);
}

function planGroup(group: VolumeGroup, settings: InventorySettings, ignoreDuplicates = false): readonly LvActivation[] {
  const host = {
    systemId: settings.systemId,
    extraSystemIds: settings.extraSystemIds,
    allowForeign: false,
    allowShared: false,
  };
  const plan = activationPlan(group, { host, readOnly: settings.readOnly, ignoreDuplicates });
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

function desired(group: VolumeGroup, entry: LvActivation): DesiredVolume {
  const name = entry.exportName;
  const id = `${group.vg.id} ${entry.lv.id}`;
  const description = describe(group, entry);
  if (!entry.active) return { name, id, description, plan: { active: false, reason: entry.reason } };
  const { table, readOnly, note } = entry;
  const identities = new Map(devicesOf(group).map(({ path, identity }) => [path, identity]));
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

/** Of volumes with one name the one that is served goes on; otherwise none is served. */
function refuseSharedNames(volumes: readonly DesiredVolume[], holding: Holding): readonly DesiredVolume[] {
  const counts = new Map<string, number>();
  for (const { name } of volumes) counts.set(name, (counts.get(name) ?? 0) + 1);
  const unique = volumes.filter(({ name }) => counts.get(name) === 1);
  const shared = [...counts].filter(([, count]) => count > 1);
  const reason = 'two volume groups have this name: rename one of them, or leave its devices out';
  const refused = shared.map(([name]): DesiredVolume => {
    const served = volumes.find((volume) => volume.name === name && holding.served(name)?.id === volume.id);
    if (served?.plan.active === true) return { ...served, plan: { ...served.plan, problem: reason } };
    return { name, id: '', description: '', plan: { active: false, reason } };
  });
  return [...unique, ...refused];
}
