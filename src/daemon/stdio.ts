/**
 * The client at our standard input and output (`--stdio`): whoever started us, inetd, ssh, or nbdinfo with `[ command ]`.
 *
 *     one socket for both      served as it is; also where standard input is a socket and standard output is none, as nbd-server has it
 *     pipes, files, terminals  joined with one end of a socket pair, of which the other is served
 *
 * Invariant: once the client was taken, standard input is empty and standard output is standard error, here and in every process that is
 * started, so that nobody writes between the client's bytes.
 */
import { closeSync, createReadStream, createWriteStream, fstatSync, type Stats } from 'node:fs';
import { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { socketPair, takeStandardStreams } from '../native/sockets.ts';
import { DaemonError, reasonOf } from './errors.ts';

export interface StdioClient {
  /** Paused. */
  readonly socket: Socket;
  /** Settles when everything that is for the client is out of our hands. */
  readonly ended: Promise<void>;
}

/** Takes the client. Throws a DaemonError where there is nothing at the standard streams. */
export function takeStdioClient(): StdioClient {
  const { input, output } = takeStreams();
  const [from, to] = [fstatSync(input), fstatSync(output)];
  if (from.isSocket() && (!to.isSocket() || (from.ino === to.ino && from.dev === to.dev))) {
    closeSync(output);
    return { socket: socketOn(input), ended: Promise.resolve() };
  }
  const [ours, theirs] = socketPair();
  return { socket: socketOn(ours), ended: join(readableOn(input, from), socketOn(theirs), writableOn(output, to)) };
}

/** Joins two streams of one direction with a socket; settles when the last byte was taken, or nobody takes any more. */
function join(from: Readable, socket: Socket, to: Writable): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  // A client that has gone: what is for him is for nobody. The end of his bytes is told by 'end' only.
  from.on('error', () => socket.destroy());
  to.on('error', () => socket.destroy());
  socket.on('error', () => from.destroy());
  socket.on('close', () => from.destroy());
  to.on('close', resolve);
  from.pipe(socket);
  socket.pipe(to);
  return promise;
}

function takeStreams(): ReturnType<typeof takeStandardStreams> {
  try {
    return takeStandardStreams();
  } catch (error) {
    throw new DaemonError({ code: 'LISTEN_FAILED', reason: `standard streams: ${reasonOf(error)}` }, { cause: error });
  }
}

/** The option is Node's own; its types don't know it. */
const PAUSED: object = { pauseOnCreate: true };

function socketOn(fd: number): Socket {
  return new Socket({ fd, allowHalfOpen: true, readable: true, writable: true, ...PAUSED });
}

function readableOn(fd: number, stats: Stats): Readable {
  if (!stats.isSocket() && !stats.isFIFO()) return createReadStream('', { fd });
  return new Socket({ fd, readable: true, writable: false });
}

function writableOn(fd: number, stats: Stats): Writable {
  if (!stats.isSocket() && !stats.isFIFO()) return createWriteStream('', { fd });
  return new Socket({ fd, readable: false, writable: true });
}
