/**
 * NBD URIs (NBD doc/uri.md) as commands take them: where an export is, and how its server is to be spoken to.
 *
 *     nbd[s]://[USER@]HOST[:PORT]/EXPORT          nbd[s]+unix://[USER@]/EXPORT?socket=PATH
 *     with TLS (nbds): tls-certificates=DIR, tls-psk-file=FILE, tls-hostname=NAME
 *
 * Invariants
 *  - What is not understood is refused: a misspelt parameter never means less safety than was asked for.
 *  - Paths are absolute in what is given back.
 */
import { resolve } from 'node:path';
import { formatListenUri, type ListenAddress, NBD_PORT, socketPath } from '../listen-uri.ts';

/** What a client shows to a server, and expects of it. */
export interface ClientTls {
  /** Directory of ca-cert.pem, client-cert.pem and client-key.pem. */
  readonly certificates: string | null;
  /** Lines "name:key in hexadecimal". */
  readonly pskFile: string | null;
  /** Whose key of the file. */
  readonly user: string | null;
  /** The server's name in its certificate; null: whatever name the authority signed (a unix socket has none). */
  readonly serverName: string | null;
}

export interface NbdPlace {
  /** As in --listen. */
  readonly server: string;
  readonly exportName: string;
  /** Null: in plain text. */
  readonly tls: ClientTls | null;
}

const SCHEME = /^nbds?(?:\+[a-z]+)?:\/\//i;
const FORM = 'nbd://HOST[:PORT]/VG/LV, or nbd+unix:///VG/LV?socket=PATH; nbds:// and nbds+unix:// over TLS';
const TLS_PARAMETERS = ['tls-certificates', 'tls-psk-file', 'tls-hostname'];

/** Whether somebody means an NBD URI, right or wrong. */
export function isNbdUri(text: string): boolean {
  return SCHEME.test(text);
}

/** The place that a URI names, or why it names none. Relative paths are taken in `directory`. */
export function parseNbdUri(text: string, directory: string): NbdPlace | Problem {
  const parts = partsOf(text);
  if (parts === null) return { problem: `it is not of the form ${FORM}` };
  const { scheme, transport, secure, user, hash } = parts;
  if (transport !== '' && transport !== 'unix')
    return { problem: `${scheme} can't be reached from here, only ${FORM}` };
  const parameters = parametersOf(parts);
  if ('problem' in parameters) return parameters;
  if (hash) return { problem: 'a "#" in a name is written as %23' };
  const address = transport === 'unix' ? unixAddress(parts, parameters, directory) : tcpAddress(parts);
  if ('problem' in address) return address;
  const place = { server: formatListenUri(address), exportName: parts.exportName };
  if (!secure) {
    return user === '' ? { ...place, tls: null } : { problem: 'a user has a meaning with nbds and tls-psk-file only' };
  }
  const tls = tlsOf(parameters, user, address, directory);
  return 'problem' in tls ? tls : { ...place, tls };
}

type Problem = { readonly problem: string };

/** A URI cut into pieces (RFC 3986), which URL does not do with a user before an empty host. */
interface Parts {
  readonly scheme: string;
  readonly secure: boolean;
  /** "": TCP. */
  readonly transport: string;
  readonly user: string;
  readonly host: string;
  readonly port: string;
  readonly exportName: string;
  readonly query: string;
  readonly hash: boolean;
}

const PARTS =
  /^(?<scheme>nbd(?<secure>s?)(?:\+(?<transport>[a-z]+))?):\/\/(?:(?<user>[^@/?#]*)@)?(?<host>\[[^\]]*\]|[^:/?#]*)(?::(?<port>\d*))?(?:\/(?<name>[^?#]*))?(?:\?(?<query>[^#]*))?(?<hash>#.*)?$/is;

function partsOf(text: string): Parts | null {
  const groups = PARTS.exec(text)?.groups;
  if (groups === undefined) return null;
  const piece = (name: string): string => groups[name] ?? '';
  try {
    return {
      scheme: piece('scheme').toLowerCase(),
      secure: piece('secure') !== '',
      transport: piece('transport').toLowerCase(),
      user: decodeURIComponent(piece('user')),
      host: decodeURIComponent(piece('host').replace(/^\[(.*)\]$/, '$1')),
      port: piece('port'),
      exportName: decodeURIComponent(piece('name')),
      query: piece('query'),
      hash: piece('hash') !== '',
    };
  } catch {
    return null;
  }
}

type Parameters = ReadonlyMap<string, string>;

function parametersOf({ secure, transport, query }: Parts): Parameters | Problem {
  const known = [...(transport === 'unix' ? ['socket'] : []), ...(secure ? TLS_PARAMETERS : [])];
  const found = new Map<string, string>();
  // A "+" in a path is one: query strings of NBD are no forms.
  for (const [name, value] of new URLSearchParams(query.replaceAll('+', '%2B'))) {
    if (!known.includes(name)) return { problem: unknownParameter(name, known) };
    if (found.has(name)) return { problem: `${name} is given twice` };
    if (value === '') return { problem: `${name} has no value` };
    found.set(name, value);
  }
  return found;
}

function unknownParameter(name: string, known: readonly string[]): string {
  if (TLS_PARAMETERS.includes(name)) return `${name} has a meaning with nbds and nbds+unix only`;
  const allowed = known.length === 0 ? 'nbd has none' : `known are ${known.join(', ')}`;
  return `the parameter "${name}" is unknown: ${allowed}`;
}

type Reached = Extract<ListenAddress, { readonly kind: 'unix' | 'tcp' }>;

function unixAddress({ host, port }: Parts, parameters: Parameters, directory: string): Reached | Problem {
  const path = parameters.get('socket');
  if (host !== '' || port !== '') {
    return { problem: 'a unix socket has no host: three slashes, as in nbd+unix:///VG/LV?socket=PATH' };
  }
  return path === undefined ? { problem: 'the socket is missing: ?socket=PATH' } : socketPath(path, directory);
}

function tcpAddress({ host, port }: Parts): Reached | Problem {
  if (host === '') return { problem: 'the host is missing: nbd://HOST/VG/LV, or nbd+unix:///VG/LV?socket=PATH' };
  const number = port === '' ? NBD_PORT : Number(port);
  return number > 65_535 ? { problem: `port ${port} is above 65535` } : { kind: 'tcp', host, port: number };
}

function tlsOf(parameters: Parameters, user: string, address: Reached, directory: string): ClientTls | Problem {
  const path = (name: string): string | null => {
    const value = parameters.get(name);
    return value === undefined ? null : resolve(directory, value);
  };
  const certificates = path('tls-certificates');
  const pskFile = path('tls-psk-file');
  if (certificates !== null && pskFile !== null) {
    return { problem: 'tls-certificates and tls-psk-file exclude each other' };
  }
  if (pskFile !== null && parameters.has('tls-hostname')) {
    return { problem: 'tls-hostname has a meaning with certificates only' };
  }
  const host = address.kind === 'tcp' ? address.host : null;
  const serverName = parameters.get('tls-hostname') ?? host;
  return { certificates, pskFile, user: user === '' ? null : user, serverName };
}
