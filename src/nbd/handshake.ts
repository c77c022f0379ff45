/**
 * The handshake of one connection as a pure state machine: bytes of the client in, bytes for the client and an outcome out.
 * Fixed newstyle only.
 *
 *     client flags   0 flags u32
 *     option         0 "IHAVEOPT"  8 option u32  12 length u32  16 payload
 *     INFO, GO       0 name length u32  4 name  n count u16  n+2 count × info type u16
 *
 * Invariants
 *  - The bytes may arrive split anywhere, or many options at once; the replies are the same.
 *  - Every option's payload is consumed, known or not; at most MAX_OPTION_BYTES of it are ever held.
 *  - Every option is answered once, except EXPORT_NAME, whose only refusal is to close.
 *  - It ends by a close or a `Negotiated`, a plain value whose final reply is left to whoever serves the export: another
 *    process may do it. Until somebody does, the export may be refused after all, and the handshake goes on.
 */
import assert from 'node:assert/strict';
import {
  CLIENT_FLAGS_BYTES,
  HandshakeFlag,
  InfoType,
  MAX_LISTS,
  MAX_OPTION_BYTES,
  MAX_OPTIONS,
  MAX_SKIPPED_OPTION_BYTES,
  MAX_STRING_BYTES,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC,
  OPTION_NAMES,
  OptionType,
  ReplyType,
} from './constants.ts';
import { describeExport, type ExportInfo, type ExportRefusal, type ExportView } from './exports.ts';
import type { Features } from './features.ts';
import { ackReply, errorReply, infoReplies, type Negotiated, serverReply } from './option-replies.ts';

export type HandshakeOutcome =
  | { readonly kind: 'negotiated'; readonly negotiated: Negotiated }
  /** Send what there is to send and close; `reason` is for the log, empty when the client asked for it. */
  | { readonly kind: 'close'; readonly reason: string };

export interface HandshakeStep {
  /** To be sent in this order. */
  readonly replies: readonly Buffer[];
  /** null while the handshake goes on. */
  readonly outcome: HandshakeOutcome | null;
}

/** What is being gathered. A `skip` counts bytes instead of keeping them. */
type Phase = 'clientFlags' | 'optionHeader' | 'payload' | 'skip';

interface ExportQuery {
  readonly name: string;
  readonly infoTypes: readonly number[];
}

interface Shown {
  readonly name: string;
  readonly info: ExportInfo;
}

const KNOWN_INFO_TYPES: readonly number[] = [InfoType.name, InfoType.description, InfoType.blockSize];
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** The text of a name, or what is wrong with it. */
function decodeName(bytes: Buffer): { readonly name: string } | { readonly problem: string } {
  if (bytes.length > MAX_STRING_BYTES) {
    return { problem: `the export name has ${bytes.length} bytes, at most ${MAX_STRING_BYTES} are allowed` };
  }
  if (bytes.includes(0)) return { problem: 'the export name contains a NUL byte' };
  try {
    return { name: decoder.decode(bytes) };
  } catch {
    return { problem: 'the export name is not valid UTF-8' };
  }
}

/** Reads the payload of INFO and GO, whose parts must add up exactly, or says what is wrong with it. */
function decodeQuery(payload: Buffer): ExportQuery | { readonly problem: string } {
  if (payload.length < 6) return { problem: `the payload has ${payload.length} bytes, at least 6 are needed` };
  const nameLength = payload.readUInt32BE(0);
  if (nameLength > payload.length - 6) {
    return { problem: `a name of ${nameLength} bytes does not fit in a payload of ${payload.length}` };
  }
  const decoded = decodeName(payload.subarray(4, 4 + nameLength));
  if ('problem' in decoded) return decoded;
  const count = payload.readUInt16BE(4 + nameLength);
  const expected = 6 + nameLength + 2 * count;
  if (payload.length !== expected) {
    return { problem: `${count} information requests need a payload of ${expected} bytes, it has ${payload.length}` };
  }
  const asked = new Set<number>();
  for (let at = 6 + nameLength; at < expected; at += 2) asked.add(payload.readUInt16BE(at));
  return { name: decoded.name, infoTypes: KNOWN_INFO_TYPES.filter((type) => asked.has(type)) };
}

function refusalType({ kind }: ExportRefusal): number {
  return kind === 'policy' ? ReplyType.errPolicy : ReplyType.errUnknown;
}

export class Handshake {
  readonly #directory: ExportView;
  #phase: Phase = 'clientFlags';
  #gathered: Buffer = Buffer.alloc(CLIENT_FLAGS_BYTES);
  #filled = 0;
  /** Bytes of payload still to skip. */
  #toSkip = 0;
  #fixedNewstyle = false;
  #noZeroes = false;
  #option = 0;
  #structuredReplies = false;
  #optionsLeft = MAX_OPTIONS;
  #lists = 0;
  /** What the last option, an INFO, showed: a GO for the same name shows it again. */
  #shown: Shown | null = null;
  #replies: Buffer[] = [];
  #outcome: HandshakeOutcome | null = null;

  constructor(directory: ExportView) {
    this.#directory = directory;
  }

  /** Takes the client's next bytes. Not to be called after an outcome. */
  receive(chunk: Buffer): HandshakeStep {
    assert(this.#outcome === null, 'bytes for a handshake that has ended');
    let at = 0;
    while (at < chunk.length && this.#outcome === null) {
      at += this.#phase === 'skip' ? this.#skip(chunk.length - at) : this.#gather(chunk, at);
    }
    const replies = this.#replies;
    this.#replies = [];
    return { replies, outcome: this.#withLeftover(chunk.subarray(at)) };
  }

  /**
   * The export that was negotiated can't be had after all: answers so, and goes on with what came behind. Only GO can be answered;
   * after EXPORT_NAME nothing is left but to close.
   */
  refuse(refusal: ExportRefusal): HandshakeStep {
    const outcome = this.#outcome;
    assert(outcome?.kind === 'negotiated', 'nothing was negotiated');
    const { option, leftover } = outcome.negotiated;
    this.#outcome = null;
    if (option === OptionType.exportName) {
      this.#close(`EXPORT_NAME: ${refusal.text}`);
      return { replies: [], outcome: this.#outcome };
    }
    this.#option = option;
    this.#refuse(refusalType(refusal), refusal.text);
    return this.receive(Buffer.from(leftover.buffer, leftover.byteOffset, leftover.length));
  }

  /** What follows the last option belongs to the transmission phase. */
  #withLeftover(leftover: Buffer): HandshakeOutcome | null {
    const outcome = this.#outcome;
    if (outcome?.kind !== 'negotiated') return outcome;
    this.#outcome = { kind: 'negotiated', negotiated: { ...outcome.negotiated, leftover } };
    return this.#outcome;
  }

  #gather(chunk: Buffer, at: number): number {
    const count = Math.min(this.#gathered.length - this.#filled, chunk.length - at);
    chunk.copy(this.#gathered, this.#filled, at, at + count);
    this.#filled += count;
    if (this.#filled === this.#gathered.length) this.#advance(this.#gathered);
    return count;
  }

  #skip(available: number): number {
    const count = Math.min(this.#toSkip, available);
    this.#toSkip -= count;
    if (this.#toSkip === 0) this.#refuseSkipped();
    return count;
  }

  #await(phase: Phase, bytes: number): void {
    this.#phase = phase;
    this.#gathered = Buffer.alloc(bytes);
    this.#filled = 0;
  }

  #close(reason: string): void {
    this.#outcome = { kind: 'close', reason };
  }

  #advance(bytes: Buffer): void {
    if (this.#phase === 'clientFlags') this.#clientFlags(bytes.readUInt32BE(0));
    else if (this.#phase === 'optionHeader') this.#optionHeader(bytes);
    else this.#payload(bytes);
  }

  #clientFlags(flags: number): void {
    if ((flags & ~(HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes)) !== 0) {
      this.#close(`unknown client flags 0x${flags.toString(16)}`);
      return;
    }
    this.#fixedNewstyle = (flags & HandshakeFlag.fixedNewstyle) !== 0;
    this.#noZeroes = (flags & HandshakeFlag.noZeroes) !== 0;
    this.#await('optionHeader', OPTION_HEADER_BYTES);
  }

  #optionHeader(header: Buffer): void {
    if (header.readUInt32BE(0) !== OPTION_MAGIC.high || header.readUInt32BE(4) !== OPTION_MAGIC.low) {
      this.#close('an option without its magic');
      return;
    }
    this.#option = header.readUInt32BE(8);
    const length = header.readUInt32BE(12);
    if (this.#optionsLeft === 0) {
      this.#close('too many options');
      return;
    }
    this.#optionsLeft--;
    if (!this.#fixedNewstyle && this.#option !== OptionType.exportName) {
      // Such a client can't read option replies.
      this.#close(`option ${this.#option} from a client that has not agreed to fixed newstyle`);
    } else if (length > MAX_SKIPPED_OPTION_BYTES) {
      this.#close(`option ${this.#option} with ${length} bytes of payload`);
    } else if (length > MAX_OPTION_BYTES || !OPTION_NAMES.has(this.#option)) {
      this.#phase = 'skip';
      this.#toSkip = length;
      if (length === 0) this.#refuseSkipped();
    } else if (length === 0) {
      this.#payload(Buffer.alloc(0));
    } else {
      this.#await('payload', length);
    }
  }

  /** Answers an option whose payload was not kept: it is unknown, or too long for any option there is. */
  #refuseSkipped(): void {
    this.#await('optionHeader', OPTION_HEADER_BYTES);
    this.#shown = null;
    const name = OPTION_NAMES.get(this.#option);
    if (this.#option === OptionType.exportName) this.#close('EXPORT_NAME with a name longer than any export has');
    else if (this.#option === OptionType.abort) this.#abort();
    else if (name === undefined) this.#refuse(ReplyType.errUnsup, `option ${this.#option} is not known to this server`);
    else this.#refuse(ReplyType.errTooBig, `${name}: more than ${MAX_OPTION_BYTES} bytes of payload`);
  }

  #payload(payload: Buffer): void {
    this.#await('optionHeader', OPTION_HEADER_BYTES);
    const shown = this.#shown;
    this.#shown = null;
    switch (this.#option) {
      case OptionType.exportName:
        this.#exportName(payload);
        break;
      case OptionType.abort:
        this.#abort();
        break;
      case OptionType.list:
        this.#list(payload);
        break;
      case OptionType.info:
      case OptionType.go:
        this.#infoOrGo(payload, shown);
        break;
      case OptionType.structuredReply:
        this.#structuredReply(payload);
        break;
      case OptionType.starttls:
        this.#refuse(ReplyType.errUnsup, 'TLS is not offered by this server');
        break;
      default:
        this.#refuse(ReplyType.errUnsup, `${OPTION_NAMES.get(this.#option)} is not supported by this server`);
    }
  }

  #refuse(type: number, text: string): void {
    this.#replies.push(errorReply(this.#option, type, text));
  }

  #abort(): void {
    this.#replies.push(ackReply(this.#option));
    this.#close('');
  }

  /** Agreed to once; asking again changes nothing. */
  #structuredReply(payload: Buffer): void {
    if (payload.length > 0) {
      this.#refuse(ReplyType.errInvalid, `NBD_OPT_STRUCTURED_REPLY takes no payload, ${payload.length} bytes came`);
      return;
    }
    this.#structuredReplies = true;
    this.#replies.push(ackReply(this.#option));
  }

  #features(): Features {
    return { structuredReplies: this.#structuredReplies };
  }

  #list(payload: Buffer): void {
    if (payload.length > 0) {
      this.#refuse(ReplyType.errInvalid, `NBD_OPT_LIST takes no payload, ${payload.length} bytes came`);
      return;
    }
    if (++this.#lists > MAX_LISTS) {
      this.#close('too many LIST options');
      return;
    }
    const exports = this.#directory.list();
    if (this.#lists === 1) this.#optionsLeft += exports.length;
    for (const { name, description } of exports) {
      // The empty name stands for "the default export" and must not be listed.
      if (name !== '') this.#replies.push(serverReply(name, description));
    }
    this.#replies.push(ackReply(this.#option));
  }

  #infoOrGo(payload: Buffer, shown: Shown | null): void {
    const query = decodeQuery(payload);
    if ('problem' in query) {
      this.#refuse(ReplyType.errInvalid, query.problem);
      return;
    }
    const { name, infoTypes } = query;
    const found = this.#directory.find(name);
    if (found === null) {
      const refusal = this.#directory.explain(name);
      this.#refuse(refusalType(refusal), refusal.text);
      return;
    }
    const info = shown?.name === name ? shown.info : describeExport(found, this.#features());
    if (this.#option === OptionType.go) {
      this.#negotiated(OptionType.go, name, info, infoTypes);
    } else {
      this.#replies.push(...infoReplies(this.#option, info, infoTypes));
      this.#shown = { name, info };
    }
  }

  #exportName(payload: Buffer): void {
    const decoded = decodeName(payload);
    if ('problem' in decoded) {
      this.#close(`EXPORT_NAME: ${decoded.problem}`);
      return;
    }
    const found = this.#directory.find(decoded.name);
    if (found === null) this.#close(`EXPORT_NAME: ${this.#directory.explain(decoded.name).text}`);
    else this.#negotiated(OptionType.exportName, decoded.name, describeExport(found, this.#features()), []);
  }

  #negotiated(option: Negotiated['option'], exportName: string, info: ExportInfo, infoTypes: readonly number[]): void {
    const features = this.#features();
    const leftover = Buffer.alloc(0);
    const negotiated = { exportName, option, noZeroes: this.#noZeroes, infoTypes, info, features, leftover };
    this.#outcome = { kind: 'negotiated', negotiated };
  }
}
