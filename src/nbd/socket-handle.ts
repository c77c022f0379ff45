/**
 * What Node has under a socket: needed where a socket is taken from the object that it was born as, to another process or to TLS.
 *
 * Invariant: after `takeUnread` the system's buffer holds every byte that is not in what it gave: the socket reads no more.
 */
import type { Socket } from 'node:net';

interface Handle {
  /** Absent, or negative: it has none. */
  readonly fd?: number;
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

/** The descriptor of a socket; -1 when it is closed. */
export function descriptorOf(socket: Socket): number {
  const { _handle: handle } = socket as Socket & Handled;
  return handle?.fd ?? -1;
}

/** Stops reading a paused socket that nobody listens to, and gives what was read and nobody took. */
export function takeUnread(socket: Socket): readonly Buffer[] {
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
  return chunks;
}
