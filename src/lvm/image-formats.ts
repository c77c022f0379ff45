/**
 * Files that hold a disk in another form than byte for byte: formats of virtual machines and of forensics, compressed files. A table
 * of magic bytes with the names that qemu-img and file(1) give (facts: the formats' own descriptions).
 *
 * Invariants
 *  - Only for files: on a block device such bytes are somebody's data, which LVM2 does not ask about.
 *  - A fixed VHD is a raw disk with a footer, and not among them.
 */
import type { Signature } from './signatures.ts';

const FORMATS: readonly (readonly [type: string, offset: number, magic: Buffer])[] = [
  ['qcow2', 0, Buffer.from('QFI\xfb', 'latin1')],
  ['qed', 0, Buffer.from('QED\0', 'latin1')],
  ['vmdk', 0, Buffer.from('KDMV', 'latin1')],
  ['vmdk', 0, Buffer.from('COWD', 'latin1')],
  ['vdi', 64, Buffer.from('7f10dabe', 'hex')],
  ['vpc', 0, Buffer.from('conectix', 'latin1')],
  ['vhdx', 0, Buffer.from('vhdxfile', 'latin1')],
  ['parallels', 0, Buffer.from('WithoutFreeSpace', 'latin1')],
  ['parallels', 0, Buffer.from('WithouFreSpacExt', 'latin1')],
  ['ewf', 0, Buffer.from('EVF\x09\x0d\x0a\xff\0', 'latin1')],
  ['ewf', 0, Buffer.from('EVF2\x0d\x0a\x81\0', 'latin1')],
  ['gzip', 0, Buffer.from('1f8b08', 'hex')],
  ['bzip2', 0, Buffer.from('BZh', 'latin1')],
  ['xz', 0, Buffer.from('fd377a585a00', 'hex')],
  ['zstd', 0, Buffer.from('28b52ffd', 'hex')],
];

/** The form of the disk in a file that begins with `head`; null: none that is known. */
export function findImageFormat(head: Buffer): Signature | null {
  for (const [type, offset, magic] of FORMATS) {
    if (head.subarray(offset, offset + magic.length).equals(magic)) return { type, offset, length: magic.length };
  }
  return null;
}
