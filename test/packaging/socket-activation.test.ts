/**
 * Sockets that somebody else listens on: systemd's own `systemd-socket-activate` and libnbd start the daemon with them, as a
 * socket unit would.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { ensureDemo } from '../../src/daemon/demo-volume-group.ts';
import { waitFor } from '../helpers/daemon.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';

const DAEMON = join(CHECKOUT, 'bin/orion-lvmd');

/** Runs `use` with a daemon that systemd-socket-activate starts at the first connection to one of `listen`. */
async function activated(
  folder: string,
  listen: readonly string[],
  use: (log: () => string) => Promise<void>,
  fdNames?: string,
): Promise<void> {
  const { images } = await ensureDemo(join(folder, 'demo'));
  const args = [
    ...listen.flatMap((address) => ['-l', address]),
    ...(fdNames === undefined ? [] : [`--fdname=${fdNames}`]),
    '-E',
    `XDG_RUNTIME_DIR=${folder}`,
    DAEMON,
    '--devices',
    images.join(','),
  ];
  const child = spawn('systemd-socket-activate', args, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const exited = once(child, 'exit');
  try {
    await waitFor('systemd-socket-activate to listen', () => output.split('Listening on').length > listen.length);
    await use(() => output);
  } finally {
    child.kill('SIGTERM');
    await exited;
  }
  assert.equal(child.exitCode, 0, output);
}

async function statusAt(control: string): Promise<{ state: string; listening: string[] }> {
  const answer = await mustRun('curl', ['-sS', '-m20', '--unix-socket', control, 'http://localhost/v1/status']);
  return JSON.parse(answer) as { state: string; listening: string[] };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

test('the first client starts the daemon; it serves there, and leaves the socket file to systemd', async () => {
  await withTemporaryFolder(async (folder) => {
    const socket = join(folder, 'nbd.sock');
    await activated(folder, [socket], async (log) => {
      const uri = `nbd+unix:///demo/data?socket=${socket}`;
      assert.equal((await mustRun('nbdinfo', ['--size', uri])).trim(), String(64 * 2 ** 20), log());
      assert.match(log(), new RegExp(`listening.*unix:${socket}|unix:${socket}.*listening`));
    });
    assert.ok(existsSync(socket), 'it belongs to who listened');
  });
});

test('a control socket and a TCP port, by their names', async () => {
  await withTemporaryFolder(async (folder) => {
    const control = join(folder, 'control.sock');
    const port = await freePort();
    const use = async (log: () => string): Promise<void> => {
      await waitFor('the daemon to serve', async () => (await statusAt(control)).state === 'serving');
      assert.deepEqual((await statusAt(control)).listening, [`tcp:127.0.0.1:${port}`], log());
      assert.match(await mustRun('nbdinfo', ['--list', `nbd://127.0.0.1:${port}`]), /demo\/data/);
    };
    await activated(folder, [control, `127.0.0.1:${port}`], use, 'control:nbd');
  });
});

test('libnbd starts it by the same protocol, as its interoperability tests do', async () => {
  await withTemporaryFolder(async (folder) => {
    const { images } = await ensureDemo(join(folder, 'demo'));
    const control = join(folder, 'control.sock');
    const command = [DAEMON, '--devices', images.join(','), '--control', control].map((word) => JSON.stringify(word));
    const script = [
      'h.set_export_name("demo/data")',
      `h.connect_systemd_socket_activation([${command.join(', ')}])`,
      'data = bytes(range(256)) * 16',
      'h.pwrite(data, 8192)',
      'h.flush()',
      'assert h.pread(4096, 8192) == data',
      'print("size", h.get_size())',
      'h.shutdown()',
    ].join('\n');
    const { status, stdout, stderr } = await runProgram('/usr/bin/nbdsh', ['-c', script], {
      cwd: folder,
      env: { PATH: `/usr/bin:${process.env['PATH'] ?? ''}` },
    });
    assert.equal(status, 0, stderr);
    assert.match(stdout, /^size \d+$/m);
  });
});

test('a name that means nothing is refused, and says so', async () => {
  await withTemporaryFolder(async (folder) => {
    const script = `exec env LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=contrl ${DAEMON} --devices /nonexistent`;
    const { status, stderr } = await runProgram('sh', ['-c', script], { cwd: folder });
    assert.equal(status, 3, stderr);
    assert.match(stderr, /"contrl" is not allowed: it must be "nbd" or "control"/);
  });
});
