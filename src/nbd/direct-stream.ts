/**
 * Plain sockets (unix, TCP, vsock) without Node's streams: received from and sent to by one call each (native/stream.c), into and from
 * memory of ours. That leaves out a third of what a turn with few requests costs; docs/data-path.md has the figures.
 *
 * Invariants
 *  - What is taken over is a duplicate of the socket's descriptor; Node's socket is closed, which does not close the connection.
 *  - All sockets that are ready in one event-loop turn are looked at in one callback; none reads more than MAX_READS times in it.
 *  - A pause costs nothing if it is over before more bytes have come.
 *  - A piece is in nobody's hands but ours until its last byte was taken: nothing refers to it after that, or after the close.
 */
import { closeSync } from 'node:fs';
import { type BoundSocket, Socket, type SocketConstructorOpts } from 'node:net';
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';
import { turnClock } from '../dm/turn-clock.ts';
import { type ByteStream, openNodeStream, type StreamOpener, type StreamUser } from './byte-stream.ts';

const { EAGAIN } = constants.errno;
const READABLE = 1;
const WRITABLE = 2;
/** The socket has an error, and is not watched any more. */
const LOST = 4;
/** Of one socket in one turn, so that a fast client does not keep the others waiting. */
const MAX_READS = 4;
/** Pieces that were sent before the queue forgets them. */
const COMPACT_PIECES = 64;

/** The addon's calls; native/stream.c says what each does. Results below 0 are minus an errno. */
export interface StreamCalls {
  streamsOpen(callback: () => void): ArrayBuffer;
  streamAdd(fd: number): number;
  streamWatch(stream: number, what: number): number;
  streamReceive(stream: number, buffer: Buffer, at: number, length: number): number;
  streamSend(stream: number, buffer: Buffer, at: number, length: number, more: boolean): number;
  streamShutdown(stream: number): number;
  streamClose(stream: number): void;
  streamRelease(stream: number): number;
}

/** What Node has under a plain socket. */
interface PlainHandle {
  readonly fd: number;
  /** 0, or minus an errno. */
  open(fd: number): number | undefined;
  close(): void;
}
/** Of handles: a connected socket, not a listener. */
const SOCKET_KIND = 0;

function tellClosed(user: StreamUser): void {
  user.closed();
}

class DirectStream implements ByteStream {
  readonly #calls: StreamCalls;
  readonly #number: number;
  readonly #handleClass: Function;
  readonly #user: StreamUser;
  readonly #onLeft: () => void;
  /** What is to be sent, from #head on: of that piece, from #at on. */
  readonly #pieces: Buffer[] = [];
  /** By piece: who wants to know that it has been sent. */
  readonly #told: ((() => void) | null)[] = [];
  #head = 0;
  #at = 0;
  #watched = 0;
  #reading = false;
  #blocked = false;
  #ending = false;
  #shutDown = false;
  #clientEnded = false;
  #left = false;

  constructor(calls: StreamCalls, number: number, handleClass: Function, user: StreamUser, onLeft: () => void) {
    this.#calls = calls;
    this.#number = number;
    this.#handleClass = handleClass;
    this.#user = user;
    this.#onLeft = onLeft;
  }

  send(pieces: readonly Buffer[], onSent: (() => void) | null): void {
    if (this.#left) return;
    const last = pieces.length - 1;
    for (let i = 0; i <= last; i++) {
      const piece = pieces[i]!;
      if (!this.#blocked) {
        const count = this.#sendSome(piece, 0, i < last);
        if (count === piece.length) continue;
        if (count < 0) return;
        this.#at = count;
        this.#wait();
      }
      this.#pieces.push(piece);
      this.#told.push(i === last ? onSent : null);
    }
    if (!this.#blocked) onSent?.();
  }

  pause(): void {
    this.#reading = false;
  }

  resume(): void {
    if (this.#reading) return;
    this.#reading = true;
    this.#watch();
  }

  end(): void {
    this.#ending = true;
    if (this.#pieces.length === 0) this.#finish();
  }

  destroy(): void {
    if (this.#left) return;
    this.#calls.streamClose(this.#number);
    this.#leave();
    process.nextTick(tellClosed, this.#user);
  }

  get movable(): boolean {
    return !this.#left && !this.#ending;
  }

  release(): { readonly socket: Socket; readonly unsent: Buffer } | null {
    if (!this.movable) return null;
    const unsent = this.#unsent();
    const handle: PlainHandle & BoundSocket = Reflect.construct(this.#handleClass, [SOCKET_KIND]);
    const fd = this.#calls.streamRelease(this.#number);
    this.#leave();
    const failure = handle.open(fd) ?? 0;
    if (failure !== 0) {
      handle.close();
      closeSync(fd);
      this.#user.failed(getSystemErrorName(failure));
      process.nextTick(tellClosed, this.#user);
      return null;
    }
    const options: SocketConstructorOpts & { readonly pauseOnCreate: boolean } = {
      handle,
      allowHalfOpen: true,
      pauseOnCreate: true,
    };
    const socket = new Socket(options);
    socket.on('error', (error) => this.#user.failed(error.message));
    socket.once('close', () => this.#user.closed());
    return { socket, unsent };
  }

  /** A copy of what the system has not taken. */
  #unsent(): Buffer {
    const pieces = this.#pieces.slice(this.#head);
    const bytes = Buffer.alloc(pieces.reduce((sum, { length }) => sum + length, -this.#at));
    let end = 0;
    for (const [i, piece] of pieces.entries()) end += piece.copy(bytes, end, i === 0 ? this.#at : 0);
    return bytes;
  }

  /** Has nothing more to do with the connection. */
  #leave(): void {
    this.#left = true;
    this.#onLeft();
  }

  /** What the socket was watched for has come. */
  ready(what: number): void {
    if ((what & LOST) !== 0) this.#watched = 0;
    if ((what & WRITABLE) !== 0 && this.#blocked) this.#flush();
    if ((what & READABLE) !== 0 && this.#reading) this.#receive();
    // What had been read of later is for then.
    this.#watch();
  }

  #watch(): void {
    const what = (this.#reading && !this.#clientEnded ? READABLE : 0) | (this.#blocked ? WRITABLE : 0);
    if (what === this.#watched || this.#left) return;
    this.#watched = what;
    const errno = this.#calls.streamWatch(this.#number, what);
    if (errno !== 0) this.#fail(-errno);
  }

  #receive(): void {
    for (let reads = 0; reads < MAX_READS && this.#reading && !this.#clientEnded && !this.#left; reads++) {
      const space = this.#user.space();
      const count = this.#calls.streamReceive(this.#number, space, 0, space.length);
      if (count > 0) {
        this.#user.received(count);
        if (count < space.length) return;
      } else if (count === 0) {
        this.#clientEnded = true;
        this.#user.ended();
        this.#closeIfBothEnded();
      } else {
        if (count !== -EAGAIN) this.#fail(count);
        return;
      }
    }
  }

  #flush(): void {
    const pieces = this.#pieces;
    while (this.#head < pieces.length) {
      const piece = pieces[this.#head]!;
      const count = this.#sendSome(piece, this.#at, this.#head + 1 < pieces.length);
      if (count < 0) return;
      this.#at += count;
      if (this.#at < piece.length) {
        this.#wait();
        return;
      }
      this.#at = 0;
      this.#told[this.#head++]?.();
      // Who was told may have closed it.
      if (this.#left) return;
    }
    this.#blocked = false;
    this.#forgetSent();
    if (this.#ending) this.#finish();
  }

  /** How many bytes from `at` on were taken; negative: it has failed. */
  #sendSome(piece: Buffer, at: number, more: boolean): number {
    const count = this.#calls.streamSend(this.#number, piece, at, piece.length - at, more);
    if (count >= 0) return count;
    if (count === -EAGAIN) return 0;
    this.#fail(count);
    return count;
  }

  /** For the client to take what was sent. */
  #wait(): void {
    this.#blocked = true;
    if (this.#head >= COMPACT_PIECES) this.#forgetSent();
    this.#watch();
  }

  #forgetSent(): void {
    if (this.#head === this.#pieces.length) {
      this.#pieces.length = 0;
      this.#told.length = 0;
    } else {
      this.#pieces.splice(0, this.#head);
      this.#told.splice(0, this.#head);
    }
    this.#head = 0;
  }

  #finish(): void {
    if (this.#shutDown || this.#left) return;
    this.#shutDown = true;
    const errno = this.#calls.streamShutdown(this.#number);
    if (errno !== 0) this.#fail(-errno);
    else this.#closeIfBothEnded();
  }

  #closeIfBothEnded(): void {
    if (this.#shutDown && this.#clientEnded) this.destroy();
  }

  #fail(negative: number): void {
    if (this.#left) return;
    this.#user.failed(getSystemErrorName(negative));
    this.destroy();
  }
}

/** What Node has under the socket; null if that is no plain one (TLS), or has closed. */
function plainHandleOf(socket: Socket): PlainHandle | null {
  const handle: PlainHandle | null | undefined = Reflect.get(socket, '_handle');
  if (handle === null || handle === undefined || socket.destroyed) return null;
  const kind = handle.constructor.name;
  return (kind === 'Pipe' || kind === 'TCP') && handle.fd >= 0 ? handle : null;
}

/** The direct streams of this thread, of which there is one set. Whatever is no plain socket gets a stream of Node's. */
export function directStreams(calls: StreamCalls): StreamOpener {
  const streams: (DirectStream | undefined)[] = [];
  const ready = new Uint32Array(
    calls.streamsOpen(() => {
      turnClock.beginBatch();
      const count = ready[0]!;
      for (let i = 1; i <= count; i++) {
        // Read anew each time: a close takes back what was said of the closed one.
        const entry = ready[i]!;
        if ((entry & 7) !== 0) streams[entry >>> 3]?.ready(entry & 7);
      }
      turnClock.endBatch();
    }),
  );
  return (socket, user) => {
    const handle = plainHandleOf(socket);
    const number = handle === null ? -1 : calls.streamAdd(handle.fd);
    if (handle === null || number < 0) return openNodeStream(socket, user);
    const stream = new DirectStream(calls, number, handle.constructor, user, () => {
      streams[number] = undefined;
    });
    streams[number] = stream;
    socket.destroy();
    return stream;
  };
}
