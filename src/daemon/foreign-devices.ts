/**
 * Devices that somebody named and that are no physical volumes: what they hold instead. A disk with partitions and an image of a
 * virtual machine look like devices without volume groups, and whoever named them wants to know why.
 *
 * Invariants
 *  - Told of devices that the settings name one by one: in directories and patterns anything may lie.
 *  - What the scan knows is not read again: no device that it found to be a PV is opened.
 *  - What can't be read is not told again: the scan has told it. A device that hangs now delays the start as it would delay a scan.
 */
import { DeviceError } from '../block/errors.ts';
import { openBlockDevice } from '../block/open.ts';
import { findImageFormat } from '../lvm/image-formats.ts';
import type { Scan, ScannedDevice } from '../lvm/model.ts';
import { findSignatures } from '../lvm/signatures.ts';
import { endsOf } from '../lvm/wipe-signatures.ts';
import { findLabel, LABEL_SCAN_BYTES } from '../ondisk/label.ts';
import { labelledByIdentity } from './keep.ts';
import type { Logger } from './log.ts';
import type { Patience } from './patience.ts';

const PARTITION_TABLES = new Set(['dos', 'gpt']);
const NOTHING_KNOWN = 'it has no LVM2 label, and nothing else that is known';
const IN_A_FILE = 'docs/operating.md, "Disk images", tells how to give what is in it';

/** Logs what the devices of `named` hold that are no PVs, where it is known. */
export async function tellForeign(
  scan: Scan,
  named: readonly string[],
  { log, patience }: { readonly log: Logger; readonly patience: Patience },
): Promise<void> {
  const labelled = labelledByIdentity(scan);
  const others = scan.devices.filter(({ path, identity }) => named.includes(path) && !labelled.has(identity));
  const looks = others.map(async (device) => {
    const content = await patience.with(
      device.identity,
      () => contentOf(device),
      () => undefined,
    );
    return {
      device: device.path,
      content: content === null ? 'what it holds is not known: it does not answer' : content.value,
    };
  });
  for (const { device, content } of await Promise.all(looks)) {
    if (content !== null) log.warn({ device }, `no physical volume: ${content}`);
  }
}

/** What a device holds that is no PV; null: it is one, or its beginning is blank, as what shall become one is. */
async function contentOf({ path, kind }: ScannedDevice): Promise<string | null> {
  try {
    const device = await openBlockDevice(path, { readOnly: true });
    try {
      const ends = await endsOf(device);
      if (findLabel(ends.head.subarray(0, LABEL_SCAN_BYTES), path) !== null) return null;
      const image = kind === 'file' ? findImageFormat(ends.head) : null;
      if (image !== null) return `the file is ${image.type}, not the bytes of a disk; ${IN_A_FILE}`;
      const [first] = findSignatures(ends);
      if (first === undefined) return ends.head.some((byte) => byte !== 0) ? NOTHING_KNOWN : null;
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
