/**
 * Listening addresses: unix sockets, TCP, and sockets of either kind that somebody else listened on and handed to us.
 *
 * Invariants
 *  - A socket file is removed only when nobody answers behind it; anything else at the path is left alone.
 *  - A socket file never has more permissions than its mode, not even for a moment. The default lets in the owner only.
 *  - A socket that was handed to us keeps its file and its permissions: they are the business of who made it.
 *  - Accepted sockets are half-open tolerant; TCP ones send without delay and probe dead peers.
 */
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { chmod, chown, lstat, readFile, readlink, unlink } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { NbdError } from './errors.ts';

export type NbdAddress =
  | {
      readonly kind: 'unix';
      readonly path: string;
      readonly mode?: number;
      /** A group's id. */ readonly group?: number;
      /** A descriptor of ours that is bound there, from the process that we follow: the file is ours now. */
      readonly fd?: number;
    }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number; readonly fd?: number }
  /** A file descriptor of ours on which somebody listens already. What it is bound to is told once it is open. */
  | { readonly kind: 'inherited'; readonly fd: number };

/** Where a client came from that no listener of ours accepted: a virtual machine, or whoever started us. */
export type OtherAddress =
  | { readonly kind: 'vsock'; readonly cid: number; readonly port: number }
  | { readonly kind: 'stdio' };

const DEFAULT_MODE = 0o600;
/** Silence after which a TCP client is probed; the system's own default is two hours. */
const KEEP_ALIVE_DELAY_MS = 60_000;
/** Bytes: sun_path without its closing NUL. */
const MAX_PATH_BYTES = 107;

/** As in `--listen`: `unix:/path` or `tcp:host:port`; `fd:N` for one that was handed to us. */
export function formatAddress(address: NbdAddress | OtherAddress): string {
  if (address.kind === 'inherited') return `fd:${address.fd}`;
  if (address.kind === 'stdio') return 'stdio';
  if (address.kind === 'vsock') return `vsock:${address.cid}:${address.port}`;
  if (address.kind === 'unix') return `unix:${address.path}`;
  return `tcp:${address.host.includes(':') ? `[${address.host}]` : address.host}:${address.port}`;
}

/** The system's code of an error, as "ECONNREFUSED". */
function systemCode(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : '';
}

/** Whether somebody listens at a unix socket's path. */
export async function answers(path: string): Promise<boolean> {
  const socket = connect(path);
  try {
    await once(socket, 'connect');
    return true;
  } catch (error) {
    if (['ECONNREFUSED', 'ENOENT'].includes(systemCode(error))) return false;
    // A full backlog, or no permission: somebody is there.
    if (['EAGAIN', 'EACCES', 'EPERM'].includes(systemCode(error))) return true;
    throw error;
  } finally {
    socket.destroy();
  }
}

/** Node calls a missing directory a lack of permission. */
async function findDirectory(address: string, directory: string): Promise<void> {
  try {
    await lstat(directory);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
    throw new NbdError('LISTEN_FAILED', address, `there is no directory ${directory}`);
  }
}

async function removeStale(address: string, path: string): Promise<void> {
  let isSocket: boolean;
  try {
    isSocket = (await lstat(path)).isSocket();
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
    await findDirectory(address, dirname(path));
    return;
  }
  if (!isSocket) throw new NbdError('ADDRESS_IN_USE', address, 'the path exists and is not a socket');
  if (await answers(path)) throw new NbdError('ADDRESS_IN_USE', address, 'another server listens there');
  await unlink(path);
}

async function listenUnix(server: Server, path: string, mode: number, group: number | undefined): Promise<void> {
  const address = `unix:${path}`;
  const bytes = Buffer.byteLength(path);
  if (bytes > MAX_PATH_BYTES) {
    throw new NbdError('LISTEN_FAILED', address, `the path has ${bytes} bytes, a socket's may have ${MAX_PATH_BYTES}`);
  }
  await removeStale(address, path);
  const listening = once(server, 'listening');
  // listen() binds before it returns.
  // A group that is not the socket's own yet must not be let in.
  const umask = process.umask(0o777 & ~(group === undefined ? mode : mode & 0o700));
  try {
    server.listen({ path });
  } finally {
    process.umask(umask);
  }
  await listening;
  if (group !== undefined) await chown(path, -1, group);
  await chmod(path, mode);
}

/** Listens on a socket that was handed to us, and says what it is bound to. */
async function listenInherited(server: Server, fd: number): Promise<NbdAddress> {
  const path = await boundPath(fd);
  const listening = once(server, 'listening');
  server.listen({ fd });
  await listening;
  const bound = server.address();
  if (bound !== null && typeof bound === 'object') return { kind: 'tcp', host: bound.address, port: bound.port };
  return path === null ? { kind: 'inherited', fd } : { kind: 'unix', path };
}

/**
 * The path of a unix socket, from the kernel's table: lines of address, counts, flags, type, state, inode, path. Null: it has
 * none, or the table can't be read.
 */
async function boundPath(fd: number): Promise<string | null> {
  try {
    const inode = /^socket:\[(\d+)\]$/.exec(await readlink(`/proc/self/fd/${fd}`))?.[1];
    const table = await readFile('/proc/self/net/unix', 'utf8');
    const row = table.split('\n').find((line) => line.trim().split(/\s+/)[6] === inode);
    return /^(?:\S+\s+){7}(.+)$/.exec(row?.trim() ?? '')?.[1] ?? null;
  } catch {
    // Without /proc there is only the number to show.
    return null;
  }
}

/**
 * Opens a listener; `accept` gets its sockets, paused by nobody, with the address that they came to, and `failed` the errors of
 * connections that could not be accepted. Throws an NbdError. Returns the address as it was bound.
 */
export async function openListener(
  address: NbdAddress,
  accept: (socket: Socket, at: NbdAddress) => void,
  failed: (error: Error) => void,
): Promise<{ readonly server: Server; readonly address: NbdAddress }> {
  let at = address;
  const server = createServer(
    { allowHalfOpen: true, noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEP_ALIVE_DELAY_MS },
    (socket) => {
      accept(socket, at);
    },
  );
  try {
    at = await listen(server, address);
  } catch (error) {
    server.close();
    if (error instanceof NbdError) throw error;
    const code = systemCode(error) === 'EADDRINUSE' ? 'ADDRESS_IN_USE' : 'LISTEN_FAILED';
    const detail = error instanceof Error ? error.message : String(error);
    throw new NbdError(code, formatAddress(address), detail, error);
  }
  server.on('error', failed);
  return { server, address: at };
}

async function listen(server: Server, address: NbdAddress): Promise<NbdAddress> {
  if (address.kind === 'inherited') return listenInherited(server, address.fd);
  if (address.fd !== undefined) return listenOn(server, address, address.fd);
  if (address.kind === 'unix') {
    await listenUnix(server, address.path, address.mode ?? DEFAULT_MODE, address.group);
    return address;
  }
  server.listen({ host: address.host, port: address.port });
  await once(server, 'listening');
  const bound = server.address();
  const port = bound === null || typeof bound === 'string' ? address.port : bound.port;
  return { kind: 'tcp', host: address.host, port };
}

/** Goes on listening where the process that we follow did. */
async function listenOn(server: Server, address: NbdAddress, fd: number): Promise<NbdAddress> {
  const listening = once(server, 'listening');
  server.listen({ fd });
  await listening;
  const bound = server.address();
  if (address.kind === 'tcp') {
    const port = bound === null || typeof bound === 'string' ? address.port : bound.port;
    return { kind: 'tcp', host: address.host, port };
  }
  // Node removes only files that it made itself.
  if (address.kind === 'unix') server.once('close', () => rmSync(address.path, { force: true }));
  return address;
}
