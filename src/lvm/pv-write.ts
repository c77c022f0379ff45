/**
 * Labels and metadata area headers on a device: reading what is there before a change, writing what is new.
 *
 * Invariants
 *  - A label and a header are each replaced by one 512-byte write: a reader sees the old one or the new one.
 *  - A new PV has its metadata areas before it has a label, so a crash never leaves a label that points to garbage.
 *  - Nothing is flushed here: the protocol's steps do that.
 */
import type { BlockDevice } from '../block/device.ts';
import { readBytes, writeBytes } from '../block/sync-io.ts';
import { FormatError } from '../ondisk/errors.ts';
import {
  encodeLabel,
  type Label,
  LABEL_SCAN_BYTES,
  PV_EXT_USED,
  PV_HEADER_EXTENSION_VERSION,
  SECTOR_BYTES,
} from '../ondisk/label.ts';
import {
  decodeMdaHeader,
  EMPTY_LOCN,
  encodeMdaHeader,
  MDA_HEADER_BYTES,
  type MdaHeader,
  RAW_LOCN_IGNORED,
} from '../ondisk/mda.ts';
import type { ByteRange, LabelledDevice } from './model.ts';

/** Bytes zeroed at the start of a new metadata area, as pvcreate does. */
const AREA_HEAD_BYTES = 4096;

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

/** The label with or without the mark that some VG uses the PV, in the version that has such a mark. */
export function markedAs(label: Label, used: boolean): Label {
  const extensionFlags = used ? label.extensionFlags | PV_EXT_USED : label.extensionFlags & ~PV_EXT_USED;
  return { ...label, extensionVersion: PV_HEADER_EXTENSION_VERSION, extensionFlags };
}

/** A header without text. */
export function emptyHeader({ offset, size }: ByteRange, ignored: boolean): MdaHeader {
  const slot = ignored ? { ...EMPTY_LOCN, flags: RAW_LOCN_IGNORED } : EMPTY_LOCN;
  return { start: offset, size, slots: [slot, EMPTY_LOCN] };
}

/**
 * The header of an area that the label names. Throws FormatError if it can't be used: damaged, or not of the size that the
 * label says, which would let a text run over what follows.
 */
export async function readHeader(device: BlockDevice, { offset, size }: ByteRange): Promise<MdaHeader> {
  const where = { device: device.name, offset };
  const header = decodeMdaHeader(await readBytes(device, offset, MDA_HEADER_BYTES), where);
  if (size !== 0 && header.size !== size) {
    const what = 'size in the mda header';
    throw new FormatError({ code: 'INCONSISTENT', ...where, what, expected: size, actual: header.size });
  }
  return withSoundSlot(header);
}

/** A slot that points outside its ring names no text that could be kept. */
function withSoundSlot(header: MdaHeader): MdaHeader {
  const [slot, precommitted] = header.slots;
  const inside =
    slot.offset >= MDA_HEADER_BYTES && slot.offset < header.size && slot.size <= header.size - MDA_HEADER_BYTES;
  if (slot.offset === 0 || inside) return header;
  return { ...header, slots: [{ ...EMPTY_LOCN, flags: slot.flags }, precommitted] };
}

/** Writes the start of a metadata area that holds nothing: one write, so that the header never stands before its zeroes. */
export async function writeEmptyArea(device: BlockDevice, header: MdaHeader): Promise<void> {
  const head = Buffer.alloc(Math.min(AREA_HEAD_BYTES, header.size));
  encodeMdaHeader(header).copy(head);
  await writeBytes(device, header.start, head);
}

export async function writeHeader(device: BlockDevice, header: MdaHeader): Promise<void> {
  await writeBytes(device, header.start, encodeMdaHeader(header));
}

export async function writeLabel(device: BlockDevice, label: Label): Promise<void> {
  await writeBytes(device, label.sector * SECTOR_BYTES, encodeLabel(label));
}

/** Zeroes the sectors among the first four, but for `keep`, that hold something like a label. */
export async function wipeLabels(device: BlockDevice, keep: number | null): Promise<void> {
  const first = await readBytes(device, 0, Math.min(LABEL_SCAN_BYTES, device.limits.sizeBytes));
  for (let at = 0; at + SECTOR_BYTES <= first.length; at += SECTOR_BYTES) {
    const isLabel =
      first.toString('latin1', at, at + 8) === 'LABELONE' || first.toString('latin1', at + 24, at + 32) === 'LVM2 001';
    if (isLabel && at / SECTOR_BYTES !== keep) await writeBytes(device, at, Buffer.alloc(SECTOR_BYTES));
  }
}

/** Zeroes the first bytes of a device, labels and all. */
export async function zeroHead(device: BlockDevice): Promise<void> {
  await writeBytes(device, 0, Buffer.alloc(Math.min(LABEL_SCAN_BYTES, device.limits.sizeBytes)));
}
