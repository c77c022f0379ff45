/**
 * What TLS is done with: certificates, keys and pre-shared keys as the files of [tls] hold them.
 *
 *     DIR/server-cert.pem, server-key.pem   the server's own; the certificate first, then those that lead to its CA
 *     DIR/ca-cert.pem                       who signs clients' certificates; needed where these are verified
 *     DIR/ca-crl.pem                        certificates that were revoked; may be missing
 *     psk file                              lines "name:key in hexadecimal", as psktool writes them
 *
 * Invariants
 *  - Material is plain data, so that it can go to the processes that do TLS, and complete: what is wrong with it was said when it was read.
 *  - Keys are in no message, log or status.
 */
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { createSecureContext } from 'node:tls';
import { codeOf, reasonOf } from '../errors.ts';

export interface TlsMaterial {
  /** PEM; null: clients can only use pre-shared keys. */
  readonly certificate: { readonly chain: string; readonly key: string } | null;
  /** PEM of the authorities that sign clients' certificates; null: clients are not asked for any. */
  readonly clientAuthorities: string | null;
  readonly revoked: string | null;
  /** Keys in hexadecimal, by name. */
  readonly preSharedKeys: Readonly<Record<string, string>>;
}

/** Where the files are. */
export interface TlsFiles {
  readonly certificates: string | null;
  readonly pskFile: string | null;
  readonly verifyClients: boolean;
}

/** Shorter keys can be guessed. */
const MIN_KEY_BYTES = 16;
/** OpenSSL takes no longer ones. */
const MAX_KEY_BYTES = 64;
const MAX_NAME_BYTES = 128;

/** Reads the files; adds what is wrong with them to `problems`, each a sentence. Null: no files were named, or something is wrong. */
export function readTlsMaterial(files: TlsFiles, problems: string[]): TlsMaterial | null {
  const { certificates, pskFile, verifyClients } = files;
  const before = problems.length;
  if (certificates === null && pskFile === null) {
    if (verifyClients) problems.push('tls.verify_clients: needs tls.certificates, with ca-cert.pem');
    return null;
  }
  if (certificates === null && verifyClients) problems.push('tls.verify_clients: needs tls.certificates');
  const pem = (name: string): string => readNeeded(join(certificates ?? '', name), problems);
  const material: TlsMaterial = {
    certificate: certificates === null ? null : { chain: pem('server-cert.pem'), key: readKey(certificates, problems) },
    clientAuthorities: certificates === null || !verifyClients ? null : pem('ca-cert.pem'),
    revoked: certificates === null || !verifyClients ? null : readIfThere(join(certificates, 'ca-crl.pem'), problems),
    preSharedKeys: pskFile === null ? {} : readPskFile(pskFile, problems),
  };
  if (problems.length > before) return null;
  try {
    createSecureContext(contextOptions(material));
  } catch (error) {
    const where = certificates ?? pskFile;
    problems.push(
      `tls: the files in ${where} can't be used: ${error instanceof Error ? error.message : String(error)}`,
    );
    return null;
  }
  return material;
}

/** The part of the material that Node's secure contexts are made of. */
export function contextOptions({ certificate, clientAuthorities, revoked }: TlsMaterial): {
  readonly cert?: string;
  readonly key?: string;
  readonly ca?: string;
  readonly crl?: string;
} {
  return {
    ...(certificate === null ? {} : { cert: certificate.chain, key: certificate.key }),
    // Without any the system's authorities would do, which sign for everybody.
    ...(clientAuthorities === null ? {} : { ca: clientAuthorities }),
    ...(revoked === null ? {} : { crl: revoked }),
  };
}

function readKey(directory: string, problems: string[]): string {
  const path = join(directory, 'server-key.pem');
  refuseOpenFile(path, problems);
  return readNeeded(path, problems);
}

function readNeeded(path: string, problems: string[]): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    problems.push(`tls: cannot read ${path}: ${reasonOf(error)}`);
    return '';
  }
}

function readIfThere(path: string, problems: string[]): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null;
    problems.push(`tls: cannot read ${path}: ${reasonOf(error)}`);
    return null;
  }
}

/** A secret that everybody can read is none. */
function refuseOpenFile(path: string, problems: string[]): void {
  const mode = statSync(path, { throwIfNoEntry: false })?.mode ?? 0;
  if ((mode & 0o007) === 0) return;
  problems.push(
    `tls: everybody may read or write ${path} (mode ${(mode & 0o777).toString(8)}): it holds a secret, chmod it to 0600`,
  );
}

function readPskFile(path: string, problems: string[]): Record<string, string> {
  refuseOpenFile(path, problems);
  const keys: Record<string, string> = Object.create(null);
  for (const [index, line] of readNeeded(path, problems).split('\n').entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue;
    const colon = line.lastIndexOf(':');
    const name = line.slice(0, colon);
    const key = line.slice(colon + 1).trim();
    const problem = colon < 1 ? 'no "name:key"' : problemOf(name, key, keys);
    if (problem === null) keys[name] = key.toLowerCase();
    else problems.push(`tls: ${path}:${index + 1}: ${problem}`);
  }
  if (Object.keys(keys).length === 0 && problems.length === 0) problems.push(`tls: ${path} holds no key`);
  return { ...keys };
}

function problemOf(name: string, key: string, known: Readonly<Record<string, string>>): string | null {
  if (Buffer.byteLength(name) > MAX_NAME_BYTES) return `a name of more than ${MAX_NAME_BYTES} bytes`;
  if (known[name] !== undefined) return `a second key for ${name}`;
  if (!/^([0-9A-Fa-f]{2})+$/.test(key)) return `the key of ${name} is not in hexadecimal`;
  const bytes = key.length / 2;
  if (bytes >= MIN_KEY_BYTES && bytes <= MAX_KEY_BYTES) return null;
  return `the key of ${name} has ${bytes} bytes, ${MIN_KEY_BYTES} to ${MAX_KEY_BYTES} are possible`;
}
