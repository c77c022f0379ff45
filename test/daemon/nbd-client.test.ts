/** The NBD client of commands and a server that hangs: it waits, tells of it, and can be made to give up. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
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
