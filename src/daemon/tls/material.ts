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
import { parsePskFile } from '../client/psk-file.ts';

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
  const keys = parsePskFile(readNeeded(path, problems), (line, problem) => {
    problems.push(`tls: ${path}:${line}: ${problem}`);
  });
  if (Object.keys(keys).length === 0 && problems.length === 0) problems.push(`tls: ${path} holds no key`);
  return keys;
}
