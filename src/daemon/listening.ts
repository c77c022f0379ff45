/**
 * The places where the daemon is reached: its run-time directory, and listeners with the permissions that the settings give them.
 *
 * Invariant: what fails is a DaemonError that names the place.
 */
import { mkdir } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { NbdError } from '../nbd/errors.ts';
import type { NbdAddress, OtherAddress } from '../nbd/listener.ts';
import type { NbdServer } from '../nbd/server.ts';
import type { Settings } from './config.ts';
import { DaemonError, reasonOf, systemReason } from './errors.ts';
import { formatListenUri, type ListenAddress } from './listen-uri.ts';
import type { Logger } from './log.ts';
import type { TlsMode } from './tls/mode.ts';
import { tlsOf } from './tls/settings.ts';
import { type VsockAddress, VsockListener } from './vsock.ts';

/** Waits for a listener; its NbdError becomes a DaemonError. */
export async function listening<T>(listener: Promise<T>): Promise<T> {
  try {
    return await listener;
  } catch (error) {
    if (!(error instanceof NbdError)) throw error;
    const known = systemReason(error.cause);
    const reason = known === null ? error.message : `${error.address}: ${known}`;
    throw new DaemonError({ code: 'LISTEN_FAILED', reason }, { cause: error });
  }
}

/** Listens for virtual machines; `fd` as for `listenAt`. Throws a DaemonError. */
export function listenOverVsock(
  nbd: NbdServer,
  address: VsockAddress,
  settings: Settings,
  { fd, log }: { readonly fd: number | null; readonly log: Logger },
): VsockListener {
  const tls = tlsOf(settings.tls, address);
  const { drainTimeoutMs } = settings.limits;
  const accept = (socket: Socket, from: OtherAddress): void => {
    nbd.accept(socket, from, tls);
    socket.resume();
  };
  const listener = VsockListener.open({ address: { ...address, tls }, fd, accept, drainTimeoutMs, log });
  log.info({ address: formatListenUri(listener.address) }, 'listening');
  return listener;
}

/** Opens a listener; gives where it was bound, and what its clients do about TLS. Throws a DaemonError. */
export async function listenAt(
  nbd: NbdServer,
  address: Exclude<ListenAddress, { kind: 'vsock' }>,
  settings: Settings,
  /** The descriptor on which the process before has listened there. */
  fd: number | null = null,
): Promise<ListenAddress> {
  const { tls: asked, ...place } = address;
  const modeOf = ({ kind }: NbdAddress): TlsMode =>
    tlsOf(settings.tls, { kind, ...(asked === undefined ? {} : { tls: asked }) });
  const bound = await listening(
    nbd.listen({ ...withPermissions(place, settings), ...(fd === null ? {} : { fd }) }, modeOf),
  );
  return { ...bound, tls: modeOf(bound) };
}

/** A unix socket's address with who may connect to it. */
export function withPermissions(address: Exclude<ListenAddress, { kind: 'vsock' }>, settings: Settings): NbdAddress {
  if (address.kind !== 'unix') return address;
  const { socketMode: mode, socketGroup: group } = settings;
  return { ...address, mode, ...(group === null ? {} : { group }) };
}

/** Makes the directory of sockets, if there is to be one. Throws a DaemonError. */
export async function makeRunDir(path: string | null): Promise<void> {
  if (path === null) return;
  try {
    await mkdir(path, { recursive: true, mode: 0o755 });
  } catch (error) {
    throw new DaemonError({ code: 'RUN_DIR', path, reason: reasonOf(error) }, { cause: error });
  }
}
