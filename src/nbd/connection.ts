/**
 * One client's socket: feeds the handshake, then the session, and sees to it that the socket ends.
 *
 * Invariants
 *  - The socket is half-open tolerant: a client that ends its side still gets its answers.
 *  - Bytes that come when nobody listens any more are read and dropped, since closing a TCP socket with unread bytes
 *    would reset it and lose answers that are under way.
 *  - A deadline runs during the handshake, and while a client that is leaving does not take its answers or does not close.
 *    It does not run while the volume works, nor for a client that is idle.
 *  - Whoever leaves by himself has the whole time again after each answer that he took. Whoever is let go by us has it once,
 *    from the end of the volume's work: taking his answers slowly, he can't delay a stop.
 *  - `onClosed` is called once, when the socket is closed and the session (if there was one) has been released.
 */
import type { Socket } from 'node:net';
import type { TransferCounters } from './executor.ts';
import type { ExportDirectory, NbdExport } from './exports.ts';
import { Handshake, type HandshakeOutcome } from './handshake.ts';
import { finalReply, greeting, type Negotiated } from './option-replies.ts';
import { Session, type SessionShared, type SessionTransport } from './session.ts';

/** Milliseconds that a client may take to close its side after everything was said. */
const LINGER_MS = 1000;

/** Where a server says what happens to its connections; pino's logger fits. */
export interface NbdLog {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export interface ConnectionContext {
  readonly directory: ExportDirectory;
  readonly shared: SessionShared;
  readonly log: NbdLog;
  readonly handshakeTimeoutMs: number;
  readonly drainTimeoutMs: number;
  readonly onClosed: (connection: Connection) => void;
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

export class Connection implements SessionTransport {
  readonly id: number;
  readonly peer: string;
  readonly #socket: Socket;
  readonly #context: ConnectionContext;
  #handshake: Handshake | null;
  #session: Session | null = null;
  /** performance.now() after which the socket is destroyed; 0 when there is none. */
  #deadline: number;
  /** It was told to go, so its deadline is not put off by what it takes. */
  #letGo = false;
  #finished = false;
  #paused = false;
  #socketClosed = false;
  readonly #onSent = (error?: Error | null): void => {
    if (error !== undefined && error !== null) return; // 'close' follows, and drops what was not taken
    if (this.#deadline !== 0 && !this.#letGo && !this.#finished) this.#startDrainDeadline();
    this.#session?.sent();
  };

  constructor(id: number, peer: string, socket: Socket, context: ConnectionContext) {
    this.id = id;
    this.peer = peer;
    this.#socket = socket;
    this.#context = context;
    this.#handshake = new Handshake(context.directory);
    this.#deadline = performance.now() + context.handshakeTimeoutMs;
    socket.on('data', (chunk: Buffer) => {
      this.#receive(chunk);
    });
    socket.on('end', () => {
      this.#ended();
    });
    socket.on('drain', () => {
      if (this.#handshake !== null) this.resume();
    });
    socket.on('error', (error) => {
      context.log.debug({ connection: id, peer, error: error.message }, 'connection failed');
    });
    socket.on('close', () => {
      this.#closed();
    });
    socket.write(greeting());
  }

  /** The export that it uses; null during the handshake. */
  get exportName(): string | null {
    return this.#session?.export.name ?? null;
  }

  info(): ConnectionInfo {
    const session = this.#session;
    let phase: ConnectionInfo['phase'] = 'transmission';
    if (this.#finished || session?.draining === true) phase = 'closing';
    else if (session === null) phase = 'handshake';
    return {
      id: this.id,
      peer: this.peer,
      phase,
      exportName: this.exportName,
      readOnly: session?.export.readOnly ?? false,
      requestsInFlight: session?.requestsInFlight ?? 0,
      bytesInFlight: session?.bytesInFlight ?? 0,
      counters: session === null ? null : { ...session.counters },
    };
  }

  /** Lets the client go: accepted commands are finished and answered, then the socket closes. */
  drain(): void {
    if (this.#session === null) {
      this.finish();
      return;
    }
    if (!this.#letGo && !this.#finished) this.#startDrainDeadline();
    this.#letGo = true;
    this.#session.drain();
  }

  /** Destroys the socket if its deadline has passed. `now` is performance.now(). */
  tick(now: number): void {
    if (this.#deadline === 0 || this.#socketClosed) return;
    if (this.#session !== null && this.#session.requestsInFlight > 0) {
      // Nothing more is accepted, so this comes to its end with the volume's work.
      this.#startDrainDeadline();
      return;
    }
    if (now < this.#deadline) return;
    const fields = { connection: this.id, peer: this.peer, export: this.exportName };
    if (this.#handshake !== null) this.#context.log.info(fields, 'handshake took too long');
    else if (!this.#finished) this.#context.log.info(fields, 'client does not take its last replies');
    this.#socket.destroy();
  }

  send(pieces: readonly Buffer[]): void {
    const socket = this.#socket;
    const last = pieces.length - 1;
    if (last > 0) {
      socket.cork();
      for (let i = 0; i < last; i++) socket.write(pieces[i]!);
    }
    socket.write(pieces[last]!, this.#onSent);
    if (last > 0) socket.uncork();
  }

  pause(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.#socket.pause();
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#socket.resume();
  }

  finish(): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#handshake = null;
    this.#deadline = performance.now() + Math.min(LINGER_MS, this.#context.drainTimeoutMs);
    this.#socket.end();
    this.resume();
  }

  #startDrainDeadline(): void {
    this.#deadline = performance.now() + this.#context.drainTimeoutMs;
  }

  #receive(chunk: Buffer): void {
    if (this.#handshake !== null) {
      this.#negotiate(this.#handshake, chunk);
    } else if (this.#session !== null && !this.#session.draining) {
      this.#session.receive(chunk);
      if (this.#session.draining) this.#lastBytesCame(this.#session);
    }
  }

  #ended(): void {
    if (this.#session === null) {
      this.finish();
    } else {
      this.#session.ended();
      if (this.#session.draining) this.#lastBytesCame(this.#session);
    }
  }

  /** DISC, the end of the stream or garbage. */
  #lastBytesCame(session: Session): void {
    if (this.#deadline === 0) this.#startDrainDeadline();
    if (session.problem === '') return;
    const fields = { connection: this.id, peer: this.peer, export: session.export.name };
    this.#context.log.warn(fields, `client broke the protocol: ${session.problem}`);
  }

  #negotiate(handshake: Handshake, chunk: Buffer): void {
    const { replies, outcome } = handshake.receive(chunk);
    this.#write(replies);
    if (outcome === null) {
      // Whoever asks without reading the answers is not listened to until he has.
      if (this.#socket.writableNeedDrain) this.pause();
      return;
    }
    this.#handshake = null;
    this.#outcome(outcome);
  }

  #outcome(outcome: HandshakeOutcome): void {
    const { log, directory } = this.#context;
    const fields = { connection: this.id, peer: this.peer };
    if (outcome.kind === 'close') {
      if (outcome.reason !== '') log.info(fields, `handshake ended: ${outcome.reason}`);
      this.finish();
      return;
    }
    const { negotiated } = outcome;
    const found = directory.find(negotiated.exportName);
    if (found === null) this.finish();
    else this.#begin(found, negotiated);
  }

  #begin(export_: NbdExport, negotiated: Negotiated): void {
    const { directory, log, shared } = this.#context;
    const fields = { connection: this.id, peer: this.peer, export: export_.name };
    this.#deadline = 0;
    this.#session = new Session(export_, shared, this, () => {
      directory.closed(export_);
      log.info({ ...fields, ...this.#session?.counters }, 'client left');
      this.#closedWhenDone();
    });
    directory.opened(export_);
    log.info(fields, 'client attached');
    this.#write(finalReply(negotiated));
    const { leftover } = negotiated;
    if (leftover.length > 0) this.#receive(Buffer.from(leftover.buffer, leftover.byteOffset, leftover.length));
  }

  #write(pieces: readonly Buffer[]): void {
    this.#socket.cork();
    for (const piece of pieces) this.#socket.write(piece);
    this.#socket.uncork();
  }

  #closed(): void {
    this.#socketClosed = true;
    this.#handshake = null;
    if (this.#session === null) this.#context.onClosed(this);
    else this.#session.vanished();
  }

  #closedWhenDone(): void {
    this.#context.onClosed(this);
  }
}
