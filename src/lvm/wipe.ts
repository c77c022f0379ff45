/**
 * Writing to an LV from a command: wiping the head of a new one, overwriting one that is to go.
 *
 * Invariants
 *  - Bytes go through the LV's own table (dm/), never past its end, and are flushed before this returns.
 *  - An LV that can't be served can't be written to either, nor one that shares a block of a device with another: who serves that one may
 *    be writing to it.
 */
import type { BlockDevice, OpenedDevice } from '../block/device.ts';
import { DeviceError } from '../block/errors.ts';
import { discard, flush, writeBytes, writeZeroes } from '../block/sync-io.ts';
import { TableError } from '../dm/errors.ts';
import { markInvalid } from '../dm/snapshot/persistent-store.ts';
import { targets } from '../dm/targets.ts';
import { Volume } from '../dm/volume.ts';
import { randomFillSync } from 'node:crypto';
import { PLAIN_HOST } from './access.ts';
import { activationPlan } from './activate.ts';
import type { ChangeContext, EffectContext, WorkProgress } from './change-context.ts';
import { CommandError } from './edit/errors.ts';
import { sharedBlockProblem } from './edit/block-size.ts';
import { withStatus } from './edit/lv-facts.ts';
import type { Effect, EraseMethod } from './edit/plan.ts';
import type { PhysicalVolume, ScannedDevice, VolumeGroup } from './model.ts';
import { closeAll, openExclusively } from './open.ts';
import { areaExtents, segmentAreas } from './references.ts';
import { relationsOf } from './relations.ts';
import { wipeSignatures } from './wipe-signatures.ts';

/** A signature was found on a new LV and is to stay, or its head can't be wiped: the LV is not wanted then. */
export class WipeRefused extends CommandError {}

type LvWipe = Extract<Effect, { readonly kind: 'wipe-lv' }>;

/** In LVM2's words. */
function aborting({ beforeCommit }: LvWipe): string {
  return `Aborting. Failed to wipe ${beforeCommit === true ? 'snapshot exception store' : 'start of new LV'}.`;
}

/** The LV's own extents as a block device, whatever else is made of them; closing it closes its PVs. Throws CommandError. */
export async function openLv(
  group: VolumeGroup,
  lvName: string,
  open: (device: ScannedDevice) => Promise<OpenedDevice>,
): Promise<{ readonly device: BlockDevice; close(): Promise<void> }> {
  const name = `${group.vg.name}/${lvName}`;
  const own = group.vg.logicalVolumes.filter((lv) => lv.name === lvName);
  const only = { ...group.vg, logicalVolumes: own.map((lv) => withStatus(lv, 'VISIBLE', true)) };
  // Who got this far may use the VG: its system ID is this host's, or one that it may use.
  const systemId = group.vg.systemId ?? null;
  const [entry] = activationPlan(
    { ...group, vg: only },
    { host: { ...PLAIN_HOST, systemId }, ignoreActivationSkip: true, ignoreNoAutoActivate: true },
  );
  if (entry === undefined) throw new CommandError(`Failed to find logical volume ${name} to write to.`);
  if (!entry.active) throw new CommandError(`Cannot write to logical volume ${name}: ${entry.reason}.`);
  const opened = new Map<string, OpenedDevice>();
  const close = (): Promise<void> => closeAll(opened.values());
  try {
    for (const path of entry.devices) {
      const pv = group.pvs.find(({ found }) => found?.device.path === path);
      const scanned = pv?.found?.device;
      if (scanned === undefined) throw new CommandError(`Cannot write to logical volume ${name}: ${path} is missing.`);
      const device = await open(scanned);
      opened.set(path, device);
      const problem = sharedBlockProblem(group.vg, pv?.text?.peStartSectors ?? 0, device);
      if (problem !== null) throw new CommandError(`Cannot write to logical volume ${name}: ${problem}.`);
    }
    const volume = new Volume(name, { targets });
    volume.load(entry.table, (path) => {
      const device = opened.get(path);
      if (device === undefined) throw new TypeError(`${path} is not among the devices of ${name}`);
      return device;
    });
    volume.resume();
    return { device: volume, close };
  } catch (error) {
    await Promise.allSettled([close()]);
    if (!(error instanceof TableError)) throw error;
    throw new CommandError(error.message, 5, { cause: error });
  }
}

/** Wipes signatures, asking about each, and zeroes the head of a new LV. Throws WipeRefused if a signature is to stay, or that can't be done. */
export async function wipeNewLv(effect: LvWipe, around: EffectContext): Promise<void> {
  try {
    await wipeHead(effect, around);
  } catch (error) {
    if (error instanceof WipeRefused) throw error;
    if (error instanceof CommandError)
      throw new WipeRefused([...error.lines, aborting(effect)], error.exitCode, { cause: error });
    if (error instanceof DeviceError) throw new WipeRefused([error.message, aborting(effect)], 5, { cause: error });
    throw error;
  }
}

async function wipeHead(effect: LvWipe, around: EffectContext): Promise<void> {
  const { lvName, zeroBytes, signatures } = effect;
  const { group, change } = around;
  if (group === null) throw new CommandError(`Failed to find logical volume ${lvName} to wipe.`);
  const opened = await openLv(group, lvName, (device) => around.open(device));
  const { device } = opened;
  try {
    const path = `/dev/${group.vg.name}/${lvName}`;
    if (signatures && !(await wipeSignatures(device, { name: path, force: change.force, context: change }))) {
      throw new WipeRefused([
        `Failed to wipe signatures on logical volume ${group.vg.name}/${lvName}.`,
        aborting(effect),
      ]);
    }
    if (zeroBytes > 0) await writeZeroes(device, 0, Math.min(zeroBytes, device.limits.sizeBytes));
    await flush(device);
  } finally {
    await opened.close();
  }
}

/** Makes a COW snapshot invalid in its store, durably; of an LV that is none nothing is touched. Nobody may serve it. Throws CommandError. */
export async function invalidateStore(
  group: VolumeGroup,
  lvName: string,
  open: (device: ScannedDevice) => Promise<OpenedDevice>,
): Promise<void> {
  const link = relationsOf(group.vg).lvs.get(lvName)?.snapshot ?? null;
  if (link === null) return;
  const opened = await openLv(group, lvName, open);
  try {
    await markInvalid(opened.device, link.segment.chunkSizeSectors);
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    throw new CommandError(error.message, 5, { cause: error });
  } finally {
    await opened.close();
  }
}

const MIB = 1024 * 1024;

export interface EraseRequest {
  /** With the LV in it. */
  readonly group: VolumeGroup;
  readonly lvName: string;
  readonly method: EraseMethod;
  readonly context: Pick<ChangeContext, 'open' | 'progress'>;
}

/** What is erased at a time: enough to be fast, little enough to show how far it is. */
export function pieceBytes(method: EraseMethod): number {
  return method === 'discard' ? 1024 * MIB : 4 * MIB;
}

/** Overwrites (or discards) the extents that an LV has on PVs itself; an LV made of other LVs has none. */
export async function eraseLv(request: EraseRequest): Promise<void> {
  const progress = request.context.progress?.(
    `${request.method === 'discard' ? 'Discarding' : 'Wiping'} ${request.group.vg.name}/${request.lvName}`,
  );
  try {
    await eraseExtents(request, progress);
  } finally {
    progress?.end();
  }
}

async function eraseExtents(
  { group, lvName, method, context }: EraseRequest,
  progress: WorkProgress | undefined,
): Promise<void> {
  const ranges = extentsOf(group, lvName);
  const total = ranges.reduce((sum, range) => sum + range.length, 0);
  const piece = pieceBytes(method);
  let done = 0;
  for (const { pv, offset, length } of ranges) {
    const device = pv.found?.device;
    if (device === undefined) {
      throw new CommandError(`Cannot wipe logical volume ${group.vg.name}/${lvName}: PV ${pv.uuid} is missing.`);
    }
    const opened = await (context.open ?? openExclusively)(device.path);
    try {
      if (opened.identity !== device.identity) {
        throw new CommandError(`${device.path}: is no longer the device that was read; try again.`);
      }
      for (let at = 0; at < length; at += piece) {
        const count = Math.min(piece, length - at);
        await eraseRange(opened, method, offset + at, count);
        done += count;
        progress?.update(done, total);
      }
      await flush(opened);
    } finally {
      await opened.close();
    }
  }
}

/** Erases one piece; who calls flushes. */
export async function eraseRange(
  device: BlockDevice,
  method: EraseMethod,
  offset: number,
  length: number,
): Promise<void> {
  if (method === 'discard') return discard(device, offset, length);
  if (method === 'zero') return writeZeroes(device, offset, length);
  return writeBytes(device, offset, randomFillSync(Buffer.alloc(length)));
}

interface PvRange {
  readonly pv: PhysicalVolume;
  /** Bytes. */
  readonly offset: number;
  readonly length: number;
}

function extentsOf(group: VolumeGroup, lvName: string): readonly PvRange[] {
  const { vg } = group;
  const extentBytes = vg.extentSizeSectors * 512;
  const lv = vg.logicalVolumes.find((candidate) => candidate.name === lvName);
  return (lv?.segments ?? []).flatMap((segment) =>
    segmentAreas(segment).flatMap((area): readonly PvRange[] => {
      const pv = group.pvs.find((candidate) => candidate.text?.label === area.name);
      if (pv?.text === undefined) return [];
      const offset = pv.text.peStartSectors * 512 + area.extent * extentBytes;
      return [{ pv, offset, length: areaExtents(segment) * extentBytes }];
    }),
  );
}
