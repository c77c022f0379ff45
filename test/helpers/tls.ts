/** Credentials as `orion-lvm tls init` makes them, and NBD clients that come over TLS. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { StreamOutput } from '../../src/cli/messages.ts';
import { run } from '../../src/cli/run.ts';
import { clientFlags, option, WireClient } from '../nbd/wire.ts';
import { NOBODY } from './terminal.ts';

/** Runs `orion-lvm tls …` in this process; gives what it said. */
export async function tlsCommand(
  args: readonly string[],
): Promise<{ readonly code: number; readonly out: string; readonly err: string }> {
  let out = '';
  let err = '';
  const output = new StreamOutput({ write: (text) => (out += text) }, { write: (text) => (err += text) });
  const env = { LVM_SYSTEM_DIR: '/nonexistent', ORION_LVM_CONTROL: '' };
  const now = Math.floor(Date.now() / 1000);
  const code = await run(['tls', ...args], output, { env, cwd: '/', uid: 1000, now, terminal: NOBODY });
  output.flush();
  return { code, out, err };
}

/** Makes certificates, and keys, in `directory` for these clients. */
export async function makeCredentials(directory: string, clients: readonly string[]): Promise<void> {
  const names = clients.flatMap((name) => ['--client', name]);
  for (const args of [['--host', 'localhost,127.0.0.1'], ['--psk']]) {
    const { code, err } = await tlsCommand(['init', '--dir', directory, ...args, ...names]);
    assert.equal(code, 0, err);
  }
}

/** What a client shows: its certificate. */
export function certificateOf(directory: string, name: string): ConnectionOptions {
  const pem = (file: string): Buffer => readFileSync(join(directory, name, file));
  return { ca: pem('ca-cert.pem'), cert: pem('client-cert.pem'), key: pem('client-key.pem') };
}

/** Or its pre-shared key. `identity`: by another name. */
export function keyOf(directory: string, name: string, identity: string = name): ConnectionOptions {
  const line = readFileSync(join(directory, name, 'keys.psk'), 'utf8').trim();
  const psk = Buffer.from(line.slice(line.lastIndexOf(':') + 1), 'hex');
  // OpenSSL binds such keys to SHA-256.
  const ciphers = 'TLS_AES_128_GCM_SHA256:PSK';
  return { pskCallback: () => ({ psk, identity }), ciphers, checkServerIdentity: () => undefined };
}

async function readExactly(socket: Socket, length: number): Promise<Buffer> {
  for (;;) {
    const bytes: unknown = socket.read(length);
    if (Buffer.isBuffer(bytes) && bytes.length === length) return bytes;
    assert.ok(!socket.readableEnded && !socket.destroyed, 'the server closed');
    await Promise.race([once(socket, 'readable'), once(socket, 'close')]);
  }
}

/** Greeting, flags and STARTTLS; gives the acknowledgement's type and the socket. */
export async function beginTls(target: string | number): Promise<{ readonly socket: Socket; readonly type: number }> {
  const socket = typeof target === 'string' ? connect(target) : connect(target, '127.0.0.1');
  await once(socket, 'connect');
  await readExactly(socket, 18);
  socket.write(Buffer.concat([clientFlags(), option(5)]));
  const header = await readExactly(socket, 20);
  const length = header.readUInt32BE(16);
  if (length > 0) await readExactly(socket, length);
  return { socket, type: header.readUInt32BE(12) };
}

/** A client that negotiates over TLS; `stream` is what it talks through. Rejects when there is no TLS. */
export async function openTls(
  target: string | number,
  options: ConnectionOptions,
): Promise<{ readonly client: WireClient; readonly stream: TLSSocket }> {
  const { socket, type } = await beginTls(target);
  assert.equal(type, 1, 'STARTTLS is not acknowledged');
  const stream = connectTls({ servername: 'localhost', ...options, socket });
  await once(stream, 'secureConnect');
  return { client: WireClient.over(stream), stream };
}
