/**
 * The client's side of an NBD handshake for NbdClient: greeting, TLS where it is asked for, structured replies, meta contexts, GO.
 *
 * Invariants
 *  - Over TLS nothing counts that came before it: bytes that a server sends behind its answer to STARTTLS in plain text end the connection.
 *  - What a server lacks (structured replies, contexts) is told in the outcome; what it refuses (TLS, the export) is an Error that says why
 *    and what can be done.
 */
import type { Socket } from 'node:net';
import { GREETING_BYTES, InfoType, OPTION_REPLY_HEADER_BYTES, OptionType, ReplyType } from '../../nbd/constants.ts';
import { explainTls, readClientTls, startTls } from './client-tls.ts';
import { Incoming } from './incoming.ts';
import type { ClientTls } from './nbd-uri.ts';
import { answerGreeting, countedText, decodeExportInfo, decodeReply, encodeOption, ERROR_BIT } from './option-wire.ts';
import { serverText } from './server-text.ts';

const MAX_REPLY_BYTES = 2 ** 20;

export interface Wishes {
  readonly exportName: string;
  /** Meta contexts that are wanted. */
  readonly contexts: readonly string[];
  /** Null: in plain text. */
  readonly tls: ClientTls | null;
}

/** What was agreed on, and the connection for what follows, whose bytes go on coming into `incoming`. */
export interface Agreed {
  readonly socket: Socket;
  readonly incoming: Incoming;
  readonly sizeBytes: number;
  /** Bits of TransmissionFlag. */
  readonly flags: number;
  readonly structured: boolean;
  /** Numbers of the contexts that the server gave, by name. */
  readonly contexts: ReadonlyMap<string, number>;
  /** What the server calls the export, if it says so. */
  readonly exportName: string;
  readonly description: string;
}

/** A server's refusal of an option. */
class Refusal extends Error {
  readonly type: number;

  constructor(type: number, text: string) {
    const out =
      type === ReplyType.errTlsReqd && !/TLS/.test(text) ? 'it wants TLS' : `it refuses with error ${type - ERROR_BIT}`;
    super(text === '' ? out : text);
    this.type = type;
  }
}

/** Negotiates on a new connection. Throws Error; the socket is the caller's to destroy then. */
export async function negotiateExport(socket: Socket, wishes: Wishes): Promise<Agreed> {
  const { tls } = wishes;
  const options = tls === null ? null : readClientTls(tls);
  const plain = new Conversation(socket);
  await plain.greet();
  if (tls === null || options === null) return plain.choose(wishes);
  await plain.askForTls();
  const secured = await startTls(plain.leave(), options, tls);
  try {
    return await new Conversation(secured).choose(wishes);
  } catch (error) {
    secured.destroy();
    // In TLS 1.3 a server says that it does not like a client's certificate after the client is content.
    throw error instanceof Refusal ? error : new Error(explainTls(error as Error, tls), { cause: error });
  }
}

class Conversation {
  readonly #socket: Socket;
  readonly #incoming = new Incoming();
  readonly #push = (chunk: Buffer): void => this.#incoming.push(chunk);

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', this.#push);
    // Who waits for something hears of it by `errored`, whenever it was.
    socket.on('error', () => undefined);
  }

  async greet(): Promise<void> {
    this.#socket.write(answerGreeting(await this.#take(GREETING_BYTES)));
  }

  async askForTls(): Promise<void> {
    try {
      await this.#ask(OptionType.starttls, Buffer.alloc(0));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      throw new Error(`it offers no TLS here (${error.message}): nbd instead of nbds is in plain text`, {
        cause: error,
      });
    }
    if (this.#incoming.bytes > 0) throw new Error('it sends plain text where TLS was to begin');
  }

  /** The socket, which nobody reads from now on. */
  leave(): Socket {
    return this.#socket.off('data', this.#push);
  }

  async choose({ exportName, contexts, tls }: Wishes): Promise<Agreed> {
    try {
      const structured = (await this.#askIfKnown(OptionType.structuredReply, Buffer.alloc(0))) !== null;
      const name = countedText(exportName);
      const given = new Map<string, number>();
      if (structured && contexts.length > 0) {
        const queries = Buffer.concat([name, word(contexts.length), ...contexts.map(countedText)]);
        const answers = await this.#askIfKnown(OptionType.setMetaContext, queries, ReplyType.metaContext);
        for (const payload of answers ?? []) given.set(payload.toString('utf8', 4), payload.readUInt32BE(0));
      }
      return { ...(await this.#go(name, exportName)), structured, contexts: given };
    } catch (error) {
      if (!(error instanceof Refusal) || error.type !== ReplyType.errTlsReqd || tls !== null) throw error;
      const way = 'name it by its URI: nbds://HOST/VG/LV with ?tls-certificates=DIR or ?tls-psk-file=FILE';
      throw new Error(`${error.message}: ${way}`, { cause: error });
    }
  }

  async #go(name: Buffer, exportName: string): Promise<Omit<Agreed, 'structured' | 'contexts'>> {
    const wanted = Buffer.alloc(6);
    wanted.writeUInt16BE(2, 0);
    wanted.writeUInt16BE(InfoType.name, 2);
    wanted.writeUInt16BE(InfoType.description, 4);
    const infos = await this.#ask(OptionType.go, Buffer.concat([name, wanted]), ReplyType.info);
    const typed = infos.filter((payload) => payload.length >= 2);
    const find = (type: number): Buffer | undefined => typed.find((payload) => payload.readUInt16BE(0) === type);
    const textOf = (type: number): string | undefined => {
      const payload = find(type);
      return payload && serverText(payload.subarray(2));
    };
    const info = find(InfoType.export);
    if (info === undefined) throw new Error('it does not describe the export');
    const description = textOf(InfoType.description) ?? '';
    const told = { exportName: textOf(InfoType.name) ?? exportName, description };
    return { socket: this.#socket, incoming: this.#incoming, ...decodeExportInfo(info), ...told };
  }

  /** Null: the server does not have the option. */
  async #askIfKnown(option: number, payload: Buffer, wanted?: number): Promise<readonly Buffer[] | null> {
    try {
      return await this.#ask(option, payload, wanted);
    } catch (error) {
      if (error instanceof Refusal && error.type === ReplyType.errUnsup) return null;
      throw error;
    }
  }

  /** Sends an option; gives the payloads of its replies of one type. Throws when it is refused. */
  async #ask(option: number, payload: Buffer, wanted: number = ReplyType.ack): Promise<readonly Buffer[]> {
    this.#socket.write(encodeOption(option, payload));
    const found: Buffer[] = [];
    for (;;) {
      const { type, length } = decodeReply(await this.#take(OPTION_REPLY_HEADER_BYTES), option, MAX_REPLY_BYTES);
      const body = await this.#take(length);
      if (type >= ERROR_BIT) throw new Refusal(type, serverText(body));
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
        if (this.#socket.errored !== null) throw this.#socket.errored;
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
