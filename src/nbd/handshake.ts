/**
 * The handshake of one connection as a pure state machine: bytes of the client in, bytes for the client and an outcome out.
 * Fixed newstyle only.
 *
 *     client flags   0 flags u32
 *     option         0 "IHAVEOPT"  8 option u32  12 length u32  16 payload (option-payloads.ts)
 *
 * Invariants
 *  - The bytes may arrive split anywhere, or many options at once; the replies are the same.
 *  - Every option's payload is consumed, known or not; at most MAX_OPTION_BYTES of it are ever held.
 *  - Every option is answered once, except EXPORT_NAME, whose only refusal is to close.
 *  - It ends by a close or a `Negotiated`, a plain value whose final reply is left to whoever serves the export: another
 *    process may do it. Until somebody does, the export may be refused after all, and the handshake goes on.
 *  - STARTTLS ends it too; what follows over TLS is a handshake of its own (`overTls`), which knows nothing of what was agreed on in
 *    plain text but the client's flags. Where TLS is required nothing but STARTTLS and ABORT is done before.
 */
import assert from 'node:assert/strict';
import {
  CLIENT_FLAGS_BYTES,
  HandshakeFlag,
  MAX_CONTEXTS,
  MAX_LISTS,
  MAX_OPTION_BYTES,
  MAX_OPTIONS,
  MAX_SKIPPED_OPTION_BYTES,
  OPTIONS_OF_EXPORT,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC,
  OPTION_NAMES,
  OptionType,
  ReplyType,
} from './constants.ts';
import { contextsMeant, decodeContextQuery, decodeName, decodeQuery } from './option-payloads.ts';
import { describeExport, type ExportInfo, type ExportRefusal, type ExportView } from './exports.ts';
import type { Features, SelectedContext } from './features.ts';
import { ackReply, errorReply, infoReplies, metaContextReply, type Negotiated, serverReply } from './option-replies.ts';

export type HandshakeOutcome =
  | { readonly kind: 'negotiated'; readonly negotiated: Negotiated }
  /** The client waits for the acknowledgement, which is among the replies. `early`: bytes that came before it, in plain text. */
  | { readonly kind: 'starttls'; readonly early: number }
  /** Send what there is to send and close; `reason` is for the log, empty when the client asked for it. */
  | { readonly kind: 'close'; readonly reason: string };

export interface HandshakeStep {
  /** To be sent in this order. */
  readonly replies: readonly Buffer[];
  /** null while the handshake goes on. */
  readonly outcome: HandshakeOutcome | null;
}

/** Whether a client may, or must, go on over TLS; `done`: it did. */
export type HandshakeTls = 'off' | 'allowed' | 'required' | 'done';

/** What is being gathered. A `skip` counts bytes instead of keeping them. */
type Phase = 'clientFlags' | 'optionHeader' | 'payload' | 'skip';

interface Shown {
  readonly name: string;
  readonly info: ExportInfo;
}

export class Handshake {
  readonly #directory: ExportView;
  readonly #tls: HandshakeTls;
  #phase: Phase = 'clientFlags';
  #gathered: Buffer = Buffer.alloc(CLIENT_FLAGS_BYTES);
  #filled = 0;
  /** Bytes of payload still to skip. */
  #toSkip = 0;
  #fixedNewstyle = false;
  #noZeroes = false;
  #option = 0;
  #structuredReplies = false;
  #extendedHeaders = false;
  /** The contexts that were selected, and the export they were selected for, by the name that the client gave. */
  #selected: { readonly exportName: string; readonly contexts: readonly SelectedContext[] } | null = null;
  #optionsLeft = MAX_OPTIONS;
  #lists = 0;
  /** What the last option, an INFO, showed: a GO for the same name shows it again. */
  #shown: Shown | null = null;
  #replies: Buffer[] = [];
  #outcome: HandshakeOutcome | null = null;

  constructor(directory: ExportView, tls: HandshakeTls = 'off') {
    this.#directory = directory;
    this.#tls = tls;
  }

  /** The handshake that follows `plain`, which ended by STARTTLS. Its bounds go on. */
  static overTls(directory: ExportView, plain: Handshake): Handshake {
    const handshake = new Handshake(directory, 'done');
    handshake.#fixedNewstyle = plain.#fixedNewstyle;
    handshake.#noZeroes = plain.#noZeroes;
    handshake.#optionsLeft = plain.#optionsLeft;
    handshake.#lists = plain.#lists;
    handshake.#await('optionHeader', OPTION_HEADER_BYTES);
    return handshake;
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
    this.#refuse(this.#refusalType(refusal), refusal.text);
    return this.receive(Buffer.from(leftover.buffer, leftover.byteOffset, leftover.length));
  }

  /** What follows the last option belongs to the transmission phase; what follows STARTTLS, to nobody. */
  #withLeftover(leftover: Buffer): HandshakeOutcome | null {
    const outcome = this.#outcome;
    if (outcome?.kind === 'starttls') return { ...outcome, early: leftover.length };
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
    if (this.#option === OptionType.setMetaContext) this.#selected = null;
    if (this.#refusedForTls()) return;
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
    if (this.#refusedForTls()) return;
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
      case OptionType.extendedHeaders:
        this.#extendHeaders(payload);
        break;
      case OptionType.listMetaContext:
      case OptionType.setMetaContext:
        this.#metaContext(payload);
        break;
      case OptionType.starttls:
        this.#starttls(payload);
        break;
      default:
        this.#refuse(ReplyType.errUnsup, `${OPTION_NAMES.get(this.#option)} is not supported by this server`);
    }
  }

  #refuse(type: number, text: string): void {
    this.#replies.push(errorReply(this.#option, type, text));
  }

  /** An export that is open to clients over TLS only can be had here where TLS is offered. */
  #refusalType({ kind }: ExportRefusal): number {
    if (kind === 'unknown') return ReplyType.errUnknown;
    return kind === 'tls' && this.#tls === 'allowed' ? ReplyType.errTlsReqd : ReplyType.errPolicy;
  }

  /** Whether the option was refused because TLS has to come first. */
  #refusedForTls(): boolean {
    if (this.#tls !== 'required') return false;
    if (this.#option === OptionType.starttls || this.#option === OptionType.abort) return false;
    if (this.#option === OptionType.exportName) this.#close('EXPORT_NAME without TLS, which is required');
    else this.#refuse(ReplyType.errTlsReqd, 'this server requires TLS: NBD_OPT_STARTTLS has to come first');
    return true;
  }

  #starttls(payload: Buffer): void {
    if (this.#tls === 'off') {
      this.#refuse(ReplyType.errUnsup, 'TLS is not offered by this server');
    } else if (payload.length > 0) {
      this.#refuse(ReplyType.errInvalid, `NBD_OPT_STARTTLS takes no payload, ${payload.length} bytes came`);
    } else if (this.#tls === 'done') {
      this.#refuse(ReplyType.errInvalid, 'this connection is over TLS already');
    } else {
      this.#replies.push(ackReply(this.#option));
      this.#outcome = { kind: 'starttls', early: 0 };
    }
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
    if (this.#extendedHeaders) {
      this.#refuse(
        ReplyType.errExtHeaderReqd,
        'extended headers were agreed on, which take the place of structured replies',
      );
      return;
    }
    this.#structuredReplies = true;
    this.#replies.push(ackReply(this.#option));
  }

  /** Agreed to once, with structured replies or without. A second time is refused, as qemu does it, and changes nothing. */
  #extendHeaders(payload: Buffer): void {
    if (payload.length > 0) {
      this.#refuse(ReplyType.errInvalid, `NBD_OPT_EXTENDED_HEADERS takes no payload, ${payload.length} bytes came`);
      return;
    }
    if (this.#extendedHeaders) {
      this.#refuse(ReplyType.errInvalid, 'extended headers were agreed on already');
      return;
    }
    this.#extendedHeaders = true;
    this.#structuredReplies = true;
    this.#replies.push(ackReply(this.#option));
  }

  /** LIST tells what there is. SET replaces what was selected before, even by nothing when it fails. */
  #metaContext(payload: Buffer): void {
    const selects = this.#option === OptionType.setMetaContext;
    if (selects) this.#selected = null;
    const query = decodeContextQuery(payload);
    if ('problem' in query) {
      this.#refuse(query.tooBig === true ? ReplyType.errTooBig : ReplyType.errInvalid, query.problem);
      return;
    }
    if (selects && !this.#structuredReplies) {
      this.#refuse(ReplyType.errInvalid, 'NBD_OPT_SET_META_CONTEXT needs structured replies, which were not asked for');
      return;
    }
    const { name, queries } = query;
    const found = this.#directory.find(name);
    if (found === null) {
      const refusal = this.#directory.explain(name);
      this.#refuse(this.#refusalType(refusal), refusal.text);
      return;
    }
    const meant = contextsMeant(queries, found.contexts, { wildcards: !selects });
    if (selects && meant.length > MAX_CONTEXTS) {
      this.#refuse(ReplyType.errTooBig, `${meant.length} contexts, at most ${MAX_CONTEXTS} can be selected`);
      return;
    }
    const contexts = meant.map((context, index) => ({ id: selects ? index + 1 : 0, name: context }));
    for (const context of contexts) this.#replies.push(metaContextReply(this.#option, context.id, context.name));
    if (selects) this.#selected = { exportName: name, contexts };
    this.#replies.push(ackReply(this.#option));
  }

  /** What counts for the export of that name. */
  #features(exportName: string): Features {
    const contexts = this.#selected?.exportName === exportName ? this.#selected.contexts : [];
    return { structuredReplies: this.#structuredReplies, extendedHeaders: this.#extendedHeaders, contexts };
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
    if (this.#lists === 1) this.#optionsLeft += OPTIONS_OF_EXPORT * exports.length;
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
      this.#refuse(this.#refusalType(refusal), refusal.text);
      return;
    }
    const info = shown?.name === name ? shown.info : describeExport(found, this.#features(name));
    if (this.#option === OptionType.go) {
      this.#negotiated(OptionType.go, name, info, infoTypes);
    } else {
      this.#replies.push(...infoReplies(this.#option, info, infoTypes));
      this.#shown = { name, info };
    }
  }

  #exportName(payload: Buffer): void {
    const decoded = decodeName(payload);
    if (this.#extendedHeaders) {
      this.#close('EXPORT_NAME from a client that has agreed on extended headers');
      return;
    }
    if ('problem' in decoded) {
      this.#close(`EXPORT_NAME: ${decoded.problem}`);
      return;
    }
    const found = this.#directory.find(decoded.name);
    if (found === null) this.#close(`EXPORT_NAME: ${this.#directory.explain(decoded.name).text}`);
    else this.#negotiated(OptionType.exportName, decoded.name, describeExport(found, this.#features(decoded.name)), []);
  }

  #negotiated(option: Negotiated['option'], exportName: string, info: ExportInfo, infoTypes: readonly number[]): void {
    const features = this.#features(exportName);
    const leftover = Buffer.alloc(0);
    const negotiated = { exportName, option, noZeroes: this.#noZeroes, infoTypes, info, features, leftover };
    this.#outcome = { kind: 'negotiated', negotiated };
  }
}
