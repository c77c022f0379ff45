/**
 * The commit protocol: how a plan reaches the disks (formats: LVM2 lib/metadata/metadata.c vg_write, vg_commit;
 * lib/format_text/format-text.c). The steps, each flushed on every device it touched before the next begins:
 *
 *     prepareLabels   new PVs: heads zeroed, empty metadata areas, label (not yet marked as used)
 *     writeTexts      the new text into the ring of every metadata area in use, behind the committed one
 *     precommit       slot 1 of each header names the new text
 *     commit          slot 0 of each header names the new text, slot 1 is cleared; ignored areas first
 *     finishLabels    members are marked as used; PVs that left are cleared and become orphans; outdated copies are cleared
 *
 * Invariants
 *  - Until the first header of `commit` is written, every reader sees the old VG whole; from then on the highest seqno wins,
 *    so he sees the new one. Each header changes by one 512-byte write; old and new text never overlap.
 *  - A failure before `commit` takes the precommitted slots back and changes nothing; in `commit`, one area that took the
 *    new text is enough, and the others are reported as stale.
 *  - What is written has been printed, parsed again, compared and validated before the first write.
 *  - An area whose header can't be read or understood is never written.
 */
import assert from 'node:assert/strict';
import { isDeepStrictEqual } from 'node:util';
import type { BlockDevice } from '../block/device.ts';
import { flush, readBytes, writeBytes } from '../block/sync-io.ts';
import { FormatError } from '../ondisk/errors.ts';
import {
  encodeLabel,
  LABEL_SCAN_BYTES,
  PV_EXT_USED,
  PV_HEADER_EXTENSION_VERSION,
  SECTOR_BYTES,
  type Label,
} from '../ondisk/label.ts';
import {
  committedText,
  decodeMdaHeader,
  EMPTY_LOCN,
  encodeMdaHeader,
  MDA_HEADER_BYTES,
  type MdaHeader,
  nextTextOffset,
  RAW_LOCN_IGNORED,
  type RawLocn,
  textLocn,
  textWrites,
} from '../ondisk/mda.ts';
import type { MetadataText, TextHeader, VolumeGroupText } from '../ondisk/metadata.ts';
import type { PrintContext } from '../ondisk/vg-print.ts';
import { metadataTextBytes, parseMetadataText } from '../ondisk/vg-text.ts';
import { canonical } from './edit/canonical.ts';
import { CommandError } from './edit/errors.ts';
import type { Plan, PvLabelWrite } from './edit/plan.ts';
import type { LabelledDevice, ScannedDevice } from './model.ts';

/** Bytes zeroed at the head of a new PV and of each new metadata area, as pvcreate does. */
const HEAD_BYTES = 2048;
const AREA_HEAD_BYTES = 4096;
const MAX_SEQNO = 2 ** 32 - 1;

export interface CommitContext {
  /** Opens for reading and writing, exclusively. The commit closes what it opened. */
  open(device: ScannedDevice): Promise<BlockDevice>;
  /** What the text's header says: description, host, time. */
  readonly header: TextHeader;
  readonly print: PrintContext;
  /** Something went wrong that did not stop the commit. */
  readonly warn: (message: string) => void;
}

/** One metadata area that takes part. */
interface Area {
  readonly device: BlockDevice;
  readonly header: MdaHeader;
  /** Slot 0's flags after the commit. */
  readonly ignored: boolean;
  readonly next: RawLocn;
  readonly text: Buffer;
}

type Label512 = { readonly device: BlockDevice; readonly label: Label };

/** Everything that the steps work on, computed before the first write. */
interface Work {
  readonly plan: Plan;
  readonly created: readonly (PvLabelWrite & { readonly handle: BlockDevice })[];
  readonly areas: readonly Area[];
  /** Labels written once the VG is committed. */
  readonly finalLabels: readonly Label512[];
  /** Areas whose slots are cleared once the VG is committed: of leavers, of outdated PVs, of a removed VG. */
  readonly cleared: readonly { readonly device: BlockDevice; readonly header: MdaHeader }[];
  /** Labels wiped last (pvremove). */
  readonly wiped: readonly BlockDevice[];
  readonly warn: (message: string) => void;
}

/** The protocol, in order; docs/commit-protocol.md prints it and the crash tests stop after each write of it. */
export const COMMIT_STEPS: readonly ((work: Work) => Promise<void>)[] = [
  prepareLabels,
  writeTexts,
  precommit,
  commitHeaders,
  finishLabels,
  wipeLabels,
];

/**
 * Carries a plan out; gives the metadata as committed, or null if the plan leaves no VG. Throws CommandError (nothing
 * changed, or what changed is named) or DeviceError.
 */
export async function commitPlan(plan: Plan, context: CommitContext): Promise<MetadataText | null> {
  const metadata = plan.after === null ? null : nextMetadata(plan, plan.after, context.header);
  const text = metadata === null ? null : checkedText(metadata, context.print);
  const devices = new OpenDevices(context);
  try {
    const work = await prepare(plan, text, devices, context);
    for (const step of COMMIT_STEPS) await step(work);
    return metadata;
  } finally {
    await devices.close();
  }
}

/** The text that a plan leaves: the VG with its next seqno, as LVM2 stores it. */
export function nextMetadata(plan: Plan, after: VolumeGroupText, header: TextHeader): MetadataText {
  const seqno = (plan.before?.vg.seqno ?? after.seqno - 1) + 1;
  if (seqno > MAX_SEQNO)
    throw new CommandError(`Volume group ${after.name} has reached the highest seqno, ${MAX_SEQNO}.`);
  return { header, vg: canonical({ ...after, seqno }), extra: plan.before?.metadata.extra ?? [] };
}

/** The text's bytes, once they are known to say what was meant. */
function checkedText(metadata: MetadataText, print: PrintContext): Buffer {
  const text = metadataTextBytes(metadata, print);
  const again = parseMetadataText(text, { device: 'new metadata', offset: 0 });
  assert(
    isDeepStrictEqual(again, metadata),
    `the new metadata of ${metadata.vg.name} does not survive its own printing`,
  );
  return text;
}

/** The devices of one commit, each opened once. */
class OpenDevices {
  readonly #context: CommitContext;
  readonly #open = new Map<string, BlockDevice>();

  constructor(context: CommitContext) {
    this.#context = context;
  }

  async get(device: ScannedDevice): Promise<BlockDevice> {
    const known = this.#open.get(device.identity);
    if (known !== undefined) return known;
    const opened = await this.#context.open(device);
    this.#open.set(device.identity, opened);
    return opened;
  }

  async close(): Promise<void> {
    for (const device of this.#open.values()) await device.close();
  }
}

async function prepare(plan: Plan, text: Buffer | null, devices: OpenDevices, context: CommitContext): Promise<Work> {
  const created: Work['created'][number][] = [];
  const areas: Area[] = [];
  const finalLabels: Label512[] = [];
  const cleared: Work['cleared'][number][] = [];
  const changed = new Map(plan.labels.map((write) => [write.label.uuid, write]));
  for (const write of plan.labels) {
    const handle = await devices.get(write.device);
    if (write.kind === 'create') created.push({ ...write, handle });
    finalLabels.push({ device: handle, label: markedAs(write.label, write.when === 'before' && plan.after !== null) });
  }
  const members = new Set(plan.after?.physicalVolumes.map((pv) => pv.id));
  for (const pv of plan.before?.pvs ?? []) {
    if (pv.found === null) continue;
    const handle = await devices.get(pv.found.device);
    const rewritten = changed.get(pv.uuid);
    if (rewritten?.kind === 'create') continue;
    const ignored = plan.ignoredAreas?.get(pv.uuid);
    const headers = await readHeaders(handle, pv.found, context.warn);
    if (!members.has(pv.uuid)) {
      for (const header of headers.values()) cleared.push({ device: handle, header });
      if (rewritten === undefined) finalLabels.push({ device: handle, label: markedAs(labelOf(pv.found), false) });
      continue;
    }
    if (rewritten === undefined && needsUsedMark(pv.found)) {
      finalLabels.push({ device: handle, label: markedAs(labelOf(pv.found), true) });
    }
    for (const [index, header] of headers) {
      addArea(areas, handle, header, text, ignored === undefined ? isIgnored(header) : ignored.includes(index));
    }
  }
  if (text !== null) {
    for (const write of created) {
      for (const [index, location] of write.label.metadataAreas.entries()) {
        const header = emptyHeader(location.offset, location.size);
        addArea(areas, write.handle, header, text, write.ignoredAreas.includes(index));
      }
    }
    for (const found of plan.joining ?? []) {
      const handle = await devices.get(found.device);
      const ignored = plan.ignoredAreas?.get(found.uuid);
      for (const [index, header] of await readHeaders(handle, found, context.warn)) {
        addArea(areas, handle, header, text, ignored === undefined ? isIgnored(header) : ignored.includes(index));
      }
    }
    if (!areas.some((area) => !area.ignored)) {
      throw new CommandError(`Volume group ${plan.after?.name ?? ''} has no usable metadata area to write to.`);
    }
  }
  for (const found of plan.before?.outdated ?? []) {
    const handle = await devices.get(found.device);
    for (const header of (await readHeaders(handle, found, context.warn)).values())
      cleared.push({ device: handle, header });
    finalLabels.push({ device: handle, label: markedAs(labelOf(found), false) });
  }
  const wiped = await Promise.all(plan.wipes.map((wipe) => devices.get(wipe.device)));
  return { plan, created, areas, finalLabels, cleared, wiped, warn: context.warn };
}

function addArea(areas: Area[], device: BlockDevice, header: MdaHeader, text: Buffer | null, ignored: boolean): void {
  if (text === null) return;
  const wasIgnored = isIgnored(header);
  // An area that stays ignored is left alone, as LVM2 does.
  if (ignored && wasIgnored) return;
  const offset = nextTextOffset(header, committedText(header), text.length, device.name);
  const next = textLocn(offset, text);
  areas.push({ device, header, ignored, text, next: ignored ? { ...next, flags: RAW_LOCN_IGNORED } : next });
}

function isIgnored(header: MdaHeader): boolean {
  return (header.slots[0].flags & RAW_LOCN_IGNORED) !== 0;
}

function needsUsedMark(found: LabelledDevice): boolean {
  return found.extensionVersion < PV_HEADER_EXTENSION_VERSION || !found.inUse;
}

/** The label of a PV as it was found. */
export function labelOf(found: LabelledDevice): Label {
  return {
    sector: found.labelSector,
    uuid: found.uuid,
    deviceSizeBytes: found.headerSizeBytes,
    dataAreas: found.dataAreas,
    metadataAreas: found.metadataAreas.map(({ offset, size }) => ({ offset, size })),
    extensionVersion: found.extensionVersion,
    extensionFlags: found.inUse ? PV_EXT_USED : 0,
    bootloaderAreas: found.bootloaderAreas,
  };
}

function markedAs(label: Label, used: boolean): Label {
  const extensionFlags = used ? label.extensionFlags | PV_EXT_USED : label.extensionFlags & ~PV_EXT_USED;
  return { ...label, extensionVersion: PV_HEADER_EXTENSION_VERSION, extensionFlags };
}

function emptyHeader(start: number, size: number): MdaHeader {
  return { start, size, slots: [EMPTY_LOCN, EMPTY_LOCN] };
}

/** The headers of a PV's areas by index; one that can't be used is left out with a warning. */
async function readHeaders(
  device: BlockDevice,
  found: LabelledDevice,
  warn: (message: string) => void,
): Promise<ReadonlyMap<number, MdaHeader>> {
  const headers = new Map<number, MdaHeader>();
  for (const { index, offset, size } of found.metadataAreas) {
    const sector = await readBytes(device, offset, MDA_HEADER_BYTES);
    try {
      const header = decodeMdaHeader(sector, { device: device.name, offset });
      assert(header.size === size || size === 0);
      headers.set(index, trusted(header));
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      warn(`WARNING: metadata area ${index + 1} of ${device.name} is not updated: ${error.message}`);
    }
  }
  return headers;
}

/** A slot that points outside its ring holds nothing worth keeping. */
function trusted(header: MdaHeader): MdaHeader {
  const [slot] = header.slots;
  const inside =
    slot.offset >= MDA_HEADER_BYTES && slot.offset < header.size && slot.size <= header.size - MDA_HEADER_BYTES;
  if (slot.offset === 0 || inside) return header;
  return { ...header, slots: [{ ...EMPTY_LOCN, flags: slot.flags }, header.slots[1]] };
}

async function flushAll(devices: Iterable<BlockDevice>): Promise<void> {
  await Promise.all([...new Set(devices)].map((device) => flush(device)));
}

async function prepareLabels({ created }: Work): Promise<void> {
  for (const { handle, label, zeroHead } of created) {
    const head = Buffer.alloc(zeroHead ? HEAD_BYTES : LABEL_SCAN_BYTES);
    if (zeroHead) await writeBytes(handle, 0, head);
    for (const { offset, size } of label.metadataAreas) {
      await writeBytes(handle, offset, Buffer.alloc(Math.min(AREA_HEAD_BYTES, size)));
      await writeBytes(handle, offset, encodeMdaHeader(emptyHeader(offset, size)));
    }
  }
  await flushAll(created.map(({ handle }) => handle));
  for (const { handle, label, zeroHead } of created) {
    if (!zeroHead) await wipeOtherLabels(handle, label.sector);
    await writeBytes(handle, label.sector * SECTOR_BYTES, encodeLabel(markedAs(label, false)));
  }
  await flushAll(created.map(({ handle }) => handle));
}

async function writeTexts({ areas }: Work): Promise<void> {
  await Promise.all(
    areas.map(async ({ device, header, next, text }) => {
      for (const { offset, bytes } of textWrites(header, next.offset, text)) await writeBytes(device, offset, bytes);
    }),
  );
  await flushAll(areas.map(({ device }) => device));
}

async function precommit(work: Work): Promise<void> {
  const { areas } = work;
  try {
    for (const area of areas) await writeSlots(area, [keptSlot(area), area.next]);
    await flushAll(areas.map(({ device }) => device));
  } catch (error) {
    await revert(work);
    throw error;
  }
}

/** Slot 0 until the commit: none if the area held nothing to keep. */
function keptSlot({ header }: Area): RawLocn {
  return isIgnored(header) ? { ...EMPTY_LOCN, flags: RAW_LOCN_IGNORED } : header.slots[0];
}

/** Takes the precommitted slots back, as far as the devices let us. */
async function revert({ areas, warn }: Work): Promise<void> {
  for (const area of areas) {
    try {
      await writeSlots(area, [keptSlot(area), EMPTY_LOCN]);
      await flush(area.device);
    } catch (error) {
      warn(`WARNING: ${area.device.name} keeps an unused precommitted copy: ${(error as Error).message}`);
    }
  }
}

async function commitHeaders(work: Work): Promise<void> {
  const { areas, plan, warn } = work;
  const failures: { readonly area: Area; readonly error: Error }[] = [];
  const ordered = [...areas].sort((a, b) => Number(b.ignored) - Number(a.ignored));
  for (const area of ordered) {
    try {
      await writeSlots(area, [area.next, EMPTY_LOCN]);
      await flush(area.device);
    } catch (error) {
      failures.push({ area, error: error as Error });
    }
  }
  for (const { area, error } of failures) {
    warn(`WARNING: Failed to commit metadata area at ${area.header.start} of ${area.device.name}: ${error.message}`);
  }
  if (areas.length > 0 && failures.length === areas.length) {
    throw new CommandError(
      `Failed to commit volume group ${plan.after?.name ?? ''}: no metadata area could be written.`,
    );
  }
  if (failures.length > 0)
    warn(`WARNING: VG ${plan.after?.name ?? ''} is committed; the copies named above are stale.`);
}

async function writeSlots({ device, header }: Area, slots: readonly [RawLocn, RawLocn]): Promise<void> {
  await writeBytes(device, header.start, encodeMdaHeader({ ...header, slots }));
}

async function finishLabels({ cleared, finalLabels }: Work): Promise<void> {
  for (const { device, header } of cleared) {
    const flags = header.slots[0].flags & RAW_LOCN_IGNORED;
    await writeBytes(
      device,
      header.start,
      encodeMdaHeader({ ...header, slots: [{ ...EMPTY_LOCN, flags }, EMPTY_LOCN] }),
    );
  }
  await flushAll(cleared.map(({ device }) => device));
  for (const { device, label } of finalLabels) {
    await writeBytes(device, label.sector * SECTOR_BYTES, encodeLabel(label));
  }
  await flushAll(finalLabels.map(({ device }) => device));
}

async function wipeLabels({ wiped }: Work): Promise<void> {
  for (const device of wiped) await wipeOtherLabels(device, -1);
  await flushAll(wiped);
}

/** Zeroes the sectors among the first four, but for `keep`, that hold something like a label. */
async function wipeOtherLabels(device: BlockDevice, keep: number): Promise<void> {
  const first = await readBytes(device, 0, LABEL_SCAN_BYTES);
  for (let sector = 0; sector * SECTOR_BYTES < LABEL_SCAN_BYTES; sector++) {
    const at = sector * SECTOR_BYTES;
    const isLabel =
      first.toString('latin1', at, at + 8) === 'LABELONE' || first.toString('latin1', at + 24, at + 32) === 'LVM2 001';
    if (isLabel && sector !== keep) await writeBytes(device, at, Buffer.alloc(SECTOR_BYTES));
  }
}
