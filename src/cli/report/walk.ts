/**
 * Which volume groups, logical volumes and physical volumes a reading command goes through, as rows, with LVM2's messages
 * for those that are not there or may not be looked at.
 *
 * Invariants
 *  - Nothing named is left out without a message, and then the exit code is 5; what is not named is skipped silently.
 *  - Volume groups come in LVM2's order (the last found first) or in the order they were named; thin pools come before the
 *    other LVs of their VG. Only reports that don't sort show it.
 *
 * Source: lvm(8), and comparison with pvs, vgs and lvs 2.03.16.
 */
import { statSync } from 'node:fs';
import {
  accessProblem,
  activeForeignMessage,
  barrierOf,
  type HostContext,
  isExported,
  isForeign,
  passedOverLines,
  refusedPvLines,
  withAdvice,
} from '../../lvm/access.ts';
import { allocationMapOf, type PvSegment } from '../../lvm/allocation-map.ts';
import type { LabelledDevice, PhysicalVolume, Scan, ScannedDevice, VolumeGroup } from '../../lvm/model.ts';
import { hasActiveVolumes } from '../../lvm/served.ts';
import { type LvFacts, relationsOf } from '../../lvm/relations.ts';
import { devicesInOrder, vgsInOrder } from '../../lvm/vg-order.ts';
import { EXIT, type ExitCode, type Output } from '../messages.ts';
import type { LvArguments, PvArguments, VgArguments } from './arguments.ts';
import type { PvPart, ReportRow } from './field.ts';

export interface WalkOptions {
  readonly scan: Scan;
  readonly host: HostContext;
  /** -a */
  readonly all: boolean;
  /** -H */
  readonly history: boolean;
  /** The command also looks at exported VGs. */
  readonly exported: boolean;
  /** -v: also say which VGs are skipped. */
  readonly verbose: boolean;
  readonly output: Output;
}

function shareAny(wanted: readonly string[], present: readonly string[]): boolean {
  return wanted.some((tag) => present.includes(tag));
}

/** Whether two paths name one device: the same device number, or the same file. */
function isSameDevice(path: string, other: string): boolean {
  const a = statSync(path, { throwIfNoEntry: false });
  const b = statSync(other, { throwIfNoEntry: false });
  if (a === undefined || b === undefined) return false;
  if (a.isBlockDevice() && b.isBlockDevice()) return a.rdev === b.rdev;
  return a.dev === b.dev && a.ino === b.ino;
}

function isDevice(path: string): boolean {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat !== undefined && (stat.isBlockDevice() || stat.isFile());
}

/** [A-Za-z0-9._+-], no leading hyphen, not . or .., at most 127. */
function isVgName(name: string): boolean {
  return /^(?!\.\.?$)[A-Za-z0-9._+][A-Za-z0-9._+-]{0,126}$/.test(name);
}

export class Walk {
  readonly #options: WalkOptions;
  readonly #warned = new Set<string>();
  #exitCode: ExitCode = EXIT.ok;

  constructor(options: WalkOptions) {
    this.#options = options;
  }

  get exitCode(): ExitCode {
    return this.#exitCode;
  }

  #fail(...lines: readonly string[]): void {
    for (const line of lines) this.#options.output.error(line);
    this.#exitCode = EXIT.failed;
  }

  row(parts: Partial<ReportRow>): ReportRow {
    const { scan } = this.#options;
    return { scan, vg: null, lv: null, historical: null, segment: null, pv: null, pvSegment: null, ...parts };
  }

  /** Prints what the scan found wrong with the VGs of a name, once, when one is first looked at. */
  #warn(name: string): void {
    if (this.#warned.has(name)) return;
    this.#warned.add(name);
    for (const warning of this.#options.scan.warnings) {
      if (warning.vgName === name) this.#options.output.error(warning.message);
    }
  }

  /** Going through every VG also meets those whose metadata is refused: they are told, and have no rows. */
  #warnOfUnreadable(): void {
    for (const { name } of this.#options.scan.unreadable) this.#warn(name);
  }

  /** Whether a VG may be looked at; says why not if it was `named`. */
  #allowed(vg: VolumeGroup, named: boolean): boolean {
    const { host, exported } = this.#options;
    this.#warn(vg.vg.name);
    const problem = accessProblem(vg.vg, host);
    if (problem !== null && isForeign(vg.vg, host) && hasActiveVolumes(vg)) {
      this.#options.output.error(activeForeignMessage(vg.vg));
    } else if (problem !== null) {
      const foreign = isForeign(vg.vg, host);
      // Of a foreign one it is told twice where it was named.
      if (foreign || !named) for (const line of passedOverLines(vg.vg, host)) this.#options.output.error(line);
      this.#refuse(
        named,
        withAdvice(vg.vg, problem),
        `Skipping ${foreign ? 'foreign ' : ''}volume group ${vg.vg.name}`,
      );
      return false;
    }
    if (exported || !isExported(vg.vg)) return true;
    this.#refuse(named, [`Volume group ${vg.vg.name} is exported`], `Skipping exported volume group ${vg.vg.name}`);
    return false;
  }

  #refuse(named: boolean, problem: readonly string[], skipped: string): void {
    if (named) this.#fail(...problem);
    else if (this.#options.verbose) this.#options.output.error(skipped);
  }

  /** The VG of this name; foreign ones only count if there is no other. */
  #named(name: string): VolumeGroup | null {
    if (!isVgName(name)) {
      this.#fail(`Volume group name "${name}" has invalid characters.`, `Cannot process volume group ${name}`);
      return null;
    }
    if (this.#options.scan.unreadable.some((vg) => vg.name === name)) this.#warn(name);
    const found = this.#options.scan.volumeGroups.filter((vg) => vg.vg.name === name);
    const own = found.filter((vg) => !isForeign(vg.vg, this.#options.host));
    if (own.length > 1) {
      this.#fail(
        `Multiple VGs found with the same name: skipping ${name}`,
        'Use --select vg_uuid=<uuid> in place of the VG name.',
      );
      return null;
    }
    const vg = found.length > 1 ? own[0] : found[0];
    if (vg === undefined) this.#fail(`Volume group "${name}" not found`, `Cannot process volume group ${name}`);
    return vg ?? null;
  }

  /** The VGs that the arguments mean: all of them, those named, those with a tag. */
  vgs(args: VgArguments): readonly VolumeGroup[] {
    const everything = args.tags.length === 0;
    const wanted = (vg: VolumeGroup): boolean =>
      everything || args.vgNames.includes(vg.vg.name) || shareAny(args.tags, vg.vg.tags);
    return [...this.#eachVg(args)].filter(wanted);
  }

  /** The VGs to look into: those named, or with tags (which LVs may have too) or no names every one. */
  *#eachVg(args: VgArguments): Generator<VolumeGroup> {
    if (args.tags.length > 0 || args.vgNames.length === 0) {
      this.#warnOfUnreadable();
      for (const vg of vgsInOrder(this.#options.scan))
        if (this.#allowed(vg, args.vgNames.includes(vg.vg.name))) yield vg;
      return;
    }
    for (const name of args.vgNames) {
      const vg = this.#named(name);
      if (vg !== null && this.#allowed(vg, true)) yield vg;
    }
  }

  /** The LVs (and with -H the historical ones) that the arguments mean. */
  lvs(args: LvArguments): ReportRow[] {
    const rows: ReportRow[] = [];
    for (const vg of this.#eachVg(args)) {
      const whole = args.wholeVgs.includes(vg.vg.name);
      rows.push(...this.lvsOf(vg, whole ? [] : (args.lvNames.get(vg.vg.name) ?? []), whole ? [] : args.tags));
    }
    return rows;
  }

  /** LVs of one VG: those named or tagged, or all. */
  lvsOf(vg: VolumeGroup, names: readonly string[] = [], tags: readonly string[] = []): ReportRow[] {
    const everything = (names.length === 0 && tags.length === 0) || shareAny(tags, vg.vg.tags);
    const { lvs } = relationsOf(vg.vg);
    const pools: LvFacts[] = [];
    const others: LvFacts[] = [];
    for (const facts of lvs.values()) {
      if (!this.#shown(vg, facts, names)) continue;
      if (!everything && !names.includes(facts.name) && !shareAny(tags, facts.lv.tags)) continue;
      (facts.lv.segments[0]?.type === 'thin-pool' ? pools : others).push(facts);
    }
    const rows = [...pools.toReversed(), ...others].map((facts) => this.row({ vg, lv: facts.lv }));
    rows.push(...this.#historical(vg, names, tags, everything));
    this.#reportMissing(vg, names);
    return rows;
  }

  /** Hidden LVs are shown with -a or when named; the records of COW snapshots never. */
  #shown(vg: VolumeGroup, facts: LvFacts, names: readonly string[]): boolean {
    const { all, output } = this.#options;
    if (facts.snapshotRecord) return false;
    if (facts.virtualOrigin && !all) {
      const ignored = `Ignoring virtual origin logical volume ${vg.vg.name}/${facts.name}.`;
      if (names.includes(facts.name)) output.print(ignored);
      return false;
    }
    return all || facts.visible || names.length > 0;
  }

  #historical(vg: VolumeGroup, names: readonly string[], tags: readonly string[], everything: boolean): ReportRow[] {
    if (!this.#options.history || tags.length > 0) return [];
    return vg.vg.historicalLogicalVolumes
      .filter((lv) => everything || names.includes(`-${lv.name ?? lv.label}`))
      .map((historical) => this.row({ vg, historical }));
  }

  #reportMissing(vg: VolumeGroup, names: readonly string[]): void {
    const { lvs } = relationsOf(vg.vg);
    for (const name of names) {
      const removed =
        this.#options.history && vg.vg.historicalLogicalVolumes.some((lv) => `-${lv.name ?? lv.label}` === name);
      if (removed || (lvs.has(name) && lvs.get(name)?.snapshotRecord !== true)) continue;
      this.#fail(`Failed to find logical volume "${vg.vg.name}/${name}"`);
    }
  }

  /** One row per segment of each LV row; hidden LVs only with -a, even if they were named. */
  segments(rows: readonly ReportRow[]): ReportRow[] {
    return rows.flatMap((row) => {
      const { vg, lv } = row;
      if (vg === null || lv === null) return [row];
      if (!this.#options.all && relationsOf(vg.vg).lvs.get(lv.name)?.visible !== true) return [];
      return lv.segments.map((segment) => this.row({ vg, lv, segment }));
    });
  }

  pvRow(vg: VolumeGroup | null, pv: PhysicalVolume): ReportRow {
    return this.row({ vg, pv: { device: pv.found?.device ?? null, label: pv.found, pv, group: vg, duplicate: false } });
  }

  pvsOf(vg: VolumeGroup): ReportRow[] {
    return vg.pvs.map((pv) => this.pvRow(vg, pv));
  }

  /** PVs in no VG. */
  orphans(): ReportRow[] {
    const { scan, output } = this.#options;
    for (const warning of scan.warnings) if (warning.orphan === true) output.error(warning.message);
    return this.#options.scan.orphans.map((pv) => this.pvRow(null, pv));
  }

  /** The PVs that the arguments mean; with -a every device. */
  pvs(args: PvArguments): ReportRow[] {
    const { all } = this.#options;
    const everything = args.names.length === 0 && args.tags.length === 0;
    const wanted = this.#devices(args.names);
    const rows: ReportRow[] = [];
    for (const vg of vgsInOrder(this.#options.scan)) {
      // Once all that was named is found, the other VGs are not looked at.
      if (!everything && args.tags.length === 0 && wanted.size === 0) break;
      rows.push(...this.#wantedPvs(vg, everything, wanted, args.tags));
    }
    if (everything || args.tags.length > 0 || wanted.size > 0) {
      this.#warnOfUnreadable();
      const orphans = this.orphans().filter((row) => takeDevice(wanted, row.pv?.device ?? null) || everything);
      rows.push(...orphans);
    }
    rows.push(...this.#duplicates(wanted, everything && all));
    for (const device of wanted) this.#fail(`Failed to find physical volume "${device.path}".`);
    if (everything && all) rows.push(...this.#otherDevices());
    return rows;
  }

  #wantedPvs(vg: VolumeGroup, everything: boolean, wanted: Set<ScannedDevice>, tags: readonly string[]): ReportRow[] {
    const allowed = this.#allowed(vg, false);
    const rows: ReportRow[] = [];
    for (const pv of vg.pvs) {
      const named = takeDevice(wanted, pv.found?.device ?? null);
      if (!everything && !named && !shareAny(tags, pv.text?.tags ?? [])) continue;
      if (allowed) rows.push(this.pvRow(vg, pv));
      else this.#refusePv(vg, pv, named);
    }
    return rows;
  }

  #refusePv(vg: VolumeGroup, pv: PhysicalVolume, named: boolean): void {
    const { host, verbose, output } = this.#options;
    const name = pv.found?.device.path ?? '[unknown]';
    if (verbose && !named) output.error(`Skipping PV ${name} in VG ${vg.vg.name}.`);
    if (!named) return;
    const barrier = barrierOf(vg.vg, host);
    if (barrier !== null) this.#fail(...refusedPvLines(vg.vg, barrier, name));
  }

  /** The scanned devices of these paths; says which are not there. */
  #devices(names: readonly string[]): Set<ScannedDevice> {
    const found = new Set<ScannedDevice>();
    for (const name of names) {
      const device = this.#device(name);
      if (device !== null) found.add(device);
      else {
        const reason = isDevice(name) ? 'device is not in devices list' : 'device not found';
        this.#fail(`Cannot use ${name}: ${reason}`);
      }
    }
    return found;
  }

  #device(name: string): ScannedDevice | null {
    const { devices } = this.#options.scan;
    const byPath = devices.find((device) => device.path === name);
    if (byPath !== undefined) return byPath;
    return devices.find((device) => isSameDevice(device.path, name)) ?? null;
  }

  #duplicates(wanted: Set<ScannedDevice>, everything: boolean): ReportRow[] {
    return this.#options.scan.duplicates.flatMap((label) => {
      const named = takeDevice(wanted, label.device);
      return named || everything ? [this.#duplicateRow(label)] : [];
    });
  }

  #duplicateRow(label: LabelledDevice): ReportRow {
    const { scan } = this.#options;
    const vg = scan.volumeGroups.find((group) => group.pvs.some((pv) => pv.uuid === label.uuid)) ?? null;
    return this.row({ vg, pv: { device: label.device, label, pv: null, group: vg, duplicate: true } });
  }

  /** Devices that are no PVs. */
  #otherDevices(): ReportRow[] {
    const { scan } = this.#options;
    const labelled = [...scan.duplicates, ...scan.unreadable.flatMap((vg) => vg.devices)];
    const known = new Set(labelled.map((label) => label.device.identity));
    for (const pv of [...scan.orphans, ...scan.volumeGroups.flatMap((vg) => vg.pvs)]) {
      if (pv.found !== null) known.add(pv.found.device.identity);
    }
    const others = devicesInOrder(this.#options.scan).filter((device) => !known.has(device.identity));
    return others.map((device) => this.row({ pv: { device, label: null, pv: null, group: null, duplicate: false } }));
  }

  /** Reports of label fields alone: every device with a label, or those named. */
  labels(names: readonly string[]): ReportRow[] {
    const { scan } = this.#options;
    const rows = new Map<string, ReportRow>();
    for (const vg of scan.volumeGroups) {
      for (const pv of vg.pvs) if (pv.found !== null) rows.set(pv.found.device.identity, this.pvRow(vg, pv));
    }
    for (const pv of scan.orphans) if (pv.found !== null) rows.set(pv.found.device.identity, this.pvRow(null, pv));
    for (const label of scan.unreadable.flatMap((vg) => vg.devices)) {
      const pv = { uuid: label.uuid, found: label, missing: false };
      rows.set(label.device.identity, this.pvRow(null, pv));
    }
    if (names.length === 0)
      return devicesInOrder(this.#options.scan).flatMap((device) => rows.get(device.identity) ?? []);
    return names.flatMap((name) => this.#labelNamed(name, rows));
  }

  #labelNamed(name: string, rows: ReadonlyMap<string, ReportRow>): ReportRow[] {
    const device = this.#device(name);
    if (device === null) {
      this.#fail(`Failed to find device "${name}".`);
      return [];
    }
    const duplicate = this.#options.scan.duplicates.find((label) => label.device.identity === device.identity);
    if (duplicate !== undefined) return [this.#duplicateRow(duplicate)];
    const row = rows.get(device.identity);
    if (row === undefined) this.#fail(`No physical volume label read from ${name}.`);
    return row === undefined ? [] : [row];
  }

  /** One row per run of extents of each PV row; a PV without extents has one row, of no extents and no VG. */
  pvSegments(rows: readonly ReportRow[]): ReportRow[] {
    return rows.flatMap(({ vg, pv }) => {
      const segments = vg === null ? [] : segmentsOf(vg, pv);
      if (segments.length === 0) return [this.row({ pv, pvSegment: { start: 0, count: 0 } })];
      return segments.map(({ startPe, length, owner }) => {
        const pvSegment = { start: startPe, count: length };
        return this.row({ vg, pv, pvSegment, lv: owner?.lv ?? null, segment: owner?.segment ?? null });
      });
    });
  }
}

function segmentsOf(vg: VolumeGroup, part: PvPart | null): readonly PvSegment[] {
  const label = part?.pv?.text?.label;
  return label === undefined ? [] : (allocationMapOf(vg.vg).pvs.get(label)?.segments ?? []);
}

/** Takes a device out of a set; true if it was there. */
function takeDevice(devices: Set<ScannedDevice>, device: ScannedDevice | null): boolean {
  return device !== null && devices.delete(device);
}
