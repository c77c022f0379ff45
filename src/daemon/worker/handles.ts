/**
 * A socket's way from one process to another. Node passes sockets over a channel, but keeps books about those that came from a
 * listener; so it is the bare handle that travels, and each side knows its own socket only.
 *
 * Invariant: after `withBytesOf` the system's buffer holds every byte that is not in what it gave: the socket reads no more.
 */
import type { Socket } from 'node:net';
import { takeUnread } from '../../nbd/socket-handle.ts';
import type { AdoptRequest } from './host.ts';

/** Stops reading a paused socket that nobody listens to; gives the request with what was read behind its option. */
export function withBytesOf(socket: Socket, request: AdoptRequest): AdoptRequest {
  const more = takeUnread(socket);
  if (more.length === 0) return request;
  const { negotiated } = request;
  return { ...request, negotiated: { ...negotiated, leftover: Buffer.concat([negotiated.leftover, ...more]) } };
}

/** An end of a channel; its own types don't know bare handles. */
interface HandleSender {
  readonly connected: boolean;
  send(message: unknown, handle: object, options: object, sent: (error: Error | null) => void): boolean;
}

/**
 * Sends a message with a socket's handle; settles when it has left, and the handle can be closed here. Rejects if the channel fails.
 */
export async function sendHandle(channel: object, message: unknown, handle: object): Promise<void> {
  const sender = channel as HandleSender;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  if (!sender.connected) throw new Error('the channel is closed');
  sender.send(message, handle, {}, (error) => {
    if (error === null || error === undefined) resolve();
    else reject(error);
  });
  await promise;
}
