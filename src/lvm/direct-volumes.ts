/**
 * An LV opened by a command itself, where no daemon serves it: through its own table, and with every volume that it shares something
 * with (an origin with its snapshots), so that what is written is copied out as it should be.
 *
 * Invariants
 *  - The devices are held exclusively until `close`: nobody else serves the LV meanwhile.
 *  - `close` settles when everything written is durable. What fails in it keeps nothing else open, and all of it is told.
 */
import type { OpenedDevice } from '../block/device.ts';
import { DeviceError } from '../block/errors.ts';
import { ExtentFlag, ExtentList, type StatusDone } from '../block/extents.ts';
import { openBlockDevice } from '../block/open.ts';
import { flush, readBytes, writeBytes, writeZeroes } from '../block/sync-io.ts';
import { VolumeError } from '../dm/errors.ts';
import { targets } from '../dm/targets.ts';
import { Volume } from '../dm/volume.ts';
import type { HostContext } from './access.ts';
import { activationPlan, type ActiveLv, type LvActivation } from './activate.ts';
import { CommandError } from './edit/errors.ts';
import { type VolumeId, volumeId } from './live.ts';
import type { VolumeGroup } from './model.ts';
import { closeAll, openExclusively } from './open.ts';

/** Extents of one answer. */
const ANSWER_EXTENTS = 512;

/** Bytes of which something is known. */
export interface Stretch {
  readonly length: number;
  /** Of `zeroes`: they read as zeroes; of `changes`: they may differ. */
  readonly is: boolean;
}

/** One of the volumes. Each method throws CommandError when a device fails. */
export class DirectVolume {
  /** "VG/LV" */
  readonly name: string;
  /** "VG-uuid/LV-uuid" */
  readonly id: string;
  readonly readOnly: boolean;
  /** Nobody else can have it. */
  readonly clients = 0;
  readonly #volume: Volume;
  readonly #key: string;
  /** Of the volume to compare with, as tables have it. */
  #since = '';

  constructor(volume: Volume, { key, readOnly }: { readonly key: VolumeId; readonly readOnly: boolean }) {
    this.name = volume.name;
    this.id = key.replace(' ', '/');
    this.readOnly = readOnly;
    this.#volume = volume;
    this.#key = key;
  }

  get sizeBytes(): number {
    return this.#volume.limits.sizeBytes;
  }

  /** From now on `changes` tells what may differ from this one. */
  compareWith(base: DirectVolume | null): void {
    this.#since = base === null ? '' : base.#key;
  }

  read(offset: number, length: number): Promise<Buffer> {
    return told(readBytes(this.#volume, offset, length));
  }

  write(offset: number, bytes: Buffer): Promise<void> {
    return told(writeBytes(this.#volume, offset, bytes));
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return told(writeZeroes(this.#volume, offset, length));
  }

  flush(): Promise<void> {
    return told(flush(this.#volume));
  }

  /** What of a range is known to be zeroes; or of the beginning of it. */
  zeroes(offset: number, length: number): Promise<readonly Stretch[]> {
    return this.#ask(ExtentFlag.zero, (extents, done) => this.#volume.blockStatus(offset, length, extents, done));
  }

  /** What of a range may differ from the base; or of the beginning of it. */
  changes(offset: number, length: number): Promise<readonly Stretch[]> {
    return this.#ask(1, (extents, done) => this.#volume.changedSince(this.#since, offset, length, extents, done));
  }

  close(): Promise<void> {
    return told(this.#volume.close());
  }

  async #ask(bit: number, question: (extents: ExtentList, done: StatusDone) => void): Promise<readonly Stretch[]> {
    const extents = new ExtentList(ANSWER_EXTENTS);
    const { promise, resolve } = Promise.withResolvers<number>();
    question(extents, resolve);
    if ((await promise) !== 0) {
      throw new CommandError(`Cannot tell what ${this.name} holds: its snapshot is invalid, or its device fails.`);
    }
    return Array.from({ length: extents.count }, (_, i) => {
      return { length: extents.lengths[i] ?? 0, is: ((extents.flags[i] ?? 0) & bit) !== 0 };
    });
  }
}

async function told<Result>(work: Promise<Result>): Promise<Result> {
  try {
    return await work;
  } catch (error) {
    if (!(error instanceof DeviceError) && !(error instanceof VolumeError)) throw error;
    throw new CommandError(error.message, 5, { cause: error });
  }
}

export interface DirectVolumes {
  readonly own: DirectVolume;
  /** By LV name: the LV, and those that it shares something with. */
  readonly volumes: ReadonlyMap<string, DirectVolume>;
  readonly close: () => Promise<void>;
}

type Planned = LvActivation & ActiveLv;

/** Opens an LV. Throws CommandError: it does not exist, can't be served, or somebody else has its devices. */
export async function openDirectly(
  group: VolumeGroup,
  lvName: string,
  { host, readOnly }: { readonly host: HostContext; readonly readOnly: boolean },
): Promise<DirectVolumes> {
  const family = familyOf(group, lvName, { host, readOnly });
  const devices = new Map<string, OpenedDevice>();
  const loaded: Volume[] = [];
  const volumes = new Map<string, DirectVolume>();
  // The origin comes first: its writes need the snapshots.
  const close = (): Promise<void> => closeAll([...volumes.values(), ...devices.values()]);
  try {
    for (const path of new Set(family.flatMap((entry) => entry.devices))) {
      devices.set(path, await (readOnly ? openToRead(path) : openExclusively(path)));
    }
    for (const entry of family) {
      const volume = new Volume(entry.exportName, { targets });
      volume.load(entry.table, deviceIn(devices), { readOnly: entry.readOnly });
      loaded.push(volume);
      const key = volumeId(group.vg, entry.lv);
      volumes.set(entry.lv.name, new DirectVolume(volume, { key, readOnly: entry.readOnly }));
    }
    for (const volume of loaded) volume.resume();
    const own = volumes.get(lvName);
    if (own === undefined) throw new TypeError(`${lvName} is not among its own volumes`);
    return { own, volumes, close };
  } catch (error) {
    await Promise.allSettled([closeAll(devices.values())]);
    throw error;
  }
}

function deviceIn(devices: ReadonlyMap<string, OpenedDevice>): (path: string) => OpenedDevice {
  return (path) => {
    const device = devices.get(path);
    if (device === undefined) throw new TypeError(`${path} was not opened`);
    return device;
  };
}

function familyOf(
  group: VolumeGroup,
  lvName: string,
  { host, readOnly }: { readonly host: HostContext; readonly readOnly: boolean },
): readonly Planned[] {
  const plan = activationPlan(group, { host, readOnly, ignoreActivationSkip: true, ignoreNoAutoActivate: true });
  const name = `${group.vg.name}/${lvName}`;
  const entry = plan.find(({ lv }) => lv.name === lvName);
  if (entry === undefined) throw new CommandError(`Failed to find logical volume "${name}"`);
  if (!entry.active) throw new CommandError(`Cannot open logical volume ${name}: ${entry.reason}.`);
  const { shareKey } = entry;
  const family = plan.filter((other): other is Planned => {
    return other === entry || (other.active && shareKey !== undefined && other.shareKey === shareKey);
  });
  if (family.some(({ table }) => table.some(({ target }) => target === 'snapshot-merge'))) {
    throw new CommandError(`Cannot open logical volume ${name} while a snapshot merges into its origin.`);
  }
  return family.toSorted((a, b) => Number(a.follows !== undefined) - Number(b.follows !== undefined));
}

/** As `openExclusively`, for a device that may be read-only. */
async function openToRead(path: string): Promise<OpenedDevice> {
  try {
    return await openBlockDevice(path, { exclusive: true, readOnly: true });
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    throw new CommandError(error.message, 5, { cause: error });
  }
}
