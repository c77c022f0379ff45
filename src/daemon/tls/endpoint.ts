/**
 * The server's end of TLS: takes a client's socket, does the handshake with what material there is, and says who the client is.
 *
 * Invariants
 *  - TLS 1.2 and 1.3 with authenticated encryption and forward secrecy; no renegotiation, no resumption: every connection shows anew who
 *    it is, so that a certificate or key that was taken away lets nobody in. Naming a key shows nothing: it has to have been used.
 *  - Where clients are verified one that shows neither a certificate of our authorities nor a pre-shared key is refused.
 *  - Nothing is decided inside Node's own calls: closing the socket under a handshake that is on the stack crashes the process.
 *  - Each socket ends in exactly one call of `secured` or `failed`.
 *  - Who ends his side before the handshake has ended can't end it, and is not waited for; afterwards half a connection is one.
 */
import { constants } from 'node:crypto';
import type { Socket } from 'node:net';
import { createServer, type Server, type TLSSocket } from 'node:tls';
import type { TlsPeer } from '../../nbd/exports.ts';
import { contextOptions, type TlsMaterial } from './material.ts';

/**
 * AES-128 first: nobody breaks it, and it takes the fewest cycles. TLS 1.3 with a pre-shared key is bound to SHA-256 by OpenSSL and GnuTLS.
 * Plain PSK, without Diffie-Hellman, has no forward secrecy.
 */
const CIPHERS = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE+AESGCM',
  'ECDHE+CHACHA20',
  'ECDHE-PSK-CHACHA20-POLY1305',
  'DHE-PSK-AES128-GCM-SHA256',
  'DHE-PSK-AES256-GCM-SHA384',
  'DHE-PSK-CHACHA20-POLY1305',
  '!aNULL',
].join(':');

export interface SecureListener {
  secured(stream: TLSSocket, peer: TlsPeer): void;
  /** The socket is closed, or about to be. */
  failed(reason: string): void;
}

export class TlsEndpoint {
  readonly #handshakeTimeoutMs: number;
  #server: Server;
  readonly #waiting = new Map<Socket, SecureListener>();
  /** The key that a client named last, which proves nothing (`provesKey`). */
  readonly #pskNames = new WeakMap<TLSSocket, string>();

  constructor(material: TlsMaterial, handshakeTimeoutMs: number) {
    this.#handshakeTimeoutMs = handshakeTimeoutMs;
    this.#server = this.#serverWith(material);
  }

  /** What counts for handshakes from now on; those under way go on with what they began with. */
  configure(material: TlsMaterial): void {
    this.#server = this.#serverWith(material);
  }

  #serverWith(material: TlsMaterial): Server {
    const verifies = material.clientAuthorities !== null;
    const keys = new Map(Object.entries(material.preSharedKeys).map(([name, key]) => [name, Buffer.from(key, 'hex')]));
    const { SSL_OP_NO_TICKET: noTickets, SSL_OP_NO_RENEGOTIATION: noRenegotiation } = constants;
    const server = createServer({
      ...contextOptions(material),
      minVersion: 'TLSv1.2',
      ciphers: CIPHERS,
      honorCipherOrder: true,
      dhparam: 'auto',
      secureOptions: noTickets | noRenegotiation,
      handshakeTimeout: this.#handshakeTimeoutMs,
      requestCert: verifies,
      // Judged by `#secured`: Node would also refuse clients with a pre-shared key, who show none.
      rejectUnauthorized: false,
      ...(keys.size === 0 ? {} : { pskCallback: (stream: TLSSocket, name: string) => this.#keyOf(stream, name, keys) }),
    });
    server.on('secureConnection', (stream) => {
      stream.allowHalfOpen = true;
      // Its 'close' follows.
      stream.on('error', () => undefined);
      setImmediate(() => this.#secured(stream, verifies));
    });
    server.on('tlsClientError', (error, stream) => setImmediate(() => this.#failed(stream, error)));
    return server;
  }

  #keyOf(stream: TLSSocket, name: string, keys: ReadonlyMap<string, Buffer>): Buffer | null {
    const key = keys.get(name);
    if (key === undefined) return null;
    this.#pskNames.set(stream, name);
    return key;
  }

  /** Begins the handshake on a socket from which nobody has read what belongs to it. */
  secure(socket: Socket, listener: SecureListener): void {
    this.#waiting.set(socket, listener);
    // Whatever was wrong with TLS is told behind the end of the socket, and a turn later.
    socket.once('close', () => {
      setImmediate(() => setImmediate(() => this.#taken(socket)?.failed('the client has gone')));
    });
    socket.allowHalfOpen = false;
    this.#server.emit('connection', socket);
  }

  #taken(socket: Socket | undefined): SecureListener | undefined {
    if (socket === undefined) return undefined;
    const listener = this.#waiting.get(socket);
    this.#waiting.delete(socket);
    return listener;
  }

  #secured(stream: TLSSocket, verifies: boolean): void {
    const listener = this.#taken(socketUnder(stream));
    if (listener === undefined) {
      stream.destroy();
      return;
    }
    if (stream.destroyed) {
      listener.failed('the client has gone');
      return;
    }
    const pskName = provesKey(stream) ? (this.#pskNames.get(stream) ?? null) : null;
    const certificate = verifies && pskName === null ? stream.getPeerX509Certificate() : undefined;
    if (verifies && pskName === null && (certificate === undefined || !stream.authorized)) {
      listener.failed(certificate === undefined ? 'it showed no certificate' : refusalOf(stream));
      stream.destroy();
      return;
    }
    const subject = certificate === undefined ? null : distinguishedName(certificate.subject);
    const protocol = stream.getProtocol() ?? 'unknown';
    listener.secured(stream, { subject, pskName, protocol, cipher: stream.getCipher().name });
  }

  #failed(stream: TLSSocket, error: Error): void {
    const listener = this.#taken(socketUnder(stream));
    stream.destroy();
    listener?.failed(plainReason(error));
  }
}

/**
 * Whether the handshake was done with a pre-shared key. A client may name one that it has not got, and OpenSSL goes on with the server's
 * certificate where the cipher has another hash than the key's: TLS_AES_256_GCM_SHA384. With TLS 1.3, a key that was used counts as a
 * session that was resumed; others there are none.
 */
function provesKey(stream: TLSSocket): boolean {
  return stream.getProtocol() === 'TLSv1.3' ? stream.isSessionReused() : stream.getCipher().name.includes('PSK');
}

/** The socket that a TLS stream was made of, which Node keeps there. */
function socketUnder(stream: TLSSocket): Socket | undefined {
  const { _parent: socket } = stream as TLSSocket & { readonly _parent?: Socket };
  return socket;
}

function refusalOf({ authorizationError: refused }: { readonly authorizationError: unknown }): string {
  const known = refused instanceof Error ? refused.message : refused;
  return `its certificate is not accepted: ${typeof known === 'string' ? known : 'for no known reason'}`;
}

/** OpenSSL's errors name source lines and libraries; what people need is the reason. */
function plainReason(error: Error): string {
  const { reason, code } = error as Error & { readonly reason?: string; readonly code?: string };
  if (reason !== undefined) return `the TLS handshake failed: ${reason}`;
  return code === 'ECONNRESET'
    ? 'the client left during the TLS handshake'
    : `the TLS handshake failed: ${error.message}`;
}

/** One line, the most specific part first (RFC 4514), of what Node gives as lines in the certificate's order. */
export function distinguishedName(subject: string): string {
  return subject.split('\n').reverse().join(',');
}
