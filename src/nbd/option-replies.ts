/**
 * What the server says during the handshake, as bytes.
 *
 *     greeting       0 "NBDMAGIC"  8 "IHAVEOPT"  16 flags u16
 *     option reply   0 magic u64   8 option u32  12 reply type u32  16 length u32  20 payload
 *     NBD_INFO_EXPORT payload      0 type u16  2 size u64  10 transmission flags u16
 *     NBD_INFO_BLOCK_SIZE payload  0 type u16  2 minimum u32  6 preferred u32  10 maximum u32
 *     EXPORT_NAME's answer         0 size u64  8 transmission flags u16  10 124 zero bytes unless NO_ZEROES
 *
 * Invariants: every error reply carries a text; no string exceeds the protocol's 4096 bytes or ends inside a character;
 * the bytes depend on the arguments only, so that the reply that ends a negotiation can be sent by another process.
 */
import type { ExportInfo } from './exports.ts';
import type { Features } from './features.ts';
import {
  GREETING_BYTES,
  GREETING_MAGIC,
  HandshakeFlag,
  InfoType,
  MAX_STRING_BYTES,
  OPTION_MAGIC_TEXT,
  OPTION_REPLY_HEADER_BYTES,
  OPTION_REPLY_MAGIC,
  OptionType,
  ReplyType,
} from './constants.ts';

/** Zero bytes after the answer to EXPORT_NAME for clients that did not agree to NO_ZEROES. */
const EXPORT_NAME_ZEROES = 124;

/** The outcome of a handshake: all that is needed to answer the client and to enter the transmission phase. Plain data. */
export interface Negotiated {
  /** The name that the client gave: empty where it asked for the default export. */
  readonly exportName: string;
  /** The option that ended the handshake. */
  readonly option: typeof OptionType.go | typeof OptionType.exportName;
  /** Whether both sides agreed to leave out the zeroes after EXPORT_NAME's answer. */
  readonly noZeroes: boolean;
  /** What GO asked to be told, without NBD_INFO_EXPORT, which is always told. */
  readonly infoTypes: readonly number[];
  readonly info: ExportInfo;
  readonly features: Features;
  /** Bytes that came after the option: the first of the transmission phase. */
  readonly leftover: Uint8Array;
}

export function greeting(): Buffer {
  const bytes = Buffer.alloc(GREETING_BYTES);
  bytes.write(GREETING_MAGIC, 0, 'latin1');
  bytes.write(OPTION_MAGIC_TEXT, 8, 'latin1');
  bytes.writeUInt16BE(HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes, 16);
  return bytes;
}

/** A reply with room for `payloadBytes`, which the caller fills from OPTION_REPLY_HEADER_BYTES on. */
function reply(option: number, type: number, payloadBytes: number): Buffer {
  const bytes = Buffer.alloc(OPTION_REPLY_HEADER_BYTES + payloadBytes);
  bytes.writeUInt32BE(OPTION_REPLY_MAGIC.high, 0);
  bytes.writeUInt32BE(OPTION_REPLY_MAGIC.low, 4);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(type, 12);
  bytes.writeUInt32BE(payloadBytes, 16);
  return bytes;
}

/** UTF-8, cut before the character that would pass the limit of the protocol's strings. */
function protocolString(text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  if (bytes.length <= MAX_STRING_BYTES) return bytes;
  let end = MAX_STRING_BYTES;
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end--;
  return bytes.subarray(0, end);
}

export function ackReply(option: number): Buffer {
  return reply(option, ReplyType.ack, 0);
}

/** An error reply; `text` is what clients print to people. */
export function errorReply(option: number, type: number, text: string): Buffer {
  const message = protocolString(text);
  const bytes = reply(option, type, message.length);
  message.copy(bytes, OPTION_REPLY_HEADER_BYTES);
  return bytes;
}

/** A context that there is (LIST, number 0) or that is selected (SET). */
export function metaContextReply(option: number, id: number, name: string): Buffer {
  const bytes = reply(option, ReplyType.metaContext, 4 + Buffer.byteLength(name));
  const at = bytes.writeUInt32BE(id, OPTION_REPLY_HEADER_BYTES);
  bytes.write(name, at, 'utf8');
  return bytes;
}

/** One line of LIST: the name, and the description as the protocol's free-form rest. */
export function serverReply(name: string, description: string): Buffer {
  const nameBytes = Buffer.from(name, 'utf8');
  const rest = protocolString(description);
  const bytes = reply(OptionType.list, ReplyType.server, 4 + nameBytes.length + rest.length);
  let at = bytes.writeUInt32BE(nameBytes.length, OPTION_REPLY_HEADER_BYTES);
  at += nameBytes.copy(bytes, at);
  rest.copy(bytes, at);
  return bytes;
}

function writeSizeAndFlags(bytes: Buffer, at: number, info: ExportInfo): void {
  bytes.writeUInt32BE(Math.floor(info.sizeBytes / 2 ** 32), at);
  bytes.writeUInt32BE(info.sizeBytes % 2 ** 32, at + 4);
  bytes.writeUInt16BE(info.flags, at + 8);
}

function exportInfoReply(option: number, info: ExportInfo): Buffer {
  const bytes = reply(option, ReplyType.info, 12);
  bytes.writeUInt16BE(InfoType.export, OPTION_REPLY_HEADER_BYTES);
  writeSizeAndFlags(bytes, OPTION_REPLY_HEADER_BYTES + 2, info);
  return bytes;
}

function textInfoReply(option: number, type: number, text: string): Buffer {
  const payload = protocolString(text);
  const bytes = reply(option, ReplyType.info, 2 + payload.length);
  bytes.writeUInt16BE(type, OPTION_REPLY_HEADER_BYTES);
  payload.copy(bytes, OPTION_REPLY_HEADER_BYTES + 2);
  return bytes;
}

function blockSizeInfoReply(option: number, info: ExportInfo): Buffer {
  const bytes = reply(option, ReplyType.info, 14);
  bytes.writeUInt16BE(InfoType.blockSize, OPTION_REPLY_HEADER_BYTES);
  bytes.writeUInt32BE(info.minimumBlockSize, OPTION_REPLY_HEADER_BYTES + 2);
  bytes.writeUInt32BE(info.preferredBlockSize, OPTION_REPLY_HEADER_BYTES + 6);
  bytes.writeUInt32BE(info.maximumBlockSize, OPTION_REPLY_HEADER_BYTES + 10);
  return bytes;
}

/** The whole answer to INFO or GO: NBD_INFO_EXPORT, what else was asked for and is known, and the acknowledgement. */
export function infoReplies(option: number, info: ExportInfo, infoTypes: readonly number[]): Buffer[] {
  const replies = [exportInfoReply(option, info)];
  for (const type of infoTypes) {
    if (type === InfoType.name) replies.push(textInfoReply(option, type, info.name));
    else if (type === InfoType.description) replies.push(textInfoReply(option, type, info.description));
    else if (type === InfoType.blockSize) replies.push(blockSizeInfoReply(option, info));
  }
  replies.push(ackReply(option));
  return replies;
}

/** The reply that ends the handshake: the transmission phase begins with the byte after it. */
export function finalReply(negotiated: Negotiated): Buffer[] {
  const { info, option } = negotiated;
  if (option === OptionType.go) return infoReplies(option, info, negotiated.infoTypes);
  const bytes = Buffer.alloc(negotiated.noZeroes ? 10 : 10 + EXPORT_NAME_ZEROES);
  writeSizeAndFlags(bytes, 0, info);
  return [bytes];
}
