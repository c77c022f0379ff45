/**
 * The daemon's TLS, end to end: the modes of listeners, who is let in and as whom, reload, drain, and the death of a process that does TLS.
 * (nbdinfo, nbdcopy and qemu are test/peers/tls.test.ts's.)
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { chmod, copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { connect as connectTls, type ConnectionOptions } from 'node:tls';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { beginTls, certificateOf, keyOf, makeCredentials, openTls } from '../helpers/tls.ts';
import { clientFlags, CMD, ERR, option, query, request, WireClient } from '../nbd/wire.ts';
import { TestGroup } from './images.ts';
import { statusOf, waitForStatus } from './status-of.ts';

let folder = '';
let image = '';
/** Of one authority, and of another. */
let ours = '';
let theirs = '';

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'orion-lvm-tls-'));
  const volumes = ['one', 'two'].map((name, i) => ({ name, extent: 4 * i, extents: 4 }));
  image = (await new TestGroup(join(folder, 'vg.img'), 'vg').write(volumes)).path;
  ours = join(folder, 'ours');
  theirs = join(folder, 'theirs');
  await Promise.all([makeCredentials(ours, ['alice', 'bob']), makeCredentials(theirs, ['alice'])]);
});
after(() => rm(folder, { recursive: true, force: true }));

const CREDENTIALS = (): string[] => ['--tls-certificates', ours, '--tls-psk', join(ours, 'keys.psk')];

interface Stand {
  readonly daemon: RunningDaemon;
  /** Of the listener over TCP. */
  readonly port: number;
}

async function withDaemon(
  listen: string,
  extra: readonly string[],
  use: (stand: Stand) => Promise<void>,
): Promise<void> {
  const args = ['--listen', `tcp:127.0.0.1:0${listen}`, '--log-level', 'debug', ...CREDENTIALS(), ...extra];
  const daemon = await startDaemon([image], args);
  try {
    await use({ daemon, port: await portOf(daemon) });
  } finally {
    assert.equal(await daemon.stop(), 0, daemon.log());
  }
}

async function portOf(daemon: RunningDaemon): Promise<number> {
  await waitForStatus(daemon, 'the daemon to serve', ({ state }) => state === 'serving');
  const { listening } = await statusOf(daemon);
  return Number(/^tcp:127\.0\.0\.1:(\d+)/.exec(listening.find((each) => each.startsWith('tcp:')) ?? '')?.[1]);
}

/** Chooses an export on a connection that has been greeted, and gives the type of the last reply and its text. */
async function go(client: WireClient, name: string): Promise<{ readonly type: number; readonly text: string }> {
  client.send(option(7, query(name)));
  for (;;) {
    const { type, payload } = await client.optionReply();
    if (type !== 3) return { type, text: payload.toString() };
  }
}

async function attach(port: number, credentials: ConnectionOptions, name = 'vg/one'): Promise<WireClient> {
  const { client } = await openTls(port, credentials);
  assert.deepEqual(await go(client, name), { type: 1, text: '' });
  return client;
}

/** Writes and reads back, so that both directions have been used. */
async function exchange(client: WireClient, byte: number, length = 300_000): Promise<void> {
  const payload = Buffer.alloc(length, byte);
  client.send(request({ type: CMD.write, offset: 4096, payload }));
  assert.equal((await client.reply()).error, 0);
  client.send(request({ type: CMD.read, offset: 4096, length }));
  assert.ok((await client.reply(length)).data.equals(payload));
}

for (const workers of ['0', '2']) {
  describe(`TLS with ${workers} workers`, { timeout: 120_000 }, () => {
    const common = ['--workers', workers];

    test('allowed: in plain text and over TLS; what a listener says beats what holds for all', async () => {
      await withDaemon('?tls=allowed', [...common, '--tls', 'required'], async ({ daemon, port }) => {
        const plain = await WireClient.open({ host: '127.0.0.1', port });
        await plain.attach('vg/one');
        await exchange(plain, 1);
        const secure = await attach(port, certificateOf(ours, 'alice'));
        await exchange(secure, 2);
        const keyed = await attach(port, keyOf(ours, 'bob'), 'vg/two');
        await exchange(keyed, 3, 3 << 20);
        const unix = await WireClient.open(daemon.socket);
        await unix.take(18);
        unix.send(clientFlags());
        assert.equal((await go(unix, 'vg/one')).type, ERR.tlsReqd);
        assert.equal((await statusOf(daemon)).connections, 4);
        for (const client of [plain, secure, keyed, unix]) client.close();
        await waitForStatus(daemon, 'all to be forgotten', ({ connections, tls }) => {
          return connections === 0 && tls.every((each) => each.connections === 0);
        });
      });
    });

    test('off: STARTTLS is not known', async () => {
      await withDaemon('?tls=off', common, async ({ port }) => {
        const { socket, type } = await beginTls(port);
        socket.destroy();
        assert.equal(type, ERR.unsup);
      });
    });

    test('verified: who shows nothing, or what others have signed, is not let in, and the log says why', async () => {
      await withDaemon('', [...common, '--tls-verify-clients'], async ({ daemon, port }) => {
        const refused: readonly (readonly [ConnectionOptions, RegExp])[] = [
          [{ ca: certificateOf(ours, 'alice').ca }, /it showed no certificate/],
          [
            { ...certificateOf(theirs, 'alice'), ca: certificateOf(ours, 'alice').ca },
            /its certificate is not accepted: \w/,
          ],
          [keyOf(theirs, 'alice'), /the TLS handshake failed: \w/],
          [
            { ca: certificateOf(ours, 'alice').ca, maxVersion: 'TLSv1.1', minVersion: 'TLSv1' },
            /the TLS handshake failed: \w/,
          ],
        ];
        for (const [credentials, reason] of refused) {
          // In TLS 1.3 a client learns that it is not let in after its handshake.
          await openTls(port, credentials).then(
            async ({ client }) => assert.equal((await client.rest()).length, 0),
            () => undefined,
          );
          await waitFor(`the log to say ${reason}`, () => reason.test(daemon.log()));
        }
        await waitForStatus(daemon, 'them to be forgotten', ({ connections }) => connections === 0);
        for (const credentials of [certificateOf(ours, 'alice'), keyOf(ours, 'bob')]) {
          const client = await attach(port, credentials);
          await exchange(client, 7);
          client.close();
        }
        assert.doesNotMatch(daemon.log(), /unexpected error|has ended/);
      });
    });

    test('verified: who names a key, and does without it by a cipher of another hash, has shown nothing', async () => {
      await withDaemon('', [...common, '--tls-verify-clients'], async ({ daemon, port }) => {
        const { ca } = certificateOf(ours, 'alice');
        const key = { ...keyOf(theirs, 'alice', 'bob'), ca };
        const forger: ConnectionOptions = { ...key, ciphers: 'TLS_AES_256_GCM_SHA384', minVersion: 'TLSv1.3' };
        const { client } = await openTls(port, forger);
        assert.equal((await client.rest()).length, 0);
        await waitFor('the log to say why', () => /it showed no certificate/.test(daemon.log()));
      });
    });

    test('the server shows a certificate that its clients can verify, and no session is resumed', async () => {
      await withDaemon('', common, async ({ port }) => {
        const { ca } = certificateOf(ours, 'alice');
        const { client, stream } = await openTls(port, { ca });
        assert.ok(stream.authorized);
        assert.match(stream.getProtocol() ?? '', /^TLSv1\.3$/);
        client.send(option(3));
        assert.equal((await client.optionReply()).type, 2);
        const session = stream.getSession();
        client.close();
        const second = await openTls(port, { ca, ...(session === undefined ? {} : { session }) });
        assert.equal(second.stream.isSessionReused(), false);
        second.client.close();
        await assert.rejects(openTls(port, { ca: certificateOf(theirs, 'alice').ca }), /self-signed|unable to/);
      });
    });

    test('rules by certificate, by key and by TLS itself; refusals are in the audit log with who it was', async () => {
      const config = join(folder, `rules-${workers}.toml`);
      const audit = join(folder, `audit-${workers}.log`);
      await writeFile(
        config,
        `[audit]\nfile = "${audit}"\n[[access.exports]]\nvolumes = ["vg/one"]\nallow = ["dn:CN=alice,O=Orion LVM"]\nallow_read_only = ["psk:bob"]\n` +
          `[[access.exports]]\nvolumes = ["vg/two"]\nallow = ["tls"]\n`,
      );
      const extra = [...common, '--config', config, '--tls-verify-clients'];
      await withDaemon('?tls=allowed', extra, async ({ port }) => {
        const alice = await attach(port, certificateOf(ours, 'alice'));
        await exchange(alice, 9);
        const reader = await attach(port, keyOf(ours, 'bob'));
        reader.send(request({ type: CMD.write, payload: Buffer.alloc(512) }));
        assert.equal((await reader.reply()).error, 1);
        const { client: bob } = await openTls(port, certificateOf(ours, 'bob'));
        const refusal = await go(bob, 'vg/one');
        assert.deepEqual(refusal, { type: ERR.policy, text: 'vg/one is not open to CN=bob,O=Orion LVM' });
        assert.equal((await go(bob, 'vg/two')).type, 1);
        const plain = await WireClient.open({ host: '127.0.0.1', port });
        await plain.take(18);
        plain.send(clientFlags());
        for (const name of ['vg/one', 'vg/two']) assert.equal((await go(plain, name)).type, ERR.tlsReqd);
        for (const client of [alice, reader, bob, plain]) client.close();
        await waitFor('the refusal to be recorded', async () => (await readFile(audit, 'utf8')).includes('"refused"'));
        const record = (await readFile(audit, 'utf8')).split('\n').find((line) => line.includes('"refused"')) ?? '';
        assert.match(record, /"from":"tcp:127\.0\.0\.1:\d+ dn:CN=bob,O=Orion LVM"/);
      });
    });

    test('a reload: other credentials for those who come, those who are there go on; wrong ones are refused', async () => {
      const certificates = join(folder, `reload-${workers}`);
      await mkdir(certificates);
      const install = async (from: string): Promise<void> => {
        for (const name of ['ca-cert.pem', 'server-cert.pem', 'server-key.pem', 'keys.psk']) {
          await rm(join(certificates, name), { force: true });
          await copyFile(join(from, name), join(certificates, name));
        }
      };
      await install(ours);
      const files = ['--tls-certificates', certificates, '--tls-psk', join(certificates, 'keys.psk')];
      await withDaemon('', [...common, ...files, '--tls-verify-clients'], async ({ daemon, port }) => {
        const before = await attach(port, certificateOf(ours, 'alice'));
        await chmod(join(certificates, 'keys.psk'), 0o644);
        daemon.child.kill('SIGHUP');
        await waitFor('the refusal', () => /everybody may read or write .*keys\.psk/.test(daemon.log()));
        (await attach(port, keyOf(ours, 'alice'))).close();
        await install(theirs);
        daemon.child.kill('SIGHUP');
        await waitFor('the reload', () => /reloaded: /.test(daemon.log()));
        (await attach(port, certificateOf(theirs, 'alice'))).close();
        (await attach(port, keyOf(theirs, 'alice'))).close();
        await assert.rejects(attach(port, keyOf(ours, 'alice')));
        await exchange(before, 4);
        before.close();
      });
    });

    test('the end of the daemon: everything that was accepted is answered, and the client is told goodbye', async () => {
      const length = 1 << 20;
      const reads = Array.from({ length: 24 }, (_, i) => request({ type: CMD.read, cookie: BigInt(i), length }));
      let client: WireClient | null = null;
      await withDaemon('', common, async ({ daemon, port }) => {
        client = await attach(port, certificateOf(ours, 'alice'));
        client.send(...reads);
        await client.take(16);
        daemon.child.kill('SIGTERM');
        const rest = await client.rest();
        assert.equal(rest.length + 16, reads.length * (16 + length));
        await once(daemon.child, 'exit');
      });
      assert(client !== null);
    });

    test('a client that half-closes gets what it asked for', async () => {
      await withDaemon('', common, async ({ port }) => {
        const client = await attach(port, certificateOf(ours, 'alice'));
        const length = 1 << 20;
        for (let i = 0; i < 8; i++) client.send(request({ type: CMD.read, length }));
        client.send(request({ type: CMD.disc }));
        client.socket.end();
        assert.equal((await client.rest()).length, 8 * (16 + length));
      });
    });
  });
}

test(
  'clients that go in the middle, or send what is no TLS, end nothing but themselves',
  { timeout: 60_000 },
  async () => {
    const config = join(folder, 'hostile.toml');
    // Longer than this test: who ends his side in the middle of a handshake is not waited for.
    await writeFile(config, '[limits]\nhandshake_timeout = 600\n');
    const extra = ['--config', config, '--workers', '1', '--tls-verify-clients'];
    await withDaemon('', extra, async ({ daemon, port }) => {
      const good = await attach(port, certificateOf(ours, 'alice'));
      const { tls } = await statusOf(daemon);
      const hello = await clientHello();
      const visits: readonly ((socket: Socket) => void)[] = [
        (socket) => void socket.destroy(),
        (socket) => void socket.resetAndDestroy(),
        (socket) => void socket.end(),
        (socket) => void socket.end(randomBytes(300)),
        (socket) => void socket.end(hello.subarray(0, 40)),
        (socket) => void socket.write(hello, () => socket.resetAndDestroy()),
        (socket) => void socket.write(hello, () => socket.end()),
        (socket) => void socket.once('data', () => socket.resetAndDestroy()).write(hello),
        (socket) => void socket.once('data', () => socket.end(randomBytes(2000))).write(hello),
        (socket) => void socket.once('data', () => socket.end(Buffer.concat([hello, hello]))).write(hello),
      ];
      const come = async (visit: (socket: Socket) => void): Promise<void> => {
        const { socket, type } = await beginTls(port);
        assert.equal(type, 1);
        socket.on('error', () => undefined);
        const closed = once(socket, 'close');
        visit(socket.resume());
        await closed;
      };
      for (let round = 0; round < 4; round++) await Promise.all(visits.map(come));
      await exchange(good, 11);
      await waitForStatus(daemon, 'them to be forgotten', ({ connections }) => connections === 1);
      assert.deepEqual((await statusOf(daemon)).tls, tls);
      good.close();
    });
  },
);

/** What a client of OpenSSL says first. */
async function clientHello(): Promise<Buffer> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert(typeof address === 'object' && address !== null);
  const client = connectTls({ port: address.port, host: '127.0.0.1' });
  client.on('error', () => undefined);
  const [socket] = (await once(server, 'connection')) as [Socket];
  const [hello] = (await once(socket, 'data')) as [Buffer];
  socket.destroy();
  client.destroy();
  server.close();
  return hello;
}

test(
  'the death of a process that does TLS ends its clients only, and the next one starts another',
  { timeout: 60_000 },
  async () => {
    await withDaemon('?tls=allowed', ['--workers', '1'], async ({ daemon, port }) => {
      const plain = await WireClient.open({ host: '127.0.0.1', port });
      await plain.attach('vg/two');
      const secure = await attach(port, certificateOf(ours, 'alice'));
      await exchange(secure, 5);
      const [process_] = (await statusOf(daemon)).tls;
      assert(process_ !== undefined && process_.connections === 1);
      const closed = once(secure.socket, 'close');
      process.kill(process_.pid, 'SIGKILL');
      await closed;
      await exchange(plain, 6);
      await waitForStatus(
        daemon,
        'its client to be forgotten',
        ({ connections, tls }) => connections === 1 && tls.length === 0,
      );
      const next = await attach(port, keyOf(ours, 'bob'));
      await exchange(next, 8);
      assert.notEqual((await statusOf(daemon)).tls[0]?.pid, process_.pid);
      next.close();
      plain.close();
    });
  },
);

test('when the daemon hands over to another process, clients over TLS stay', { timeout: 60_000 }, async () => {
  const daemon = await startDaemon(
    [image],
    ['--listen', 'tcp:127.0.0.1:0', '--workers', '1', '--log-level', 'debug', ...CREDENTIALS()],
  );
  const port = await portOf(daemon);
  const client = await attach(port, certificateOf(ours, 'alice'));
  await exchange(client, 1);
  const before = await statusOf(daemon);
  const ended = once(daemon.child, 'exit');
  daemon.child.kill('SIGUSR2');
  assert.deepEqual(await ended, [0, null], daemon.log());
  await exchange(client, 2);
  const next = await attach(port, keyOf(ours, 'bob'), 'vg/two');
  await exchange(next, 3);
  const after = await statusOf(daemon);
  assert.notEqual(after.pid, before.pid);
  assert.equal(after.connections, 2);
  client.close();
  next.close();
  // The process that did TLS before has ended with its last client.
  await waitFor('it to end', () => !before.tls.some(({ pid }) => isRunning(pid)));
  process.kill(after.pid, 'SIGTERM');
  await waitFor('the successor to end', () => !isRunning(after.pid));
  await daemon.stop();
});

/** A process that has ended and that nobody has waited for is none. */
function isRunning(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) Z/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}
