/**
 * The client's side of an NBD handshake: a connection to one export, ready to be given to the kernel.
 *
 *     greeting   0 "NBDMAGIC"  8 "IHAVEOPT"  16 flags u16              answer: flags u32
 *     GO         0 "IHAVEOPT"  8 option u32  12 length u32  16 name length u32  20 name, u16 0 information requests
 *     reply      0 magic u64  8 option u32  12 type u32  16 length u32  20 payload
 *
 * Invariants
 *  - Nothing behind the handshake is read: what a server sends there is the transmission phase's, and a server that sends
 *    something unasked is refused.
 *  - A handshake that fails leaves no connection, and throws a HandshakeError that says why.
 */
import { connect, type Socket } from 'node:net';
import {
  CLIENT_FLAGS_BYTES,
  GREETING_BYTES,
  GREETING_MAGIC,
  HandshakeFlag,
  InfoType,
  MAX_OPTION_BYTES,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC_TEXT,
  OPTION_REPLY_HEADER_BYTES,
  OPTION_REPLY_MAGIC,
  OptionType,
  ReplyType,
} from '../../nbd/constants.ts';
import { parseListenUri } from '../listen-uri.ts';
import { serverText } from './server-text.ts';

const ERROR_BIT = 0x80000000;
const NOT_WANTED = 'nobody wants the connection any more';
/** type u16, size u64, flags u16 */
const EXPORT_INFO_BYTES = 12;

/** The server refused, can't be reached, or is none. */
export class HandshakeError extends Error {
  override readonly name = 'HandshakeError';
  readonly code = 'HANDSHAKE';

  constructor(server: string, exportName: string, reason: string) {
    super(`${exportName} at ${server}: ${reason}`);
  }
}

/** A connection in the transmission phase, of which nothing was read. */
export interface NegotiatedConnection {
  readonly fd: number;
  readonly sizeBytes: number;
  /** Bits of TransmissionFlag. */
  readonly flags: number;
  /** Closes our end; a kernel that has taken the connection goes on with it. */
  readonly close: () => void;
}

export interface HandshakeTarget {
  /** As in --listen. */
  readonly server: string;
  readonly exportName: string;
  readonly timeoutMs: number;
  /** Nobody wants the connection any more. */
  readonly signal?: AbortSignal;
}

/** What Node has under a socket. */
interface Handled {
  readonly _handle: { readonly fd: number; readStop(): number } | null;
}

/** Connects to an export. Throws a HandshakeError. */
export async function negotiate({
  server,
  exportName,
  timeoutMs,
  signal,
}: HandshakeTarget): Promise<NegotiatedConnection> {
  const failed = (reason: string): HandshakeError => new HandshakeError(server, exportName, reason);
  const address = parseListenUri(server, '/');
  if ('problem' in address) throw failed(address.problem);
  if (address.kind === 'inherited') throw failed('nobody knows its address');
  if (address.kind === 'vsock') throw failed('the kernel attaches no device over vsock');
  if (signal?.aborted === true) throw failed(NOT_WANTED);
  const socket =
    address.kind === 'unix'
      ? connect(address.path)
      : connect({ ...reachable(address), noDelay: true, keepAlive: true });
  const { promise, resolve, reject } = Promise.withResolvers<NegotiatedConnection>();
  const timer = setTimeout(() => reject(failed(`it did not answer for ${timeoutMs} ms`)), timeoutMs);
  const onAbort = (): void => reject(failed(NOT_WANTED));
  signal?.addEventListener('abort', onAbort);
  const client = new ClientHandshake(exportName);
  socket.on('error', ({ message }) => reject(failed(message)));
  socket.on('close', () => reject(failed('it closed the connection')));
  socket.on('data', (chunk: Buffer) => {
    try {
      const step = client.receive(chunk);
      if (step.send !== null) socket.write(step.send);
      if (step.outcome !== null) resolve({ ...step.outcome, ...stopped(socket) });
    } catch (error) {
      reject(failed(error instanceof Error ? error.message : String(error)));
    }
  });
  try {
    return await promise;
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
}

/** Called with the last byte of the handshake: no more is read. */
function stopped(socket: Socket): Pick<NegotiatedConnection, 'fd' | 'close'> {
  const { _handle: handle } = socket as Socket & Handled;
  handle?.readStop();
  socket.pause();
  handle?.readStop();
  const fd = handle?.fd ?? -1;
  if (fd < 0) throw new Error('the connection has ended');
  // Not `end`: that would end the connection for the kernel too.
  return { fd, close: () => void socket.destroy() };
}

/** A server that listens everywhere is reached on this machine. */
function reachable({ host, port }: { readonly host: string; readonly port: number }): { host: string; port: number } {
  const here: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '::': '::1' };
  return { host: here[host] ?? host, port };
}

interface ClientStep {
  readonly send: Buffer | null;
  readonly outcome: { readonly sizeBytes: number; readonly flags: number } | null;
}

/** The handshake without a socket. Throws an Error with the reason for which it can't go on. */
export class ClientHandshake {
  readonly #exportName: string;
  #bytes: Buffer = Buffer.alloc(0);
  #greeted = false;
  #info: { readonly sizeBytes: number; readonly flags: number } | null = null;

  constructor(exportName: string) {
    this.#exportName = exportName;
  }

  /** Takes the server's next bytes. */
  receive(chunk: Buffer): ClientStep {
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
    if (!this.#greeted) {
      if (this.#bytes.length < GREETING_BYTES) return { send: null, outcome: null };
      const send = this.#greeting(this.#take(GREETING_BYTES));
      if (this.#bytes.length > 0) throw new Error('it sends more than was asked');
      this.#greeted = true;
      return { send, outcome: null };
    }
    for (;;) {
      const reply = this.#reply();
      if (reply === null) return { send: null, outcome: null };
      if (reply.type === ReplyType.ack) return { send: null, outcome: this.#acknowledged() };
      this.#learn(reply.type, reply.payload);
    }
  }

  #greeting(bytes: Buffer): Buffer {
    if (bytes.toString('latin1', 0, 16) !== `${GREETING_MAGIC}${OPTION_MAGIC_TEXT}`)
      throw new Error('it does not speak NBD');
    const theirs = bytes.readUInt16BE(16);
    if ((theirs & HandshakeFlag.fixedNewstyle) === 0) throw new Error('it does not speak the fixed newstyle of NBD');
    const name = Buffer.from(this.#exportName);
    const at = CLIENT_FLAGS_BYTES;
    const answer = Buffer.alloc(at + OPTION_HEADER_BYTES + 4 + name.length + 2);
    answer.writeUInt32BE(theirs & (HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes), 0);
    answer.write(OPTION_MAGIC_TEXT, at, 'latin1');
    answer.writeUInt32BE(OptionType.go, at + 8);
    answer.writeUInt32BE(4 + name.length + 2, at + 12);
    answer.writeUInt32BE(name.length, at + 16);
    name.copy(answer, at + 20);
    return answer;
  }

  #reply(): { readonly type: number; readonly payload: Buffer } | null {
    const bytes = this.#bytes;
    if (bytes.length < OPTION_REPLY_HEADER_BYTES) return null;
    if (bytes.readUInt32BE(0) !== OPTION_REPLY_MAGIC.high || bytes.readUInt32BE(4) !== OPTION_REPLY_MAGIC.low) {
      throw new Error('its answer is no reply to an option');
    }
    if (bytes.readUInt32BE(8) !== OptionType.go) throw new Error('it answers what was not asked');
    const length = bytes.readUInt32BE(16);
    if (length > MAX_OPTION_BYTES) throw new Error(`its answer has ${length} bytes`);
    if (bytes.length < OPTION_REPLY_HEADER_BYTES + length) return null;
    const type = bytes.readUInt32BE(12);
    return { type, payload: this.#take(OPTION_REPLY_HEADER_BYTES + length).subarray(OPTION_REPLY_HEADER_BYTES) };
  }

  #learn(type: number, payload: Buffer): void {
    if (type >= ERROR_BIT) {
      throw new Error(payload.length === 0 ? `it refuses with error ${type - ERROR_BIT}` : serverText(payload));
    }
    if (type !== ReplyType.info || payload.length < 2 || payload.readUInt16BE(0) !== InfoType.export) return;
    if (payload.length !== EXPORT_INFO_BYTES) throw new Error('its description of the export has the wrong length');
    const size = payload.readBigUInt64BE(2);
    if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw new Error(`the export has ${size} bytes`);
    this.#info = { sizeBytes: Number(size), flags: payload.readUInt16BE(10) };
  }

  #acknowledged(): { readonly sizeBytes: number; readonly flags: number } {
    if (this.#info === null) throw new Error('it does not describe the export');
    if (this.#bytes.length > 0) throw new Error('it sends more than was asked');
    return this.#info;
  }

  #take(length: number): Buffer {
    const taken = this.#bytes.subarray(0, length);
    this.#bytes = this.#bytes.subarray(length);
    return taken;
  }
}
