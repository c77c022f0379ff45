/** Who is at the other end of an NBD client's socket, as the kernel knows it. */
import type { Socket } from 'node:net';
import { peerCredentials, peerGroups } from '../native/addon.ts';
import type { ClientIdentity } from '../nbd/exports.ts';

/** `kind` is the listener's. */
export function identifyClient(socket: Socket, kind: 'unix' | 'tcp'): ClientIdentity {
  if (kind === 'tcp') {
    const { remoteAddress: address, remotePort: port } = socket;
    return address === undefined || port === undefined ? { kind: 'unknown' } : { kind: 'tcp', address, port };
  }
  // Node keeps the descriptor in the socket's handle.
  const { _handle: handle } = socket as Socket & { readonly _handle?: { readonly fd?: number } | null };
  const fd = handle?.fd ?? -1;
  if (fd < 0) return { kind: 'unknown' };
  const peer = peerCredentials(fd);
  const groups = peerGroups(fd);
  if (typeof peer === 'number' || typeof groups === 'number') return { kind: 'unknown' };
  return { kind: 'unix', ...peer, groups };
}
