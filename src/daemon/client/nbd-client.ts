/**
 * An NBD client for commands that read or write a volume which a daemon serves, here or elsewhere: backup and restore. It speaks structured
 * replies, meta contexts and TLS, and does without what a server lacks; one connection, many requests at a time.
 *
 *     greeting → (STARTTLS → TLS) → STRUCTURED_REPLY → SET_META_CONTEXT → GO → requests, answered in any order
 *
 * Invariants
 *  - Every request settles once: with its answer, or with an NbdClientError that names the server, the export and the reason. When the
 *    connection ends, all that are open fail.
 *  - No request has a time limit, as a device may be slow and alive: whoever uses it hears when the server has been silent, and `signal`
 *    ends the waiting. The handshake and the good-bye have one.
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
  CommandType,
  REQUEST_BYTES,
  REQUEST_MAGIC,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  TransmissionFlag,
} from '../../nbd/constants.ts';
import { CHANGED_CONTEXT } from '../contexts.ts';
import { reasonOf } from '../errors.ts';
import { parseListenUri } from '../listen-uri.ts';
import type { Incoming } from './incoming.ts';
import type { ClientTls } from './nbd-uri.ts';
import { type Agreed, negotiateExport } from './negotiation.ts';
import { serverText } from './server-text.ts';

const CHUNK_ERROR_BIT = 0x8000;
const MAX_REPLY_BYTES = 2 ** 26;
const SILENCE_MS = 30_000;
const GOODBYE_MS = 10_000;
/** After so much silence the kernel asks whether the server's host is there at all. */
const KEEPALIVE_MS = 30_000;
/** For servers that zero nothing themselves. */
const ZEROES = Buffer.alloc(2 ** 20);

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
  /** Absent or null: in plain text. */
  readonly tls?: ClientTls | null;
  /** For the handshake. */
  readonly timeoutMs: number;
  /** Aborted: whatever is waited for fails. */
  readonly signal?: AbortSignal;
  /** Told once for each time in which requests are open and nothing comes; they are waited for all the same. */
  readonly onSilence?: (message: string) => void;
  /** How long that is; default 30 s. */
  readonly silenceMs?: number;
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

export class NbdClient {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** What the server calls the export, and says of it. */
  readonly exportName: string;
  readonly description: string;
  /** Numbers of the contexts that the server gave, by name. */
  readonly contexts: ReadonlyMap<string, number>;
  readonly #where: string;
  readonly #structured: boolean;
  /** Bits of TransmissionFlag. */
  readonly #flags: number;
  readonly #socket: Socket;
  readonly #incoming: Incoming;
  readonly #open = new Map<number, OpenRequest>();
  #lastCookie = 0;
  #failure: NbdClientError | null = null;
  /** Something came since `#watch` has looked. */
  #heard = false;
  #watched: NodeJS.Timeout | null = null;

  /** Connects to an export. Throws NbdClientError. */
  static async connect(target: NbdClientTarget): Promise<NbdClient> {
    const where = `${target.exportName} at ${target.server}`;
    const address = parseListenUri(target.server, '/');
    if ('problem' in address) throw new NbdClientError(`${where}: ${address.problem}`);
    if (address.kind !== 'unix' && address.kind !== 'tcp') throw new NbdClientError(`${where}: it can't be reached`);
    const socket = address.kind === 'unix' ? connect(address.path) : connect({ ...address, noDelay: true });
    if (address.kind === 'tcp') socket.setKeepAlive(true, KEEPALIVE_MS);
    const timer = setTimeout(() => socket.destroy(new Error('it did not answer in time')), target.timeoutMs);
    const { signal } = target;
    let client: NbdClient | null = null;
    const abort = (): void => void (client === null ? socket : client.#socket).destroy(new Error('interrupted'));
    signal?.addEventListener('abort', abort);
    socket.once('close', () => signal?.removeEventListener('abort', abort));
    try {
      signal?.throwIfAborted();
      const { exportName, contexts, tls = null } = target;
      client = new NbdClient(await negotiateExport(socket, { exportName, contexts, tls }), where);
      if (target.onSilence !== undefined) client.#watch(target.silenceMs ?? SILENCE_MS, target.onSilence);
      return client;
    } catch (error) {
      socket.destroy();
      throw new NbdClientError(`${where}: ${reasonOf(error)}`, { cause: error });
    } finally {
      clearTimeout(timer);
    }
  }

  private constructor(agreed: Agreed, where: string) {
    const { socket, flags } = agreed;
    this.#socket = socket;
    this.#incoming = agreed.incoming;
    this.#structured = agreed.structured;
    this.#flags = flags;
    this.#where = where;
    this.sizeBytes = agreed.sizeBytes;
    this.readOnly = (flags & TransmissionFlag.readOnly) !== 0;
    this.exportName = agreed.exportName;
    this.description = agreed.description;
    this.contexts = agreed.contexts;
    socket.on('data', () => this.#receive());
    socket.on('error', (error) => this.#fail(reasonOf(error)));
    socket.on('close', () => {
      if (this.#watched !== null) clearInterval(this.#watched);
      this.#fail('the connection has ended');
    });
  }

  #watch(silenceMs: number, onSilence: (message: string) => void): void {
    let open = false;
    let told = false;
    this.#watched = setInterval(() => {
      // What was open the last time is as old as that.
      const silent = open && !this.#heard && this.#open.size > 0;
      if (silent && !told) onSilence(`${this.#where}: no answer for ${silenceMs / 1000} seconds; waiting for it`);
      told = silent;
      open = this.#open.size > 0;
      this.#heard = false;
    }, silenceMs);
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
    if ((this.#flags & TransmissionFlag.sendWriteZeroes) !== 0) {
      await this.#request(CommandType.writeZeroes, { offset, length });
      return;
    }
    for (let done = 0; done < length; done += ZEROES.length) {
      await this.write(offset + done, ZEROES.subarray(0, Math.min(ZEROES.length, length - done)));
    }
  }

  /** A server without FLUSH has nothing that is not durable. */
  async flush(): Promise<void> {
    if ((this.#flags & TransmissionFlag.sendFlush) === 0) return;
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
    if (this.#socket.closed) return;
    // Whoever does not take a good-bye is left without: everything was answered.
    const timer = setTimeout(() => this.#socket.destroy(), GOODBYE_MS);
    try {
      await once(this.#socket, 'close');
    } finally {
      clearTimeout(timer);
    }
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
    this.#heard = true;
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
      const head = incoming.peek(SIMPLE_REPLY_BYTES);
      if (head === null) return false;
      const request = this.#requestOf(head);
      const error = head.readUInt32BE(4);
      const data = error === 0 ? request.buffer : null;
      if (data !== null && this.#structured) throw new Error('a READ without structured replies');
      const bytes = incoming.take(SIMPLE_REPLY_BYTES + (data?.length ?? 0));
      if (bytes === null) return false;
      if (error !== 0) request.error = `error ${error}`;
      if (data !== null) request.received = bytes.copy(data, 0, SIMPLE_REPLY_BYTES);
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
    const text = serverText(payload.subarray(6, 6 + payload.readUInt16BE(4)));
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
