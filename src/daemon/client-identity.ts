/** Who is at the other end of an NBD client's socket, as the kernel knows it. */
import type { Socket } from 'node:net';
import { peerCredentials, peerGroups } from '../native/addon.ts';
import type { ClientIdentity } from '../nbd/exports.ts';
import type { NbdAddress, OtherAddress } from '../nbd/listener.ts';
import { descriptorOf } from '../nbd/socket-handle.ts';

/** `at` is where it came from. */
export function identifyClient(socket: Socket, at: NbdAddress | OtherAddress): ClientIdentity {
  const { remoteAddress: address, remotePort: port } = socket;
  // One that came on standard input may have any kind of socket.
  if (at.kind === 'tcp' || (at.kind === 'stdio' && address !== undefined)) {
    return address === undefined || port === undefined ? { kind: 'unknown' } : { kind: 'tcp', address, port };
  }
  if (at.kind === 'vsock') return at;
  const fd = descriptorOf(socket);
  if (fd < 0) return { kind: 'unknown' };
  const peer = peerCredentials(fd);
  const groups = peerGroups(fd);
  if (typeof peer === 'number' || typeof groups === 'number') return { kind: 'unknown' };
  return { kind: 'unix', ...peer, groups };
}

/** What tells a client from others, and its connections as one client's; null: nothing does, and each connection is a client of its own. */
export function comparableIdentity(client: ClientIdentity): string | null {
  const { subject = null, pskName = null } = client.tls ?? {};
  return client.kind === 'unknown' && subject === null && pskName === null ? null : identityText(client);
}

/**
 * Who a client is, for people. The connections of one process, or of one address, are one client's; a certificate or a key says more
 * than where it came from.
 */
export function identityText(client: ClientIdentity): string {
  const { subject = null, pskName = null } = client.tls ?? {};
  if (subject !== null) return subject;
  if (pskName !== null) return `the key ${pskName}`;
  if (client.kind === 'unix') return `user ${client.uid}, process ${client.pid}`;
  if (client.kind === 'tcp') return client.address;
  return client.kind === 'vsock' ? `machine ${client.cid}` : 'an unknown client';
}
