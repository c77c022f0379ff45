/**
 * Bytes of metadata texts to strings and back, without loss.
 *
 * Metadata is ASCII in practice, but LVM2 copies host names, device paths and command lines into it byte by byte. Valid UTF-8 is
 * decoded as such; a byte that isn't part of valid UTF-8 becomes the lone surrogate U+DC00 + byte and is turned back into
 * that byte when written (the scheme Python calls surrogateescape). So every text has the same bytes after a round trip.
 */
import { isUtf8 } from 'node:buffer';

const ESCAPE_BASE = 0xdc00;

/** The string for `bytes`; `encodeText` gives exactly the same bytes back. */
export function decodeText(bytes: Uint8Array): string {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (isUtf8(buffer)) return buffer.toString('utf8');
  const parts: string[] = [];
  let at = 0;
  while (at < buffer.length) {
    const end = validEnd(buffer, at);
    if (end > at) parts.push(buffer.toString('utf8', at, end));
    if (end < buffer.length) parts.push(String.fromCharCode(ESCAPE_BASE + (buffer[end] ?? 0)));
    at = end + 1;
  }
  return parts.join('');
}

/** The first byte at or after `from` that isn't part of valid UTF-8. */
function validEnd(buffer: Buffer, from: number): number {
  let at = from;
  while (at < buffer.length) {
    const length = sequenceLength(buffer[at] ?? 0);
    if (length === 0 || (length > 1 && !isUtf8(buffer.subarray(at, at + length)))) return at;
    at += length;
  }
  return Math.min(at, buffer.length);
}

function sequenceLength(first: number): number {
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first < 0xe0) return 2;
  if (first >= 0xe0 && first < 0xf0) return 3;
  return first >= 0xf0 && first < 0xf5 ? 4 : 0;
}

/** The bytes for a string that `decodeText` made, or for any ordinary one. */
export function encodeText(text: string): Buffer {
  if (text.isWellFormed()) return Buffer.from(text, 'utf8');
  const parts: Buffer[] = [];
  let start = 0;
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    if (unit >= 0xd800 && unit < ESCAPE_BASE) {
      at++; // the first half of a pair: its second half is no escape
      continue;
    }
    if (unit < ESCAPE_BASE || unit > ESCAPE_BASE + 0xff) continue;
    parts.push(Buffer.from(text.slice(start, at), 'utf8'), Buffer.of(unit - ESCAPE_BASE));
    start = at + 1;
  }
  parts.push(Buffer.from(text.slice(start), 'utf8'));
  return Buffer.concat(parts);
}
