/**
 * Who is at the other end of a control connection, as the kernel knew it when the connection was made.
 *
 * Invariants
 *  - A peer whose identity can't be learnt is nobody: it is refused, never taken for somebody.
 *  - Supplementary groups are read from the peer's process while the connection is young; a process that is gone has none.
 */
import { readFile } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { peerCredentials } from '../../native/addon.ts';

export interface Peer {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
}

/** Null: the kernel does not tell. */
export async function peerOf(socket: Socket): Promise<Peer | null> {
  const fd = fdOf(socket);
  const credentials = fd === null ? null : peerCredentials(fd);
  if (credentials === null || typeof credentials === 'number') return null;
  return { ...credentials, groups: await groupsOf(credentials.pid, credentials.uid) };
}

/** Node keeps the descriptor in the socket's handle. */
function fdOf(socket: Socket): number | null {
  const { _handle: handle } = socket as Socket & { readonly _handle?: { readonly fd?: number } | null };
  return handle?.fd ?? null;
}

async function groupsOf(pid: number, uid: number): Promise<readonly number[]> {
  let status: string;
  try {
    status = await readFile(`/proc/${pid}/status`, 'utf8');
  } catch {
    // The peer has ended, or another PID namespace hides it: its user and its group count alone.
    return [];
  }
  // Another process may have got the pid meanwhile: then it is not asked.
  const effective = /^Uid:\s+\d+\s+(\d+)/m.exec(status)?.[1];
  if (Number(effective) !== uid) return [];
  const groups = /^Groups:[ \t]*(.*)$/m.exec(status)?.[1]?.trim() ?? '';
  return groups === '' ? [] : groups.split(/\s+/).map(Number);
}
