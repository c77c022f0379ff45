/**
 * The devices that pvcreate, pvremove, vgcreate and vgextend are given: found, judged, asked about, taken exclusively and
 * cleared of foreign signatures, in LVM2's order and words (facts: LVM2 tools/toollib.c pvcreate_each_device).
 *
 * Invariants
 *  - A device of a volume group is never chosen without -ff, one that somebody holds never at all.
 *  - Nothing is written here but the wiping of signatures that the user agreed to; with --test not even that.
 *  - What was refused has been said on stderr.
 */
import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { DeviceTopology, OpenedDevice } from '../block/device.ts';
import { DeviceError } from '../block/errors.ts';
import { deviceNumbers } from '../block/probe.ts';
import { ActiveVolumes } from './active-volumes.ts';
import type { ChangeContext } from './change-context.ts';
import type { Changes } from './changes.ts';
import { CommandError } from './edit/errors.ts';
import type { LabelledDevice, Scan, ScannedDevice } from './model.ts';
import { openExclusively } from './open.ts';
import { wipeSignatures } from './wipe-signatures.ts';

const SECTOR_BYTES = 512;

/** What a device is before anything is done to it. */
export type PvState =
  | { readonly kind: 'blank' }
  | { readonly kind: 'orphan'; readonly found: LabelledDevice }
  /** Marked as used by a VG of which nothing was found. */
  | { readonly kind: 'used'; readonly found: LabelledDevice }
  | { readonly kind: 'member'; readonly found: LabelledDevice; readonly vgName: string }
  | { readonly kind: 'duplicate'; readonly found: LabelledDevice; readonly unused: boolean };

/** create: pvcreate. join: vgcreate and vgextend, which keep PVs as they are. remove: pvremove. */
export type Purpose = 'create' | 'join' | 'remove';

export interface DeviceChoice {
  readonly names: readonly string[];
  readonly purpose: Purpose;
  /** Number of -f that count. */
  readonly force: number;
  /** The uuid that a new PV is to have, display form; null: any. */
  readonly uuid: string | null;
  /** --setphysicalvolumesize; 0: not given. */
  readonly sizeSectors: number;
  /** devices/pv_min_size */
  readonly minSectors: number;
  /** devices/allow_mixed_block_sizes */
  readonly mixedBlockSizes: boolean;
  /** Formats a size for messages. */
  readonly sizeText: (sectors: number) => string;
}

export interface ChosenDevice {
  /** As the user named it. */
  readonly name: string;
  readonly device: ScannedDevice;
  readonly state: PvState;
  readonly topology: DeviceTopology | null;
}

export interface Chosen {
  readonly devices: readonly ChosenDevice[];
  /** Some device was refused. */
  readonly failed: boolean;
}

/** The scanned device that a path leads to; null if the scan has none. */
export async function deviceNamed(scan: Scan, name: string): Promise<ScannedDevice | null> {
  const exact = scan.devices.find((device) => device.path === name || device.path === resolve(name));
  if (exact !== undefined) return exact;
  const identity = await identityOf(name);
  return scan.devices.find((device) => device.identity === identity) ?? null;
}

async function identityOf(path: string): Promise<string | null> {
  try {
    const stats = await stat(path, { bigint: true });
    if (!stats.isBlockDevice()) return `file:${stats.dev}:${stats.ino}`;
    const { major, minor } = deviceNumbers(stats.rdev);
    return `block:${major}:${minor}`;
  } catch {
    return null;
  }
}

/** What the scan says of a device. */
export function pvStateOf(scan: Scan, device: ScannedDevice): PvState {
  const isIt = (found: LabelledDevice | null): found is LabelledDevice => found?.device.identity === device.identity;
  const duplicate = scan.duplicates.find(isIt);
  if (duplicate !== undefined) return { kind: 'duplicate', found: duplicate, unused: true };
  const isDuplicated = (found: LabelledDevice): boolean => scan.duplicates.some(({ uuid }) => uuid === found.uuid);
  for (const { vg, pvs, outdated } of scan.volumeGroups) {
    const found = pvs.map((pv) => pv.found).find(isIt) ?? outdated.find(isIt);
    if (found === undefined) continue;
    if (isDuplicated(found)) return { kind: 'duplicate', found, unused: false };
    return { kind: 'member', found, vgName: vg.name };
  }
  for (const { name, devices } of scan.unreadable) {
    const found = devices.find(isIt);
    if (found !== undefined) return { kind: 'member', found, vgName: name };
  }
  const found = scan.orphans.map((pv) => pv.found).find(isIt);
  if (found === undefined) return { kind: 'blank' };
  if (isDuplicated(found)) return { kind: 'duplicate', found, unused: false };
  return { kind: found.inUse ? 'used' : 'orphan', found };
}

/** Chooses devices. Throws CommandError when the command needs all and one was refused, or when none is left. */
export async function chooseDevices(changes: Changes, choice: DeviceChoice): Promise<Chosen> {
  const chooser = new Chooser(changes, choice);
  await chooser.find();
  chooser.judge();
  await chooser.ask();
  return chooser.take();
}

interface Candidate {
  readonly name: string;
  readonly device: ScannedDevice;
  readonly state: PvState;
}

class Chooser {
  readonly #changes: Changes;
  readonly #context: ChangeContext;
  readonly #choice: DeviceChoice;
  /** vgcreate and vgextend want all of their devices or none. */
  readonly #needsAll: boolean;
  #candidates: readonly Candidate[] = [];
  #failed = false;
  #asked = false;

  constructor(changes: Changes, choice: DeviceChoice) {
    this.#changes = changes;
    this.#context = changes.context;
    this.#choice = choice;
    this.#needsAll = choice.purpose === 'join';
  }

  get #scan(): Scan {
    return this.#changes.scan;
  }

  async find(): Promise<void> {
    const there: { readonly name: string; readonly device: ScannedDevice | null }[] = [];
    for (const name of this.#choice.names) {
      const device = await deviceNamed(this.#scan, name);
      if (device !== null || (await this.#exists(name))) there.push({ name, device });
      else this.#fail(`No device found for ${name}.`);
    }
    if (there.length === 0) throw new CommandError([]);
    const found: Candidate[] = [];
    for (const { name, device } of there) {
      const unusable = device === null ? this.#whyNotFound(name) : unusableReason(device, this.#choice);
      if (unusable !== null) this.#fail(`Cannot use ${name}: ${unusable}`);
      else if (device !== null) found.push({ name, device, state: pvStateOf(this.#scan, device) });
    }
    if (this.#needsAll && this.#failed) throw new CommandError('Command requires all devices to be found.');
    this.#keep(found);
  }

  async #exists(name: string): Promise<boolean> {
    return this.#context.excluded?.has(resolve(name)) === true || (await identityOf(name)) !== null;
  }

  #whyNotFound(name: string): string {
    return this.#context.excluded?.get(resolve(name)) ?? 'device is not in devices list';
  }

  /** Leaves out what can't be used whatever the answers are. */
  judge(): void {
    const { purpose, force, uuid } = this.#choice;
    this.#keepIf(({ name, device, state }) => {
      if (purpose === 'remove') {
        if (state.kind === 'blank' && force === 0) return `No PV found on device ${name}.`;
        if (state.kind === 'duplicate' && !(state.unused && force > 1)) return `No PV found on device ${name}.`;
        return null;
      }
      if (state.kind === 'duplicate') return `Cannot use device ${name} with duplicates.`;
      const other = uuid === null ? undefined : this.#holderOf(uuid);
      if (other === undefined || other.identity === device.identity) return null;
      return `UUID ${uuid} already in use on "${other.path}".`;
    });
  }

  #holderOf(uuid: string): ScannedDevice | undefined {
    const { volumeGroups, orphans } = this.#scan;
    const pvs = [...volumeGroups.flatMap((group) => group.pvs), ...orphans];
    return pvs.find((pv) => pv.uuid === uuid && pv.found !== null)?.found?.device;
  }

  /** Settles what force and -y settle, then asks about the rest. */
  async ask(): Promise<void> {
    const kept: Candidate[] = [];
    for (const candidate of this.#candidates) {
      const agreed =
        this.#choice.purpose === 'remove' ? await this.#askRemove(candidate) : await this.#askCreate(candidate);
      if (agreed) kept.push(candidate);
    }
    this.#keep(kept);
    if (!this.#asked) return;
    await this.#changes.retakeGlobal();
    this.#keepIf((candidate) => (this.#isAsBefore(candidate) ? null : changedMeanwhile(candidate)));
  }

  /** Asks without P_global: an answer may take its time. */
  async #prompt(question: string): Promise<boolean> {
    if (!this.#asked) await this.#changes.letGlobalGo();
    this.#asked = true;
    return this.#context.prompt(question);
  }

  #isAsBefore({ device, state }: Candidate): boolean {
    const now = this.#scan.devices.find(({ identity }) => identity === device.identity);
    return now !== undefined && describeState(pvStateOf(this.#scan, now)) === describeState(state);
  }

  async #askCreate({ name, device, state }: Candidate): Promise<boolean> {
    const { purpose, force, sizeSectors, sizeText } = this.#choice;
    const { yes } = this.#context;
    if (state.kind === 'blank') return true;
    let answer = true;
    if (state.kind !== 'orphan') {
      const vgName = state.kind === 'member' ? state.vgName : '<unknown>';
      if (force < 2) {
        for (const line of inVgLines(name, state, purpose)) this.#context.err(line);
        answer = false;
      } else if (yes === 0) {
        answer = await this.#prompt(`Really INITIALIZE physical volume "${name}" of volume group "${vgName}" [y/n]? `);
        if (answer)
          this.#context.err(`WARNING: Forcing physical volume creation on ${name} of volume group "${vgName}"`);
      }
    }
    const size = device.sizeBytes / SECTOR_BYTES;
    if (answer && sizeSectors !== 0 && sizeSectors !== size) {
      const mismatch = `device size ${sizeText(size)} does not match requested size ${sizeText(sizeSectors)}`;
      answer = yes > 0 || (await this.#prompt(`WARNING: ${name}: ${mismatch}. Proceed? [y/n]: `));
      if (answer) this.#context.err(`WARNING: Faking size of PV ${name}. Don't write outside real device.`);
    }
    if (!answer) this.#fail(`${name}: physical volume not initialized.`);
    return answer;
  }

  async #askRemove({ name, state }: Candidate): Promise<boolean> {
    const { yes } = this.#context;
    if (state.kind !== 'member' && state.kind !== 'used') return true;
    const vgName = state.kind === 'member' ? state.vgName : '<unknown>';
    if (this.#choice.force < 2) {
      this.#context.err(
        state.kind === 'used'
          ? `PV ${name} is used by a VG but its metadata is missing.`
          : `PV ${name} is used by VG ${vgName} so please use vgreduce first.`,
      );
      this.#context.err('(If you are certain you need pvremove, then confirm by using --force twice.)');
      this.#fail(`${name}: physical volume label not removed.`);
      return false;
    }
    this.#context.err(`WARNING: PV ${name} is used by VG ${vgName}.`);
    const question = `Really WIPE LABELS from physical volume "${name}" of volume group "${vgName}" [y/n]? `;
    if (yes === 0 && !(await this.#prompt(question))) {
      this.#fail(`${name}: physical volume label not removed.`);
      return false;
    }
    this.#context.err(`WARNING: Wiping physical volume label from ${name} of volume group "${vgName}".`);
    return true;
  }

  /** Opens each device exclusively once, wipes signatures, and learns how it wants to be used. */
  async take(): Promise<Chosen> {
    const devices: ChosenDevice[] = [];
    let blockSize: number | null = null;
    for (const candidate of this.#candidates) {
      const opened = (await this.#isInUse(candidate)) ? null : await this.#open(candidate.device);
      if (opened === null) continue;
      try {
        const { logicalBlockSize, topology = null } = opened.limits;
        if (this.#needsAll && !this.#choice.mixedBlockSizes)
          checkBlockSize(blockSize ?? logicalBlockSize, logicalBlockSize);
        blockSize = logicalBlockSize;
        if (!(await this.#wipe(candidate, opened))) continue;
        devices.push({ ...candidate, topology });
      } finally {
        await opened.close();
      }
    }
    this.#keep(devices);
    return { devices, failed: this.#failed };
  }

  /** The daemon's claim lets its commands open what it serves; a device with active volumes on it stays theirs, as device-mapper's would. */
  async #isInUse({ name, device, state }: Candidate): Promise<boolean> {
    if (state.kind !== 'member') return false;
    for (const { vg, pvs } of this.#scan.volumeGroups) {
      const pv = pvs.find(({ found }) => found?.device.identity === device.identity);
      if (pv?.text === undefined) continue;
      const active = (await ActiveVolumes.of(this.#context.live, vg)).onPv(pv.text.label);
      if (active.length === 0) continue;
      this.#fail(`Can't open ${name} exclusively.  Mounted filesystem?`);
      for (const lvName of active) this.#context.err(`Logical volume ${vg.name}/${lvName} on it is active.`);
      return true;
    }
    return false;
  }

  async #open(device: ScannedDevice): Promise<OpenedDevice | null> {
    try {
      return await (this.#context.open ?? openExclusively)(device.path);
    } catch (error) {
      if (!(error instanceof CommandError || error instanceof DeviceError)) throw error;
      for (const line of error.message.split('\n')) this.#fail(line);
      return null;
    }
  }

  async #wipe({ name, state }: Candidate, opened: OpenedDevice): Promise<boolean> {
    const { purpose, force } = this.#choice;
    if (purpose === 'remove' || (purpose === 'join' && state.kind === 'orphan')) return true;
    const isFile = opened.kind === 'file';
    const clean = await wipeSignatures(opened, { name, isFile, force, context: this.#context });
    if (!clean) this.#failed = true;
    return clean;
  }

  #keepIf(problemOf: (candidate: Candidate) => string | null): void {
    this.#keep(
      this.#candidates.filter((candidate) => {
        const problem = problemOf(candidate);
        if (problem !== null) this.#fail(problem);
        return problem === null;
      }),
    );
  }

  #keep(candidates: readonly Candidate[]): void {
    this.#candidates = candidates;
    if (candidates.length === 0 || (this.#failed && this.#needsAll)) throw new CommandError([]);
  }

  #fail(line: string): void {
    this.#context.err(line);
    this.#failed = true;
  }
}

function describeState(state: PvState): string {
  const uuid = state.kind === 'blank' ? '' : state.found.uuid;
  return `${state.kind} ${uuid} ${state.kind === 'member' ? state.vgName : ''}`;
}

function changedMeanwhile({ name }: Candidate): string {
  return `Cannot use device ${name}: it was changed while the question was waiting for its answer.`;
}

function unusableReason(device: ScannedDevice, { purpose, minSectors }: DeviceChoice): string | null {
  if (device.sizeBytes < minSectors * SECTOR_BYTES && purpose !== 'remove') return 'device is too small (pv_min_size)';
  if (device.held === true) return 'device is used by another device';
  return device.readOnly ? 'device is read-only' : null;
}

function inVgLines(name: string, state: PvState, purpose: Purpose): readonly string[] {
  if (state.kind !== 'member') {
    return [`PV ${name} is used by a VG but its metadata is missing.`, `Can't initialize PV '${name}' without -ff.`];
  }
  const { vgName } = state;
  if (purpose === 'create') {
    return [`Can't initialize physical volume "${name}" of volume group "${vgName}" without -ff`];
  }
  return [
    `Physical volume '${name}' is already in volume group '${vgName}'`,
    `Unable to add physical volume '${name}' to volume group '${vgName}'`,
  ];
}

function checkBlockSize(previous: number, size: number): void {
  if (previous === size) return;
  throw new CommandError(`Devices have inconsistent logical block sizes (${previous} and ${size}).`);
}
