/**
 * From what a scan found to what ought to be served: one entry per visible LV, and the devices that must be held for it.
 * Pure: nothing is opened.
 *
 * Invariants
 *  - Every visible LV has one entry, active or with the reason why not; a name that two LVs would be served by is not served at all.
 *  - All physical volumes of a VG are held when anything of it is served, so that nobody else changes its metadata.
 *  - A VG of which another program holds a device is not served; a device that fails otherwise takes only its own LVs.
 *  - A VG that appears while the daemon runs is activated when its last PV is there; at the start, what can be served is.
 *  - What is served already, and whose table the newest metadata still demands, goes on with the problem told (keep.ts).
 */
import type { DeviceError } from '../block/errors.ts';
import { withoutLostSnapshots } from '../lvm/activate-snapshots.ts';
import { type ActivationOptions, activationPlan, type LvActivation } from '../lvm/activate.ts';
import { asServed } from '../lvm/deferred-merges.ts';
import { volumeId, type VolumeId } from '../lvm/live.ts';
import type { Scan, ScannedDevice, VolumeGroup } from '../lvm/model.ts';
import { relationsOf, segmentTypeName } from '../lvm/relations.ts';
import type { Settings } from './config.ts';
import { contextsOf } from './contexts.ts';
import { type Candidate, candidates, duplicateProblem, type Holding, NOTHING_HELD } from './keep.ts';
import { type DesiredVolume, groupOf } from './served-volume.ts';

const SECTOR_BYTES = 512;
const UNITS = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
/** The largest block that a device may want requests in. */
const BLOCK_SECTORS = 8;

export interface Inventory {
  readonly scan: Scan;
  readonly volumes: readonly DesiredVolume[];
  /** Devices to hold, each once. */
  readonly devices: readonly ScannedDevice[];
  /** By VG id: groups of which something is served, as they are last known. */
  readonly groups: ReadonlyMap<string, VolumeGroup>;
  /** Ids of VGs that wait for their last PV. */
  readonly waiting: ReadonlySet<string>;
}

/** What was decided for a volume by a command: active or not, whatever its flags say, or even without the PVs that are missing. */
export type Decisions = ReadonlyMap<VolumeId, boolean | 'partial'>;

type InventorySettings = Pick<Settings, 'readOnly' | 'systemId' | 'extraSystemIds' | 'activationList'>;

/**
 * What to serve of a scan; `failures` are the devices that could not be held, by path, `holding` is what is served now, and
 * `before` the scan before this one (null: this is the first).
 */
export function takeInventory(
  scan: Scan,
  settings: InventorySettings,
  failures: ReadonlyMap<string, DeviceError> = new Map(),
  holding: Holding = NOTHING_HELD,
  decisions: Decisions = new Map(),
  before: Pick<Inventory, 'scan' | 'waiting'> | null = null,
): Inventory {
  const devices = new Map<string, ScannedDevice>();
  const volumes: DesiredVolume[] = [];
  const groups = new Map<string, VolumeGroup>();
  const waiting = waitingGroups(scan, holding, before);
  const rules = { settings, holding, decisions, waiting };
  const volumeGroups = scan.volumeGroups.map((group) => {
    const vg = asServed(group.vg, holding.mergeWaits);
    return vg === group.vg ? group : { ...group, vg };
  });
  for (const candidate of candidates({ ...scan, volumeGroups }, holding)) {
    const { group, asServed: servedGroup } = candidate;
    const found = withDuplicates(planCandidate(candidate, rules, failures), group, scan);
    const own = goingOn(candidate, found, scan, rules);
    if (own.some(({ plan }) => plan.active)) {
      for (const device of devicesOf(servedGroup)) devices.set(device.identity, device);
      // Which devices are copies is for each scan to find out.
      groups.set(group.vg.id, { ...servedGroup, hasDuplicates: false });
    }
    volumes.push(...own);
  }
  return { scan, volumes: refuseSharedNames(volumes, holding), devices: [...devices.values()], groups, waiting };
}

/**
 * VGs that are incomplete since they appeared. Activating a part of one could follow metadata that is older than that on the PVs
 * which are still to come.
 */
function waitingGroups(
  scan: Scan,
  holding: Holding,
  before: Pick<Inventory, 'scan' | 'waiting'> | null,
): ReadonlySet<string> {
  if (before === null) return new Set();
  const known = new Set(before.scan.volumeGroups.map(({ vg }) => vg.id));
  const incomplete = scan.volumeGroups.filter(({ partial }) => partial).map(({ vg }) => vg.id);
  return new Set(incomplete.filter((id) => !holding.groups.has(id) && (!known.has(id) || before.waiting.has(id))));
}

/** What the metadata demands, whatever is served now. */
function planCandidate(
  { group, problem }: Candidate,
  rules: Rules,
  failures: ReadonlyMap<string, DeviceError>,
): readonly LvActivation[] {
  const plan = planGroup(group, rules);
  if (problem === null) return withoutLostSnapshots(plan.map((entry) => withFailures(entry, group, failures)));
  return plan.map((entry) => (entry.active ? inactive(entry, problem) : entry));
}

/** Where VGs with duplicate PVs are refused, which devices have them is told. */
function withDuplicates(plan: readonly LvActivation[], group: VolumeGroup, scan: Scan): readonly LvActivation[] {
  if (!group.hasDuplicates) return plan;
  const places = group.pvs.flatMap(({ uuid, found }) => {
    const others = scan.duplicates.filter((other) => other.uuid === uuid).map(({ device }) => device.path);
    return found === null || others.length === 0
      ? []
      : [`PV ${uuid} is on ${[found.device.path, ...others].join(' and ')}.`];
  });
  return plan.map((entry) => (entry.active ? entry : inactive(entry, [entry.reason, ...places].join(' '))));
}

/** The same as volumes; what could not be made active now and is served with the table that it would have goes on. */
function goingOn(
  { group, asServed }: Candidate,
  plan: readonly LvActivation[],
  scan: Scan,
  rules: Rules,
): readonly DesiredVolume[] {
  const volumes = plan.map((entry) => desired(group, entry));
  if (!holdsSome(rules.holding, volumes)) return volumes;
  const duplicates = duplicateProblem(asServed, scan);
  const active = new Map(planGroup(asServed, rules, true).map((entry) => [entry.lv.id, entry]));
  return volumes.map((volume, index) => {
    const entry = active.get(plan[index]?.lv.id ?? '');
    if (volume.plan.active || entry?.active !== true) return volume;
    const served = rules.holding.served(volume.id);
    const same = desired(asServed, entry);
    if (!same.plan.active || served === null) return volume;
    if (served.key !== same.plan.key || served.readOnly !== same.plan.readOnly) return volume;
    return { ...same, plan: { ...same.plan, problem: duplicates ?? volume.plan.reason } };
  });
}

function holdsSome(holding: Holding, volumes: readonly DesiredVolume[]): boolean {
  return volumes.some(({ id, plan }) => !plan.active && holding.served(id) !== null);
}

/** What decides besides the metadata. */
interface Rules {
  readonly settings: InventorySettings;
  readonly holding: Holding;
  readonly decisions: Decisions;
  /** Ids of VGs. */
  readonly waiting: ReadonlySet<string>;
}

/**
 * A decision of a command beats flags and configuration. Without one, a flag that now keeps a volume from being activated
 * automatically does not end it.
 */
function planGroup(group: VolumeGroup, rules: Rules, ignoreDuplicates = false): readonly LvActivation[] {
  const { settings, holding, decisions } = rules;
  const host = {
    systemId: settings.systemId,
    extraSystemIds: settings.extraSystemIds,
    allowForeign: false,
    allowShared: false,
  };
  const options = { host, readOnly: settings.readOnly, ignoreDuplicates, moves: 'mirror' } as const;
  const automatic = activationPlan(group, options);
  const anyway = { ...options, ignoreActivationSkip: true, ignoreNoAutoActivate: true };
  const other = new Map<true | 'partial' | 'served', readonly LvActivation[]>();
  const list = settings.activationList;
  const plan = automatic.map((entry, i) => {
    const id = volumeId(group.vg, entry.follows ?? entry.lv);
    const decision = decisions.get(id);
    if (decision === false) return inactive(entry, 'deactivated');
    let wished = entry;
    if (!entry.active && (decision !== undefined || holding.served(id) !== null)) {
      const how = decision ?? 'served';
      const known =
        other.get(how) ?? activationPlan(group, { ...anyway, ...(how === 'served' ? {} : asDecided(group, how)) });
      other.set(how, known);
      wished = known[i] ?? entry;
    }
    if (!wished.active || decision !== undefined) return wished;
    if (rules.waiting.has(group.vg.id)) return inactive(wished, incompleteMessage(group));
    if (list === null || isListed(list, group, wished)) return wished;
    return inactive(wished, 'not in activation.auto_activation_volume_list');
  });
  return withoutLostSnapshots(plan);
}

/** What a command decided: it has looked at whose VG this is, by the host's own settings. */
function asDecided({ vg }: VolumeGroup, decision: true | 'partial'): Partial<ActivationOptions> {
  const host = { systemId: vg.systemId ?? null, extraSystemIds: [], allowForeign: false, allowShared: false };
  return { host, partial: decision === 'partial' };
}

/** "volume group vg0 waits for physical volume UUID (last written to /dev/sdb)". */
function incompleteMessage({ vg, pvs }: VolumeGroup): string {
  const missing = pvs
    .filter((pv) => pv.missing)
    .map(({ uuid, text }) => `${uuid} (last written to ${text?.device ?? '?'})`);
  return `volume group ${vg.name} waits for physical volume ${missing.join(', ')}`;
}

/** Whether the list names the VG, the LV, or a tag of one of them. */
function isListed(list: readonly string[], group: VolumeGroup, entry: LvActivation): boolean {
  const lv = entry.follows ?? entry.lv;
  const exportName = `${group.vg.name}/${lv.name}`;
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
  const id = volumeId(group.vg, entry.lv);
  const description = describe(group, entry);
  if (!entry.active) return { name, id, description, contexts: [], plan: { active: false, reason: entry.reason } };
  const { table, devices, readOnly, note } = entry;
  const identities = new Map(devicesOf(group).map(({ path, identity }) => [path, identity]));
  const disks = new Map(
    group.pvs.flatMap(({ uuid, found }): readonly (readonly [string, string])[] => {
      const device = found?.device;
      return device === undefined || !entry.devices.includes(device.path) ? [] : [[uuid, device.identity]];
    }),
  );
  // The path is not enough: another disk may be behind it since the last scan.
  const key = JSON.stringify([table, entry.devices.map((path) => identities.get(path))]);
  const shareKey = sharesBlocks(group) ? `blocks ${group.vg.id}` : (entry.shareKey ?? null);
  const plan = {
    active: true as const,
    table,
    devices,
    readOnly,
    disks,
    key,
    shareKey,
    ...(note === undefined ? {} : { note }),
  };
  return { name, id, description, contexts: contextsOf(group, entry.lv), plan };
}

/**
 * Whether extents of the group begin or end within a block: then a write at the edge of one LV reads and writes bytes of its
 * neighbour, which two workers can't do at the same time.
 */
function sharesBlocks({ vg, pvs }: VolumeGroup): boolean {
  return [vg.extentSizeSectors, ...pvs.map(({ text }) => text?.peStartSectors ?? 0)].some(
    (sectors) => sectors % BLOCK_SECTORS !== 0,
  );
}

/**
 * One line for LIST: "4 GiB linear logical volume of volume group vg0, id VG-uuid/LV-uuid, tagged db, fast". By the id, backups over NBD know
 * a volume again.
 */
function describe(group: VolumeGroup, entry: LvActivation): string {
  const { lv } = entry;
  const facts = relationsOf(group.vg).lvs.get(lv.name)?.lv;
  const types = new Set(facts?.segments.map((segment) => segmentTypeName(segment)));
  // A snapshot is as large as its origin was, whatever its store is.
  const last = entry.active ? entry.table.at(-1) : undefined;
  const size = last === undefined ? '' : `${shortSize((last.start + last.length) * SECTOR_BYTES)} `;
  const tags = lv.tags.length === 0 ? '' : `, tagged ${lv.tags.join(', ')}`;
  const kind = `${size}${[...types].join(' and ')} logical volume`;
  return `${kind} of volume group ${group.vg.name}, id ${group.vg.id}/${lv.id}${tags}`;
}

/** "4 GiB", "1.5 TiB". */
function shortSize(bytes: number): string {
  let unit = 0;
  while (unit < UNITS.length - 1 && bytes >= 1024 ** (unit + 1)) unit++;
  return `${Math.round((bytes / 1024 ** unit) * 100) / 100} ${UNITS[unit]}`;
}

/** Of volumes with one name that could all be served the one that is goes on; otherwise none is served. */
function refuseSharedNames(volumes: readonly DesiredVolume[], holding: Holding): readonly DesiredVolume[] {
  const counts = new Map<string, number>();
  for (const { name, plan } of volumes) if (plan.active) counts.set(name, (counts.get(name) ?? 0) + 1);
  const unique = volumes.filter(({ name }) => (counts.get(name) ?? 0) <= 1);
  const shared = [...counts].filter(([, count]) => count > 1);
  const reason = 'two volume groups have this name: rename one of them, or leave its devices out';
  const refused = shared.flatMap(([name]) => {
    const own = volumes.filter((volume) => volume.name === name);
    const served = own.find(({ id, plan }) => plan.active && holding.served(id) !== null);
    return own.map((volume): DesiredVolume => {
      if (volume === served && volume.plan.active) return { ...volume, plan: { ...volume.plan, problem: reason } };
      return { ...volume, plan: { active: false, reason } };
    });
  });
  return [...unique, ...refused];
}

/** `now` for the groups that `follows` names, `before` for the others: some change of theirs is under way. */
export function mergeInventories(
  before: Inventory | null,
  now: Inventory,
  follows: (vgId: string) => boolean,
): Inventory {
  if (before === null) return now;
  const stays = (vgId: string): boolean => !follows(vgId);
  const volumes = [
    ...now.volumes.filter(({ id }) => follows(groupOf(id))),
    ...before.volumes.filter(({ id }) => stays(groupOf(id))),
  ];
  const groups = new Map([
    ...[...now.groups].filter(([id]) => follows(id)),
    ...[...before.groups].filter(([id]) => stays(id)),
  ]);
  const devices = new Map([...groups.values()].flatMap(devicesOf).map((device) => [device.identity, device]));
  return { scan: now.scan, volumes, devices: [...devices.values()], groups, waiting: now.waiting };
}
