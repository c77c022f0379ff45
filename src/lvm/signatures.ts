/**
 * Signatures of file systems, swap, RAID, encryption and partition tables: what a device holds before LVM takes it. A table of
 * magic bytes at fixed places, with the names that libblkid gives (facts: blkid(8), and the formats' own descriptions).
 *
 * Invariants
 *  - At most the first 68 KiB and the last 128 KiB of a device are looked at.
 *  - LVM2's own labels are not listed: who makes a PV deals with those himself.
 *  - A signature's bytes are exactly what has to be zeroed for it to be gone.
 */
export interface Signature {
  /** libblkid's TYPE or PTTYPE: "ext4", "crypto_LUKS", "dos". */
  readonly type: string;
  /** Byte offset of the magic on the device. */
  readonly offset: number;
  readonly length: number;
}

export const SIGNATURE_HEAD_BYTES: number = 68 * 1024;
export const SIGNATURE_TAIL_BYTES: number = 128 * 1024;

interface Magic {
  readonly type: string;
  /** From the device's start; negative: from its end. */
  readonly offset: number;
  readonly bytes: Buffer;
}

function text(type: string, offset: number, magic: string): Magic {
  return { type, offset, bytes: Buffer.from(magic, 'latin1') };
}

function hex(type: string, offset: number, magic: string): Magic {
  return { type, offset, bytes: Buffer.from(magic, 'hex') };
}

const KIB = 1024;
const MD_MAGIC = 'fc4e2ba9';
const MD_RESERVED_BYTES = 64 * KIB;
/** Byte offset of the ext superblock's magic, and of its three feature words. */
const EXT_MAGIC = 0x438;
const EXT_FEATURES = { compatible: 0x45c, incompatible: 0x460, readOnlyCompatible: 0x464 } as const;

/** In the order in which they are asked about: superblocks before partition tables. */
const MAGICS: readonly Magic[] = [
  hex('linux_raid_member', 4 * KIB, MD_MAGIC),
  hex('linux_raid_member', 0, MD_MAGIC),
  text('crypto_LUKS', 0, 'LUKS\xba\xbe'),
  text('crypto_LUKS', 16 * KIB, 'SKUL\xba\xbe'),
  text('DM_snapshot_cow', 0, 'SnAp'),
  // LVM2's predecessors, whose disks it leaves alone: LVM1, and the pool driver of GFS.
  text('LVM1_member', 0, 'HM\x01\0'),
  text('LVM1_member', 0, 'HM\x02\0'),
  hex('gfs_pool', 0, '0000000000011670'),
  text('bcache', 4 * KIB + 24, '\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81'),
  text('vfat', 82, 'FAT32   '),
  text('vfat', 54, 'FAT16   '),
  text('vfat', 54, 'FAT12   '),
  text('exfat', 3, 'EXFAT   '),
  text('ntfs', 3, 'NTFS    '),
  text('swap', 4086, 'SWAPSPACE2'),
  text('swap', 4086, 'SWAP-SPACE'),
  text('swsuspend', 4086, 'S1SUSPEND'),
  text('xfs', 0, 'XFSB'),
  hex('ext2', EXT_MAGIC, '53ef'),
  text('reiserfs', 64 * KIB + 52, 'ReIsErFs'),
  text('reiserfs', 64 * KIB + 52, 'ReIsEr2Fs'),
  text('reiserfs', 64 * KIB + 52, 'ReIsEr3Fs'),
  text('jfs', 32 * KIB, 'JFS1'),
  text('iso9660', 32 * KIB + 1, 'CD001'),
  text('udf', 32 * KIB + 1, 'BEA01'),
  text('gfs2', 64 * KIB, '\x01\x16\x19\x70'),
  text('btrfs', 64 * KIB + 64, '_BHRfS_M'),
  hex('f2fs', KIB, '1020f5f2'),
  hex('erofs', KIB, 'e2e1f5e0'),
  text('squashfs', 0, 'hsqs'),
  text('cramfs', 0, '\x45\x3d\xcd\x28'),
  text('gpt', 512, 'EFI PART'),
  text('gpt', -512, 'EFI PART'),
  hex('dos', 510, '55aa'),
];

/** A device's first and last bytes: SIGNATURE_HEAD_BYTES and SIGNATURE_TAIL_BYTES of them, or the whole device. */
export interface DeviceEnds {
  readonly head: Buffer;
  readonly tail: Buffer;
  readonly sizeBytes: number;
}

/** What the device holds, in the order in which to ask about it. */
export function findSignatures(ends: DeviceEnds): readonly Signature[] {
  const found: Signature[] = [];
  for (const { type, offset, bytes } of [...mdAtEnd(ends.sizeBytes), ...MAGICS]) {
    const at = offset < 0 ? ends.sizeBytes + offset : offset;
    if (!bytesAt(ends, at, bytes.length)?.equals(bytes)) continue;
    if (type === 'dos' && !isPartitionTable(ends, found)) continue;
    found.push({ type: type === 'ext2' ? extType(ends) : type, offset: at, length: bytes.length });
  }
  return found;
}

/** MD's superblocks of versions 0.90 and 1.0 lie at the end: in the last whole 64 KiB, or at 8 to 12 KiB from the end. */
function mdAtEnd(sizeBytes: number): readonly Magic[] {
  const old = Math.floor(sizeBytes / MD_RESERVED_BYTES) * MD_RESERVED_BYTES - MD_RESERVED_BYTES;
  const sectors = sizeBytes / 512;
  const newer = Math.floor((sectors - 16) / 8) * 8 * 512;
  return [old, newer].filter((at) => at > 0).map((at) => hex('linux_raid_member', at, MD_MAGIC));
}

function bytesAt({ head, tail, sizeBytes }: DeviceEnds, offset: number, length: number): Buffer | null {
  if (offset >= 0 && offset + length <= head.length) return head.subarray(offset, offset + length);
  const inTail = offset - (sizeBytes - tail.length);
  return inTail >= 0 && inTail + length <= tail.length ? tail.subarray(inTail, inTail + length) : null;
}

/** 55 AA also ends the boot sectors of file systems, and the protective table of GPT, which goes with it. */
function isPartitionTable({ head }: DeviceEnds, found: readonly Signature[]): boolean {
  if (found.some(({ type, offset }) => offset < 512 && ['vfat', 'ntfs', 'exfat'].includes(type))) return false;
  for (let entry = 446; entry < 510; entry += 16) {
    const flag = head[entry] ?? 0;
    if (flag !== 0 && flag !== 0x80) return false;
  }
  return true;
}

/** ext2, ext3 or ext4, by the features of the superblock, as libblkid tells them apart. */
function extType({ head }: DeviceEnds): string {
  const compatible = head.readUInt32LE(EXT_FEATURES.compatible);
  const incompatible = head.readUInt32LE(EXT_FEATURES.incompatible);
  const readOnlyCompatible = head.readUInt32LE(EXT_FEATURES.readOnlyCompatible);
  if ((incompatible & 0x8) !== 0) return 'jbd';
  // What ext3 knows: filetype, recover, meta_bg; sparse_super, large_file, btree_dir.
  if ((incompatible & ~0x16) !== 0 || (readOnlyCompatible & ~0x7) !== 0) return 'ext4';
  return (compatible & 0x4) === 0 ? 'ext2' : 'ext3';
}
