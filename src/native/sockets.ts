/**
 * Sockets that Node cannot make (native/sockets.c): pairs, listeners for virtual machines, and the standard streams as the
 * descriptors of a connection.
 *
 * Invariants
 *  - Descriptors are given to one taker, who closes them.
 *  - The system's failures are thrown as Errors with its code, as Node's own.
 */
import { getSystemErrorName } from 'node:util';
import { socketBinding } from './addon.ts';

function failed(what: string, errno: number): Error {
  const code = getSystemErrorName(-errno);
  return Object.assign(new Error(`${what}: ${code}`), { code, errno: -errno, syscall: what });
}

/** The descriptors of two connected unix sockets. */
export function socketPair(): readonly [number, number] {
  const pair = socketBinding().socketPair();
  if (typeof pair === 'number') throw failed('socketpair', pair);
  return pair;
}

/** What was standard input and output; from now on they are /dev/null and standard error. */
export function takeStandardStreams(): { readonly input: number; readonly output: number } {
  const streams = socketBinding().takeStandardStreams();
  if (typeof streams === 'number') throw failed('dup', streams);
  return { input: streams[0], output: streams[1] };
}

/** Any context ID: whoever reaches this machine over vsock. */
export const VSOCK_ANY_CID: number = 2 ** 32 - 1;
/** Any free port. */
export const VSOCK_ANY_PORT: number = 2 ** 32 - 1;

/** A vsock socket that listens, and its port. Throws, with code EAFNOSUPPORT, where the kernel has no AF_VSOCK. */
export function vsockListener(cid: number, port: number): { readonly fd: number; readonly port: number } {
  const listener = socketBinding().vsockListener(cid, port);
  if (typeof listener === 'number') throw failed('listen', listener);
  return listener;
}

/** Who is at the other end of a vsock connection; null: it has gone, or it is none. */
export function vsockPeer(fd: number): { readonly cid: number; readonly port: number } | null {
  const peer = socketBinding().vsockPeer(fd);
  return typeof peer === 'number' ? null : peer;
}
