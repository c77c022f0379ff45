/**
 * The bytes of a client's side of the NBD handshake, for whoever talks: a command (negotiation.ts) or an attached device (handshake.ts).
 *
 *     greeting   0 "NBDMAGIC"  8 "IHAVEOPT"  16 flags u16                answer: flags u32
 *     option     0 "IHAVEOPT"  8 option u32  12 length u32  16 payload
 *     reply      0 magic u64  8 option u32  12 type u32  16 length u32  20 payload
 *     export     0 type u16  2 size u64  10 flags u16                    (payload of an info reply)
 *
 * Invariant: pure; what no NBD server may send is an Error that says so in words which follow "SERVER:".
 */
import {
  CLIENT_FLAGS_BYTES,
  GREETING_MAGIC,
  HandshakeFlag,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC_TEXT,
  OPTION_REPLY_MAGIC,
} from '../../nbd/constants.ts';

/** Bit of a reply's type: the option is refused. */
export const ERROR_BIT = 0x80000000;
const EXPORT_INFO_BYTES = 12;

export interface ExportInfo {
  readonly sizeBytes: number;
  /** Bits of TransmissionFlag. */
  readonly flags: number;
}

/** The answer to a greeting of GREETING_BYTES. */
export function answerGreeting(greeting: Buffer): Buffer {
  if (greeting.toString('latin1', 0, 16) !== `${GREETING_MAGIC}${OPTION_MAGIC_TEXT}`) {
    throw new Error('it does not speak NBD');
  }
  const theirs = greeting.readUInt16BE(16);
  if ((theirs & HandshakeFlag.fixedNewstyle) === 0) throw new Error('it does not speak the fixed newstyle of NBD');
  const answer = Buffer.alloc(CLIENT_FLAGS_BYTES);
  answer.writeUInt32BE(theirs & (HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes), 0);
  return answer;
}

export function encodeOption(option: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(OPTION_HEADER_BYTES);
  head.write(OPTION_MAGIC_TEXT, 0, 'latin1');
  head.writeUInt32BE(option, 8);
  head.writeUInt32BE(payload.length, 12);
  return Buffer.concat([head, payload]);
}

/** Of a reply's header of OPTION_REPLY_HEADER_BYTES, which is to answer `option` with at most `maxBytes` of payload. */
export function decodeReply(
  header: Buffer,
  option: number,
  maxBytes: number,
): { readonly type: number; readonly length: number } {
  const { high, low } = OPTION_REPLY_MAGIC;
  if (header.readUInt32BE(0) !== high || header.readUInt32BE(4) !== low) {
    throw new Error('its answer is no reply to an option');
  }
  if (header.readUInt32BE(8) !== option) throw new Error('it answers what was not asked');
  const length = header.readUInt32BE(16);
  if (length > maxBytes) throw new Error(`its answer has ${length} bytes`);
  return { type: header.readUInt32BE(12), length };
}

/** Of an info reply's payload with InfoType.export. */
export function decodeExportInfo(payload: Buffer): ExportInfo {
  if (payload.length !== EXPORT_INFO_BYTES) throw new Error('its description of the export has the wrong length');
  const size = payload.readBigUInt64BE(2);
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw new Error(`the export has ${size} bytes`);
  return { sizeBytes: Number(size), flags: payload.readUInt16BE(10) };
}

/** A text behind its length in bytes, u32. */
export function countedText(text: string): Buffer {
  const bytes = Buffer.from(text);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length, 0);
  return Buffer.concat([length, bytes]);
}
