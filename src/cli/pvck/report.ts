/**
 * What pvck prints while it looks: fields only when headers are dumped, findings always; and whether anything was wrong.
 *
 * Invariant: findings ("CHECK: …") go to stdout among the fields, as LVM2 prints them; what could not be read, to stderr.
 */
import type { RawDevice } from '../../lvm/raw-device.ts';
import type { Output } from '../messages.ts';

export class PvckReport {
  readonly device: RawDevice;
  readonly output: Output;
  readonly #showFields: boolean;
  /** Something was wrong that LVM2 counts: the command fails. */
  bad = false;
  /** Something could not be read, which was said. */
  unreadable = false;

  constructor(device: RawDevice, output: Output, showFields: boolean) {
    this.device = device;
    this.output = output;
    this.#showFields = showFields;
  }

  field(text: string): void {
    if (this.#showFields) this.output.print(text);
  }

  check(text: string): void {
    this.output.print(`CHECK: ${text}`);
    this.bad = true;
  }

  /** Reads, or says that it couldn't. */
  async read(offset: bigint, length: bigint): Promise<Buffer | null> {
    const bytes = await this.device.read(offset, length);
    if (bytes !== null) return bytes;
    this.output.error(`Error reading device ${this.device.path} at ${offset} length ${length}.`);
    this.unreadable = true;
    return null;
  }
}

/** Bytes as characters, what can't be printed as "?". */
export function printable(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : '?')).join('');
}

export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
