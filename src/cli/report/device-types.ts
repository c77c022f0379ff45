/**
 * The kinds of block devices that LVM2 knows by their drivers' names in /proc/devices: what it takes without a word in `devices/types`.
 * Here every block device is taken, so the list is only told.
 *
 * Invariant: LVM2's order, which is seen where nothing sorts.
 *
 * Source: `lvm devtypes` of 2.03.16 (a test compares them).
 */
import type { DeviceType } from './field.ts';

const TYPES: readonly (readonly [name: string, maxPartitions: number, description: string])[] = [
  ['sd', 16, 'SCSI disk'],
  ['ide', 64, 'IDE disk'],
  ['md', 1, 'Multiple Disk (MD/SoftRAID)'],
  ['loop', 1, 'Loop device'],
  ['ramdisk', 1, 'RAM disk'],
  ['device-mapper', 1, 'Mapped device'],
  ['mdp', 1, 'Partitionable MD'],
  ['dasd', 4, 'DASD disk (IBM S/390, zSeries)'],
  ['dac960', 8, 'DAC960'],
  ['nbd', 16, 'Network Block Device'],
  ['ida', 16, 'Compaq SMART2'],
  ['cciss', 16, 'Compaq CCISS array'],
  ['ubd', 16, 'User-mode virtual block device'],
  ['ataraid', 16, 'ATA Raid'],
  ['drbd', 16, 'Distributed Replicated Block Device (DRBD)'],
  ['rbd', 16, 'Ceph rados object as a Linux block device'],
  ['emcpower', 16, 'EMC Powerpath'],
  ['power2', 16, 'EMC Powerpath'],
  ['i2o_block', 16, 'i2o Block Disk'],
  ['iseries/vd', 8, 'iSeries disks'],
  ['gnbd', 1, 'Network block device'],
  ['aoe', 16, 'ATA over Ethernet'],
  ['xvd', 16, 'Xen virtual block device'],
  ['vdisk', 8, "SUN's LDOM virtual block device"],
  ['ps3disk', 16, 'PlayStation 3 internal disk'],
  ['virtblk', 8, 'VirtIO disk'],
  ['mmc', 16, 'MMC block device'],
  ['blkext', 1, 'Extended device partitions'],
  ['fio', 16, 'Fusion IO'],
  ['mtip32xx', 16, 'Micron PCIe SSD'],
  ['vtms', 16, 'Violin Memory'],
  ['skd', 16, 'STEC'],
  ['scm', 8, 'Storage Class Memory (IBM S/390)'],
  ['bcache', 1, 'bcache block device cache'],
  ['nvme', 64, 'NVM Express'],
  ['zvol', 16, 'ZFS Zvols'],
  ['VxDMP', 16, 'Veritas Dynamic Multipathing'],
];

export const DEVICE_TYPES: readonly DeviceType[] = TYPES.map(([name, maxPartitions, description]) => ({
  name,
  maxPartitions,
  description,
}));
