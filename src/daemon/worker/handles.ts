/**
 * A socket's way from one process to another. Node passes sockets over a channel, but keeps books about those that came from a
 * listener; so it is the bare handle that travels, and each side knows its own socket only.
 *
 * Invariants
 *  - After `withBytesOf` the system's buffer holds every byte that is not in what it gave: the socket reads no more.
 *  - The options of the connection (no delay, keep-alive) are the system's, and travel with it.
 */
import { type BoundSocket, Socket } from 'node:net';
import type { AdoptRequest } from './host.ts';

/** What Node has under a socket. */
interface Handle {
  readStop(): number;
}
interface Handled {
  readonly _handle: Handle | null;
}

/** The handle of a socket; null when it is closed. */
export function handleOf(socket: Socket): object | null {
  const { _handle: handle } = socket as Socket & Handled;
  return handle;
}

/** Stops reading a paused socket that nobody listens to; gives the request with what was read behind its option. */
export function withBytesOf(socket: Socket, request: AdoptRequest): AdoptRequest {
  const more = takeBytes(socket);
  if (more.length === 0) return request;
  const { negotiated } = request;
  return { ...request, negotiated: { ...negotiated, leftover: Buffer.concat([negotiated.leftover, more]) } };
}

function takeBytes(socket: Socket): Buffer {
  const { _handle: handle } = socket as Socket & Handled;
  handle?.readStop();
  const chunks: Buffer[] = [];
  for (;;) {
    const chunk: unknown = socket.read();
    if (!Buffer.isBuffer(chunk)) break;
    chunks.push(chunk);
  }
  // Taking the last chunk may have begun another read.
  handle?.readStop();
  return Buffer.concat(chunks);
}

/** A socket of this process for a handle that came over the channel: half-open tolerant, and paused. */
export function socketOf(handle: object): Socket {
  // The constructor takes any handle that has a stream's methods; its types know one kind of them.
  const socket = new Socket({ handle: handle as BoundSocket, allowHalfOpen: true, readable: true, writable: true });
  socket.pause();
  return socket;
}
