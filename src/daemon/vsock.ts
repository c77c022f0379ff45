/**
 * Listeners for virtual machines (AF_VSOCK): clients in guests of this host, or, in a guest, on its host.
 *
 * Node knows no such sockets: it can listen on one that it takes for a pipe, but can't pass its connections to another process. So each
 * is joined with a unix socket pair, whose other end goes the usual way; its bytes pass through this process.
 *
 * Invariants
 *  - A kernel without AF_VSOCK is an error that says so.
 *  - After `close` nobody is accepted; who was, stays.
 */
import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { socketPair, VSOCK_ANY_CID, VSOCK_ANY_PORT, vsockListener, vsockPeer } from '../native/sockets.ts';
import type { OtherAddress } from '../nbd/listener.ts';
import { descriptorOf, handleOf, socketOf } from '../nbd/socket-handle.ts';
import { codeOf, DaemonError, reasonOf } from './errors.ts';
import type { ListenAddress } from './listen-uri.ts';
import type { Logger } from './log.ts';
import { Tunnel } from './tls/tunnel.ts';

export type VsockAddress = Extract<ListenAddress, { kind: 'vsock' }>;

export interface VsockOptions {
  readonly address: VsockAddress;
  /** A descriptor of ours that listens there, from the process that we follow; null: there is none. */
  readonly fd: number | null;
  /** Gets a socket from which nobody has read, paused. */
  readonly accept: (socket: Socket, from: OtherAddress) => void;
  readonly drainTimeoutMs: number;
  readonly log: Logger;
}

/** What Node has under a server. */
interface ServerHandle {
  open(fd: number): number;
  listen(backlog: number): number;
  close(): void;
  onconnection: (status: number, handle: object | undefined) => void;
}
type ServerHandleConstructor = new (type: number) => ServerHandle;

const SERVER_TYPE = 1;
const BACKLOG = 511;

export class VsockListener {
  readonly #options: VsockOptions;
  readonly #handle: ServerHandle;
  readonly #tunnels = new Set<Tunnel>();
  /** As it was bound. */
  readonly address: VsockAddress;
  readonly fd: number;

  private constructor(options: VsockOptions, fd: number, port: number) {
    this.#options = options;
    this.fd = fd;
    this.address = { ...options.address, port };
    this.#handle = new (pipeConstructor())(SERVER_TYPE);
    this.#handle.onconnection = (status, handle): void => this.#accepted(status, handle);
    for (const result of [this.#handle.open(fd), this.#handle.listen(BACKLOG)]) {
      if (result !== 0) throw new Error(`libuv does not listen on a vsock socket: error ${result}`);
    }
  }

  /** Throws a DaemonError. */
  static open(options: VsockOptions): VsockListener {
    const { cid, port } = options.address;
    try {
      if (options.fd !== null) return new VsockListener(options, options.fd, port);
      const bound = vsockListener(cid ?? VSOCK_ANY_CID, port === 0 ? VSOCK_ANY_PORT : port);
      return new VsockListener(options, bound.fd, bound.port);
    } catch (error) {
      const none = codeOf(error) === 'EAFNOSUPPORT';
      const reason = none ? 'this kernel has no AF_VSOCK (modules vsock, vhost_vsock)' : reasonOf(error);
      throw new DaemonError({ code: 'LISTEN_FAILED', reason: `vsock port ${port}: ${reason}` }, { cause: error });
    }
  }

  close(): void {
    this.#handle.close();
  }

  #accepted(status: number, handle: object | undefined): void {
    const { accept, drainTimeoutMs, log } = this.#options;
    if (status !== 0 || handle === undefined) {
      log.warn({ status }, 'a connection over vsock could not be accepted');
      return;
    }
    const client = socketOf(handle);
    const peer = vsockPeer(descriptorOf(client));
    const [ours, theirs] = socketPair();
    const tunnel = new Tunnel(client, new Socket({ fd: theirs, ...HALF_OPEN }), {
      drainTimeoutMs,
      onClosed: () => void this.#tunnels.delete(tunnel),
    });
    this.#tunnels.add(tunnel);
    accept(new Socket({ fd: ours, ...HALF_OPEN, ...PAUSED }), {
      kind: 'vsock',
      cid: peer?.cid ?? 0,
      port: peer?.port ?? 0,
    });
  }
}

const HALF_OPEN = { allowHalfOpen: true, readable: true, writable: true } as const;
/** The option is Node's own; its types don't know it. */
const PAUSED: object = { pauseOnCreate: true };

/** The class of handles that Node has for unix sockets, taken from one: they don't ask what kind of socket they have. */
function pipeConstructor(): ServerHandleConstructor {
  const [one, other] = socketPair();
  closeSync(other);
  const socket = new Socket({ fd: one, ...PAUSED });
  const { constructor } = handleOf(socket) ?? {};
  socket.destroy();
  return constructor as ServerHandleConstructor;
}
