/**
 * TLS on a client's connection to an NBD server, by what its URI says (nbd-uri.ts).
 *
 * Invariants
 *  - The server has proven who it is before a byte of the export is asked for: by a certificate of the expected authority with the expected
 *    name, or by the pre-shared key. Without either there is no connection.
 *  - With a key, a certificate proves nothing: a server that shows one instead of knowing the key is refused.
 *  - Keys are in no message.
 */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { isIP } from 'node:net';
import { join } from 'node:path';
import {
  checkServerIdentity,
  connect,
  type ConnectionOptions,
  createSecureContext,
  getCACertificates,
  type PeerCertificate,
  type TLSSocket,
} from 'node:tls';
import { codeOf, reasonOf } from '../errors.ts';
import type { ClientTls } from './nbd-uri.ts';
import { parsePskFile } from './psk-file.ts';

/** TLS 1.3 first, whose keys OpenSSL binds to SHA-256; for TLS 1.2 with forward secrecy. */
const PSK_CIPHERS =
  'TLS_AES_128_GCM_SHA256:ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES256-GCM-SHA384:DHE-PSK-AES128-GCM-SHA256';

/** What a connection needs, read from the files. Throws Error with a whole sentence. */
export function readClientTls(tls: ClientTls): ConnectionOptions {
  // Said here, the checks are not the environment's to switch off (NODE_TLS_REJECT_UNAUTHORIZED).
  const common = { minVersion: 'TLSv1.2' as const, rejectUnauthorized: true, ...nameOf(tls) };
  if (tls.pskFile !== null) return { ...common, ...keyOptions(tls.pskFile, tls.user) };
  const directory = tls.certificates;
  const material = directory === null ? { ca: getCACertificates('system') } : certificateOptions(directory);
  try {
    createSecureContext(material);
  } catch (error) {
    throw new Error(`the files in ${directory} can't be used: ${(error as Error).message}`, { cause: error });
  }
  const { serverName } = tls;
  return {
    ...common,
    ...material,
    checkServerIdentity: (_, certificate) => {
      return serverName === null ? undefined : checkServerIdentity(serverName, certificate);
    },
  };
}

/**
 * Begins TLS on a socket that nobody reads any more. Throws Error with what failed and what can be done about it; the sockets are the
 * caller's to destroy then.
 */
export async function startTls(socket: Socket, options: ConnectionOptions, tls: ClientTls): Promise<TLSSocket> {
  const secured = connect({ ...options, socket });
  try {
    await Promise.race([
      once(secured, 'secureConnect'),
      once(secured, 'close').then(() => Promise.reject(new Error('it closed the connection'))),
    ]);
  } catch (error) {
    throw new Error(explainTls(error as Error, tls), { cause: error });
  }
  return secured;
}

/** Servers with several certificates choose by it; addresses are no names (RFC 6066). */
function nameOf({ serverName }: ClientTls): ConnectionOptions {
  return serverName === null || isIP(serverName) !== 0 ? {} : { servername: serverName };
}

function certificateOptions(directory: string): ConnectionOptions {
  const certificate = readIfThere(join(directory, 'client-cert.pem'));
  const key = readIfThere(join(directory, 'client-key.pem'));
  if ((certificate === null) !== (key === null)) {
    const [there, missing] = certificate === null ? ['key', 'cert'] : ['cert', 'key'];
    throw new Error(`${directory} has client-${there}.pem without client-${missing}.pem`);
  }
  const revoked = readIfThere(join(directory, 'ca-crl.pem'));
  return {
    ca: readNeeded(join(directory, 'ca-cert.pem'), "the authority that signed the server's certificate"),
    ...(certificate === null || key === null ? {} : { cert: certificate, key }),
    ...(revoked === null ? {} : { crl: revoked }),
  };
}

function keyOptions(path: string, user: string | null): ConnectionOptions {
  const { name, key } = chosenKey(path, user);
  return {
    ciphers: PSK_CIPHERS,
    pskCallback: () => ({ psk: key, identity: name }),
    checkServerIdentity: (_: string, certificate: PeerCertificate) =>
      Object.keys(certificate).length === 0 ? undefined : new Error('it shows a certificate and does not know the key'),
  };
}

function chosenKey(path: string, user: string | null): { readonly name: string; readonly key: Buffer } {
  const text = readNeeded(path, 'lines "name:key in hexadecimal"').toString('utf8');
  const problems: string[] = [];
  const keys = parsePskFile(text, (line, problem) => problems.push(`${path}:${line}: ${problem}`));
  if (problems.length > 0) throw new Error(problems.join('; '));
  const names = Object.keys(keys);
  if (user === null && names.length !== 1) {
    const all = names.join(', ');
    throw new Error(`${path} has ${names.length} keys: say whose in the URI, as in nbds://USER@HOST (${all})`);
  }
  const name = user ?? names[0] ?? '';
  const key = keys[name];
  if (key === undefined) throw new Error(`${path} has no key of ${name}, only of ${names.join(', ')}`);
  return { name, key: Buffer.from(key, 'hex') };
}

function readNeeded(path: string, what: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new Error(`cannot read ${path} (${what}): ${reasonOf(error)}`, { cause: error });
  }
}

function readIfThere(path: string): Buffer | null {
  try {
    return readFileSync(path);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null;
    throw new Error(`cannot read ${path}: ${reasonOf(error)}`, { cause: error });
  }
}

/** What TLS fails with, in words of who has to do something about it. */
export function explainTls(error: Error, { certificates, pskFile, serverName }: ClientTls): string {
  const code = codeOf(error) ?? '';
  const authority = certificates === null ? 'an authority that the system knows' : join(certificates, 'ca-cert.pem');
  const failed = `TLS failed: ${shortReason(error)}`;
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    return `${failed}. Reach the server by a name of its certificate, or say tls-hostname=NAME instead of ${serverName}`;
  }
  if (pskFile !== null) return `${failed}. Does the server take pre-shared keys, and this one?`;
  if (/^(UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|CERT_UNTRUSTED|CERT_SIGNATURE)/.test(code)) {
    const out = certificates === null ? ": name the authority's directory by tls-certificates=DIR" : '';
    return `its certificate is not signed by ${authority} (${code})${out}`;
  }
  if (/^(CERT_|CRL_)/.test(code)) return `its certificate does not count: ${error.message}`;
  return certificates === null
    ? failed
    : `${failed}. Does the server use certificates, and take the one in ${certificates}?`;
}

/** OpenSSL's errors in their own words, without where in its sources they are from. */
function shortReason(error: Error): string {
  const reason: unknown = 'reason' in error ? error.reason : undefined;
  return typeof reason === 'string' && error.message.includes(':error:') ? reason : error.message.trim();
}
