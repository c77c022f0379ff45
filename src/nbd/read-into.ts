/**
 * Sockets that read into memory of ours: without an allocation for each read, which would keep the garbage collector busy,
 * and without a copy.
 *
 * Invariant: Node documents `onread` for sockets that it makes, so the connection's handle moves to a new Socket object; the
 * old one is left as after the hand-over of a socket to another process: closed, without having closed the connection.
 */
import { Socket, type SocketConstructorOpts } from 'node:net';

/** Where a socket's bytes go. */
export interface Receiver {
  /** Memory for the next read; asked for before the first and after each. */
  space(): Buffer;
  /** So many bytes are in the memory that was given last. */
  received(bytes: number): void;
}

/** Takes over the connection of a socket from which nobody reads. Reading begins with the new socket's `resume`. */
export function readInto(socket: Socket, receiver: Receiver): Socket {
  const handle: SocketConstructorOpts['handle'] | null = Reflect.get(socket, '_handle');
  // It has closed meanwhile, and says so itself.
  if (handle === null || handle === undefined || socket.destroyed) return socket;
  Reflect.set(socket, '_handle', null);
  const options: SocketConstructorOpts & { readonly pauseOnCreate: boolean } = {
    handle,
    allowHalfOpen: true,
    pauseOnCreate: true,
    onread: {
      buffer: () => receiver.space(),
      callback: (bytes) => {
        receiver.received(bytes);
        return true;
      },
    },
  };
  const taken = new Socket(options);
  socket.destroy();
  return taken;
}
