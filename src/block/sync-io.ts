/**
 * Reading and writing a device with promises, for the control plane: labels, metadata areas, superblocks.
 *
 * Invariants
 *  - Any byte range works on any device: reads are widened to the device's `requestAlignment`, and writes and zeroes that do not
 *    fill whole units are read, modified and written (the caller is the only writer of those units).
 *  - A range outside the device is an error of the caller's data (a damaged header can name any offset), not an assertion.
 *  - A failure rejects with a DeviceError that names device, operation, offset and length.
 */
import { DeviceError, errnoText } from './errors.ts';
import type { BlockDevice } from './device.ts';
import { IoRequest, Op, RequestFlag } from './request.ts';

export interface WriteOptions {
  /** Resolve only when the bytes are durable. */
  readonly fua?: boolean;
}

const OP_NAMES: Readonly<Record<Op, string>> = {
  [Op.read]: 'read',
  [Op.write]: 'write',
  [Op.flush]: 'flush',
  [Op.discard]: 'discard',
  [Op.writeZeroes]: 'zeroing',
};

/** The `length` bytes at `offset`. */
export async function readBytes(device: BlockDevice, offset: number, length: number): Promise<Buffer> {
  checkRange(device, Op.read, offset, length);
  if (length === 0) return Buffer.alloc(0);
  const { start, end } = widen(device, offset, length);
  const buffer = Buffer.alloc(end - start);
  await run(device, Op.read, 0, start, buffer.length, buffer);
  return buffer.subarray(offset - start, offset - start + length);
}

/** Writes `bytes` at `offset`. */
export async function writeBytes(
  device: BlockDevice,
  offset: number,
  bytes: Uint8Array,
  options: WriteOptions = {},
): Promise<void> {
  checkRange(device, Op.write, offset, bytes.length);
  if (bytes.length === 0) return options.fua === true ? flush(device) : undefined;
  const { start, end } = widen(device, offset, bytes.length);
  const whole = end - start === bytes.length;
  const buffer = whole
    ? Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
    : await readBytes(device, start, end - start);
  if (!whole) buffer.set(bytes, offset - start);
  await run(device, Op.write, options.fua === true ? RequestFlag.fua : 0, start, buffer.length, buffer);
}

/** Resolves when everything written before is durable. */
export function flush(device: BlockDevice): Promise<void> {
  return run(device, Op.flush, 0, 0, 0, null);
}

/** Gives space back, in whole units of `requestAlignment`; what these read afterwards is undefined. */
export async function discard(device: BlockDevice, offset: number, length: number): Promise<void> {
  checkRange(device, Op.discard, offset, length);
  const { start, end } = narrow(device, offset, length);
  if (start < end) await run(device, Op.discard, 0, start, end - start, null);
}

/** Makes the range read as zeroes. */
export async function writeZeroes(
  device: BlockDevice,
  offset: number,
  length: number,
  options: WriteOptions = {},
): Promise<void> {
  checkRange(device, Op.writeZeroes, offset, length);
  const { start, end } = narrow(device, offset, length);
  if (start >= end) {
    if (length > 0) await writeBytes(device, offset, Buffer.alloc(length), options);
    return;
  }
  if (offset < start) await writeBytes(device, offset, Buffer.alloc(start - offset), options);
  const flags = options.fua === true ? RequestFlag.fua : 0;
  await run(device, Op.writeZeroes, flags, start, end - start, null);
  if (end < offset + length) await writeBytes(device, end, Buffer.alloc(offset + length - end), options);
}

function checkRange(device: BlockDevice, op: Op, offset: number, length: number): void {
  const { sizeBytes } = device.limits;
  const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
  if (whole && offset + length <= sizeBytes) return;
  const range = `${OP_NAMES[op]} of ${length} bytes at offset ${offset}`;
  throw new DeviceError('OUT_OF_RANGE', device.name, `${range} does not lie inside the device's ${sizeBytes} bytes`);
}

/** The smallest range of whole request units around a range. A device's size is a whole number of units. */
function widen(device: BlockDevice, offset: number, length: number): { start: number; end: number } {
  const unit = device.limits.requestAlignment;
  return { start: offset - (offset % unit), end: Math.ceil((offset + length) / unit) * unit };
}

/** The largest range of whole request units inside a range; empty or less if there is none. */
function narrow(device: BlockDevice, offset: number, length: number): { start: number; end: number } {
  const unit = device.limits.requestAlignment;
  return { start: Math.ceil(offset / unit) * unit, end: offset + length - ((offset + length) % unit) };
}

function run(
  device: BlockDevice,
  op: Op,
  flags: number,
  offset: number,
  length: number,
  buffer: Buffer | null,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const request = new IoRequest();
    request.op = op;
    request.flags = flags;
    request.offset = offset;
    request.length = length;
    if (buffer !== null) request.buffer = buffer;
    request.owner = {
      ioDone(done) {
        if (done.error === 0) resolve();
        else reject(ioError(device, done));
      },
    };
    device.submit(request);
  });
}

function ioError(device: BlockDevice, request: IoRequest): DeviceError {
  const place = request.op === Op.flush ? '' : ` of ${request.length} bytes at offset ${request.offset}`;
  const detail = `${OP_NAMES[request.op]}${place} failed: ${errnoText(request.error)}`;
  return new DeviceError('IO', device.name, detail, { errno: request.error });
}
