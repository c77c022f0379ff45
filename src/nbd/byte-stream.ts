/**
 * What a connection has of its socket: bytes in, bytes out, and the end. Two things carry them: Node's sockets (here), whatever is
 * under those, and plain calls on plain sockets (direct-stream.ts).
 *
 * Invariants
 *  - A stream begins paused. Its user is told of bytes and of their end only between `resume` and `pause`.
 *  - Pieces leave in the order of sending; `onSent` is called when the system has taken the last of its call's, maybe inside `send`.
 *  - Either side may end first; when both have, the stream closes by itself.
 *  - `closed` is told once, as the last of all, and never inside a call of the stream. What was not sent by then is dropped untold.
 */
import type { Socket } from 'node:net';
import { readInto, type Receiver } from './read-into.ts';

export interface StreamUser extends Receiver {
  /** The client sends no more. */
  ended(): void;
  /** `closed` follows. */
  failed(reason: string): void;
  closed(): void;
}

export interface ByteStream {
  /** At least one piece; none is touched until it was taken. */
  send(pieces: readonly Buffer[], onSent: (() => void) | null): void;
  pause(): void;
  resume(): void;
  /** Ends our side after what was sent. */
  end(): void;
  /** Closes it now. */
  destroy(): void;
  /** Whether `release` would give the socket: all is sent, or it is known what is not. */
  readonly movable: boolean;
  /**
   * The socket, for whoever takes the connection over; nothing may be asked of the stream any more, which closes when the socket
   * does. `unsent` is a copy of what the system has not taken: to be sent before anything else. Null: it is not movable, and as it was.
   */
  release(): { readonly socket: Socket; readonly unsent: Buffer } | null;
}

/** Takes over a socket from which nobody reads, and of which all that was read is known. */
export type StreamOpener = (socket: Socket, user: StreamUser) => ByteStream;

const NOTHING: Buffer = Buffer.alloc(0);

class NodeStream implements ByteStream {
  readonly #socket: Socket;

  constructor(from: Socket, user: StreamUser) {
    const socket = readInto(from, user);
    this.#socket = socket;
    socket.on('end', () => user.ended());
    socket.on('error', (error) => user.failed(error.message));
    if (socket.closed) setImmediate(() => user.closed());
    else socket.once('close', () => user.closed());
  }

  send(pieces: readonly Buffer[], onSent: (() => void) | null): void {
    const socket = this.#socket;
    const last = pieces.length - 1;
    if (last > 0) {
      socket.cork();
      for (let i = 0; i < last; i++) socket.write(pieces[i]!);
    }
    // After an error 'close' follows.
    if (onSent === null) socket.write(pieces[last]!);
    else socket.write(pieces[last]!, (error) => void (error ?? onSent()));
    if (last > 0) socket.uncork();
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  end(): void {
    this.#socket.end();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  /** What is in its hands can't be taken back. */
  get movable(): boolean {
    return this.#socket.writableLength === 0 && !this.#socket.destroyed;
  }

  release(): { readonly socket: Socket; readonly unsent: Buffer } | null {
    return this.movable ? { socket: this.#socket, unsent: NOTHING } : null;
  }
}

/** By Node's own means, for any socket. */
export const openNodeStream: StreamOpener = (socket, user) => new NodeStream(socket, user);
