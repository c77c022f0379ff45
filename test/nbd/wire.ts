/** The client's half of the protocol, for tests: messages as bytes, replies as values, and clients that misbehave on demand. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

export const EINVAL = 22;
export const EPERM = 1;
export const EIO = 5;
export const ENOSPC = 28;
export const ENOTSUP = 95;

export function clientFlags(flags = 3): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(flags);
  return bytes;
}

export function option(type: number, payload: Uint8Array = Buffer.alloc(0), length: number = payload.length): Buffer {
  const header = Buffer.alloc(16);
  header.write('IHAVEOPT', 'latin1');
  header.writeUInt32BE(type, 8);
  header.writeUInt32BE(length, 12);
  return Buffer.concat([header, payload]);
}

/** The payload of INFO and GO; `nameLength` and `count` may lie. */
export function query(
  name: string | Uint8Array,
  infoTypes: readonly number[] = [],
  { nameLength, count }: { readonly nameLength?: number; readonly count?: number } = {},
): Buffer {
  const nameBytes = typeof name === 'string' ? Buffer.from(name) : name;
  const bytes = Buffer.alloc(6 + nameBytes.length + 2 * infoTypes.length);
  bytes.writeUInt32BE(nameLength ?? nameBytes.length, 0);
  bytes.set(nameBytes, 4);
  let at = bytes.writeUInt16BE(count ?? infoTypes.length, 4 + nameBytes.length);
  for (const type of infoTypes) at = bytes.writeUInt16BE(type, at);
  return bytes;
}

export interface OptionReply {
  readonly option: number;
  /** As in the protocol: 1 ACK, 2 SERVER, 3 INFO, errors from 2^31 on. */
  readonly type: number;
  readonly payload: Buffer;
}

export const ERR = {
  unsup: 0x80000001,
  policy: 0x80000002,
  invalid: 0x80000003,
  tlsReqd: 0x80000005,
  unknown: 0x80000006,
  blockSizeReqd: 0x80000008,
  tooBig: 0x80000009,
  extHeaderReqd: 0x8000000a,
};

/** All option replies in `bytes`, which must be nothing else. */
export function optionReplies(bytes: Buffer): OptionReply[] {
  const replies: OptionReply[] = [];
  for (let at = 0; at < bytes.length;) {
    assert.equal(bytes.readBigUInt64BE(at), 0x3e889045565a9n);
    const length = bytes.readUInt32BE(at + 16);
    const end = at + 20 + length;
    assert.ok(end <= bytes.length, 'a cut option reply');
    replies.push({
      option: bytes.readUInt32BE(at + 8),
      type: bytes.readUInt32BE(at + 12),
      payload: bytes.subarray(at + 20, end),
    });
    at = end;
  }
  return replies;
}

/** Flags of commands. */
export const FLAG = { fua: 1, noHole: 2, df: 4, reqOne: 8, fastZero: 16, payload: 32 };

export const CMD = { read: 0, write: 1, disc: 2, flush: 3, trim: 4, cache: 5, writeZeroes: 6, blockStatus: 7 };

export interface Request {
  readonly type: number;
  readonly flags?: number;
  readonly cookie?: bigint;
  readonly offset?: number | bigint;
  readonly length?: number;
  readonly payload?: Uint8Array;
  readonly magic?: number;
}

export function request(fields: Request): Buffer {
  const header = Buffer.alloc(28);
  header.writeUInt32BE(fields.magic ?? 0x25609513, 0);
  header.writeUInt16BE(fields.flags ?? 0, 4);
  header.writeUInt16BE(fields.type, 6);
  header.writeBigUInt64BE(fields.cookie ?? 0n, 8);
  header.writeBigUInt64BE(BigInt(fields.offset ?? 0), 16);
  header.writeUInt32BE(fields.length ?? fields.payload?.length ?? 0, 24);
  return fields.payload === undefined ? header : Buffer.concat([header, fields.payload]);
}

export interface Reply {
  readonly cookie: bigint;
  readonly error: number;
  readonly data: Buffer;
}

/** All simple replies in `bytes`, which must be nothing else. `readLengths` has the READs by cookie. */
export function replies(bytes: Buffer, readLengths: ReadonlyMap<bigint, number> = new Map()): Reply[] {
  const found: Reply[] = [];
  for (let at = 0; at < bytes.length;) {
    assert.equal(bytes.readUInt32BE(at), 0x67446698, `no reply at ${at}`);
    const error = bytes.readUInt32BE(at + 4);
    const cookie = bytes.readBigUInt64BE(at + 8);
    const end = at + 16 + (error === 0 ? (readLengths.get(cookie) ?? 0) : 0);
    assert.ok(end <= bytes.length, 'a cut reply');
    found.push({ cookie, error, data: bytes.subarray(at + 16, end) });
    at = end;
  }
  return found;
}

/** The same with extended headers; the flag for a payload is set where there is one, unless `flags` are given. */
export function extendedRequest(fields: Omit<Request, 'length'> & { readonly length?: number | bigint }): Buffer {
  const { payload, flags = payload === undefined ? 0 : FLAG.payload } = fields;
  const header = Buffer.alloc(32);
  header.writeUInt32BE(fields.magic ?? 0x21e41c71, 0);
  header.writeUInt16BE(flags, 4);
  header.writeUInt16BE(fields.type, 6);
  header.writeBigUInt64BE(fields.cookie ?? 0n, 8);
  header.writeBigUInt64BE(BigInt(fields.offset ?? 0), 16);
  header.writeBigUInt64BE(BigInt(fields.length ?? payload?.length ?? 0), 24);
  return payload === undefined ? header : Buffer.concat([header, payload]);
}

/** A reply with structured replies or extended headers on: a simple one, or one chunk. */
export interface Answer {
  readonly cookie: bigint;
  readonly kind: 'simple' | 'none' | 'data' | 'hole' | 'status' | 'statusExt' | 'error' | 'errorOffset';
  /** It is the last of its reply. */
  readonly done: boolean;
  /** That of the request, in an extended header; else -1. */
  readonly at: bigint;
  readonly error: number;
  /** Of an error. */
  readonly text: string;
  /** Of data, of a hole, of an error that has one; else -1. */
  readonly offset: number;
  /** Data; or for a hole or a status the rest of the payload. */
  readonly data: Buffer;
}

const CHUNK_KINDS = new Map([
  [0, 'none'],
  [1, 'data'],
  [2, 'hole'],
  [5, 'status'],
  [6, 'statusExt'],
  [0x8001, 'error'],
  [0x8002, 'errorOffset'],
] as const);

/** All replies in `bytes`, which must be nothing else, each one simple or one chunk. */
export function answers(bytes: Buffer): Answer[] {
  const found = chunks(bytes);
  for (const { done } of found) assert.ok(done, 'each reply is one chunk');
  return found;
}

/** The same where a reply may have several chunks; READs are answered by chunks, so each says how long it is. */
export function chunks(bytes: Buffer, style: 'structured' | 'extended' = 'structured'): Answer[] {
  const found: Answer[] = [];
  const extended = style === 'extended';
  for (let at = 0; at < bytes.length;) {
    const cookie = bytes.readBigUInt64BE(at + 8);
    const nothing = { cookie, done: true, at: -1n, error: 0, text: '', offset: -1, data: Buffer.alloc(0) };
    if (!extended && bytes.readUInt32BE(at) === 0x67446698) {
      found.push({ ...nothing, kind: 'simple', error: bytes.readUInt32BE(at + 4) });
      at += 16;
      continue;
    }
    assert.equal(bytes.readUInt32BE(at), extended ? 0x6e8a278c : 0x668e33ef, `no reply at ${at}`);
    const flags = bytes.readUInt16BE(at + 4);
    assert.ok(flags <= 1, 'unknown flags');
    const kind = CHUNK_KINDS.get(bytes.readUInt16BE(at + 6) as 0);
    const start = at + (extended ? 32 : 20);
    const requestAt = extended ? bytes.readBigUInt64BE(at + 16) : -1n;
    const end = start + (extended ? Number(bytes.readBigUInt64BE(at + 24)) : bytes.readUInt32BE(at + 16));
    assert.ok(end <= bytes.length, 'a cut reply');
    const payload = bytes.subarray(start, end);
    at = end;
    assert.ok(kind !== undefined, 'an unknown chunk');
    found.push({ ...nothing, kind, done: flags === 1, at: requestAt, ...chunkFields(kind, payload) });
  }
  return found;
}

function chunkFields(kind: Answer['kind'], payload: Buffer): Partial<Answer> {
  if (kind === 'none') assert.equal(payload.length, 0);
  if (kind === 'data' || kind === 'hole') {
    assert.ok(kind === 'data' ? payload.length > 8 : payload.length === 12);
    return { offset: Number(payload.readBigUInt64BE(0)), data: payload.subarray(8) };
  }
  if (kind === 'status' || kind === 'statusExt') return { data: payload };
  if (kind !== 'error' && kind !== 'errorOffset') return {};
  const textEnd = 6 + payload.readUInt16BE(4);
  assert.equal(payload.length, textEnd + (kind === 'errorOffset' ? 8 : 0));
  return {
    error: payload.readUInt32BE(0),
    text: payload.toString('utf8', 6, textEnd),
    offset: kind === 'errorOffset' ? Number(payload.readBigUInt64BE(textEnd)) : -1,
  };
}

/** Every way to cut `bytes` in two, and byte by byte. */
export function* everySplit(bytes: Buffer): Generator<readonly Buffer[]> {
  for (let at = 1; at < bytes.length; at++) yield [bytes.subarray(0, at), bytes.subarray(at)];
  yield Array.from(bytes, (byte) => Buffer.from([byte]));
}

/** A raw client of a server under test. */
export class WireClient {
  readonly socket: Socket;
  /** Everything received and not yet taken. */
  readonly #chunks: Buffer[] = [];
  #received = 0;
  #ended = false;
  #wake: (() => void) | null = null;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#received += chunk.length;
      this.#wake?.();
    });
    const ended = (): void => {
      this.#ended = true;
      this.#wake?.();
    };
    socket.on('end', ended);
    socket.on('close', ended);
    // A server that hangs up on a misbehaving client is what is tested: the reads that follow see the end.
    socket.on('error', ended);
  }

  static async open(target: string | { readonly host: string; readonly port: number }): Promise<WireClient> {
    const socket = typeof target === 'string' ? connect({ path: target, allowHalfOpen: true }) : connect(target);
    await once(socket, 'connect');
    return new WireClient(socket);
  }

  /** A client on a stream that somebody else has opened, and from which nobody has read. */
  static over(socket: Socket): WireClient {
    return new WireClient(socket);
  }

  send(...pieces: Buffer[]): void {
    this.socket.write(Buffer.concat(pieces));
  }

  /** The next `length` bytes; fails if the stream ends before. */
  async take(length: number): Promise<Buffer> {
    while (this.#received < length) {
      assert.ok(!this.#ended, `the server closed after ${this.#received} of ${length} bytes`);
      await this.#more();
    }
    if (this.#chunks.length > 1 && (this.#chunks[0]?.length ?? 0) < length) {
      this.#chunks.splice(0, this.#chunks.length, Buffer.concat(this.#chunks));
    }
    this.#received -= length;
    const [first = Buffer.alloc(0)] = this.#chunks;
    this.#chunks[0] = first.subarray(length);
    if (first.length === length) this.#chunks.shift();
    return first.subarray(0, length);
  }

  /** Everything until the server ends its side. */
  async rest(): Promise<Buffer> {
    while (!this.#ended) await this.#more();
    return this.take(this.#received);
  }

  #more(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  /** The next option reply. */
  async optionReply(): Promise<OptionReply> {
    const header = await this.take(20);
    const payload = await this.take(header.readUInt32BE(16));
    return optionReplies(Buffer.concat([header, payload]))[0]!;
  }

  /** Greeting, flags and GO; resolves when the transmission phase has begun. */
  async attach(exportName: string): Promise<void> {
    await this.take(18);
    this.send(clientFlags(), option(7, query(exportName)));
    for (;;) {
      const reply = await this.optionReply();
      if (reply.type === 1) return;
      assert.equal(reply.type, 3, reply.payload.toString());
    }
  }

  /** The next reply; `readLength` bytes of data follow it if it is good. */
  async reply(readLength = 0): Promise<Reply> {
    const header = await this.take(16);
    const data = header.readUInt32BE(4) === 0 ? await this.take(readLength) : Buffer.alloc(0);
    return { cookie: header.readBigUInt64BE(8), error: header.readUInt32BE(4), data };
  }

  close(): void {
    this.socket.destroy();
  }
}
