/**
 * pvck's look at one metadata area: its header's fields, where its texts are said to be, and the committed text itself.
 *
 * Invariants
 *  - 64-bit arithmetic wraps as LVM2's does: a damaged header gives the same messages.
 *  - A text is never longer than the area, whatever the header says.
 *
 * Source: formats/lvm2.md §1.4; output compared with pvck of LVM2 2.03.16 on sound and damaged devices.
 */
import { parseConfig } from '../../ondisk/config-parser.ts';
import { lvmCrc } from '../../ondisk/crc.ts';
import { FormatError } from '../../ondisk/errors.ts';
import { MDA_HEADER_BYTES, RAW_LOCN_IGNORED } from '../../ondisk/mda.ts';
import type { AreaLocation } from './label-check.ts';
import { hex, type PvckReport } from './report.ts';

const MAGIC = '204c564d3220785b35412572304e2a3e';
const MAGIC_BYTES = Buffer.from(MAGIC, 'hex');
const FIRST_AREA = 4096n;
const SLOT_AT = [40, 64] as const;

export interface RawLocation {
  readonly offset: bigint;
  readonly size: bigint;
  readonly checksum: number;
  readonly flags: number;
}

export interface AreaFindings {
  readonly location: AreaLocation;
  /** "mda_header_1" */
  readonly name: string;
  /** The magic is right: this is a metadata area. */
  readonly isArea: boolean;
  /** The committed text's place; null: there is none, or the area is ignored. */
  readonly committed: RawLocation | null;
}

/** Looks at the header of the area at `location`; null if it can't be read, which is said. */
export async function checkArea(report: PvckReport, location: AreaLocation): Promise<AreaFindings | null> {
  const bytes = await report.read(location.offset, BigInt(MDA_HEADER_BYTES));
  if (bytes === null) {
    report.check(`failed to read mda_header at ${location.offset}`);
    return null;
  }
  // The first area is the one where first areas are; any other is the second.
  const name = `mda_header_${location.offset === FIRST_AREA ? 1 : 2}`;
  checkFields(report, bytes, location, name);
  const first = showSlot(report, bytes, location, name, 0);
  if (first.size > location.size) report.check(`${name}.raw_locn[0].size larger than metadata area size`);
  const second = showSlot(report, bytes, location, name, 1);
  if (second.offset !== 0n) report.check(`${name}.raw_locn[1] for precommit not empty`);
  const used = first.offset !== 0n && (first.flags & RAW_LOCN_IGNORED) === 0;
  const isArea = MAGIC_BYTES.equals(bytes.subarray(4, 20));
  return { location, name, isArea, committed: used ? first : null };
}

function checkFields(report: PvckReport, bytes: Buffer, location: AreaLocation, name: string): void {
  const checksum = bytes.readUInt32LE(0);
  const magic = bytes.subarray(4, 20);
  const version = bytes.readUInt32LE(20);
  const start = bytes.readBigUInt64LE(24);
  const size = bytes.readBigUInt64LE(32);
  report.field(`${name} at ${location.offset} # metadata area`);
  report.field(`${name}.checksum ${hex(checksum)}`);
  // Bytes below 16 are one digit to LVM2.
  report.field(`${name}.magic 0x${Array.from(magic, (byte) => byte.toString(16)).join('')}`);
  report.field(`${name}.version ${version}`);
  report.field(`${name}.start ${start}`);
  report.field(`${name}.size ${size}`);
  const expected = lvmCrc(bytes.subarray(4));
  if (checksum !== expected) report.check(`${name}.checksum expected ${hex(expected)}`);
  if (!MAGIC_BYTES.equals(magic)) report.check(`${name}.magic expected 0x${MAGIC}`);
  if (version !== 1) report.check(`${name}.version expected 1`);
  if (start !== location.offset) {
    report.check(`${name}.start does not match pv_header.disk_locn.offset ${location.offset}`);
  }
  if (size !== location.size) report.check(`${name}.size does not match pv_header.disk_locn.size ${location.size}`);
}

function showSlot(report: PvckReport, bytes: Buffer, location: AreaLocation, name: string, index: 0 | 1): RawLocation {
  const at = SLOT_AT[index];
  const slot: RawLocation = {
    offset: bytes.readBigUInt64LE(at),
    size: bytes.readBigUInt64LE(at + 8),
    checksum: bytes.readUInt32LE(at + 16),
    flags: bytes.readUInt32LE(at + 20),
  };
  const wrapped = BigInt.asUintN(64, slot.offset + slot.size) > location.size ? ' wrapped' : '';
  const ignored = (slot.flags & RAW_LOCN_IGNORED) === 0 ? '' : ' # RAW_LOCN_IGNORED';
  const slotName = `${name}.raw_locn[${index}]`;
  report.field(`${slotName} at ${location.offset + BigInt(at)} # ${index === 0 ? 'commit' : 'precommit'}${wrapped}`);
  report.field(`${slotName}.offset ${slot.offset}`);
  report.field(`${slotName}.size ${slot.size}`);
  report.field(`${slotName}.checksum ${hex(slot.checksum)}`);
  report.field(`${slotName}.flags ${hex(slot.flags)}${ignored}`);
  return slot;
}

export interface TextFindings {
  readonly bytes: Buffer;
  /** "metadata text at …": what a dump says of it. */
  readonly summary: string;
}

/** Reads and checks the committed text; null if there is none, or it can't be read, which is said. */
export async function checkText(report: PvckReport, area: AreaFindings): Promise<TextFindings | null> {
  const { location, name, committed } = area;
  if (committed === null) return null;
  const header = BigInt(MDA_HEADER_BYTES);
  const size = committed.size > location.size ? location.size - header : committed.size;
  const at = BigInt.asUintN(64, location.offset + committed.offset);
  const bytes = await readText(report, area, committed.offset, size);
  if (bytes === null) return null;
  const checksum = lvmCrc(bytes);
  if (checksum !== committed.checksum)
    report.check(`metadata text at ${at} crc does not match ${name}.raw_locn[0].checksum`);
  const parsed = vgOf(report, bytes, at);
  if (parsed === null) report.check(`failed to parse metadata text at ${at} size ${size}`);
  const vg = `# vgname ${parsed?.name ?? '?'} seqno ${parsed?.seqno ?? 0}`;
  return { bytes, summary: `metadata text at ${at} crc ${hex(checksum)} ${vg}` };
}

/** A text that runs past the area's end goes on after the header. */
async function readText(report: PvckReport, area: AreaFindings, offset: bigint, size: bigint): Promise<Buffer | null> {
  const { location, name } = area;
  const at = BigInt.asUintN(64, location.offset + offset);
  const wraps = BigInt.asUintN(64, offset + size) > location.size;
  // LVM2 keeps both lengths in 32 bits.
  const lengthA = wraps ? BigInt.asUintN(32, location.size - offset) : size;
  const lengthB = wraps ? BigInt.asUintN(32, offset + size - location.size) : 0n;
  const failed = `failed to read metadata text at ${name}.raw_locn[0].offset ${offset} size ${size}`;
  const partA = await report.read(at, lengthA);
  if (partA === null) {
    report.check(wraps ? `${failed} part_a ${at} ${lengthA}` : failed);
    return null;
  }
  const atB = location.offset + BigInt(MDA_HEADER_BYTES);
  const partB = await report.read(atB, lengthB);
  if (partB === null) {
    report.check(`${failed} part_b ${atB} ${lengthB}`);
    return null;
  }
  return Buffer.concat([partA, partB]);
}

/** Name and sequence number of the text's first section; null, and why on stderr, if it isn't a configuration text. */
function vgOf(report: PvckReport, bytes: Buffer, at: bigint): { name: string; seqno: number } | null {
  try {
    const nodes = parseConfig(bytes, { device: report.device.path, offset: Number(at) });
    const section = nodes.find((node) => node.node === 'section');
    if (section?.node !== 'section') return null;
    const seqno = section.children.find((node) => node.key === 'seqno');
    const value = seqno?.node === 'value' && seqno.value.kind === 'int' ? seqno.value.value : 0;
    return { name: section.key, seqno: value };
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    report.output.error(error.message);
    report.unreadable = true;
    return null;
  }
}
