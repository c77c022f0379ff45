/**
 * Reading one device for the scan: label, metadata area headers, committed texts. Facts only; what they mean for volume
 * groups is decided by assemble.ts, without I/O.
 *
 * Invariants
 *  - Bounded: 4 KiB for the label, one sector per header, and texts no longer than MAX_TEXT_BYTES, of at most two areas.
 *  - The ignored flag is looked at before the text's place: an ignored area keeps a stale one.
 *  - Only committed texts are read; a precommitted one that a crash left behind is noted.
 *  - A fault of one area never hides the others; a device that can't be read is a reading with faults, not an exception.
 */
import type { BlockDevice } from '../block/device.ts';
import { DeviceError } from '../block/errors.ts';
import { readBytes } from '../block/sync-io.ts';
import { FormatError } from '../ondisk/errors.ts';
import { findLabel, LABEL_SCAN_BYTES } from '../ondisk/label.ts';
import type { Label } from '../ondisk/label.ts';
import { committedText, decodeMdaHeader, MDA_HEADER_BYTES, mdaHeaderFaults, readRanges } from '../ondisk/mda.ts';
import type { MdaHeader, RawLocn } from '../ondisk/mda.ts';
import type { ByteRange, ScannedDevice } from './model.ts';
import type { TextCopy, TextStore } from './texts.ts';

/** What one device says of itself, before texts are looked into. */
export interface RawReading {
  readonly device: ScannedDevice;
  readonly label: Label | null;
  readonly areas: readonly RawArea[];
  readonly faults: readonly string[];
}

export interface RawArea extends Omit<AreaReading, 'text'> {
  /** The committed text, interned. */
  readonly bytes: Buffer | null;
}

/** What one device says of itself. */
export interface DeviceReading {
  readonly device: ScannedDevice;
  /** Null: not a PV. */
  readonly label: Label | null;
  /** In the label's order. */
  readonly areas: readonly AreaReading[];
  /** Messages about what could not be read or looks like a damaged label. */
  readonly faults: readonly string[];
}

export interface AreaReading {
  readonly place: ByteRange;
  /** Null: unusable, see `headerFaults`. */
  readonly header: MdaHeader | null;
  /** In LVM2's words. */
  readonly headerFaults: readonly string[];
  /** Place of the committed text in the area; null: none, or the area is ignored. */
  readonly locn: RawLocn | null;
  /** Null when there is none, or it could not be read: then `readFault` says why. */
  readonly text: TextCopy | null;
  readonly readFault: string | null;
}

const LABEL_READ_BYTES = 4096;
/** LVM2 knows the areas mda1 and mda2; a longer list is hostile. */
const MAX_AREAS = 2;
/** About 300,000 LVs; an area can claim any size. */
const MAX_TEXT_BYTES = 256 * 1024 * 1024;

/** Reads a device; only faults of this program throw. */
export async function readDevice(device: BlockDevice, scanned: ScannedDevice, texts: TextStore): Promise<RawReading> {
  const faults: string[] = [];
  if (device.limits.sizeBytes === 0) faults.push(`WARNING: device ${scanned.path} is empty (size 0)`);
  const length = Math.min(LABEL_READ_BYTES, device.limits.sizeBytes);
  const first = await attempt(() => readBytes(device, 0, length), faults);
  if (first === null || first.length < MDA_HEADER_BYTES) return { device: scanned, label: null, areas: [], faults };
  const problems: FormatError[] = [];
  const label = findLabel(first.subarray(0, LABEL_SCAN_BYTES), scanned.path, problems);
  faults.push(...problems.map((problem) => labelFault(problem, scanned.path)));
  const areas: RawArea[] = [];
  for (const place of label?.metadataAreas.slice(0, MAX_AREAS) ?? []) {
    areas.push(await readArea(device, scanned.path, place, texts));
  }
  return { device: scanned, label, areas, faults };
}

/** Looks into the texts of a reading. To be called in the order of devices, so that messages name the first one. */
export function withTexts(raw: RawReading, texts: TextStore): DeviceReading {
  const areas = raw.areas.map(({ bytes, ...area }): AreaReading => {
    if (bytes === null || area.locn === null) return { ...area, text: null };
    const where = { device: raw.device.path, offset: area.place.offset + area.locn.offset };
    return { ...area, text: texts.copyOf(bytes, area.locn, where) };
  });
  return { ...raw, areas };
}

function labelFault(problem: FormatError, path: string): string {
  return problem.code === 'BAD_CRC' ? `Label checksum incorrect on ${path} - ignoring` : problem.message;
}

async function readArea(device: BlockDevice, path: string, place: ByteRange, texts: TextStore): Promise<RawArea> {
  const headerFaults: string[] = [];
  const none = { place, header: null, headerFaults, locn: null, bytes: null, readFault: null };
  const sector = await attempt(() => readBytes(device, place.offset, MDA_HEADER_BYTES), headerFaults);
  const header = sector === null ? null : decodeHeader(sector, path, place.offset, headerFaults);
  if (header === null) return none;
  const locn = committedText(header);
  const read = { ...none, header, locn };
  if (locn === null) return read;
  const textFaults: string[] = [];
  const bytes = await attempt(() => readText(device, path, header, locn), textFaults);
  if (bytes === null) return { ...read, readFault: textFaults.join('; ') };
  return { ...read, bytes: texts.intern(bytes, locn) };
}

async function readText(device: BlockDevice, path: string, header: MdaHeader, locn: RawLocn): Promise<Buffer> {
  if (locn.size > MAX_TEXT_BYTES) {
    const where = { device: path, offset: header.start + locn.offset };
    const expected = `at most ${MAX_TEXT_BYTES}`;
    throw new FormatError({ code: 'OUT_OF_RANGE', ...where, what: 'size of the text', expected, actual: locn.size });
  }
  const parts: Buffer[] = [];
  for (const range of readRanges(header, locn, path)) parts.push(await readBytes(device, range.offset, range.size));
  const [only] = parts;
  return parts.length === 1 && only !== undefined ? only : Buffer.concat(parts);
}

/** What was read, or null with the reason added to `faults`. */
async function attempt<Value>(work: () => Promise<Value>, faults: string[]): Promise<Value | null> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof DeviceError || error instanceof FormatError)) throw error;
    faults.push(error.message);
    return null;
  }
}

/** Decodes a header, or adds everything that is wrong with it to `faults`, as LVM2 says it. */
function decodeHeader(sector: Buffer, path: string, offset: number, faults: string[]): MdaHeader | null {
  try {
    return decodeMdaHeader(sector, { device: path, offset });
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    const place = `in mda header on ${path} at ${offset}`;
    const { checksum, magic, version, start } = mdaHeaderFaults(sector, offset);
    const before = faults.length;
    if (checksum !== null) faults.push(`WARNING: wrong checksum ${checksum.toString(16)} ${place}`);
    if (magic) faults.push(`WARNING: wrong magic number ${place}`);
    if (version !== null) faults.push(`WARNING: wrong version ${version} ${place}`);
    if (start !== null) faults.push(`WARNING: wrong start sector ${start} ${place}`);
    if (faults.length === before) faults.push(`WARNING: ${error.message}`);
    return null;
  }
}
