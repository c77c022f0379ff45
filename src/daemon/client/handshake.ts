/**
 * The client's side of an NBD handshake: a connection to one export, ready to be given to the kernel.
 *
 *     greeting → flags and GO (name length u32, name, u16 0 information requests) → what is told of the export, ACK
 *
 * Invariants
 *  - Nothing behind the handshake is read: what a server sends there is the transmission phase's, and a server that sends
 *    something unasked is refused.
 *  - A handshake that fails leaves no connection, and throws a HandshakeError that says why.
 */
import { connect, type Socket } from 'node:net';
import {
  GREETING_BYTES,
  InfoType,
  MAX_OPTION_BYTES,
  OPTION_REPLY_HEADER_BYTES,
  OptionType,
  ReplyType,
} from '../../nbd/constants.ts';
import { reasonOf } from '../errors.ts';
import { parseListenUri } from '../listen-uri.ts';
import {
  answerGreeting,
  countedText,
  decodeExportInfo,
  decodeReply,
  encodeOption,
  ERROR_BIT,
  type ExportInfo,
} from './option-wire.ts';
import { serverText } from './server-text.ts';

const NOT_WANTED = 'nobody wants the connection any more';

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
  socket.on('error', (error) => reject(failed(reasonOf(error))));
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
  readonly outcome: ExportInfo | null;
}

/** The handshake without a socket. Throws an Error with the reason for which it can't go on. */
export class ClientHandshake {
  readonly #exportName: string;
  #bytes: Buffer = Buffer.alloc(0);
  #greeted = false;
  #info: ExportInfo | null = null;

  constructor(exportName: string) {
    this.#exportName = exportName;
  }

  /** Takes the server's next bytes. */
  receive(chunk: Buffer): ClientStep {
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
    if (!this.#greeted) {
      if (this.#bytes.length < GREETING_BYTES) return { send: null, outcome: null };
      const go = encodeOption(OptionType.go, Buffer.concat([countedText(this.#exportName), Buffer.alloc(2)]));
      const send = Buffer.concat([answerGreeting(this.#take(GREETING_BYTES)), go]);
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

  #reply(): { readonly type: number; readonly payload: Buffer } | null {
    const bytes = this.#bytes;
    if (bytes.length < OPTION_REPLY_HEADER_BYTES) return null;
    const { type, length } = decodeReply(bytes, OptionType.go, MAX_OPTION_BYTES);
    if (bytes.length < OPTION_REPLY_HEADER_BYTES + length) return null;
    return { type, payload: this.#take(OPTION_REPLY_HEADER_BYTES + length).subarray(OPTION_REPLY_HEADER_BYTES) };
  }

  #learn(type: number, payload: Buffer): void {
    if (type >= ERROR_BIT) {
      throw new Error(payload.length === 0 ? `it refuses with error ${type - ERROR_BIT}` : serverText(payload));
    }
    if (type !== ReplyType.info || payload.length < 2 || payload.readUInt16BE(0) !== InfoType.export) return;
    this.#info = decodeExportInfo(payload);
  }

  #acknowledged(): ExportInfo {
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
