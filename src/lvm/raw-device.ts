/**
 * A device as plain bytes, for commands that look at damaged PVs (pvck): no label is needed, nothing is interpreted.
 *
 * Invariants
 *  - Read-only.
 *  - A range that isn't wholly on the device, is longer than any metadata area, or can't be read, gives null: never bytes that
 *    weren't read.
 */
import type { BlockDevice } from '../block/device.ts';
import { DeviceError } from '../block/errors.ts';
import { openBlockDevice } from '../block/open.ts';
import { readBytes } from '../block/sync-io.ts';

/** A length in a damaged header is no reason to read gigabytes. */
const MAX_READ_BYTES = 256n * 1024n * 1024n;

export class RawDevice {
  readonly path: string;
  readonly sizeBytes: number;
  readonly #device: BlockDevice;

  constructor(path: string, device: BlockDevice) {
    this.path = path;
    this.sizeBytes = device.limits.sizeBytes;
    this.#device = device;
  }

  /** `offset` and `length` in bytes, as 64-bit values that a damaged header may hold. */
  async read(offset: bigint, length: bigint): Promise<Buffer | null> {
    if (length === 0n) return Buffer.alloc(0);
    if (offset + length > BigInt(this.sizeBytes) || length > MAX_READ_BYTES) return null;
    try {
      return await readBytes(this.#device, Number(offset), Number(length));
    } catch (error) {
      if (error instanceof DeviceError) return null;
      throw error;
    }
  }

  close(): Promise<void> {
    return this.#device.close();
  }
}

/** Opens a file or block device read-only; null if it can't be opened. */
export async function openRawDevice(path: string): Promise<RawDevice | null> {
  try {
    return new RawDevice(path, await openBlockDevice(path, { readOnly: true }));
  } catch (error) {
    if (error instanceof DeviceError) return null;
    throw error;
  }
}
