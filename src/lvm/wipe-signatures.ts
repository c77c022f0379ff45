/**
 * Clearing a device of signatures before LVM takes it, asking about each (facts: LVM2 lib/device/dev-type.c
 * wipe_known_signatures).
 *
 * Invariants
 *  - Only the magic bytes of a signature are zeroed, and only after a yes, -y or -f; with --test nothing is.
 *  - What was wiped is flushed before the device is used.
 */
import type { BlockDevice } from '../block/device.ts';
import { flush, readBytes, writeBytes } from '../block/sync-io.ts';
import type { ChangeContext } from './change-context.ts';
import { findImageFormat } from './image-formats.ts';
import {
  type DeviceEnds,
  findSignatures,
  type Signature,
  SIGNATURE_HEAD_BYTES,
  SIGNATURE_TAIL_BYTES,
} from './signatures.ts';

export interface WipeOptions {
  /** The device, as messages call it. */
  readonly name: string;
  /** It is a file, which may hold a disk in another form than byte for byte. Default: no. */
  readonly isFile?: boolean;
  /** Number of -f that count. */
  readonly force: number;
  readonly context: Pick<ChangeContext, 'yes' | 'test' | 'prompt' | 'out' | 'err'>;
}

/** Wipes what the device holds; false if some of it is left, which was said. */
export async function wipeSignatures(device: BlockDevice, options: WipeOptions): Promise<boolean> {
  const { name, isFile = false, force, context } = options;
  let left = 0;
  let wiped = 0;
  for (const { type, offset, length } of signaturesOf(await endsOf(device), isFile)) {
    const question = `WARNING: ${type} signature detected on ${name} at offset ${offset}. Wipe it? [y/n]: `;
    if (context.yes === 0 && force === 0 && !(await context.prompt(question))) {
      context.err(`Aborted wiping of ${type}.`);
      left++;
      continue;
    }
    context.out(`Wiping ${type} signature on ${name}.`);
    if (!context.test) await writeBytes(device, offset, Buffer.alloc(length));
    wiped++;
  }
  if (wiped > 0 && !context.test) await flush(device);
  if (left > 0) context.err(`${left} existing signature${left > 1 ? 's' : ''} left on the device.`);
  return left === 0;
}

/** In the order in which to ask about them. */
function signaturesOf(ends: DeviceEnds, isFile: boolean): readonly Signature[] {
  const image = isFile ? findImageFormat(ends.head) : null;
  return image === null ? findSignatures(ends) : [image, ...findSignatures(ends)];
}

/** Reads as much of a device as `findSignatures` looks at. Throws DeviceError. */
export async function endsOf(device: BlockDevice): Promise<DeviceEnds> {
  const { sizeBytes } = device.limits;
  const tailBytes = Math.min(sizeBytes, SIGNATURE_TAIL_BYTES);
  return {
    sizeBytes,
    head: await readBytes(device, 0, Math.min(sizeBytes, SIGNATURE_HEAD_BYTES)),
    tail: await readBytes(device, sizeBytes - tailBytes, tailBytes),
  };
}
