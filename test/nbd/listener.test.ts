/** Socket files: their permissions and their group. TCP sockets: their options. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { statSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { openListener } from '../../src/nbd/listener.ts';
import { descriptorOf } from '../../src/nbd/socket-handle.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';

/** Root may give a file to any group, others to their own. */
const GROUP = process.getuid?.() === 0 ? 12_345 : (process.getgid?.() ?? 0);

test('a socket gets its group and its mode', async () => {
  await withTemporaryFolder(async (folder) => {
    const path = join(folder, 'socket');
    const address = { kind: 'unix', path, mode: 0o660, group: GROUP } as const;
    const { server } = await openListener(
      address,
      (socket) => socket.destroy(),
      (error) => assert.fail(error),
    );
    const { gid, mode } = statSync(path);
    assert.deepEqual([gid, mode & 0o777], [GROUP, 0o660]);
    await once(server.close(), 'close');
  });
});

/** What the system says of a socket: TCP_NODELAY, SO_KEEPALIVE, TCP_KEEPIDLE. Node sets these and can't ask for them; a child that inherits it can. */
async function optionsOf(fd: number): Promise<unknown> {
  const script = [
    'import json, socket',
    's = socket.socket(fileno=3)',
    'tcp = socket.IPPROTO_TCP',
    'print(json.dumps([s.getsockopt(tcp, socket.TCP_NODELAY), s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), s.getsockopt(tcp, socket.TCP_KEEPIDLE)]))',
  ].join('\n');
  const child = spawn('/usr/bin/python3', ['-c', script], { stdio: ['ignore', 'pipe', 'inherit', fd] });
  let output = '';
  child.stdout?.on('data', (chunk: Buffer) => (output += chunk.toString()));
  await once(child, 'close');
  return JSON.parse(output);
}

for (const host of ['127.0.0.1', '::1']) {
  test(`sockets accepted at ${host} send without delay, and dead peers are found out`, async () => {
    const { promise, resolve } = Promise.withResolvers<Socket>();
    const { server, address } = await openListener({ kind: 'tcp', host, port: 0 }, resolve, (error) =>
      assert.fail(error),
    );
    assert(address.kind === 'tcp');
    const client = connect({ host, port: address.port });
    const socket = await promise;
    assert.deepEqual(await optionsOf(descriptorOf(socket)), [1, 1, 60]);
    client.destroy();
    socket.destroy();
    await once(server.close(), 'close');
  });
}
