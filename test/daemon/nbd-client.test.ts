/**
 * The NBD client of commands and servers that are no help: one that hangs is waited for, which is told, and can be given up; what one says
 * is fit to be shown.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createServer, type Socket } from 'node:net';
import { test } from 'node:test';
import { negotiate } from '../../src/daemon/client/handshake.ts';
import { NbdClient } from '../../src/daemon/client/nbd-client.ts';
import { accepts, waitFor } from '../helpers/daemon.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';

async function withServer(use: (server: ChildProcess, address: string) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const socket = join(folder, 'socket');
    const server = spawn('nbdkit', ['-f', '-U', socket, 'memory', '1M'], { stdio: 'ignore' });
    const ended = once(server, 'exit');
    try {
      await waitFor('nbdkit to listen', () => accepts(socket));
      await use(server, `unix:${socket}`);
    } finally {
      server.kill('SIGKILL');
      await ended;
    }
  });
}

/** Stops every thread of it. */
async function stopServer(server: ChildProcess): Promise<void> {
  server.kill('SIGSTOP');
  const tasks = `/proc/${server.pid}/task`;
  await waitFor('nbdkit to stand still', () =>
    readdirSync(tasks).every((task) => readFileSync(`${tasks}/${task}/stat`, 'latin1').includes(') T ')),
  );
}

test('a server that hangs is waited for, which is told once; it goes on, or the wait is ended', async () => {
  await withServer(async (server, address) => {
    const stop = new AbortController();
    const said: string[] = [];
    const client = await NbdClient.connect({
      server: address,
      exportName: '',
      contexts: [],
      timeoutMs: 10_000,
      signal: stop.signal,
      onSilence: (message) => said.push(message),
      silenceMs: 20,
    });
    await client.write(0, Buffer.alloc(4096, 7));
    for (const times of [1, 2]) {
      await stopServer(server);
      const read = client.read(0, 4096);
      await waitFor('word of the silence', () => said.length === times);
      assert.match(said[0] ?? '', / at unix:.*: no answer for 0\.02 seconds; waiting for it$/);
      server.kill('SIGCONT');
      assert.ok((await read).equals(Buffer.alloc(4096, 7)));
    }
    await stopServer(server);
    const read = client.read(0, 4096);
    stop.abort();
    await assert.rejects(read, /interrupted/);
    await assert.rejects(client.read(0, 512), /interrupted/);
    await client.close();
  });
});

test('neither a handshake nor a good-bye waits for ever', async (t) => {
  await withServer(async (server, address) => {
    const target = { server: address, exportName: '', contexts: [], timeoutMs: 10_000 };
    const client = await NbdClient.connect(target);
    await stopServer(server);
    const stop = new AbortController();
    const interrupted = NbdClient.connect({ ...target, signal: stop.signal });
    stop.abort();
    await assert.rejects(interrupted, /interrupted/);
    await assert.rejects(NbdClient.connect({ ...target, timeoutMs: 20 }), /did not answer in time/);
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const closed = client.close();
    t.mock.timers.tick(10_000);
    await closed;
  });
});

const HOSTILE = 'a\x1b]0;b\x07\r\n\x7f\x9b2J\u202e\u2028\u00e9';
const SHOWN = 'a?]0;b?????2J??\u00e9';

function reply(option: number, type: number, ...body: readonly (string | Buffer)[]): Buffer {
  const payload = Buffer.concat(body.map((part) => Buffer.from(part)));
  const head = Buffer.alloc(20);
  head.writeBigUInt64BE(0x3e889045565a9n, 0);
  head.writeUInt32BE(option, 8);
  head.writeUInt32BE(type, 12);
  head.writeUInt32BE(payload.length, 16);
  return Buffer.concat([head, payload]);
}

/** An error that says `text`, to the request whose header came. */
function errorChunk(request: Buffer, text: string): Buffer {
  const chunk = Buffer.alloc(26);
  chunk.writeUInt32BE(0x668e33ef, 0);
  chunk.writeUInt16BE(1, 4);
  chunk.writeUInt16BE(0x8001, 6);
  request.copy(chunk, 8, 8, 16);
  chunk.writeUInt32BE(6 + Buffer.byteLength(text), 16);
  chunk.writeUInt32BE(5, 20);
  chunk.writeUInt16BE(Buffer.byteLength(text), 24);
  return Buffer.concat([chunk, Buffer.from(text)]);
}

/** A server that gives these answers to GO, and to every request an error that says `text`. */
async function withLiar(
  { answers, text }: { readonly answers: readonly Buffer[]; readonly text: string },
  use: (address: string) => Promise<void>,
): Promise<void> {
  const serve = (socket: Socket): void => {
    let bytes = Buffer.alloc(0);
    let flags = true;
    let chosen = false;
    socket.on('error', () => undefined);
    socket.write(Buffer.concat([Buffer.from('NBDMAGICIHAVEOPT'), Buffer.from([0, 3])]));
    socket.on('data', (chunk: Buffer) => {
      bytes = Buffer.concat([bytes, chunk]);
      for (;;) {
        const option = bytes.length < 16 ? 0 : bytes.readUInt32BE(8);
        const length = flags ? 4 : chosen ? 28 : bytes.length < 16 ? 16 : 16 + bytes.readUInt32BE(12);
        if (bytes.length < length) return;
        const taken = bytes.subarray(0, length);
        bytes = bytes.subarray(length);
        if (flags) flags = false;
        else if (chosen) socket.write(errorChunk(taken, text));
        else if (option === 7) {
          chosen = true;
          socket.write(Buffer.concat(answers));
        } else socket.write(reply(option, 1));
      }
    });
  };
  const sockets = new Set<Socket>();
  const server = createServer((socket) => serve(socket)).on('connection', (socket) => sockets.add(socket));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert.ok(typeof address === 'object' && address !== null);
  try {
    await use(`tcp:127.0.0.1:${address.port}`);
  } finally {
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, 'close');
  }
}

test('what a server says has no control characters, and an end', { timeout: 20_000 }, async () => {
  const target = { exportName: 'vg/o', contexts: [], timeoutMs: 10_000 };
  const refused = { message: new RegExp(`: ${RegExp.escape(SHOWN)}$`) };
  await withLiar({ answers: [reply(7, 0x80000006, HOSTILE)], text: '' }, async (server) => {
    await assert.rejects(NbdClient.connect({ server, ...target }), refused);
    await assert.rejects(negotiate({ server, exportName: 'vg/o', timeoutMs: 10_000 }), refused);
  });
  const info = Buffer.alloc(12);
  info.writeBigUInt64BE(1n << 20n, 2);
  info.writeUInt16BE(5, 10);
  const named = [reply(7, 3, '\0\x01', HOSTILE), reply(7, 3, '\0\x02', 'd'.repeat(900_000))];
  await withLiar({ answers: [reply(7, 3, info), ...named, reply(7, 1)], text: HOSTILE }, async (server) => {
    const client = await NbdClient.connect({ server, ...target });
    assert.equal(client.exportName, SHOWN);
    assert.equal(client.description, 'd'.repeat(4096));
    await assert.rejects(client.flush(), refused);
    await client.close();
  });
});
