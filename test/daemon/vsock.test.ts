/**
 * Listeners for virtual machines, as far as they go without one: the system's part (a bound socket that listens), and ours, which does not ask
 * what kind of socket it has: here it is given one that accepts unix clients.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { formatListenUri, nbdUri, parseListenUri } from '../../src/daemon/listen-uri.ts';
import { accepts, waitFor } from '../helpers/daemon.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';

test('addresses', () => {
  for (const uri of ['vsock:10809', 'vsock:2:10809', 'vsock:1024?tls=required']) {
    const address = parseListenUri(uri, '/');
    assert('kind' in address, uri);
    assert.equal(formatListenUri(address), uri);
  }
  for (const uri of ['vsock:', 'vsock:x', 'vsock:4294967295', 'vsock:1:2:3', 'vsock:1?tls=maybe'])
    assert.ok('problem' in parseListenUri(uri, '/'), uri);
  assert.equal(nbdUri({ kind: 'vsock', cid: null, port: 7 }, 'vg/lv'), 'nbd+vsock://1:7/vg/lv');
});

/** Binds and listens, and becomes a Node with the socket as descriptor 3. */
const LISTEN = [
  'import os, socket, sys',
  's = socket.socket(socket.AF_UNIX)',
  's.bind(sys.argv[1])',
  's.listen()',
  'os.dup2(s.fileno(), 3)',
  'os.set_inheritable(3, True)',
  'os.execv(sys.argv[2], sys.argv[2:])',
].join('\n');

const SERVE = `
  import { VsockListener } from '${join(CHECKOUT, 'src/daemon/vsock.ts')}';
  const log = { warn: (fields, message) => process.stderr.write(message) };
  VsockListener.open({
    address: { kind: 'vsock', cid: null, port: 7 },
    fd: 3,
    drainTimeoutMs: 1000,
    log,
    accept(socket, from) {
      socket.write(JSON.stringify(from.kind) + ' ');
      socket.pipe(socket);
    },
  });
  process.stdin.on('end', () => process.exit(0)).resume();
`;

test('what is accepted goes through a socket pair, both ways and to the end', async () => {
  await withTemporaryFolder(async (folder) => {
    const path = join(folder, 'socket');
    const argv = ['-c', LISTEN, path, process.execPath, '--input-type=module', '-e', SERVE];
    const child = spawn('/usr/bin/python3', argv, { stdio: ['pipe', 'inherit', 'inherit'] });
    await waitFor('it to listen', () => accepts(path));
    const clients = Array.from({ length: 4 }, async (_, i) => {
      const socket = connect({ path, allowHalfOpen: true });
      const sent = String(i).repeat(2_000_000);
      socket.end(sent);
      assert.equal(await text(socket), `"vsock" ${sent}`);
    });
    await Promise.all(clients);
    child.stdin?.end();
    assert.deepEqual(await once(child, 'exit'), [0, null]);
  });
});
