/**
 * An NBD client for commands that read or write a volume which the daemon serves: backup and restore. It speaks structured replies and
 * meta contexts; one connection, many requests at a time.
 *
 *     greeting → STRUCTURED_REPLY → SET_META_CONTEXT → GO → requests, answered in any order
 *
 * Invariants
 *  - Every request settles once: with its answer, or with an NbdClientError that names the server, the export and the reason. When the
 *    connection ends, all that are open fail.
 *  - A READ gives exactly the bytes that were asked for; an answer with parts missing is a failure.
 */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import {
  ALLOCATION_CONTEXT,
  CHUNK_DONE,
  CHUNK_HEADER_BYTES,
  CHUNK_MAGIC,
  ChunkType,
  CLIENT_FLAGS_BYTES,
  CommandType,
  GREETING_BYTES,
  GREETING_MAGIC,
  HandshakeFlag,
  InfoType,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC_TEXT,
  OPTION_REPLY_HEADER_BYTES,
  OPTION_REPLY_MAGIC,
  OptionType,
  ReplyType,
  REQUEST_BYTES,
  REQUEST_MAGIC,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  TransmissionFlag,
} from '../../nbd/constants.ts';
import { CHANGED_CONTEXT } from '../contexts.ts';
import { parseListenUri } from '../listen-uri.ts';

const ERROR_BIT = 0x80000000;
const CHUNK_ERROR_BIT = 0x8000;
const MAX_REPLY_BYTES = 2 ** 26;

/** Meta contexts that commands use; a snapshot's name follows `changed`. */
export const CONTEXTS: { readonly allocation: string; readonly changed: string } = {
  allocation: ALLOCATION_CONTEXT,
  changed: CHANGED_CONTEXT,
};

export class NbdClientError extends Error {
  override readonly name = 'NbdClientError';
  readonly code = 'NBD';
}

export interface NbdClientTarget {
  /** As in --listen. */
  readonly server: string;
  readonly exportName: string;
  /** Meta contexts that are wanted; which there are, `contexts` says. */
  readonly contexts: readonly string[];
  readonly timeoutMs: number;
}

/** Bytes with one status. */
export interface StatusExtent {
  readonly length: number;
  readonly flags: number;
}

interface Asked {
  readonly offset: number;
  readonly length: number;
  /** What a READ fills. */
  readonly buffer?: Buffer | null;
  /** What a WRITE carries. */
  readonly payload?: Buffer;
}

interface OpenRequest {
  /** What a READ fills, and the byte of the export that it begins with. */
  readonly buffer: Buffer | null;
  readonly offset: number;
  received: number;
  readonly extents: Map<number, StatusExtent[]>;
  error: string | null;
  readonly resolve: (request: OpenRequest) => void;
  readonly reject: (error: Error) => void;
}

/** Bytes as they come, given out in the pieces that are asked for. */
class Incoming {
  #chunks: Buffer[] = [];
  #bytes = 0;

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
  }

  /** The next bytes without taking them; null: they are not all here. */
  peek(length: number): Buffer | null {
    if (this.#bytes < length) return null;
    if (this.#chunks[0] === undefined || this.#chunks[0].length < length) this.#chunks = [Buffer.concat(this.#chunks)];
    return (this.#chunks[0] ?? Buffer.alloc(0)).subarray(0, length);
  }

  take(length: number): Buffer | null {
    const bytes = this.peek(length);
    const [first] = this.#chunks;
    if (bytes === null || first === undefined) return bytes;
    if (first.length === length) this.#chunks.shift();
    else this.#chunks[0] = first.subarray(length);
    this.#bytes -= length;
    return bytes;
  }
}

export class NbdClient {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Numbers of the contexts that the server gave, by name. */
  readonly contexts: ReadonlyMap<string, number>;
  readonly #where: string;
  readonly #socket: Socket;
  readonly #incoming: Incoming;
  readonly #open = new Map<number, OpenRequest>();
  #lastCookie = 0;
  #failure: NbdClientError | null = null;

  /** Connects to an export. Throws NbdClientError. */
  static async connect(target: NbdClientTarget): Promise<NbdClient> {
    const where = `${target.exportName} at ${target.server}`;
    const address = parseListenUri(target.server, '/');
    if ('problem' in address) throw new NbdClientError(`${where}: ${address.problem}`);
    if (address.kind !== 'unix' && address.kind !== 'tcp') throw new NbdClientError(`${where}: it can't be reached`);
    const socket = address.kind === 'unix' ? connect(address.path) : connect({ ...address, noDelay: true });
    const incoming = new Incoming();
    socket.on('data', (chunk: Buffer) => incoming.push(chunk));
    const timer = setTimeout(() => socket.destroy(new Error('it did not answer in time')), target.timeoutMs);
    try {
      return await new ClientSide(socket, incoming, where).negotiate(target);
    } catch (error) {
      socket.destroy();
      if (error instanceof NbdClientError) throw error;
      throw new NbdClientError(`${where}: ${(error as Error).message}`, { cause: error });
    } finally {
      clearTimeout(timer);
    }
  }

  /** For `connect`: a socket on which GO was acknowledged. */
  constructor(
    socket: Socket,
    incoming: Incoming,
    facts: { where: string; sizeBytes: number; flags: number; contexts: ReadonlyMap<string, number> },
  ) {
    this.#socket = socket;
    this.#incoming = incoming;
    this.#where = facts.where;
    this.sizeBytes = facts.sizeBytes;
    this.readOnly = (facts.flags & TransmissionFlag.readOnly) !== 0;
    this.contexts = facts.contexts;
    socket.on('data', () => this.#receive());
    socket.on('error', ({ message }) => this.#fail(message));
    socket.on('close', () => this.#fail('the connection has ended'));
  }

  async read(offset: number, length: number): Promise<Buffer> {
    const buffer = Buffer.allocUnsafe(length);
    const { received } = await this.#request(CommandType.read, { offset, length, buffer });
    if (received !== length) throw this.#error(`${received} of ${length} bytes came`);
    return buffer;
  }

  async write(offset: number, bytes: Buffer): Promise<void> {
    await this.#request(CommandType.write, { offset, length: bytes.length, payload: bytes });
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    await this.#request(CommandType.writeZeroes, { offset, length });
  }

  async flush(): Promise<void> {
    await this.#request(CommandType.flush, { offset: 0, length: 0 });
  }

  /** The status of a range in a context of `contexts`, or of the beginning of it. */
  async status(context: string, offset: number, length: number): Promise<readonly StatusExtent[]> {
    const id = this.contexts.get(context);
    const { extents } = await this.#request(CommandType.blockStatus, { offset, length });
    const found = id === undefined ? undefined : extents.get(id);
    if (found === undefined || found.length === 0) throw this.#error(`no status of ${context} came`);
    return found;
  }

  /** Says good-bye; everything before must have been answered. */
  async close(): Promise<void> {
    if (this.#failure !== null) return;
    this.#failure = new NbdClientError(`${this.#where}: closed`);
    this.#socket.end(header(CommandType.disc, 0, 0, 0));
    this.#socket.resume();
    if (!this.#socket.closed) await once(this.#socket, 'close');
  }

  #request(type: number, { offset, length, buffer = null, payload }: Asked): Promise<OpenRequest> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null) {
        reject(this.#failure);
        return;
      }
      const cookie = ++this.#lastCookie;
      const extents = new Map<number, StatusExtent[]>();
      this.#open.set(cookie, { buffer, offset, received: 0, extents, error: null, resolve, reject });
      this.#socket.cork();
      this.#socket.write(header(type, cookie, offset, length));
      if (payload !== undefined) this.#socket.write(payload);
      this.#socket.uncork();
    });
  }

  #error(reason: string): NbdClientError {
    return new NbdClientError(`${this.#where}: ${reason}`);
  }

  #fail(reason: string): void {
    this.#failure ??= this.#error(reason);
    for (const { reject } of this.#open.values()) reject(this.#failure);
    this.#open.clear();
  }

  #receive(): void {
    try {
      while (this.#reply());
    } catch (error) {
      this.#fail((error as Error).message);
      this.#socket.destroy();
    }
  }

  /** One reply or chunk, if it is all there. */
  #reply(): boolean {
    const incoming = this.#incoming;
    const magic = incoming.peek(4)?.readUInt32BE(0);
    if (magic === undefined) return false;
    if (magic === SIMPLE_REPLY_MAGIC) {
      const bytes = incoming.take(SIMPLE_REPLY_BYTES);
      if (bytes === null) return false;
      const request = this.#requestOf(bytes);
      const error = bytes.readUInt32BE(4);
      if (error !== 0) request.error = `error ${error}`;
      else if (request.buffer !== null) throw new Error('a READ without structured replies');
      this.#settle(bytes, request);
      return true;
    }
    if (magic !== CHUNK_MAGIC) throw new Error(`0x${magic.toString(16)} is no reply`);
    const head = incoming.peek(CHUNK_HEADER_BYTES);
    if (head === null) return false;
    const length = head.readUInt32BE(16);
    if (length > MAX_REPLY_BYTES) throw new Error(`a reply of ${length} bytes`);
    const chunk = incoming.take(CHUNK_HEADER_BYTES + length);
    if (chunk === null) return false;
    const request = this.#requestOf(chunk);
    takeChunk(request, chunk.readUInt16BE(6), chunk.subarray(CHUNK_HEADER_BYTES));
    if ((chunk.readUInt16BE(4) & CHUNK_DONE) !== 0) this.#settle(chunk, request);
    return true;
  }

  #requestOf(bytes: Buffer): OpenRequest {
    const request = this.#open.get(Number(bytes.readBigUInt64BE(8)));
    if (request === undefined) throw new Error('a reply to what was not asked');
    return request;
  }

  #settle(bytes: Buffer, request: OpenRequest): void {
    this.#open.delete(Number(bytes.readBigUInt64BE(8)));
    if (request.error === null) request.resolve(request);
    else request.reject(this.#error(request.error));
  }
}

function takeChunk(request: OpenRequest, type: number, payload: Buffer): void {
  if ((type & CHUNK_ERROR_BIT) !== 0) {
    const text = payload.toString('utf8', 6, 6 + payload.readUInt16BE(4));
    request.error = text === '' ? `error ${payload.readUInt32BE(0)}` : text;
  } else if (type === ChunkType.offsetData || type === ChunkType.offsetHole) {
    const at = Number(payload.readBigUInt64BE(0)) - request.offset;
    const length = type === ChunkType.offsetData ? payload.length - 8 : payload.readUInt32BE(8);
    if (request.buffer === null || at < 0 || at + length > request.buffer.length) throw new Error('data out of place');
    if (type === ChunkType.offsetData) payload.copy(request.buffer, at, 8);
    else request.buffer.fill(0, at, at + length);
    request.received += length;
  } else if (type === ChunkType.blockStatus) {
    const extents: StatusExtent[] = [];
    for (let at = 4; at + 8 <= payload.length; at += 8) {
      extents.push({ length: payload.readUInt32BE(at), flags: payload.readUInt32BE(at + 4) });
    }
    request.extents.set(payload.readUInt32BE(0), extents);
  } else if (type !== ChunkType.none) {
    throw new Error(`a chunk of type ${type}`);
  }
}

function header(type: number, cookie: number, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(REQUEST_BYTES);
  bytes.writeUInt32BE(REQUEST_MAGIC, 0);
  bytes.writeUInt16BE(type, 6);
  bytes.writeBigUInt64BE(BigInt(cookie), 8);
  bytes.writeBigUInt64BE(BigInt(offset), 16);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}

/** The handshake. */
class ClientSide {
  readonly #socket: Socket;
  readonly #incoming: Incoming;
  readonly #where: string;

  constructor(socket: Socket, incoming: Incoming, where: string) {
    this.#socket = socket;
    this.#incoming = incoming;
    this.#where = where;
  }

  async negotiate({ exportName, contexts }: NbdClientTarget): Promise<NbdClient> {
    const greeting = await this.#take(GREETING_BYTES);
    if (greeting.toString('latin1', 0, 16) !== `${GREETING_MAGIC}${OPTION_MAGIC_TEXT}`) {
      throw new Error('it does not speak NBD');
    }
    const flags = Buffer.alloc(CLIENT_FLAGS_BYTES);
    flags.writeUInt32BE(greeting.readUInt16BE(16) & (HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes), 0);
    this.#socket.write(flags);
    await this.#ask(OptionType.structuredReply, Buffer.alloc(0));
    const name = counted(exportName);
    const given = new Map<string, number>();
    if (contexts.length > 0) {
      const queries = Buffer.concat([name, word(contexts.length), ...contexts.map(counted)]);
      for (const payload of await this.#ask(OptionType.setMetaContext, queries, ReplyType.metaContext)) {
        given.set(payload.toString('utf8', 4), payload.readUInt32BE(0));
      }
    }
    const infos = await this.#ask(OptionType.go, Buffer.concat([name, Buffer.alloc(2)]), ReplyType.info);
    const info = infos.find((payload) => payload.readUInt16BE(0) === InfoType.export);
    if (info === undefined) throw new Error('it does not describe the export');
    const sizeBytes = Number(info.readBigUInt64BE(2));
    this.#socket.removeAllListeners('close');
    this.#socket.removeAllListeners('error');
    const facts = { where: this.#where, sizeBytes, flags: info.readUInt16BE(10), contexts: given };
    return new NbdClient(this.#socket, this.#incoming, facts);
  }

  /** Sends an option; gives the payloads of its replies of one type. Throws when it is refused. */
  async #ask(option: number, payload: Buffer, wanted: number = ReplyType.ack): Promise<readonly Buffer[]> {
    const head = Buffer.alloc(OPTION_HEADER_BYTES);
    head.write(OPTION_MAGIC_TEXT, 0, 'latin1');
    head.writeUInt32BE(option, 8);
    head.writeUInt32BE(payload.length, 12);
    this.#socket.write(Buffer.concat([head, payload]));
    const found: Buffer[] = [];
    for (;;) {
      const reply = await this.#take(OPTION_REPLY_HEADER_BYTES);
      const { high, low } = OPTION_REPLY_MAGIC;
      if (reply.readUInt32BE(0) !== high || reply.readUInt32BE(4) !== low) throw new Error('it does not speak NBD');
      const type = reply.readUInt32BE(12);
      const length = reply.readUInt32BE(16);
      if (length > MAX_REPLY_BYTES) throw new Error(`its answer has ${length} bytes`);
      const body = await this.#take(length);
      if (type >= ERROR_BIT) throw new Error(body.toString('utf8') || `it refuses with error ${type - ERROR_BIT}`);
      if (type === ReplyType.ack) return found;
      if (type === wanted) found.push(body);
    }
  }

  async #take(length: number): Promise<Buffer> {
    for (;;) {
      const bytes = this.#incoming.take(length);
      if (bytes !== null) return bytes;
      const { promise, resolve, reject } = Promise.withResolvers<undefined>();
      const ended = (): void => reject(new Error('it closed the connection'));
      const more = (): void => resolve(undefined);
      this.#socket.once('data', more).once('error', reject).once('close', ended);
      try {
        if (this.#socket.closed) ended();
        await promise;
      } finally {
        this.#socket.off('data', more).off('error', reject).off('close', ended);
      }
    }
  }
}

function word(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value, 0);
  return bytes;
}

function counted(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([word(bytes.length), bytes]);
}
