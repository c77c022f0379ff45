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
