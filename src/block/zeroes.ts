/** Whether bytes are all zero, as fast as memory is read. */

const ZEROES: Buffer = Buffer.alloc(64 * 1024);

/** Whether the first `length` bytes are zeroes. */
export function isZero(bytes: Buffer, length: number): boolean {
  for (let at = 0; at < length; at += ZEROES.length) {
    const end = Math.min(length, at + ZEROES.length);
    if (bytes.compare(ZEROES, 0, end - at, at, end) !== 0) return false;
  }
  return true;
}
