/**
 * pvck --repair: headers and metadata of a damaged PV are written anew, from what is left and from a copy of the VG's metadata
 * (facts: LVM2 tools/pvck.c; its words and its order of checks).
 *
 *     label_header   the label's own fields; PV header and lists stay as they are
 *     pv_header      label and PV header, from the PV's entry in the metadata
 *     metadata       text and header of the metadata areas that the PV header names
 *
 * Invariants
 *  - Nothing is written without an answer (or -y), and nothing in test mode.
 *  - A metadata area is never placed over extents or over a bootloader area: LVM2 forgets the latter.
 *  - Text is on the disk before the header that names it.
 */
import type { BlockDevice } from '../block/device.ts';
import { flush, readBytes, writeBytes } from '../block/sync-io.ts';
import { lvmCrc } from '../ondisk/crc.ts';
import {
  type DiskLocation,
  encodeLabel,
  type Label,
  PV_EXT_USED,
  PV_HEADER_EXTENSION_VERSION,
  SECTOR_BYTES,
} from '../ondisk/label.ts';
import { EMPTY_LOCN, encodeMdaHeader, maxTextBytes, MDA_HEADER_BYTES, textLocn } from '../ondisk/mda.ts';
import type { PhysicalVolumeText, VolumeGroupText } from '../ondisk/metadata.ts';
import { parseUuid } from '../ondisk/uuid.ts';
import { CommandError } from './edit/errors.ts';
import { areaTrace, labelHeaderOver, looseHeader, type LooseHeader } from './loose-header.ts';

const MIB = 1024 * 1024;
/** Where the first metadata area always is. */
const FIRST_AREA_OFFSET = 4096;

/** A copy of the VG's metadata, as it would be on the disk. */
export interface MetadataFile {
  /** With the NUL byte at its end. */
  readonly text: Buffer;
  readonly vg: VolumeGroupText;
}

/** What --settings may say; bytes. */
export interface RepairSettings {
  readonly pvUuid?: string;
  readonly deviceSize?: number;
  readonly dataOffset?: number;
  readonly mdaOffset?: number;
  readonly mdaSize?: number;
  readonly mda2Offset?: number;
  readonly mda2Size?: number;
  /** 0: all. */
  readonly mdaNum: number;
}

export interface RepairContext {
  readonly device: BlockDevice;
  /** Where the label is or is to be. */
  readonly labelSector: number;
  readonly settings: RepairSettings;
  readonly file: MetadataFile | null;
  readonly test: boolean;
  readonly yes: boolean;
  /** Another device with that PV uuid; null: there is none. */
  readonly deviceWithUuid: (uuid: string) => Promise<string | null>;
  readonly prompt: (question: string) => Promise<boolean>;
  readonly out: (line: string) => void;
  readonly err: (line: string) => void;
}

/** Writes the label's own fields. False: the user said no. */
export async function repairLabelHeader(context: RepairContext): Promise<boolean> {
  const { device, labelSector, out, err } = context;
  const { sector, header } = await readHeaderSector(context);
  if (!header.found) {
    err(`WARNING: No LVM label found on ${device.name}.  It may not be an LVM device.`);
    if (!(await agreed(context, 'Write LVM header to device? '))) return false;
  }
  const repaired = labelHeaderOver(sector, labelSector);
  out(`Writing label_header.crc ${hex(repaired.readUInt32LE(16))}`);
  return writeHeaderSector(context, repaired);
}

/** Writes label and PV header. False: the user said no. Throws CommandError with LVM2's reasons. */
export async function repairPvHeader(context: RepairContext): Promise<boolean> {
  const { device, out, err } = context;
  const { header } = await readHeaderSector(context);
  if (!header.found) err(`WARNING: No LVM label found on ${device.name}.  It may not be an LVM device.`);
  const areas = await areasOf(context, header);
  const { uuid, deviceSizeBytes, dataOffset, bootloader } = pvFacts(context, header);
  const other = await context.deviceWithUuid(uuid);
  if (other !== null) throw new CommandError(`Cannot use PV UUID ${raw(uuid)} which exists on ${other}`);
  const first = {
    offset: areas.first ? FIRST_AREA_OFFSET : 0,
    size: areas.first ? (bootloader?.offset ?? dataOffset) - FIRST_AREA_OFFSET : 0,
  };
  const second = areas.second ?? { offset: 0, size: 0 };
  const label: Label = {
    sector: context.labelSector,
    uuid,
    deviceSizeBytes,
    dataAreas: [{ offset: dataOffset, size: 0 }],
    metadataAreas: [first, second].filter((area) => area.offset > 0),
    extensionVersion: PV_HEADER_EXTENSION_VERSION,
    extensionFlags: PV_EXT_USED,
    bootloaderAreas: bootloader === null ? [] : [bootloader],
  };
  checkPlaces(label, device);
  const bytes = encodeLabel(label);
  out(
    `Writing label_header.crc ${hex(bytes.readUInt32LE(16))} pv_header uuid ${raw(uuid)} device_size ${deviceSizeBytes}`,
  );
  out(
    `Writing data_offset ${dataOffset} mda1_offset ${first.offset} mda1_size ${first.size} ` +
      `mda2_offset ${second.offset} mda2_size ${second.size}`,
  );
  return writeHeaderSector(context, bytes);
}

/** Writes text and header of metadata areas. False: the user said no. Throws CommandError with LVM2's reasons. */
export async function repairMetadata(context: RepairContext): Promise<boolean> {
  const { settings, file } = context;
  if (file === null) throw new CommandError('Metadata input file is required.');
  const { header } = await readHeaderSector(context);
  const seeHeader = 'See --repairtype pv_header to repair headers.';
  if (!header.found) throw new CommandError(['No lvm label found on device.', seeHeader]);
  const areas = header.metadataAreas.slice(0, 2);
  if (areas.length === 0 && settings.mdaOffset === 0 && settings.mdaSize === 0) {
    context.out('No metadata areas on device to repair.');
    return true;
  }
  if (areas.length === 0) throw new CommandError(['No metadata areas found on device.', seeHeader]);
  if (settings.mdaNum > areas.length) throw new CommandError([`No mda${settings.mdaNum} offset found.`, seeHeader]);
  let complete = true;
  for (const [index, area] of areas.entries()) {
    if (settings.mdaNum !== 0 && settings.mdaNum !== index + 1) continue;
    if (!(await writeArea(context, file, area, index + 1))) complete = false;
  }
  return complete;
}

async function writeArea(
  context: RepairContext,
  { text }: MetadataFile,
  { offset, size }: DiskLocation,
  number: number,
): Promise<boolean> {
  const { device, out, err, test } = context;
  const max = maxTextBytes(size);
  if (text.length > max) {
    throw new CommandError(`Metadata text ${text.length} too large for mda_size ${size} max ${max}`);
  }
  if (offset + size > device.limits.sizeBytes) {
    throw new CommandError(`mda${number} at ${offset} of ${size} bytes does not lie inside ${device.name}.`);
  }
  const place = offset + MDA_HEADER_BYTES;
  out(`Writing metadata at ${place} length ${text.length} crc ${hex(lvmCrc(text))} mda${number}`);
  out(`Writing mda_header at ${offset} mda${number}`);
  if (test) {
    err('Skip writing in test mode.');
    return true;
  }
  if (!(await agreed(context, `Write new LVM metadata to ${device.name}? `))) return false;
  const padded = Buffer.alloc(Math.ceil(text.length / SECTOR_BYTES) * SECTOR_BYTES);
  text.copy(padded);
  await writeBytes(device, place, padded);
  await flush(device);
  const slots = [textLocn(MDA_HEADER_BYTES, text), EMPTY_LOCN] as const;
  await writeBytes(device, offset, encodeMdaHeader({ start: offset, size, slots }));
  await flush(device);
  return true;
}

async function readHeaderSector({
  device,
  labelSector,
  out,
}: RepairContext): Promise<{ readonly sector: Buffer; readonly header: LooseHeader }> {
  const sector = await readBytes(device, labelSector * SECTOR_BYTES, SECTOR_BYTES);
  const header = looseHeader(sector, labelSector);
  for (const check of header.checks) out(check);
  return { sector, header };
}

async function writeHeaderSector(context: RepairContext, bytes: Buffer): Promise<boolean> {
  const { device, labelSector, test, err } = context;
  if (test) {
    err('Skip writing in test mode.');
    return true;
  }
  if (!(await agreed(context, `Write new LVM header to ${device.name}? `))) return false;
  await writeBytes(device, labelSector * SECTOR_BYTES, bytes);
  await flush(device);
  return true;
}

async function agreed({ yes, prompt }: RepairContext, question: string): Promise<boolean> {
  return yes || (await prompt(question));
}

interface Areas {
  readonly first: boolean;
  readonly second: DiskLocation | null;
}

/** Which metadata areas the PV is to have: those in its header, else those of which there are traces, else one, if that is wanted. */
async function areasOf(context: RepairContext, header: LooseHeader): Promise<Areas> {
  const { settings, err } = context;
  let second = header.metadataAreas[1] ?? null;
  let first = header.metadataAreas.length > 0;
  if (!first) {
    second = await traceOfSecondArea(context);
    first = second !== null || (await hasFirstArea(context));
  }
  if (!first && settings.mdaOffset === 0 && settings.mdaSize === 0) {
    err('WARNING: PV will have no metadata with zero metadata areas.');
    return { first: false, second: null };
  }
  if (!first) {
    err('WARNING: no previous metadata areas found on device.');
    if (!(await agreed(context, 'Should a metadata area be included? '))) {
      throw new CommandError('To repair with zero metadata areas, use --settings "mda_offset=0 mda_size=0".');
    }
  }
  return { first: true, second: withSettings(second, settings) };
}

function withSettings(found: DiskLocation | null, { mda2Offset, mda2Size }: RepairSettings): DiskLocation | null {
  if (mda2Offset === undefined && mda2Size === undefined) return found;
  const given = { offset: mda2Offset ?? 0, size: mda2Size ?? 0 };
  for (const field of ['offset', 'size'] as const) {
    if (found !== null && found[field] !== given[field]) {
      throw new CommandError(
        `mda2_${field} setting ${given[field]} does not match mda2_${field} found on disk ${found[field]}.`,
      );
    }
  }
  if (given.offset === 0 || given.size === 0) throw new CommandError('Both mda2_offset and mda2_size are needed.');
  return given;
}

async function hasFirstArea({ device }: RepairContext): Promise<boolean> {
  return areaTrace(await readBytes(device, FIRST_AREA_OFFSET, MDA_HEADER_BYTES), FIRST_AREA_OFFSET) !== 'none';
}

/** A second area at the device's end that holds a text of this VG: an older PV's would be in the midst of extents. */
async function traceOfSecondArea({ device, file, out }: RepairContext): Promise<DiskLocation | null> {
  const { sizeBytes } = device.limits;
  if (sizeBytes < 2 * MIB) return null;
  const offset = sizeBytes - (sizeBytes % MIB) - MIB;
  const area = await readBytes(device, offset, sizeBytes - offset);
  const trace = areaTrace(area, offset);
  if (trace === 'doubtful') out('Skipping mda2 (wrong mda_header.version or start)');
  if (trace !== 'sure') return null;
  const id = file?.vg.id ?? null;
  for (let at = MDA_HEADER_BYTES; at < area.length / 2; at += SECTOR_BYTES) {
    if (id === null || !area.subarray(at, at + 256).includes(id)) continue;
    out(`Found mda2 header at offset ${offset} size ${area.length}`);
    return { offset, size: area.length };
  }
  out('Skipping mda2 (no matching VG UUID in metadata area)');
  return null;
}

interface PvFacts {
  readonly uuid: string;
  readonly deviceSizeBytes: number;
  readonly dataOffset: number;
  readonly bootloader: DiskLocation | null;
}

function pvFacts(context: RepairContext, header: LooseHeader): PvFacts {
  const { settings, file, device, err } = context;
  const { pvUuid, deviceSize, dataOffset } = settings;
  if (file === null && pvUuid !== undefined && deviceSize !== undefined && dataOffset !== undefined) {
    const { sizeBytes } = device.limits;
    if (deviceSize !== sizeBytes) {
      err(`WARNING: device_size setting ${deviceSize} bytes does not match device size ${sizeBytes} bytes.`);
    }
    return { uuid: pvUuid, deviceSizeBytes: deviceSize, dataOffset, bootloader: null };
  }
  if (file === null) {
    throw new CommandError([
      'Metadata input file is needed for pv_header info.',
      'See pvck --dump to locate and create a metadata file.',
    ]);
  }
  const { devSizeSectors, peStartSectors, baStartSectors = 0, baSizeSectors = 0, id } = entryOf(context, header, file);
  return {
    uuid: id,
    deviceSizeBytes: devSizeSectors === undefined ? device.limits.sizeBytes : devSizeSectors * SECTOR_BYTES,
    dataOffset: peStartSectors * SECTOR_BYTES,
    bootloader:
      baSizeSectors === 0 ? null : { offset: baStartSectors * SECTOR_BYTES, size: baSizeSectors * SECTOR_BYTES },
  };
}

/** The PV's entry in the metadata: by the uuid that was given, else by that in the header, else by the device's name. */
function entryOf(
  { settings, device, err }: RepairContext,
  header: LooseHeader,
  { vg }: MetadataFile,
): PhysicalVolumeText {
  const { pvUuid } = settings;
  if (pvUuid !== undefined && header.uuid !== null && header.uuid !== pvUuid) {
    err(`WARNING: existing PV UUID ${raw(header.uuid)} does not match pv_uuid setting ${raw(pvUuid)}.`);
  }
  const uuid = pvUuid ?? header.uuid;
  const found = vg.physicalVolumes.find((pv) => (uuid === null ? pv.device === device.name : pv.id === uuid));
  if (found !== undefined) return found;
  let reason = `PV name ${device.name} not found in metadata file.`;
  if (pvUuid !== undefined) reason = `PV UUID ${raw(pvUuid)} not found in metadata file.`;
  else if (uuid !== null) reason = `PV UUID ${raw(uuid)} in existing pv_header not found in metadata file.`;
  throw new CommandError([reason, 'No valid PV UUID, specify a PV UUID from metadata in --settings.']);
}

function checkPlaces({ metadataAreas, dataAreas }: Label, device: BlockDevice): void {
  const { sizeBytes } = device.limits;
  for (const { offset, size } of metadataAreas) {
    const inside = size >= 2 * MDA_HEADER_BYTES && offset >= FIRST_AREA_OFFSET && offset + size <= sizeBytes;
    if (!inside) {
      throw new CommandError(`A metadata area of ${size} bytes at ${offset} does not fit on ${device.name}.`);
    }
  }
  const start = dataAreas[0]?.offset ?? 0;
  if (start === 0 || start > sizeBytes) {
    throw new CommandError(`Data at ${start} does not lie inside the ${sizeBytes} bytes of ${device.name}.`);
  }
}

/** Without dashes, as it is on the disk. */
function raw(uuid: string): string {
  return parseUuid(uuid) ?? uuid;
}

function hex(value: number): string {
  return `0x${value.toString(16).padStart(8, '0')}`;
}
