/**
 * Devices that somebody named and that are no physical volumes: what they hold instead. A disk with partitions and an image of a
 * virtual machine look like devices without volume groups, and whoever named them wants to know why.
 *
 * Invariants
 *  - Told of devices that the settings name one by one: in directories and patterns anything may lie.
 *  - What can't be read is not told again: the scan has told it.
 */
import { DeviceError } from '../block/errors.ts';
import { openBlockDevice } from '../block/open.ts';
import { findImageFormat } from '../lvm/image-formats.ts';
import type { Scan, ScannedDevice } from '../lvm/model.ts';
import { findSignatures } from '../lvm/signatures.ts';
import { endsOf } from '../lvm/wipe-signatures.ts';
import { findLabel, LABEL_SCAN_BYTES } from '../ondisk/label.ts';
import type { Logger } from './log.ts';

const PARTITION_TABLES = new Set(['dos', 'gpt']);
const IN_A_FILE = 'docs/operating.md, "Disk images", tells how to give what is in it';

/** Logs what the devices of `named` hold that are no PVs, where it is known. */
export async function tellForeign(scan: Scan, named: readonly string[], log: Logger): Promise<void> {
  for (const device of scan.devices) {
    const content = named.includes(device.path) ? await contentOf(device) : null;
    if (content !== null) log.warn({ device: device.path }, `no physical volume: ${content}`);
  }
}

/** What a device holds that is no PV; null: it is one, or nothing known is on it. */
async function contentOf({ path, kind }: ScannedDevice): Promise<string | null> {
  try {
    const device = await openBlockDevice(path, { readOnly: true });
    try {
      const ends = await endsOf(device);
      if (findLabel(ends.head.subarray(0, LABEL_SCAN_BYTES), path) !== null) return null;
      const image = kind === 'file' ? findImageFormat(ends.head) : null;
      if (image !== null) return `the file is ${image.type}, not the bytes of a disk; ${IN_A_FILE}`;
      const [first] = findSignatures(ends);
      if (first === undefined) return null;
      if (!PARTITION_TABLES.has(first.type)) return `it holds ${first.type}`;
      return `it has a partition table (${first.type}); ${kind === 'file' ? IN_A_FILE : 'name its partitions'}`;
    } finally {
      await device.close();
    }
  } catch (error) {
    if (error instanceof DeviceError) return null;
    throw error;
  }
}
