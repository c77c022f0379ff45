/**
 * STARTTLS: what is answered before it, what it forgets, and that plain text behind it is never used (wire fact 33, CVE-2021-3716). The
 * TLS itself is test/daemon/tls.test.ts's: here it is a socket pair that changes nothing.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { NbdLog } from '../../src/nbd/connection.ts';
import type { ClientIdentity, ExportView, TlsPeer } from '../../src/nbd/exports.ts';
import { Handshake, type HandshakeTls } from '../../src/nbd/handshake.ts';
import type { Secure } from '../../src/nbd/negotiation.ts';
import { NbdServer } from '../../src/nbd/server.ts';
import { detachHandle, socketOf } from '../../src/nbd/socket-handle.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { waitFor } from '../helpers/daemon.ts';
import { listed, makeExport, TestDirectory } from './exports.ts';
import { clientFlags, everySplit, option, optionReplies, query, WireClient } from './wire.ts';

const OPT = {
  exportName: 1,
  abort: 2,
  list: 3,
  starttls: 5,
  info: 6,
  go: 7,
  structured: 8,
  listMeta: 9,
  setMeta: 10,
  unknown: 77,
};
const ACK = 1;
const ERR = { unsup: 0x80000001, policy: 0x80000002, invalid: 0x80000003, tlsReqd: 0x80000005 };
const PEER: TlsPeer = { subject: 'CN=alice', pskName: null, protocol: 'TLSv1.3', cipher: 'AES' };
const NAME = makeExport().name;

function begun(tls: HandshakeTls, view: ExportView = new TestDirectory([makeExport()])): Handshake {
  const handshake = new Handshake(view, tls);
  handshake.receive(clientFlags());
  return handshake;
}

function typesOf(handshake: Handshake, bytes: Buffer): number[] {
  return optionReplies(Buffer.concat(handshake.receive(bytes).replies)).map(({ type }) => type);
}

describe('the handshake', () => {
  test('where TLS is required, nothing but STARTTLS and ABORT is done before it', () => {
    const refused = [
      option(OPT.list),
      option(OPT.info, query(NAME)),
      option(OPT.go, query(NAME)),
      option(OPT.structured),
      option(OPT.setMeta, Buffer.alloc(8)),
      option(OPT.listMeta, Buffer.alloc(3)),
      option(OPT.unknown, Buffer.alloc(70_000)),
    ];
    const handshake = begun('required');
    for (const bytes of refused) assert.deepEqual(typesOf(handshake, bytes), [ERR.tlsReqd]);
    const { outcome, replies } = handshake.receive(option(OPT.abort));
    assert.deepEqual(
      optionReplies(Buffer.concat(replies)).map(({ type }) => type),
      [ACK],
    );
    assert.equal(outcome?.kind, 'close');
    const named = begun('required').receive(option(OPT.exportName, Buffer.from(NAME)));
    assert.deepEqual([named.outcome?.kind, named.replies.length], ['close', 0]);
  });

  test('STARTTLS with a payload, where TLS is off, and a second time', () => {
    assert.deepEqual(typesOf(begun('off'), option(OPT.starttls)), [ERR.unsup]);
    const handshake = begun('allowed');
    assert.deepEqual(typesOf(handshake, option(OPT.starttls, Buffer.from('x'))), [ERR.invalid]);
    const { outcome, replies } = handshake.receive(option(OPT.starttls));
    assert.deepEqual(
      optionReplies(Buffer.concat(replies)).map(({ type }) => type),
      [ACK],
    );
    assert.deepEqual(outcome, { kind: 'starttls', early: 0 });
    const over = Handshake.overTls(new TestDirectory([makeExport()]), handshake);
    assert.deepEqual(typesOf(over, option(OPT.starttls)), [ERR.invalid]);
    assert.equal(over.receive(option(OPT.go, query(NAME))).outcome?.kind, 'negotiated');
  });

  test('plain text behind STARTTLS is counted, however the bytes are cut', () => {
    const bytes = Buffer.concat([clientFlags(), option(OPT.starttls), option(OPT.go, query(NAME))]);
    for (const chunks of [[bytes], ...everySplit(bytes)]) {
      const handshake = new Handshake(new TestDirectory([makeExport()]), 'allowed');
      const read: Buffer[] = [];
      for (const chunk of chunks) {
        read.push(chunk);
        const { outcome } = handshake.receive(chunk);
        if (outcome === null) continue;
        const sofar = read.reduce((sum, { length }) => sum + length, 0);
        assert.deepEqual(outcome, { kind: 'starttls', early: sofar - 4 - 16 });
        break;
      }
    }
  });

  test('what was agreed on in plain text is forgotten, the flags of the client are not', () => {
    const handshake = begun('allowed');
    assert.deepEqual(typesOf(handshake, option(OPT.structured)), [ACK]);
    handshake.receive(option(OPT.starttls));
    const over = Handshake.overTls(new TestDirectory([makeExport()]), handshake);
    const { outcome } = over.receive(option(OPT.go, query(NAME)));
    assert.equal(outcome?.kind, 'negotiated');
    if (outcome?.kind !== 'negotiated') return;
    assert.deepEqual([outcome.negotiated.features.structuredReplies, outcome.negotiated.noZeroes], [false, true]);
  });

  test('an export that is open over TLS only says so where TLS is offered', () => {
    const view: ExportView = {
      list: () => [],
      find: () => null,
      explain: () => ({ kind: 'tls', text: 'vg/lv is not open to you' }),
    };
    for (const [tls, type] of [
      ['allowed', ERR.tlsReqd],
      ['off', ERR.policy],
      ['done', ERR.policy],
    ] as const) {
      const handshake = tls === 'done' ? Handshake.overTls(view, begun('allowed', view)) : begun(tls, view);
      assert.deepEqual(typesOf(handshake, option(OPT.go, query(NAME))), [type], tls);
    }
  });
});

interface Stand {
  readonly client: WireClient;
  /** Every line of the log. */
  readonly log: string[];
  /** Who asked for a view of the exports. */
  readonly views: ClientIdentity[];
  readonly server: NbdServer;
}

/** A server whose "TLS" gives back a socket to which the client's bytes are piped. */
async function withServer(secure: Secure, use: (stand: Stand) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const log: string[] = [];
    const views: ClientIdentity[] = [];
    const note = (_: object, message: string): void => void log.push(message);
    const noted: NbdLog = { debug: note, info: note, warn: note };
    const directory = {
      viewFor(client: ClientIdentity): ExportView {
        views.push(client);
        return {
          list: () => [listed(makeExport())],
          find: () => null,
          explain: () => ({ kind: 'unknown', text: 'none' }),
        };
      },
    };
    const server = new NbdServer({ directory, adopt: () => Promise.resolve(null), secure, log: noted });
    const path = join(folder, 'nbd.sock');
    await server.listen({ kind: 'unix', path }, () => 'required');
    const client = await WireClient.open(path);
    await client.take(18);
    try {
      await use({ client, log, views, server });
    } finally {
      client.close();
      await server.close();
    }
  });
}

/** The two ends of a connection. */
async function pair(): Promise<[Socket, Socket]> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert(typeof address === 'object' && address !== null);
  const near = connect(address.port);
  const [far] = (await once(server, 'connection')) as [Socket];
  server.close();
  return [near, far];
}

const piped: Secure = async ({ socket }) => {
  const [near, far] = await pair();
  const handle = detachHandle(socket);
  assert(handle !== null);
  const client = socketOf(handle);
  client.pipe(far).pipe(client);
  return { socket: near.pause(), tls: PEER };
};

const failing: Secure = ({ socket }) => {
  socket.destroy();
  return Promise.reject(new Error('no certificate'));
};

const hanging: Secure = ({ socket, signal }) =>
  new Promise((_, reject) => {
    signal.addEventListener('abort', () => {
      socket.destroy();
      reject(new Error('given up'));
    });
  });

describe('the negotiation', () => {
  test('goes on over TLS, as who the client has shown to be', async () => {
    await withServer(piped, async ({ client, views }) => {
      client.send(clientFlags(), option(OPT.list), option(OPT.starttls));
      assert.equal((await client.optionReply()).type, ERR.tlsReqd);
      assert.equal((await client.optionReply()).type, ACK);
      client.send(option(OPT.list));
      assert.equal((await client.optionReply()).type, 2);
      assert.equal((await client.optionReply()).type, ACK);
      assert.deepEqual(
        views.map(({ tls }) => tls),
        [undefined, PEER],
      );
    });
  });

  test('drops who sends plain text behind STARTTLS, and does not even acknowledge it', async () => {
    let asked = 0;
    const counting: Secure = (client) => {
      asked++;
      return piped(client);
    };
    await withServer(counting, async ({ client, log, server }) => {
      client.send(clientFlags(), option(OPT.starttls), option(OPT.list));
      assert.equal((await client.rest()).length, 0);
      assert.ok(log.includes('plain text came behind NBD_OPT_STARTTLS: the connection is dropped'), log.join('\n'));
      await waitFor('the server to forget it', () => server.connections === 0);
    });
    assert.equal(asked, 0);
  });

  test('ends when TLS fails', async () => {
    await withServer(failing, async ({ client, log, server }) => {
      client.send(clientFlags(), option(OPT.starttls));
      assert.equal((await client.optionReply()).type, ACK);
      await client.rest();
      await waitFor('the server to forget it', () => server.connections === 0);
      assert.ok(log.includes('no TLS with a client'));
    });
  });

  test('the end of the server is the end of handshakes under way', async () => {
    await withServer(hanging, async ({ client, server }) => {
      client.send(clientFlags(), option(OPT.starttls));
      assert.equal((await client.optionReply()).type, ACK);
      await server.close();
      assert.equal(server.connections, 0);
      await client.rest();
    });
  });
});
