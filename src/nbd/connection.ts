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
 *  - After `release` it does nothing but wait for that: the connection goes on elsewhere.
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
  /** What it is to be sent first: answers of that process. */
  readonly unsent?: Buffer;
}

/** A connection on its way to another process. */
export interface Released {
  /** The caller takes its handle. */
  readonly socket: Socket;
  /** What was read and not accepted. */
  readonly leftover: Buffer;
  /** What the system has not taken of the answers. */
  readonly unsent: Buffer;
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
  #released = false;
  #socketClosed = false;
  readonly #onSent = (): void => {
    if (this.#deadline !== 0 && !this.#letGo && !this.#finished) this.#startDrainDeadline();
    this.#session.sent();
  };
  readonly #onFirstSent = (): void => {
    if (this.#deadline !== 0 && !this.#letGo && !this.#finished) this.#startDrainDeadline();
    this.#session.paid();
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
      const left = this.#released ? 'client goes on elsewhere' : 'client left';
      context.log.info({ ...fields, ...this.#session.counters }, left);
      context.onClosed(this);
    });
    context.log.info(fields, 'client attached');
    const { leftover } = negotiated;
    const { resumed = false, unsent } = start;
    if (resumed && unsent !== undefined) this.#session.owe(unsent.length);
    if (leftover.length > 0) {
      this.#session.receive(Buffer.from(leftover.buffer, leftover.byteOffset, leftover.length));
      if (this.#session.draining) this.#lastBytesCame();
    }
    // Which asks for space at once: behind what is here already.
    this.#stream = context.openStream(socket, this);
    if (!resumed) {
      this.#stream.send(finalReply(negotiated), this.#onFirstSent);
    } else if (unsent !== undefined && unsent.length > 0) {
      const first = Buffer.from(unsent.buffer, unsent.byteOffset, unsent.length);
      this.#stream.send([first], this.#onFirstSent);
    }
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
    if (this.#released) return;
    if (!this.#letGo && !this.#finished) this.#startDrainDeadline();
    this.#letGo = true;
    this.#session.drain();
  }

  /** Nobody who leaves, or is let go, is taken anywhere. */
  get leaving(): boolean {
    return this.#finished || this.#letGo || this.#session.leaving;
  }

  /** Whether it goes on elsewhere. */
  get released(): boolean {
    return this.#released;
  }

  /**
   * Reads and accepts nothing more until `goOn`; `onStill` is told, later, when all that was accepted is carried out, and the answers are
   * where `release` finds them. One that leaves comes to its end meanwhile, and is still when it needs its volume no more.
   */
  standStill(onStill: () => void): void {
    this.#session.pause(onStill);
  }

  goOn(): void {
    if (!this.#released) this.#session.goOn();
  }

  /**
   * The socket, what was read and not accepted, and what the client has not taken, for the process that goes on with this connection, which
   * is still. Null: nobody can. The caller takes the handle from the socket, and destroys that; then this has ended.
   */
  release(): Released | null {
    if (this.#socketClosed || this.#released) return null;
    const leftover = this.#session.unparsed();
    const left = leftover === null ? null : this.#stream.release();
    if (leftover === null || left === null) return null;
    this.#released = true;
    return { ...left, leftover };
  }

  /** Ends it at once. */
  destroy(): void {
    if (!this.#released) this.#stream.destroy();
  }

  /** Destroys the socket if its deadline has passed. `now` is performance.now(). */
  tick(now: number): void {
    if (this.#deadline === 0 || this.#socketClosed || this.#released) return;
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
    if (!this.#released) this.#stream.pause();
  }

  resume(): void {
    if (!this.#released) this.#stream.resume();
  }

  get movable(): boolean {
    return this.#stream.movable;
  }

  finish(): void {
    if (this.#finished || this.#released) return;
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
