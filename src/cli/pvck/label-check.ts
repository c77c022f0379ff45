/**
 * pvck's look at the label sector: label header, PV header, its lists of areas and its extension, every field shown as it is
 * and compared with what it should be. Unlike ondisk/label.ts it goes on after what is wrong.
 *
 * Invariants
 *  - 64-bit values are bigints: a damaged one must be shown exactly.
 *  - Nothing is read past the label's sector: a list without an end stops there.
 *
 * Source: formats/lvm2.md §1.1, §1.2; output compared with pvck of LVM2 2.03.16 on sound and damaged devices.
 */
import { lvmCrc } from '../../ondisk/crc.ts';
import { SECTOR_BYTES } from '../../ondisk/label.ts';
import { hex, printable, type PvckReport } from './report.ts';

const ID = 'LABELONE';
const TYPE = 'LVM2 001';
const PV_HEADER_OFFSET = 32;
const UUID_BYTES = 32;
const LOCATION_BYTES = 16;
/** Where the first metadata area may be: after the labels, by page size. */
const FIRST_AREA_OFFSETS: ReadonlySet<bigint> = new Set([4096n, 8192n, 65536n]);

export interface AreaLocation {
  readonly offset: bigint;
  readonly size: bigint;
}

export interface LabelFindings {
  /** The sector says that it is an LVM2 label: its lists may be believed. */
  readonly isLabel: boolean;
  readonly metadataAreas: readonly AreaLocation[];
}

/** Looks at the label in `sector`; null if it can't be read, which is said. */
export async function checkLabel(report: PvckReport, sector: number): Promise<LabelFindings | null> {
  const at = sector * SECTOR_BYTES;
  const bytes = await report.read(BigInt(at), BigInt(SECTOR_BYTES));
  if (bytes === null) return null;
  const isLabel = checkLabelHeader(report, bytes, sector);
  const pvHeader = bytes.subarray(PV_HEADER_OFFSET);
  report.field(`pv_header at ${at + PV_HEADER_OFFSET}`);
  const uuid = pvHeader.subarray(0, UUID_BYTES);
  report.field(`pv_header.pv_uuid ${printable(uuid)}`);
  report.field(`pv_header.device_size ${pvHeader.readBigUInt64LE(UUID_BYTES)}`);
  // LVM2 reads the id on into the size unless that starts with a zero byte, which every size in sectors does.
  const valid = /^[0-9a-zA-Z!#]{32}$/.test(printable(uuid)) && pvHeader[UUID_BYTES] === 0;
  if (!valid) report.check('pv_header.pv_uuid invalid format');
  return { isLabel, metadataAreas: new LocationLists(report, bytes, at).walk() };
}

function checkLabelHeader(report: PvckReport, bytes: Buffer, sector: number): boolean {
  const id = bytes.toString('latin1', 0, 8);
  const type = bytes.toString('latin1', 24, 32);
  const number = bytes.readBigUInt64LE(8);
  const crc = bytes.readUInt32LE(16);
  const offset = bytes.readUInt32LE(20);
  report.field(`label_header at ${sector * SECTOR_BYTES}`);
  report.field(`label_header.id ${printable(bytes.subarray(0, 8))}`);
  report.field(`label_header.sector ${number}`);
  report.field(`label_header.crc ${hex(crc)}`);
  report.field(`label_header.offset ${offset}`);
  report.field(`label_header.type ${printable(bytes.subarray(24, 32))}`);
  if (id !== ID) report.check(`label_header.id expected ${ID}`);
  if (number !== BigInt(sector)) report.check(`label_header.sector expected ${sector}`);
  const expected = lvmCrc(bytes.subarray(20));
  if (crc !== expected) report.check(`label_header.crc expected ${hex(expected)}`);
  if (offset !== PV_HEADER_OFFSET) report.check(`label_header.offset expected ${PV_HEADER_OFFSET}`);
  if (type !== TYPE) report.check(`label_header.type expected ${TYPE}`);
  return id === ID && type === TYPE;
}

/** Goes through the lists of locations after the PV header: data areas, metadata areas, and in the extension bootloader areas. */
class LocationLists {
  readonly #report: PvckReport;
  readonly #bytes: Buffer;
  /** Byte offset of the sector on the device. */
  readonly #start: number;
  #next = PV_HEADER_OFFSET + UUID_BYTES + 8;
  /** A list ran past the sector, which was said. */
  #endless = false;

  constructor(report: PvckReport, bytes: Buffer, start: number) {
    this.#report = report;
    this.#bytes = bytes;
    this.#start = start;
  }

  /** Gives the metadata areas. */
  walk(): readonly AreaLocation[] {
    const data = this.#list('pv_header', 0, 'location of data area');
    const areas = this.#list('pv_header', data.length + 1, 'location of metadata area', (location, name) => {
      if (FIRST_AREA_OFFSETS.has(location.offset)) return;
      this.#report.output.print(`WARNING: ${name}.offset ${location.offset} is unexpected # for first mda`);
    });
    if (this.#room(8)) this.#extension();
    // There are at most two areas; of more, LVM2 looks at the first and the last.
    return areas.length > 2 ? [...areas.slice(0, 1), ...areas.slice(-1)] : areas;
  }

  #room(length: number): boolean {
    return this.#next + length <= SECTOR_BYTES;
  }

  #extension(): void {
    const at = this.#next;
    this.#report.field(`pv_header_extension at ${this.#start + at}`);
    this.#report.field(`pv_header_extension.version ${this.#bytes.readUInt32LE(at)}`);
    this.#report.field(`pv_header_extension.flags ${this.#bytes.readUInt32LE(at + 4)}`);
    this.#next += 8;
    this.#list('pv_header_extension', 0, 'bootloader area');
  }

  /** One list up to the entry with offset 0; `onFirst` sees the first entry after it was shown. */
  #list(
    owner: string,
    first: number,
    kind: string,
    onFirst?: (location: AreaLocation, name: string) => void,
  ): readonly AreaLocation[] {
    const found: AreaLocation[] = [];
    for (let index = first; this.#room(LOCATION_BYTES); index++) {
      const at = this.#next;
      const location = { offset: this.#bytes.readBigUInt64LE(at), size: this.#bytes.readBigUInt64LE(at + 8) };
      const name = `${owner}.disk_locn[${index}]`;
      this.#report.field(`${name} at ${this.#start + at} # ${location.offset === 0n ? 'location list end' : kind}`);
      this.#report.field(`${name}.offset ${location.offset}`);
      this.#report.field(`${name}.size ${location.size}`);
      this.#next += LOCATION_BYTES;
      if (location.offset === 0n) return found;
      if (found.length === 0) onFirst?.(location, name);
      found.push(location);
    }
    if (!this.#endless) this.#report.check(`${owner}.disk_locn list doesn't end in the label's sector`);
    this.#endless = true;
    return found;
  }
}
