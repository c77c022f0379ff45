/**
 * A label sector read with indulgence, for repairs: whatever can be made out of it, and what is wrong with it, in LVM2's words
 * (facts: LVM2 tools/pvck.c).
 *
 * Invariants
 *  - Nothing throws: every sector gives an answer, and lists end inside the sector.
 *  - A label counts as found if its id and its type are right, whatever else is wrong.
 */
import { lvmCrc } from '../ondisk/crc.ts';
import { type DiskLocation, SECTOR_BYTES } from '../ondisk/label.ts';
import { formatUuid, isUuid } from '../ondisk/uuid.ts';

const LABEL_ID = Buffer.from('LABELONE', 'latin1');
const LABEL_TYPE = Buffer.from('LVM2 001', 'latin1');
const AT = { sector: 8, crc: 16, offset: 20, type: 24, pvHeader: 32, uuid: 32, lists: 72 } as const;
const PV_HEADER_OFFSET = 32;
const LOCATION_BYTES = 16;
const UUID_CHARACTERS = 32;
/** First metadata areas begin at the page size of the machine that made them. */
const PAGE_SIZES: ReadonlySet<number> = new Set([4096, 8192, 65_536]);

export interface LooseHeader {
  readonly found: boolean;
  /** Display form; null: there is none that could be one. */
  readonly uuid: string | null;
  readonly metadataAreas: readonly DiskLocation[];
  /** What is wrong, a line each. */
  readonly checks: readonly string[];
}

export function looseHeader(sector: Buffer, labelSector: number): LooseHeader {
  const checks: string[] = [];
  const hasId = sector.subarray(0, LABEL_ID.length).equals(LABEL_ID);
  const hasType = sector.subarray(AT.type, AT.type + LABEL_TYPE.length).equals(LABEL_TYPE);
  const crc = lvmCrc(sector.subarray(AT.offset, SECTOR_BYTES));
  if (!hasId) checks.push('CHECK: label_header.id expected LABELONE');
  if (sector.readBigUInt64LE(AT.sector) !== BigInt(labelSector)) {
    checks.push(`CHECK: label_header.sector expected ${labelSector}`);
  }
  if (sector.readUInt32LE(AT.crc) !== crc) checks.push(`CHECK: label_header.crc expected 0x${crc.toString(16)}`);
  if (sector.readUInt32LE(AT.offset) !== PV_HEADER_OFFSET) checks.push('CHECK: label_header.offset expected 32');
  if (!hasType) checks.push('CHECK: label_header.type expected LVM2 001');
  const uuid = uuidIn(sector);
  if (uuid === null) checks.push('CHECK: pv_header.pv_uuid invalid format');
  const data = listAt(sector, AT.lists);
  const metadata = listAt(sector, data.end);
  const [first] = metadata.items;
  if (first !== undefined && !PAGE_SIZES.has(first.offset)) {
    const name = `pv_header.disk_locn[${data.items.length + 1}]`;
    checks.push(`WARNING: ${name}.offset ${first.offset} is unexpected # for first mda`);
  }
  return { found: hasId && hasType, uuid, metadataAreas: metadata.items, checks };
}

/** The sector with the label's own fields as they should be. */
export function labelHeaderOver(sector: Buffer, labelSector: number): Buffer {
  const repaired = Buffer.from(sector);
  LABEL_ID.copy(repaired, 0);
  repaired.writeBigUInt64LE(BigInt(labelSector), AT.sector);
  repaired.writeUInt32LE(PV_HEADER_OFFSET, AT.offset);
  LABEL_TYPE.copy(repaired, AT.type);
  repaired.writeUInt32LE(lvmCrc(repaired.subarray(AT.offset, SECTOR_BYTES)), AT.crc);
  return repaired;
}

function uuidIn(sector: Buffer): string | null {
  const raw = sector.toString('latin1', AT.uuid, AT.uuid + UUID_CHARACTERS);
  return isUuid(raw) ? formatUuid(raw) : null;
}

/** Entries up to the one whose offset is 0, or up to the sector's end. */
function listAt(sector: Buffer, start: number): { readonly items: readonly DiskLocation[]; readonly end: number } {
  const items: DiskLocation[] = [];
  let at = start;
  for (; at + LOCATION_BYTES <= SECTOR_BYTES; at += LOCATION_BYTES) {
    const offset = Number(sector.readBigUInt64LE(at));
    if (offset === 0) return { items, end: at + LOCATION_BYTES };
    items.push({ offset, size: Number(sector.readBigUInt64LE(at + 8)) });
  }
  return { items, end: at };
}

const AREA_MAGIC = Buffer.from(' LVM2 x[5A%r0N*>', 'latin1');
const AREA = { magic: 4, version: 20, start: 24 } as const;

/** What is at a place where a metadata area may begin: none, something like its header, or its header for sure. */
export function areaTrace(bytes: Buffer, offset: number): 'none' | 'doubtful' | 'sure' {
  if (!bytes.subarray(AREA.magic, AREA.magic + AREA_MAGIC.length).equals(AREA_MAGIC)) return 'none';
  const isOwn = bytes.readUInt32LE(AREA.version) === 1 && bytes.readBigUInt64LE(AREA.start) === BigInt(offset);
  return isOwn ? 'sure' : 'doubtful';
}
