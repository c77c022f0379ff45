/**
 * One connection's bytes between a client's stream (TLS, or a socket that can't travel to a worker) and the socket whose other end a
 * worker serves.
 *
 *     client ══ TLS ══ outer │ tunnel │ inner ── unix socket pair ── supervisor, then worker
 *
 * Invariants
 *  - Who takes nothing stops who sends: MAX_UNSENT_BYTES and a chunk are held for each direction, and what the streams themselves hold.
 *  - The end of one side is passed on behind the last byte, and the other direction goes on.
 *  - A client that vanishes ends the worker's side; a worker that vanishes, or lets the client go, ends the client's: it has
 *    `drainTimeoutMs` to take what was still for it and to close.
 *  - Chunks of one turn of the event loop leave together.
 *  - `onClosed` is called once, when both sides are closed.
 */
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';

export interface TunnelOptions {
  readonly drainTimeoutMs: number;
  readonly onClosed: () => void;
}

/** What is held for one direction, at most, before its sender is stopped; it goes on when all of it has left. */
const MAX_UNSENT_BYTES: number = 256 * 1024;

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

export class Tunnel {
  readonly #outer: Duplex;
  readonly #inner: Socket;
  readonly #options: TunnelOptions;
  #deadline: NodeJS.Timeout | null = null;
  #open = 2;

  /** Nobody else listens to either stream. */
  constructor(outer: Duplex, inner: Socket, options: TunnelOptions) {
    this.#outer = outer;
    this.#inner = inner;
    this.#options = options;
    pass(outer, inner);
    pass(inner, outer);
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

/** One direction. */
function pass(from: Duplex, to: Duplex): void {
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
