/**
 * LVM2's checksum of labels, mda headers and metadata texts: CRC-32 with the reflected polynomial 0xEDB88320, the initial
 * register 0xf597a6cf and no final complement (lvm2: lib/misc/crc.c; checked against samples/lvm2/tools/crc.py).
 *
 * The crc-32 package complements its seed before and its result after, so both are undone here.
 */
import CRC32 from 'crc-32';

const INITIAL_CRC = 0xf597a6cf;

/** Checksum of `bytes` as an unsigned 32-bit number. */
export function lvmCrc(bytes: Uint8Array): number {
  return ~CRC32.buf(bytes, ~INITIAL_CRC) >>> 0;
}
