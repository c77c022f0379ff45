/**
 * One client's socket until it has chosen an export: greeting, options, and the hand-over to whoever serves the export.
 *
 * Invariants
 *  - The socket is handed over when every reply has left, and with it every byte that was read: `negotiated.leftover`, and what the
 *    paused stream still holds.
 *  - At STARTTLS the socket goes to whoever does TLS (`Secure`), and the negotiation goes on with the one that it gets in return, as
 *    another client might: with another view of the exports. Plain text that came behind STARTTLS is never used: it drops the client.
 *  - An export that can't be had after all is refused by an option reply, and the negotiation goes on.
 *  - A deadline runs all the time: for the client to choose, for its end to close, and for the hand-over.
 *  - `onEnded` is called once: when the socket is closed, or has been handed over.
 */
import type { Socket } from 'node:net';
import { LINGER_MS, type NbdLog } from './connection.ts';
import type { Negotiator } from './crowd.ts';
import type { ClientIdentity, ExportRefusal, ExportView, TlsPeer } from './exports.ts';
import { Handshake, type HandshakeStep, type HandshakeTls } from './handshake.ts';
import { greeting, type Negotiated } from './option-replies.ts';
import { takeUnread } from './socket-handle.ts';

/** A client that has chosen its export, and waits for the final reply. */
export interface Handover {
  readonly id: number;
  readonly peer: string;
  readonly client: ClientIdentity;
  readonly negotiated: Negotiated;
  /** Paused; nobody listens to it. */
  readonly socket: Socket;
  /** Aborted when the client has gone, or has waited too long. */
  readonly signal: AbortSignal;
}

/**
 * Takes the client over: gives null when it has the socket, or why the export can't be had: then the socket is as it was. Rejects
 * when the client can only be dropped.
 */
export type Adopt = (handover: Handover) => Promise<ExportRefusal | null>;

/** A client that begins TLS with the next byte. */
export interface Unsecured {
  readonly id: number;
  readonly peer: string;
  /** Paused; nobody listens to it, and nothing of it is read. */
  readonly socket: Socket;
  /** Aborted when it takes too long, or the server ends. */
  readonly signal: AbortSignal;
}

/** What became of it: the socket that carries the plain text from now on, paused, and who is at its other end. */
export interface Secured {
  readonly socket: Socket;
  readonly tls: TlsPeer;
}

/** Does TLS on a socket, which is not the caller's any more. Rejects with the reason when that fails; then it is closed. */
export type Secure = (client: Unsecured) => Promise<Secured>;

/** What a negotiation begins with. */
export interface NegotiationStart {
  readonly id: number;
  readonly peer: string;
  readonly client: ClientIdentity;
  /** Whether TLS is offered, or demanded. */
  readonly tls: Exclude<HandshakeTls, 'done'>;
}

export interface NegotiationContext {
  readonly log: NbdLog;
  readonly handshakeTimeoutMs: number;
  readonly drainTimeoutMs: number;
  readonly viewFor: (client: ClientIdentity) => ExportView;
  readonly adopt: Adopt;
  readonly secure: Secure;
  readonly onEnded: (negotiation: Negotiation, adopted: boolean) => void;
}

type Phase = 'options' | 'tls' | 'handover' | 'finished' | 'ended';

export class Negotiation implements Negotiator {
  readonly id: number;
  readonly peer: string;
  #client: ClientIdentity;
  #socket: Socket;
  readonly #context: NegotiationContext;
  #handshake: Handshake;
  readonly #abort = new AbortController();
  #phase: Phase = 'options';
  /** performance.now() after which the socket is destroyed. */
  #deadline: number;
  /** Writes that the system has not taken. */
  #unsent = 0;
  /** What waits for them. */
  #chosen: Negotiated | null = null;
  /** The adopter was asked and has not answered. */
  #asking = false;
  #socketClosed = false;
  readonly #onData = (chunk: Buffer): void => this.#receive(chunk);
  readonly #onEnd = (): void => this.finish();
  readonly #onDrain = (): void => void (this.#phase === 'options' && this.#socket.resume());
  readonly #onClose = (): void => this.#closed();
  readonly #onError = (error: Error): void => {
    this.#context.log.debug({ connection: this.id, peer: this.peer, error: error.message }, 'connection failed');
  };
  readonly #onWritten = (): void => {
    this.#unsent--;
    if (this.#phase === 'tls') this.#secureWhenSent();
    else this.#handOverWhenSent();
  };

  constructor(start: NegotiationStart, socket: Socket, context: NegotiationContext) {
    this.id = start.id;
    this.peer = start.peer;
    this.#client = start.client;
    this.#socket = socket;
    this.#context = context;
    this.#handshake = new Handshake(context.viewFor(start.client), start.tls);
    this.#deadline = performance.now() + context.handshakeTimeoutMs;
    this.#listen();
    this.#write([greeting()]);
  }

  #listen(): void {
    const socket = this.#socket;
    socket.on('data', this.#onData);
    socket.on('end', this.#onEnd);
    socket.on('drain', this.#onDrain);
    socket.on('error', this.#onError);
    socket.on('close', this.#onClose);
  }

  get client(): ClientIdentity {
    return this.#client;
  }

  get hasChosen(): boolean {
    return this.#phase === 'handover';
  }

  /** Makes room for others. */
  giveWay(): void {
    if (this.#phase === 'ended') return;
    this.#context.log.info({ connection: this.id, peer: this.peer }, 'too many handshakes: the oldest one was ended');
    this.#socket.destroy();
    this.#abort.abort();
  }

  /** Whether it was told all that it will be. */
  get closing(): boolean {
    return this.#phase === 'finished';
  }

  /** Ends it: what was said is sent, then the socket closes. */
  finish(): void {
    if (this.#phase === 'handover') this.#socket.destroy();
    if (this.#phase === 'tls') this.#abort.abort();
    if (this.#phase !== 'options') return;
    this.#phase = 'finished';
    this.#deadline = performance.now() + Math.min(LINGER_MS, this.#context.drainTimeoutMs);
    this.#socket.end();
    this.#socket.resume();
  }

  /** Destroys the socket if its deadline has passed. `now` is performance.now(). */
  tick(now: number): void {
    if (now < this.#deadline || this.#socketClosed || this.#phase === 'ended') return;
    if (this.#phase !== 'finished') {
      this.#context.log.info({ connection: this.id, peer: this.peer }, 'handshake took too long');
    }
    this.#socket.destroy();
    this.#abort.abort();
  }

  #receive(chunk: Buffer): void {
    // Bytes of a client that is let go are read and dropped: closing a TCP socket with unread ones would reset it.
    if (this.#phase === 'options') this.#step(this.#handshake.receive(chunk));
  }

  #step({ replies, outcome }: HandshakeStep): void {
    if (outcome?.kind === 'starttls') {
      this.#beginTls(replies, outcome.early);
      return;
    }
    this.#write(replies);
    if (outcome === null) {
      // Whoever asks without reading the answers is not listened to until he has.
      if (this.#socket.writableNeedDrain) this.#socket.pause();
    } else if (outcome.kind === 'close') {
      if (outcome.reason !== '') {
        this.#context.log.info({ connection: this.id, peer: this.peer }, `handshake ended: ${outcome.reason}`);
      }
      this.finish();
    } else {
      this.#phase = 'handover';
      this.#chosen = outcome.negotiated;
      this.#socket.pause();
      this.#socket.off('data', this.#onData);
      this.#socket.off('end', this.#onEnd);
      this.#handOverWhenSent();
    }
  }

  /** Stops reading before the acknowledgement leaves: what has come by then came in plain text, from the client or from somebody between. */
  #beginTls(replies: readonly Buffer[], early: number): void {
    const socket = this.#socket;
    this.#phase = 'tls';
    socket.pause();
    socket.off('data', this.#onData);
    socket.off('end', this.#onEnd);
    socket.off('drain', this.#onDrain);
    const bytes = takeUnread(socket).reduce((sum, { length }) => sum + length, early);
    if (bytes > 0) {
      const fields = { connection: this.id, peer: this.peer, bytes };
      this.#context.log.warn(fields, 'plain text came behind NBD_OPT_STARTTLS: the connection is dropped');
      socket.destroy();
      return;
    }
    this.#write(replies);
  }

  #secureWhenSent(): void {
    if (this.#unsent > 0 || this.#socketClosed) return;
    // From here on the deadline aborts, and closing the socket is the business of whoever does TLS.
    this.#socket.off('close', this.#onClose);
    void this.#secure();
  }

  async #secure(): Promise<void> {
    const { id, peer } = this;
    let secured: Secured;
    try {
      secured = await this.#context.secure({ id, peer, socket: this.#socket, signal: this.#abort.signal });
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.#context.log.info({ connection: id, peer, reason }, 'no TLS with a client');
      this.#end(false);
      return;
    }
    const { socket, tls } = secured;
    this.#context.log.debug({ connection: id, peer, ...tls }, 'a client goes on over TLS');
    this.#client = { ...this.#client, tls };
    this.#socket = socket;
    this.#phase = 'options';
    this.#handshake = Handshake.overTls(this.#context.viewFor(this.#client), this.#handshake);
    this.#listen();
    if (this.#abort.signal.aborted) socket.destroy();
    else socket.resume();
  }

  #write(pieces: readonly Buffer[]): void {
    if (pieces.length === 0) return;
    this.#socket.cork();
    for (const piece of pieces) {
      this.#unsent++;
      this.#socket.write(piece, this.#onWritten);
    }
    this.#socket.uncork();
  }

  #handOverWhenSent(): void {
    const negotiated = this.#chosen;
    if (negotiated === null || this.#unsent > 0 || this.#socketClosed) return;
    this.#chosen = null;
    this.#deadline = performance.now() + this.#context.handshakeTimeoutMs;
    void this.#handOver(negotiated);
  }

  async #handOver(negotiated: Negotiated): Promise<void> {
    this.#asking = true;
    this.#socket.off('drain', this.#onDrain);
    let refusal: ExportRefusal | null = null;
    try {
      const { id, peer } = this;
      const [client, socket, { signal }] = [this.#client, this.#socket, this.#abort];
      refusal = await this.#context.adopt({ id, peer, client, negotiated, socket, signal });
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      const fields = { connection: this.id, peer: this.peer, export: negotiated.info.name, reason };
      if (!this.#socketClosed) this.#context.log.warn(fields, 'a client had to be dropped');
      this.#asking = false;
      if (this.#socketClosed) this.#end(false);
      else this.#socket.destroy();
      return;
    }
    this.#asking = false;
    if (refusal === null) this.#end(true);
    else if (this.#socketClosed) this.#end(false);
    else this.#goOn(refusal);
  }

  #goOn(refusal: ExportRefusal): void {
    this.#phase = 'options';
    this.#deadline = performance.now() + this.#context.handshakeTimeoutMs;
    this.#socket.on('data', this.#onData);
    this.#socket.on('end', this.#onEnd);
    this.#socket.on('drain', this.#onDrain);
    this.#step(this.#handshake.refuse(refusal));
    // Unless it closed, or chose again from what it had sent already.
    if (this.#phase === 'options' && !this.#socket.writableNeedDrain) this.#socket.resume();
  }

  #closed(): void {
    this.#socketClosed = true;
    this.#abort.abort();
    if (!this.#asking) this.#end(false);
  }

  #end(adopted: boolean): void {
    if (this.#phase === 'ended') return;
    this.#phase = 'ended';
    this.#socket.off('close', this.#onClose);
    // Whoever has the socket now listens to its errors; of ours that is left none is news.
    this.#context.onEnded(this, adopted);
  }
}
