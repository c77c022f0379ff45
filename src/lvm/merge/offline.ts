/**
 * Merging a snapshot that nobody serves: a command does it with the very targets that a daemon would (dm/snapshot), for a while at
 * a time, under the VG's lock.
 *
 * Invariants
 *  - The devices are held exclusively, or by the daemon that runs the command and serves none of these volumes.
 *  - Every other snapshot of the origin takes part: it has what it needs before the origin changes.
 *  - A crash, or an end at any moment, leaves a merge that anybody goes on with: us, a daemon, or the kernel.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { BlockDevice, OpenedDevice } from '../../block/device.ts';
import { readBytes } from '../../block/sync-io.ts';
import { targets } from '../../dm/targets.ts';
import { Volume } from '../../dm/volume.ts';
import { FormatError } from '../../ondisk/errors.ts';
import { decodeSnapshotHeader, SNAPSHOT_HEADER_BYTES } from '../../ondisk/snapshot-store.ts';
import { PLAIN_HOST } from '../access.ts';
import { activationPlan, type LvActivation } from '../activate.ts';
import type { ChangeContext } from '../change-context.ts';
import { CommandError } from '../edit/errors.ts';
import type { VolumeGroup } from '../model.ts';
import { openExclusively } from '../open.ts';
import type { LvFacts } from '../relations.ts';
import { type SnapshotStatus, snapshotStatusOf } from '../snapshot-status.ts';
import { openLv } from '../wipe.ts';

const LOOK_MS = 20;

type Context = Pick<ChangeContext, 'open' | 'signal'>;

/** Merges for at most `forMs`; gives how far it is then. `onStatus` is told now and then. Throws CommandError. */
export async function mergeForAWhile(
  context: Context,
  group: VolumeGroup,
  origin: LvFacts,
  { forMs, onStatus }: { readonly forMs: number; readonly onStatus: (status: SnapshotStatus) => void },
): Promise<SnapshotStatus> {
  const family = await openFamily(context, group, origin);
  try {
    const until = performance.now() + forMs;
    for (;;) {
      const status = snapshotStatusOf(family.origin.status().lines);
      if (status === null) throw new CommandError(`${group.vg.name}/${origin.name} takes no snapshot in.`);
      onStatus(status);
      const ended = status.state !== 'unknown' && (status.state !== 'valid' || status.merged === true);
      if (ended || performance.now() >= until || context.signal?.aborted === true) return status;
      await delay(LOOK_MS);
    }
  } finally {
    await family.close();
  }
}

interface Family {
  readonly origin: Volume;
  /** Flushes and lets everything go. */
  close(): Promise<void>;
}

/** Origin and snapshots, as they would be served. */
async function openFamily(context: Context, group: VolumeGroup, origin: LvFacts): Promise<Family> {
  const others = new Set(origin.snapshots.map(({ cow }) => cow));
  const plan = activationPlan(group, {
    host: { ...PLAIN_HOST, systemId: group.vg.systemId ?? null },
    ignoreActivationSkip: true,
    ignoreNoAutoActivate: true,
  });
  const own = plan.filter(({ lv }) => lv.name === origin.name);
  const entries = [...own, ...plan.filter(({ lv }) => others.has(lv.name))];
  const devices = new Map<string, OpenedDevice>();
  const volumes: Volume[] = [];
  const close = async (): Promise<void> => {
    try {
      // The origin first: it waits for what its snapshots still have to copy.
      for (const volume of volumes) await volume.close();
    } finally {
      await Promise.all([...devices.values()].map((device) => device.close()));
    }
  };
  try {
    for (const entry of entries) volumes.push(await loadVolume(context, group, entry, devices));
    for (const volume of volumes) volume.resume();
    const [first] = volumes;
    if (first === undefined) throw new CommandError(`Failed to find logical volume ${group.vg.name}/${origin.name}.`);
    return { origin: first, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function loadVolume(
  context: Context,
  group: VolumeGroup,
  entry: LvActivation,
  devices: Map<string, OpenedDevice>,
): Promise<Volume> {
  if (!entry.active) throw new CommandError(`Cannot merge into ${entry.exportName}: ${entry.reason}.`);
  if (entry.readOnly && entry.needs !== undefined) {
    throw new CommandError(`Cannot merge into ${entry.exportName}: ${entry.note ?? 'it is read-only'}.`);
  }
  for (const path of entry.devices) {
    if (!devices.has(path)) devices.set(path, await opened(context, group, path));
  }
  const volume = new Volume(entry.exportName, { targets });
  volume.load(entry.table, (path): BlockDevice => {
    const device = devices.get(path);
    if (device === undefined) throw new TypeError(`${path} is not among the devices of ${entry.exportName}`);
    return device;
  });
  return volume;
}

async function opened(context: Context, group: VolumeGroup, path: string): Promise<OpenedDevice> {
  const scanned = group.pvs.find(({ found }) => found?.device.path === path)?.found?.device;
  const device = await (context.open ?? openExclusively)(path);
  if (device.identity === scanned?.identity) return device;
  await device.close();
  throw new CommandError(`${path}: is no longer the device that was read; try again.`);
}

/** Whether a snapshot's store says that it is no snapshot any more. Throws CommandError. */
export async function isStoreInvalid(context: Context, group: VolumeGroup, { name }: LvFacts): Promise<boolean> {
  const store = await openLv(group, name, (device) => opened(context, group, device.path));
  try {
    const bytes = await readBytes(store.device, 0, SNAPSHOT_HEADER_BYTES);
    const header = decodeSnapshotHeader(bytes, { device: `${group.vg.name}/${name}`, offset: 0 });
    return header !== null && !header.valid;
  } catch (error) {
    if (error instanceof FormatError) return true;
    throw error;
  } finally {
    await store.close();
  }
}
