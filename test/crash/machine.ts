/**
 * A host with small disks in memory, on which commands run as they would on real ones; every write is in a journal, so the
 * power can be cut anywhere. Also plans for it, made without the allocator and the layout rules of the commands.
 */
import assert from 'node:assert/strict';
import type { OpenedDevice } from '../../src/block/device.ts';
import { DeviceError } from '../../src/block/errors.ts';
import { PowerCutDevice, PowerCutJournal } from '../../src/block/power-cut.ts';
import { PLAIN_HOST } from '../../src/lvm/access.ts';
import type { ChangeContext } from '../../src/lvm/change-context.ts';
import { changePvs, changeVolumeGroup, withChanges } from '../../src/lvm/command.ts';
import { EFFECTS } from '../../src/lvm/effects.ts';
import { emptyPlan, type Plan, type PvLabelWrite } from '../../src/lvm/edit/plan.ts';
import type { Scan, ScannedDevice, VolumeGroup } from '../../src/lvm/model.ts';
import { scanDevices, type ScanOptions } from '../../src/lvm/scan.ts';
import type { Label } from '../../src/ondisk/label.ts';
import type { LogicalVolumeText, PhysicalVolumeText, VolumeGroupText } from '../../src/ondisk/metadata.ts';

export const DISK_BYTES: number = 512 * 1024;
const SECTOR_BYTES = 512;
export const EXTENT_SECTORS = 8;
const AREA_OFFSET = 4096;
const AREA_BYTES = 28_672;
const DATA_START = 32_768;

/** A device that the scan and the commit can open; `fail` makes requests end with an error. */
class Disk extends PowerCutDevice implements OpenedDevice {
  readonly kind = 'file';
  readonly identity: string;

  constructor(name: string, image: Buffer, journal: PowerCutJournal) {
    super(name, image, journal);
    this.identity = `file:disk:${name}`;
  }
}

export interface MachineOptions {
  /** Replaces a device when a commit opens it. */
  readonly wrap?: (device: OpenedDevice) => OpenedDevice;
}

export class Machine {
  readonly journal: PowerCutJournal = new PowerCutJournal();
  readonly disks: ReadonlyMap<string, Disk>;
  /** stdout and stderr of everything that ran. */
  readonly said: string[] = [];
  readonly #options: MachineOptions;

  /** `images` by path; they are changed in place. */
  constructor(images: ReadonlyMap<string, Buffer>, options: MachineOptions = {}) {
    this.disks = new Map([...images].map(([path, image]) => [path, new Disk(path, image, this.journal)]));
    this.#options = options;
  }

  /** A machine with `count` empty disks. */
  static empty(count: number): Machine {
    const paths = Array.from({ length: count }, (_, index) => `/disk${index}`);
    return new Machine(new Map(paths.map((path) => [path, Buffer.alloc(DISK_BYTES)])));
  }

  /** Copies of what the disks hold. */
  images(): Map<string, Buffer> {
    return new Map([...this.disks].map(([path, disk]) => [path, disk.snapshot()]));
  }

  get #scanOptions(): ScanOptions {
    return {
      open: (path) => Promise.resolve(this.#disk(path)),
      describe: (device) => Promise.resolve(this.device(device.name)),
    };
  }

  #disk(path: string): Disk {
    const disk = this.disks.get(path);
    if (disk === undefined) throw new DeviceError('NOT_FOUND', path, 'does not exist');
    return disk;
  }

  device(path: string): ScannedDevice {
    const { identity, limits } = this.#disk(path);
    return { path, sizeBytes: limits.sizeBytes, readOnly: false, identity, kind: 'file' };
  }

  scan(): Promise<Scan> {
    return scanDevices([...this.disks.keys()], this.#scanOptions);
  }

  get context(): ChangeContext {
    return {
      devices: [...this.disks.keys()],
      scan: this.#scanOptions,
      open: (path) => {
        const disk = this.#disk(path);
        return Promise.resolve(this.#options.wrap?.(disk) ?? disk);
      },
      host: PLAIN_HOST,
      locking: null,
      writer: { commandLine: 'test', generator: 'Orion LVM version 0', hostName: 'test', uname: 'Linux test' },
      backup: { archive: null, backup: null },
      hintsDirectory: null,
      effects: EFFECTS,
      test: false,
      yes: 1,
      force: 0,
      prompt: () => Promise.resolve(true),
      out: (line) => this.said.push(line),
      err: (line) => this.said.push(line),
      now: () => 1_795_349_543,
    };
  }

  /** The VG called vg, or null. */
  async group(): Promise<VolumeGroup | null> {
    const { volumeGroups } = await this.scan();
    assert(volumeGroups.length <= 1, 'more than one VG');
    return volumeGroups[0] ?? null;
  }

  async change(edit: (group: VolumeGroup, world: Scan) => Plan): Promise<VolumeGroup | null> {
    return changeVolumeGroup(this.context, { vgName: 'vg', handlesMissing: true }, edit);
  }

  /** Runs a plan that needs no VG. */
  async run(make: (world: Scan) => Plan): Promise<void> {
    await withChanges(this.context, {}, async (changes) => void (await changes.apply(make(changes.scan))));
  }

  async pvcreate(...pvs: readonly NewPv[]): Promise<void> {
    await changePvs(this.context, () => [{ ...emptyPlan(null, null), labels: pvs.map((pv) => labelWrite(this, pv)) }]);
  }

  async vgcreate(...pvs: readonly NewPv[]): Promise<void> {
    await this.run(() => vgcreatePlan(this, pvs));
  }
}

export interface NewPv {
  readonly path: string;
  readonly uuid: string;
  readonly areas?: 0 | 1 | 2;
  readonly ignored?: readonly number[];
}

/** A PV for that disk; `series` tells PVs apart that follow each other on one disk. */
export function newPv(path: string, areas: 0 | 1 | 2 = 1, series = 0): NewPv {
  const number = String(series * 10 + Number(path.at(-1))).padStart(6, '0');
  return { path, uuid: `PvPvPv-PvPv-PvPv-PvPv-PvPv-PvPv-${number}`, areas };
}

export function labelWrite(machine: Machine, pv: NewPv): PvLabelWrite {
  const device = machine.device(pv.path);
  const second = { offset: device.sizeBytes - AREA_BYTES, size: AREA_BYTES };
  const areas = [{ offset: AREA_OFFSET, size: AREA_BYTES }, second].slice(0, pv.areas ?? 1);
  const label: Label = {
    sector: 1,
    uuid: pv.uuid,
    deviceSizeBytes: device.sizeBytes,
    dataAreas: [{ offset: DATA_START, size: 0 }],
    metadataAreas: areas,
    extensionVersion: 2,
    extensionFlags: 0,
    bootloaderAreas: [],
  };
  return { device, label, kind: 'create', zeroHead: true, ignoredAreas: pv.ignored ?? [], when: 'before' };
}

export function pvText(pv: Pick<NewPv, 'path' | 'uuid'>, label = 'new'): PhysicalVolumeText {
  const peCount = Math.floor((DISK_BYTES - DATA_START - AREA_BYTES) / (EXTENT_SECTORS * SECTOR_BYTES));
  return {
    label,
    id: pv.uuid,
    device: pv.path,
    status: ['ALLOCATABLE'],
    flags: [],
    tags: [],
    devSizeSectors: DISK_BYTES / SECTOR_BYTES,
    peStartSectors: DATA_START / SECTOR_BYTES,
    peCount,
    extra: [],
  };
}

export function vgcreatePlan(machine: Machine, pvs: readonly NewPv[]): Plan {
  const after: VolumeGroupText = {
    name: 'vg',
    id: 'VgVgVg-VgVg-VgVg-VgVg-VgVg-VgVg-VgVgVg',
    seqno: 1,
    format: 'lvm2',
    status: ['RESIZEABLE', 'READ', 'WRITE'],
    flags: [],
    tags: [],
    extentSizeSectors: EXTENT_SECTORS,
    maxLv: 0,
    maxPv: 0,
    metadataCopies: 0,
    physicalVolumes: pvs.map((pv, index) => pvText(pv, `pv${index}`)),
    logicalVolumes: [],
    historicalLogicalVolumes: [],
    extra: [],
  };
  return { ...emptyPlan(null, after), labels: pvs.map((pv) => labelWrite(machine, pv)) };
}

/** A linear LV (name up to 6 letters or digits) of `count` extents from extent `start` of the PV labelled `area`. */
export function linearLv(name: string, area: string, start: number, count: number): LogicalVolumeText {
  return {
    name,
    id: `LvLvLv-LvLv-LvLv-LvLv-LvLv-LvLv-${name.padStart(6, '0')}`,
    status: ['READ', 'WRITE', 'VISIBLE'],
    flags: [],
    tags: [],
    segments: [
      {
        type: 'striped',
        startExtent: 0,
        extentCount: count,
        tags: [],
        typeFlags: [],
        areas: [{ name: area, extent: start }],
        extra: [],
      },
    ],
    extra: [],
  };
}

export function addLv(group: VolumeGroup, lv: LogicalVolumeText): Plan {
  return emptyPlan(group, { ...group.vg, logicalVolumes: [...group.vg.logicalVolumes, lv] });
}

export function addTag(group: VolumeGroup, tag: string): Plan {
  return emptyPlan(group, { ...group.vg, tags: [...group.vg.tags, tag] });
}

export function reduce(group: VolumeGroup, index: number): Plan {
  const physicalVolumes = group.vg.physicalVolumes.filter((_, at) => at !== index);
  return emptyPlan(group, { ...group.vg, physicalVolumes });
}

export function extend(machine: Machine, group: VolumeGroup, pv: NewPv): Plan {
  const physicalVolumes = [...group.vg.physicalVolumes, pvText(pv)];
  return { ...emptyPlan(group, { ...group.vg, physicalVolumes }), labels: [labelWrite(machine, pv)] };
}

/** Adds a PV that `pvcreate` made. */
export function extendByOrphan(group: VolumeGroup, world: Scan): Plan {
  const joining = world.orphans.flatMap(({ found }) => found ?? []);
  const news = joining.map(({ device, uuid }) => pvText({ path: device.path, uuid }));
  const physicalVolumes = [...group.vg.physicalVolumes, ...news];
  return { ...emptyPlan(group, { ...group.vg, physicalVolumes }), joining };
}
