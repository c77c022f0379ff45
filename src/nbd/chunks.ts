/**
 * Headers of replies, as bytes.
 *
 *     simple       0 magic u32  4 error u32  8 cookie u64                                             (16 bytes)
 *     structured   0 magic u32  4 flags u16  6 type u16  8 cookie u64  16 length u32                  (20)
 *     extended     0 magic u32  4 flags u16  6 type u16  8 cookie u64  16 offset u64  24 length u64   (32)
 *
 * Invariant: the offset of an extended header is the request's, bit by bit, whatever the chunk is about.
 */
import assert from 'node:assert/strict';
import type { Command } from './command.ts';
import {
  CHUNK_DONE,
  CHUNK_HEADER_BYTES,
  CHUNK_MAGIC,
  EXTENDED_CHUNK_HEADER_BYTES,
  EXTENDED_CHUNK_MAGIC,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
} from './constants.ts';

/** Byte by byte: a call for each field costs more than all of this. */
export function writeUint32(buffer: Buffer, at: number, value: number): void {
  buffer[at] = value >>> 24;
  buffer[at + 1] = value >>> 16;
  buffer[at + 2] = value >>> 8;
  buffer[at + 3] = value;
}

/** A number below 2^53. */
export function writeUint64(buffer: Buffer, at: number, value: number): void {
  writeUint32(buffer, at, Math.floor(value / 2 ** 32));
  writeUint32(buffer, at + 4, value % 2 ** 32);
}

export function writeSimpleHeader(buffer: Buffer, at: number, command: Command, error: number): void {
  assert(at + SIMPLE_REPLY_BYTES <= buffer.length);
  writeUint32(buffer, at, SIMPLE_REPLY_MAGIC);
  writeUint32(buffer, at + 4, error);
  writeUint32(buffer, at + 8, command.cookieHigh);
  writeUint32(buffer, at + 12, command.cookieLow);
}

export function writeStructuredHeader(
  buffer: Buffer,
  at: number,
  command: Command,
  type: number,
  payloadBytes: number,
  last: boolean,
): void {
  assert(at + CHUNK_HEADER_BYTES <= buffer.length);
  writeUint32(buffer, at, CHUNK_MAGIC);
  writeUint32(buffer, at + 4, (last ? CHUNK_DONE * 2 ** 16 : 0) + type);
  writeUint32(buffer, at + 8, command.cookieHigh);
  writeUint32(buffer, at + 12, command.cookieLow);
  writeUint32(buffer, at + 16, payloadBytes);
}

export function writeExtendedHeader(
  buffer: Buffer,
  at: number,
  command: Command,
  type: number,
  payloadBytes: number,
  last: boolean,
): void {
  assert(at + EXTENDED_CHUNK_HEADER_BYTES <= buffer.length);
  writeUint32(buffer, at, EXTENDED_CHUNK_MAGIC);
  writeUint32(buffer, at + 4, (last ? CHUNK_DONE * 2 ** 16 : 0) + type);
  writeUint32(buffer, at + 8, command.cookieHigh);
  writeUint32(buffer, at + 12, command.cookieLow);
  writeUint32(buffer, at + 16, command.offsetHigh);
  writeUint32(buffer, at + 20, command.offsetLow);
  writeUint32(buffer, at + 24, 0);
  writeUint32(buffer, at + 28, payloadBytes);
}
