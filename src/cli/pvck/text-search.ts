/**
 * Finds metadata texts in the bytes of a metadata area, old ones too, without believing its header: LVM2 starts each text at a
 * multiple of 512 bytes with the VG's name, and ends it with a NUL.
 *
 * Invariants
 *  - Pure, and linear in the area's size: where texts without an end run into each other, all of them together are cut at
 *    OVERLAP times its size.
 *  - A text that runs past the area's end goes on after its header, and is never longer than the area.
 *
 * Source: formats/lvm2.md §1.4, §2; output compared with pvck --dump metadata_search of LVM2 2.03.16.
 */
import { lvmCrc } from '../../ondisk/crc.ts';

const STEP = 512;
const HEADER_BYTES = 512;
const OVERLAP = 4;

export interface FoundText {
  /** In the area. */
  readonly offset: number;
  /** Without the NUL. */
  readonly bytes: Buffer;
  /** Bytes, the NUL included. */
  readonly length: number;
  readonly checksum: number;
  readonly vgName: string;
  readonly vgId: string;
  readonly seqno: number;
  /** The lines that -v adds; absent if the text has none. */
  readonly description?: string;
  readonly creationTime?: string;
}

/** A text's first bytes: a VG name, and the VG's id as first key. */
const START = /^([A-Za-z0-9._+-]{1,127}) \{\nid = "([^"\n]*)"/;

/** Every text that starts in the area, in the order of their places. */
export function* findTexts(area: Buffer): Generator<FoundText> {
  let budget = OVERLAP * area.length;
  for (let offset = HEADER_BYTES; offset + STEP <= area.length; offset += STEP) {
    const match = START.exec(area.toString('latin1', offset, offset + STEP));
    if (match === null) continue;
    const bytes = textAt(area, offset, Math.max(budget, STEP));
    budget -= bytes.length;
    const text = bytes.toString('latin1');
    const description = /^description = .*$/m.exec(text)?.[0];
    const creationTime = /^creation_time = .*$/m.exec(text)?.[0];
    yield {
      offset,
      bytes,
      length: bytes.length + 1,
      checksum: lvmCrc(Buffer.concat([bytes, Buffer.of(0)])),
      vgName: match[1] ?? '',
      vgId: match[2] ?? '',
      seqno: Number(/^seqno = (\d+)/m.exec(text)?.[1] ?? 0),
      ...(description === undefined ? {} : { description }),
      ...(creationTime === undefined ? {} : { creationTime }),
    };
  }
}

/** The bytes from `offset` up to a NUL, going on after the header at the area's end; at most `limit`. */
function textAt(area: Buffer, offset: number, limit: number): Buffer {
  const tail = upToNul(area.subarray(offset, offset + limit));
  if (offset + tail.length < area.length || tail.length === limit) return tail;
  const wrapped = area.subarray(HEADER_BYTES, Math.min(offset, HEADER_BYTES + limit - tail.length));
  return Buffer.concat([tail, upToNul(wrapped)]);
}

function upToNul(bytes: Buffer): Buffer {
  const end = bytes.indexOf(0);
  return end < 0 ? bytes : bytes.subarray(0, end);
}
