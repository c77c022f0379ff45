/**
 * Who is at the other end of a control connection, as the kernel knew it when the connection was made.
 *
 * Invariants
 *  - A peer whose identity can't be learnt is nobody: it is refused, never taken for somebody.
 *  - Supplementary groups are those that the peer had when it connected (SO_PEERGROUPS), not what its process has now.
 */
import type { Socket } from 'node:net';
import { peerCredentials, peerGroups } from '../../native/addon.ts';

export interface Peer {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
}

/** Null: the kernel does not tell. */
export function peerOf(socket: Socket): Peer | null {
  const fd = fdOf(socket);
  const credentials = fd === null ? null : peerCredentials(fd);
  const groups = fd === null ? null : peerGroups(fd);
  if (credentials === null || typeof credentials === 'number') return null;
  if (groups === null || typeof groups === 'number') return null;
  return { ...credentials, groups };
}

/** Node keeps the descriptor in the socket's handle. */
function fdOf(socket: Socket): number | null {
  const { _handle: handle } = socket as Socket & { readonly _handle?: { readonly fd?: number } | null };
  return handle?.fd ?? null;
}
