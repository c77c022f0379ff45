/**
 * The numbers of the NBD protocol (NetworkBlockDevice/nbd, doc/proto.md) and the bounds that this server keeps.
 *
 * Invariants
 *  - Everything on the wire is big-endian. 64-bit magics are held as two u32, high half first.
 *  - Only what this server speaks or must recognise is named; an unknown number is an ordinary case, not an error here.
 */

/** Greeting: "NBDMAGIC" "IHAVEOPT" and 16 bits of handshake flags. */
export const GREETING_MAGIC = 'NBDMAGIC';
export const OPTION_MAGIC_TEXT = 'IHAVEOPT';
export const OPTION_MAGIC = { high: 0x49484156, low: 0x454f5054 } as const;
export const OPTION_REPLY_MAGIC = { high: 0x0003e889, low: 0x045565a9 } as const;
export const REQUEST_MAGIC = 0x25609513;
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const CHUNK_MAGIC = 0x668e33ef;
export const EXTENDED_CHUNK_MAGIC = 0x6e8a278c;

export const GREETING_BYTES = 18;
export const CLIENT_FLAGS_BYTES = 4;
/** magic 8, option 4, payload length 4 */
export const OPTION_HEADER_BYTES = 16;
/** magic 8, option 4, reply type 4, payload length 4 */
export const OPTION_REPLY_HEADER_BYTES = 20;
/** magic 4, flags 2, type 2, cookie 8, offset 8, length 4 */
export const REQUEST_BYTES = 28;
/** magic 4, flags 2, type 2, cookie 8, offset 8, length 8 */
export const EXTENDED_REQUEST_BYTES = 32;
/** magic 4, error 4, cookie 8 */
export const SIMPLE_REPLY_BYTES = 16;
/** magic 4, flags 2, type 2, cookie 8, payload length 4 */
export const CHUNK_HEADER_BYTES = 20;
/** magic 4, flags 2, type 2, cookie 8, offset of the request 8, payload length 8 */
export const EXTENDED_CHUNK_HEADER_BYTES = 32;

/** The server's and the client's handshake flags have the same two bits. */
export const HandshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

/** Options of the handshake. Those not built are named so that their refusal can say what was refused. */
export const OptionType = {
  exportName: 1,
  abort: 2,
  list: 3,
  starttls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const;

export const OPTION_NAMES: ReadonlyMap<number, string> = new Map<number, string>([
  [OptionType.exportName, 'NBD_OPT_EXPORT_NAME'],
  [OptionType.abort, 'NBD_OPT_ABORT'],
  [OptionType.list, 'NBD_OPT_LIST'],
  [OptionType.starttls, 'NBD_OPT_STARTTLS'],
  [OptionType.info, 'NBD_OPT_INFO'],
  [OptionType.go, 'NBD_OPT_GO'],
  [OptionType.structuredReply, 'NBD_OPT_STRUCTURED_REPLY'],
  [OptionType.listMetaContext, 'NBD_OPT_LIST_META_CONTEXT'],
  [OptionType.setMetaContext, 'NBD_OPT_SET_META_CONTEXT'],
  [OptionType.extendedHeaders, 'NBD_OPT_EXTENDED_HEADERS'],
]);

/** Types of option replies; errors have the highest bit set. */
export const ReplyType = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  errUnsup: 0x80000001,
  errPolicy: 0x80000002,
  errInvalid: 0x80000003,
  errTlsReqd: 0x80000005,
  errUnknown: 0x80000006,
  errBlockSizeReqd: 0x80000008,
  errTooBig: 0x80000009,
  errExtHeaderReqd: 0x8000000a,
} as const;

export const InfoType = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

/** Transmission flags: what an export can do. */
export const TransmissionFlag = {
  hasFlags: 0x1,
  readOnly: 0x2,
  sendFlush: 0x4,
  sendFua: 0x8,
  sendTrim: 0x20,
  sendWriteZeroes: 0x40,
  sendDf: 0x80,
  canMultiConn: 0x100,
  sendCache: 0x400,
  sendFastZero: 0x800,
  blockStatusPayload: 0x1000,
} as const;

export const CommandType = {
  read: 0,
  write: 1,
  disc: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

export const CommandFlag = { fua: 1, noHole: 2, df: 4, reqOne: 8, fastZero: 0x10, payloadLength: 0x20 } as const;

/** The last chunk of a reply says so. */
export const CHUNK_DONE = 1;

/** Types of chunks; errors have the highest bit set. */
export const ChunkType = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  blockStatusExt: 6,
  error: 0x8001,
  errorOffset: 0x8002,
} as const;

/** The only error numbers that may stand in a reply. */
export const NbdErrno = {
  ok: 0,
  eperm: 1,
  eio: 5,
  enomem: 12,
  einval: 22,
  enospc: 28,
  enotsup: 95,
  eshutdown: 108,
} as const;
export type NbdErrno = (typeof NbdErrno)[keyof typeof NbdErrno];

/** Bytes: the longest string of the protocol (names, descriptions, messages). */
export const MAX_STRING_BYTES: number = 4096;
/** Bytes: the largest READ and WRITE, advertised and enforced. Clients that never ask send up to 50 MB (nbd's own tests). */
export const MAX_PAYLOAD_BYTES: number = 64 * 2 ** 20;
/** Bytes: a refused WRITE up to this long is drained, so that the connection lives on; above it the connection is closed. */
export const MAX_DRAINED_BYTES: number = 2 * MAX_PAYLOAD_BYTES;
/** Bytes: the longest option payload that is kept; up to `MAX_SKIPPED_OPTION_BYTES` it is read, dropped and refused. */
export const MAX_OPTION_BYTES: number = 64 * 2 ** 10;
export const MAX_SKIPPED_OPTION_BYTES: number = 2 ** 20;
/** Options per connection; the first LIST adds some for each export that it named, so that a client may ask about each. */
export const MAX_OPTIONS: number = 64;
/** What a client may ask about an export: LIST_META_CONTEXT, SET_META_CONTEXT, INFO, GO. `nbdinfo --list` asks two of them of each. */
export const OPTIONS_OF_EXPORT: number = 4;
/** LISTs per connection: each may be megabytes of reply for a few bytes of request. */
export const MAX_LISTS: number = 8;
/** The context that every export has: its bits are those of src/block/extents.ts. */
export const ALLOCATION_CONTEXT = 'base:allocation';
/** Contexts that one client selects. */
export const MAX_CONTEXTS = 64;
/** Queries of one LIST_META_CONTEXT or SET_META_CONTEXT. */
export const MAX_CONTEXT_QUERIES = 1024;
/** Extents of one BLOCK_STATUS reply. */
export const MAX_EXTENTS: number = 512;
/** Bytes that one piece of a CACHE reads. */
export const CACHE_PIECE_BYTES: number = 512 * 1024;
/** Bytes of the list that one context's part of such a reply is made of. */
export const EXTENT_LIST_BYTES: number = 12 * MAX_EXTENTS;
