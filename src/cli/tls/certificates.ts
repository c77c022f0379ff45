/**
 * Certificates for TLS between our daemon and its clients: an authority of its own, and what it signs.
 *
 * Invariants
 *  - Keys come from the system's generator (node:crypto); node-forge only writes and signs certificates.
 *  - Serial numbers are 127 random bits, never negative (RFC 5280, 4.1.2.2).
 *  - A server's certificate is for servers, with its names and addresses in subjectAltName; a client's is for clients; an authority signs no
 *    other authority.
 */
import { generateKeyPair, randomBytes } from 'node:crypto';
import { isIP } from 'node:net';
import { promisify } from 'node:util';
import forge from 'node-forge';

export interface SignedKey {
  /** PEM. */
  readonly certificate: string;
  /** PEM, PKCS #8. */
  readonly key: string;
}

const KEY_BITS = 3072;
/** Clocks differ: a certificate counts a while before it was made. */
const BACKDATE_MS = 24 * 3600 * 1000;
const DAY_MS = 24 * 3600 * 1000;
const ORGANIZATION = 'Orion LVM';

type Extensions = Parameters<forge.pki.Certificate['setExtensions']>[0];

const generate = promisify(generateKeyPair);

interface Request {
  readonly commonName: string;
  readonly days: number;
  /** Unix milliseconds. */
  readonly now: number;
  readonly extensions: Extensions;
  /** Null: it signs itself. */
  readonly authority: SignedKey | null;
}

async function make({ commonName, days, now, extensions, authority }: Request): Promise<SignedKey> {
  const pair = await generate('rsa', {
    modulusLength: KEY_BITS,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  });
  const certificate = forge.pki.createCertificate();
  certificate.publicKey = forge.pki.publicKeyFromPem(pair.publicKey);
  const serial = randomBytes(16);
  serial.writeUInt8(serial.readUInt8(0) & 0x7f, 0);
  certificate.serialNumber = serial.toString('hex');
  certificate.validity.notBefore = new Date(now - BACKDATE_MS);
  certificate.validity.notAfter = new Date(now + days * DAY_MS);
  const subject = [
    { name: 'organizationName', value: ORGANIZATION },
    // forge writes UTF-8 only where it is told to.
    { name: 'commonName', value: commonName, valueTagClass: forge.asn1.Type.UTF8 },
  ] as forge.pki.CertificateField[];
  certificate.setSubject(subject);
  const issuer = authority === null ? null : forge.pki.certificateFromPem(authority.certificate);
  certificate.setIssuer(issuer === null ? subject : issuer.subject.attributes);
  certificate.setExtensions([
    ...extensions,
    { name: 'subjectKeyIdentifier' },
    ...(issuer === null ? [] : [{ name: 'authorityKeyIdentifier', keyIdentifier: keyIdentifierOf(issuer) }]),
  ]);
  certificate.sign(forge.pki.privateKeyFromPem(authority?.key ?? pair.privateKey), forge.md.sha256.create());
  return { certificate: lines(forge.pki.certificateToPem(certificate)), key: pair.privateKey };
}

function keyIdentifierOf(certificate: forge.pki.Certificate): string {
  return certificate.generateSubjectKeyIdentifier().getBytes();
}

/** forge ends lines as MIME does. */
function lines(pem: string): string {
  return pem.replaceAll('\r\n', '\n');
}

/** A new authority. */
export function makeAuthority(days: number, now: number): Promise<SignedKey> {
  return make({
    // It is told from another by its identifier; people tell it by the day.
    commonName: `Orion LVM authority of ${new Date(now).toISOString().slice(0, 10)}`,
    days,
    now,
    extensions: [
      { name: 'basicConstraints', critical: true, cA: true, pathLenConstraint: 0 },
      { name: 'keyUsage', critical: true, keyCertSign: true, cRLSign: true },
    ],
    authority: null,
  });
}

/** A server's certificate for its host names and addresses, of which there is at least one. */
export function makeServer(
  hosts: readonly string[],
  authority: SignedKey,
  days: number,
  now: number,
): Promise<SignedKey> {
  const altNames = hosts.map((host) => (isIP(host) === 0 ? { type: 2, value: host } : { type: 7, ip: host }));
  return make({
    commonName: hosts[0] ?? 'localhost',
    days,
    now,
    extensions: [
      { name: 'basicConstraints', critical: true, cA: false },
      { name: 'keyUsage', critical: true, digitalSignature: true, keyEncipherment: true },
      { name: 'extKeyUsage', serverAuth: true },
      { name: 'subjectAltName', altNames },
    ],
    authority,
  });
}

/** A client's certificate; its name is what access rules know it by: O=Orion LVM, CN=NAME. */
export function makeClient(name: string, authority: SignedKey, days: number, now: number): Promise<SignedKey> {
  return make({
    commonName: name,
    days,
    now,
    extensions: [
      { name: 'basicConstraints', critical: true, cA: false },
      { name: 'keyUsage', critical: true, digitalSignature: true },
      { name: 'extKeyUsage', clientAuth: true },
    ],
    authority,
  });
}
