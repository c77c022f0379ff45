/**
 * Where NBD clients connect, as people write it (`unix:/path.sock`, `tcp:host:port`, `vsock:port`, each with `?tls=` behind it), and
 * the NBD URIs of an export there.
 *
 * Invariants
 *  - A parsed address is complete: an absolute path that fits in a socket address, or a host and a port.
 *  - Port 0 means "any free port"; what was bound is told by the server.
 *  - What is formatted is parsed to the same.
 */
import { isAbsolute, join, relative } from 'node:path';
import { TLS_MODES, type TlsMode } from './tls/mode.ts';

export type ListenAddress = (
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  /** Between virtual machines and their host; cid null: whoever reaches this machine. */
  | { readonly kind: 'vsock'; readonly cid: number | null; readonly port: number }
  /** A socket that systemd listens on and handed to us; once it is open it has one of the addresses above. */
  | { readonly kind: 'inherited'; readonly fd: number }
) & {
  /** Absent: [tls] decides. */
  readonly tls?: TlsMode;
};

/** NBD's port (IANA). */
export const NBD_PORT = 10809;
/** sockaddr_un's sun_path has 108 bytes with the closing NUL; a longer path would be cut by the operating system. */
export const MAX_SOCKET_PATH_BYTES = 107;

export const LISTEN_URI_FORM =
  'unix:/path.sock, tcp:host:port (an IPv6 host in brackets: tcp:[::1]:10809), or vsock:port; behind it ?tls=off, allowed or required';

/** The address that `uri` names, or why it names none. A relative socket path is taken in `directory`. */
export function parseListenUri(uri: string, directory: string): ListenAddress | { readonly problem: string } {
  const [, bare = uri, mode] = /^(.*?)(?:\?tls=(.*))?$/s.exec(uri) ?? [];
  const address = parseAddress(bare, directory);
  if ('problem' in address || mode === undefined) return address;
  const tls = TLS_MODES.find((known) => known === mode);
  return tls === undefined ? { problem: `tls=${mode} is none of ${TLS_MODES.join(', ')}` } : { ...address, tls };
}

function parseAddress(uri: string, directory: string): ListenAddress | { readonly problem: string } {
  if (uri.startsWith('unix:')) {
    const path = uri.slice('unix:'.length);
    if (path === '') return { problem: 'the path is missing' };
    return socketPath(path, directory);
  }
  if (uri.startsWith('tcp:')) return parseTcp(uri.slice('tcp:'.length));
  if (uri.startsWith('vsock:')) return parseVsock(uri.slice('vsock:'.length));
  return { problem: 'it starts with none of unix:, tcp: and vsock:' };
}

/** `port` or `cid:port`, 32-bit numbers. */
function parseVsock(text: string): ListenAddress | { readonly problem: string } {
  const match = /^(?:(\d{1,10}):)?(\d{1,10})$/.exec(text);
  const cid = match?.[1] === undefined ? null : Number(match[1]);
  const port = Number(match?.[2] ?? Number.NaN);
  // The highest numbers of 32 bits mean "any".
  if (port < 2 ** 32 - 1 && (cid ?? 0) < 2 ** 32 - 1) return { kind: 'vsock', cid, port };
  return { problem: 'context ID and port are not to be made out' };
}

/** A unix socket's address, made absolute and checked for length. */
export function socketPath(
  path: string,
  directory: string,
): { readonly kind: 'unix'; readonly path: string } | { readonly problem: string } {
  const absolute = isAbsolute(path) ? path : join(directory, path);
  if (absolute.includes('\0')) return { problem: 'the path holds a NUL' };
  const bytes = Buffer.byteLength(absolute);
  if (bytes <= MAX_SOCKET_PATH_BYTES) return { kind: 'unix', path: absolute };
  // A deep checkout is no reason to fail where the same socket has a short name from the working directory.
  const short = relative(process.cwd(), absolute);
  if (short !== '' && Buffer.byteLength(short) <= MAX_SOCKET_PATH_BYTES) return { kind: 'unix', path: short };
  return { problem: `the path has ${bytes} bytes and a socket's path at most ${MAX_SOCKET_PATH_BYTES}` };
}

function parseTcp(text: string): ListenAddress | { readonly problem: string } {
  const match = /^(?:\[(?<bracketed>[0-9A-Fa-f:.%\w]+)\]|(?<plain>[^:[\]\s]+))(?::(?<port>\d+))?$/.exec(text);
  const host = match?.groups?.['bracketed'] ?? match?.groups?.['plain'];
  if (host === undefined) return { problem: 'host and port are not to be made out' };
  const port = Number(match?.groups?.['port'] ?? NBD_PORT);
  if (port > 65535) return { problem: `port ${port} is above 65535` };
  return { kind: 'tcp', host, port };
}

/** The address in the form that `parseListenUri` reads; "fd:N" where nobody knows it. */
export function formatListenUri(address: ListenAddress): string {
  const { tls = 'off' } = address;
  return tls === 'off' ? formatPlain(address) : `${formatPlain(address)}?tls=${tls}`;
}

function formatPlain(address: ListenAddress): string {
  if (address.kind === 'inherited') return `fd:${address.fd}`;
  if (address.kind === 'unix') return `unix:${address.path}`;
  if (address.kind === 'vsock') return `vsock:${address.cid === null ? '' : `${address.cid}:`}${address.port}`;
  return `tcp:${bracketed(address.host)}:${address.port}`;
}

/** The NBD URI of an export at this address (NBD doc/uri.md); without a name, of the server. */
export function nbdUri(address: ListenAddress, exportName?: string): string {
  if (address.kind === 'inherited') return formatListenUri(address);
  const scheme = address.tls === 'required' ? 'nbds' : 'nbd';
  const path = exportName === undefined ? '' : exportName.split('/').map(encodeURIComponent).join('/');
  // The socket's own slashes stay readable: a query may hold them.
  if (address.kind === 'unix') {
    return `${scheme}+unix:///${path}?socket=${encodeURIComponent(address.path).replaceAll('%2F', '/')}`;
  }
  // 1 is the machine itself.
  if (address.kind === 'vsock') return `${scheme}+vsock://${address.cid ?? 1}:${address.port}/${path}`;
  const host = address.host === '0.0.0.0' || address.host === '::' ? 'localhost' : address.host;
  const port = address.port === NBD_PORT ? '' : `:${address.port}`;
  return `${scheme}://${bracketed(host)}${port}/${path}`;
}

function bracketed(host: string): string {
  return host.includes(':') ? `[${host}]` : host;
}
