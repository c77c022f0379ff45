/**
 * One connection's bytes between a client's stream (TLS, or a socket that can't travel to a worker) and the socket whose other end a
 * worker serves.
 *
 *     client ══ TLS ══ outer │ tunnel │ inner ── unix socket pair ── supervisor, then worker
 *
 * Invariants
 *  - Who takes nothing stops who sends. Held are at most MAX_UNSENT_BYTES and a chunk for the worker, MAX_PIECES of PIECE_BYTES and one for what comes next for the client, and
 *    what the streams themselves hold. One that is idle holds at most a piece, one with little to do SMALL_BYTES.
 *  - The worker's bytes are read into memory of ours, as many at once as there are, and written as they came, each piece by itself: that makes no garbage, and
 *    Node encrypts such a piece from where it is (several that are joined it copies first). A piece's memory is used again only when its write has ended well.
 *  - Chunks that come from the client in one turn of the event loop leave together: TLS gives them record by record.
 *  - The end of one side is passed on behind the last byte, and the other direction goes on.
 *  - A client that vanishes ends the worker's side; a worker that vanishes, or lets the client go, ends the client's: it has
 *    `drainTimeoutMs` to take what was still for it and to close.
 *  - `onClosed` is called once, when both sides are closed.
 */
import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { BufferPool } from '../../nbd/buffer-pool.ts';
import { readInto, type Receiver } from '../../nbd/read-into.ts';
import { takeUnread } from '../../nbd/socket-handle.ts';

export interface TunnelOptions {
  readonly drainTimeoutMs: number;
  readonly onClosed: () => void;
}

/** What is held for the worker, at most, before the client is stopped; it goes on when all of it has left. */
const MAX_UNSENT_BYTES: number = 256 * 1024;
/** What is read from the worker at once: as much as long replies fill, and what does for short ones. */
const PIECE_BYTES: number = 256 * 1024;
const SMALL_BYTES: number = 16 * 1024;
/** On their way to the client, before no more is read: one is encrypted and sent while the next one comes. */
const MAX_PIECES = 2;

/** The memory of all tunnels of this process. */
const pool: BufferPool = new BufferPool({ maxIdleBytes: 4 * 2 ** 20 });

/** A stream with its corking postponed to the end of the turn. */
class Outlet {
  readonly #stream: Duplex;
  #corked = false;
  readonly #uncork = (): void => {
    this.#corked = false;
    this.#stream.uncork();
  };

  constructor(stream: Duplex) {
    this.#stream = stream;
  }

  write(chunk: Buffer): void {
    if (!this.#corked) {
      this.#corked = true;
      this.#stream.cork();
      setImmediate(this.#uncork);
    }
    this.#stream.write(chunk);
  }
}

/** From the worker to the client. */
class Inward implements Receiver {
  readonly #to: Duplex;
  /** Stops, or goes on, reading. */
  readonly #flow: (flows: boolean) => void;
  /** For the next bytes. */
  #piece: Buffer | null = null;
  #long = false;
  /** Being written, in their order. */
  readonly #written: Buffer[] = [];
  #closed = false;
  readonly #onWritten = (error?: Error | null): void => {
    const piece = this.#written.shift();
    assert(piece !== undefined);
    // The system may still look at what could not be written.
    if (error) pool.discard();
    else pool.release(piece);
    if (this.#written.length === MAX_PIECES - 1) this.#flow(true);
  };

  constructor(to: Duplex, flow: (flows: boolean) => void) {
    this.#to = to;
    this.#flow = flow;
  }

  space(): Buffer {
    this.#piece ??= pool.acquire(this.#long ? PIECE_BYTES : SMALL_BYTES);
    return this.#piece;
  }

  received(bytes: number): void {
    const piece = this.#piece;
    assert(piece !== null);
    // Who has closed his side takes nothing, but what is sent to him has to be read until its end.
    if (this.#closed || this.#to.writableEnded || this.#to.destroyed) return;
    this.#long = bytes >= SMALL_BYTES;
    this.#piece = null;
    this.#written.push(piece);
    this.#to.write(bytes === piece.length ? piece : piece.subarray(0, bytes), this.#onWritten);
    if (this.#written.length >= MAX_PIECES) this.#flow(false);
  }

  /** Nothing is read any more. */
  close(): void {
    this.#closed = true;
    if (this.#piece !== null) pool.release(this.#piece);
    this.#piece = null;
  }
}

export class Tunnel {
  readonly #outer: Duplex;
  readonly #inner: Socket;
  readonly #options: TunnelOptions;
  #deadline: NodeJS.Timeout | null = null;
  #open = 2;

  /** Nobody else listens to either stream. */
  constructor(outer: Duplex, plain: Socket, options: TunnelOptions) {
    const inward = new Inward(outer, (flows) => void (flows ? inner.resume() : inner.pause()));
    const unread = takeUnread(plain);
    const inner = readInto(plain, inward);
    this.#outer = outer;
    this.#inner = inner;
    this.#options = options;
    for (const chunk of unread) outer.write(chunk);
    passOutward(outer, inner);
    inner.on('end', () => {
      if (!outer.writableEnded) outer.end();
    });
    inner.once('close', () => inward.close());
    inner.resume();
    // Each is followed by 'close', which is what is acted on.
    outer.on('error', () => undefined);
    inner.on('error', () => undefined);
    inner.on('end', () => this.#startDeadline());
    whenClosed(outer, () => this.#closed(inner));
    whenClosed(inner, () => this.#closed(null));
  }

  /** Ends it at once. */
  destroy(): void {
    this.#outer.destroy();
    this.#inner.destroy();
  }

  /** The worker has let the client go, whether or not that can be seen behind what the client has not taken. */
  expire(): void {
    this.#startDeadline();
  }

  /** What is left of a worker's side that closed is for the client to take. */
  #closed(other: Duplex | null): void {
    this.#open--;
    if (other !== null) other.destroy();
    else if (!this.#outer.destroyed) {
      this.#startDeadline();
      if (!this.#outer.writableEnded) this.#outer.end();
      this.#outer.resume();
    }
    if (this.#open > 0) return;
    if (this.#deadline !== null) clearTimeout(this.#deadline);
    this.#options.onClosed();
  }

  #startDeadline(): void {
    this.#deadline ??= setTimeout(() => this.destroy(), this.#options.drainTimeoutMs);
  }
}

function whenClosed(stream: Duplex, closed: () => void): void {
  if (stream.closed) setImmediate(closed);
  else stream.once('close', closed);
}

/** From the client to the worker. */
function passOutward(from: Duplex, to: Duplex): void {
  const outlet = new Outlet(to);
  from.on('data', (chunk: Buffer) => {
    // Who has closed his side takes nothing, but what is sent to him has to be read until its end.
    if (to.writableEnded || to.destroyed) return;
    outlet.write(chunk);
    // Not at the stream's own mark, which one chunk reaches: while that is encrypted and sent, the next ones can come.
    if (to.writableLength >= MAX_UNSENT_BYTES) from.pause();
  });
  to.on('drain', () => from.resume());
  from.on('end', () => {
    if (!to.writableEnded) to.end();
  });
  from.resume();
}
