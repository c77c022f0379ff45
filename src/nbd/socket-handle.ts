/**
 * What Node has under a socket: needed where a socket is taken from the object that it was born as, to another process or to TLS.
 *
 * Invariants
 *  - After `takeUnread` the system's buffer holds every byte that is not in what it gave: the socket reads no more.
 *  - The options of the connection (no delay, keep-alive) are the system's, and travel with the handle.
 */
import { type BoundSocket, type Server, Socket } from 'node:net';

interface Handle {
  /** Absent, or negative: it has none. */
  readonly fd?: number;
  /** Node's note of whether it reads: who takes a handle over begins only if it says no. */
  reading?: boolean;
  readStop(): number;
  close(): void;
}
interface Handled {
  readonly _handle: Handle | null;
}

/** The handle of a socket; null when it is closed. */
export function handleOf(socket: Socket): object | null {
  const { _handle: handle } = socket as Socket & Handled;
  return handle;
}

/** The descriptor of a socket; -1 when it is closed. */
export function descriptorOf(socket: Socket): number {
  const { _handle: handle } = socket as Socket & Handled;
  return handle?.fd ?? -1;
}

function stopReading(handle: Handle | null): void {
  if (handle === null) return;
  handle.readStop();
  handle.reading = false;
}

/** Stops reading a paused socket that nobody listens to, and gives what was read and nobody took. */
export function takeUnread(socket: Socket): readonly Buffer[] {
  const { _handle: handle } = socket as Socket & Handled;
  stopReading(handle);
  const chunks: Buffer[] = [];
  for (;;) {
    const chunk: unknown = socket.read();
    if (!Buffer.isBuffer(chunk)) break;
    chunks.push(chunk);
  }
  // Taking the last chunk may have begun another read.
  stopReading(handle);
  return chunks;
}

/** The descriptor on which a server listens; null when it does not. */
export function listeningFd(server: Server): number | null {
  const handle: Handle | null | undefined = Reflect.get(server, '_handle');
  return handle?.fd ?? null;
}

/** Takes the handle from a socket that has just been accepted, so that not a byte has been read; null when it is closed. */
export function detachHandle(socket: Socket): object | null {
  const { _handle: handle } = socket as Socket & Handled;
  if (handle === null || socket.destroyed) return null;
  stopReading(handle);
  Reflect.set(socket, '_handle', null);
  socket.destroy();
  return handle;
}

/** Closes a handle that no socket has. */
export function closeHandle(handle: object): void {
  (handle as Handle).close();
}

/** A socket of this process for a handle: half-open tolerant, and paused. */
export function socketOf(handle: object): Socket {
  // The constructor takes any handle that has a stream's methods; its types know one kind of them.
  const socket = new Socket({ handle: handle as BoundSocket, allowHalfOpen: true, readable: true, writable: true });
  socket.pause();
  return socket;
}
