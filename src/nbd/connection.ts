/**
 * One client's socket in the transmission phase: says the last word of the handshake, feeds the session, and sees to it that
 * the socket ends. (negotiation.ts has the time before.)
 *
 * Invariants
 *  - The socket is half-open tolerant: a client that ends its side still gets its answers.
 *  - Bytes that come when nobody listens any more are read and dropped, since closing a TCP socket with unread bytes
 *    would reset it and lose answers that are under way.
 *  - A deadline runs while a client that is leaving does not take its answers or does not close. It does not run while the
 *    volume works, nor for a client that is idle.
 *  - Whoever leaves by himself has the whole time again after each answer that he took. Whoever is let go by us has it once,
 *    from the end of the volume's work: taking his answers slowly, he can't delay a stop.
 *  - `onClosed` is called once, when the socket is closed and the session has been released.
 */
import type { Socket } from 'node:net';
import type { ByteStream, StreamOpener, StreamUser } from './byte-stream.ts';
import type { TransferCounters } from './executor.ts';
import { type NbdExport, termsOf } from './exports.ts';
import { finalReply, type Negotiated } from './option-replies.ts';
import { Session, type SessionShared, type SessionTransport } from './session.ts';

/** Milliseconds that a client may take to close its side after everything was said. */
export const LINGER_MS = 1000;

/** Where a server says what happens to its connections; pino's logger fits. */
export interface NbdLog {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export interface ConnectionContext {
  readonly shared: SessionShared;
  readonly openStream: StreamOpener;
  readonly log: NbdLog;
  readonly drainTimeoutMs: number;
  readonly onClosed: (connection: Connection) => void;
}

/** A client that has chosen its export. */
export interface ConnectionStart {
  /** Unlike any other connection's of the server. */
  readonly id: number;
  readonly peer: string;
  readonly export: NbdExport;
  readonly negotiated: Negotiated;
  /** It was served before, by another process: it has had the final reply of its handshake. */
  readonly resumed?: boolean;
}

/** A connection for status displays: plain data. */
export interface ConnectionInfo {
  readonly id: number;
  /** `unix:/path` of the listener, or `tcp:address:port` of the client. */
  readonly peer: string;
  readonly phase: 'handshake' | 'transmission' | 'closing';
  /** null during the handshake. */
  readonly exportName: string | null;
  readonly readOnly: boolean;
  readonly requestsInFlight: number;
  /** Payloads and replies that the system has not taken yet. */
  readonly bytesInFlight: number;
  /** null during the handshake. */
  readonly counters: Readonly<TransferCounters> | null;
}

export class Connection implements SessionTransport, StreamUser {
  readonly id: number;
  readonly peer: string;
  readonly #stream: ByteStream;
  readonly #context: ConnectionContext;
  readonly #session: Session;
  /** performance.now() after which the socket is destroyed; 0 when there is none. */
  #deadline = 0;
  /** It was told to go, so its deadline is not put off by what it takes. */
  #letGo = false;
  #finished = false;
  #socketClosed = false;
  readonly #onSent = (): void => {
    if (this.#deadline !== 0 && !this.#letGo && !this.#finished) this.#startDrainDeadline();
    this.#session.sent();
  };

  /** Takes the socket, from which nobody else reads any more. */
  constructor(start: ConnectionStart, socket: Socket, context: ConnectionContext) {
    const { id, peer, negotiated } = start;
    this.id = id;
    this.peer = peer;
    this.#context = context;
    const fields = { connection: id, peer, export: start.export.name };
    const terms = termsOf(negotiated.features, negotiated.info);
    this.#session = new Session({ export: start.export, terms }, context.shared, this, () => {
      context.log.info({ ...fields, ...this.#session.counters }, 'client left');
      context.onClosed(this);
    });
    context.log.info(fields, 'client attached');
    this.#stream = context.openStream(socket, this);
    const { leftover } = negotiated;
    if (leftover.length > 0) {
      this.#session.receive(Buffer.from(leftover.buffer, leftover.byteOffset, leftover.length));
      if (this.#session.draining) this.#lastBytesCame();
    }
    if (start.resumed !== true) this.#stream.send(finalReply(negotiated), null);
    if (!this.#session.holding) this.#stream.resume();
  }

  /** The export that it uses. */
  get export(): NbdExport {
    return this.#session.export;
  }

  info(): ConnectionInfo {
    const session = this.#session;
    return {
      id: this.id,
      peer: this.peer,
      phase: this.#finished || session.draining ? 'closing' : 'transmission',
      exportName: session.export.name,
      readOnly: session.export.readOnly,
      requestsInFlight: session.requestsInFlight,
      bytesInFlight: session.bytesInFlight,
      counters: { ...session.counters },
    };
  }

  /** Lets the client go: accepted commands are finished and answered, then the socket closes. */
  drain(): void {
    if (!this.#letGo && !this.#finished) this.#startDrainDeadline();
    this.#letGo = true;
    this.#session.drain();
  }

  /** Nobody who leaves, or is let go, is taken anywhere. */
  get leaving(): boolean {
    return this.#finished || this.#letGo || this.#session.draining;
  }

  /** Reads no more until `goOn`; `onQuiet` is told, later, when all that was read is carried out and answered. */
  quiesce(onQuiet: () => void): void {
    this.#session.pause(onQuiet);
  }

  goOn(): void {
    this.#session.goOn();
  }

  /**
   * The socket and what was read of a request that is not all here, for the process that goes on with this connection; it is quiet.
   * Null: nobody can. The caller destroys the socket when it has its handle; then this has ended.
   */
  release(): { readonly socket: Socket; readonly leftover: Buffer } | null {
    const leftover = this.#socketClosed ? null : this.#session.unparsed();
    const socket = leftover === null ? null : this.#stream.release();
    return leftover === null || socket === null ? null : { socket, leftover };
  }

  /** Ends it at once. */
  destroy(): void {
    this.#stream.destroy();
  }

  /** Destroys the socket if its deadline has passed. `now` is performance.now(). */
  tick(now: number): void {
    if (this.#deadline === 0 || this.#socketClosed) return;
    if (this.#session.requestsInFlight > 0) {
      // Nothing more is accepted, so this comes to its end with the volume's work.
      this.#startDrainDeadline();
      return;
    }
    if (now < this.#deadline) return;
    const fields = { connection: this.id, peer: this.peer, export: this.#session.export.name };
    if (!this.#finished) this.#context.log.info(fields, 'client does not take its last replies');
    this.#stream.destroy();
  }

  send(pieces: readonly Buffer[]): void {
    this.#stream.send(pieces, this.#onSent);
  }

  pause(): void {
    this.#stream.pause();
  }

  resume(): void {
    this.#stream.resume();
  }

  finish(): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#deadline = performance.now() + Math.min(LINGER_MS, this.#context.drainTimeoutMs);
    this.#stream.end();
    this.resume();
  }

  #startDrainDeadline(): void {
    this.#deadline = performance.now() + this.#context.drainTimeoutMs;
  }

  space(): Buffer {
    return this.#session.space();
  }

  received(bytes: number): void {
    const session = this.#session;
    if (session.draining) return;
    session.received(bytes);
    if (session.draining) this.#lastBytesCame();
  }

  ended(): void {
    this.#session.ended();
    if (this.#session.draining) this.#lastBytesCame();
  }

  failed(reason: string): void {
    this.#context.log.debug({ connection: this.id, peer: this.peer, error: reason }, 'connection failed');
  }

  closed(): void {
    this.#socketClosed = true;
    this.#session.vanished();
  }

  /** DISC, the end of the stream or garbage. */
  #lastBytesCame(): void {
    if (this.#deadline === 0) this.#startDrainDeadline();
    const { problem } = this.#session;
    if (problem === '') return;
    const fields = { connection: this.id, peer: this.peer, export: this.#session.export.name };
    this.#context.log.warn(fields, `client broke the protocol: ${problem}`);
  }
}
