/** What the daemon tells a service manager while it starts, runs, reloads, hangs and stops: read from a real notify socket. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { test } from 'node:test';
import { ensureDemo } from '../../src/daemon/demo-volume-group.ts';
import { waitFor } from '../helpers/daemon.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';

/** Prints every message on one line. systemd-notify waits until the descriptor that came with BARRIER=1 is closed. */
const MANAGER = `
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print("bound", flush=True)
while True:
    data, fds, _, _ = socket.recv_fds(s, 4096, 4)
    for fd in fds: os.close(fd)
    print(" ".join(data.decode().split("\\n")), flush=True)
`;

test('ready, alive, reloading, and not alive while it hangs', async () => {
  await withTemporaryFolder(async (folder) => {
    const { images } = await ensureDemo(join(folder, 'demo'));
    const socket = join(folder, 'notify');
    const manager = spawn('python3', ['-c', MANAGER, socket], { stdio: ['ignore', 'pipe', 'inherit'] });
    let told = '';
    manager.stdout.on('data', (chunk: Buffer) => (told += chunk.toString()));
    const count = (word: string): number => told.split('\n').filter((line) => line.split(' ').includes(word)).length;
    await waitFor('the notify socket', () => told.includes('bound'));
    const args = ['--devices', images.join(','), '--listen', 'unix:nbd.sock', '--control', 'control.sock'];
    const env = { ...process.env, NOTIFY_SOCKET: socket, WATCHDOG_USEC: '400000' };
    const daemon = spawn(join(CHECKOUT, 'bin/orion-lvmd'), args, { cwd: folder, env, stdio: 'ignore' });
    const exited = once(daemon, 'exit');
    try {
      await waitFor('READY=1', () => count('READY=1') === 1);
      await waitFor('two signs of life', () => count('WATCHDOG=1') >= 2);
      daemon.kill('SIGHUP');
      await waitFor('the end of the reload', () => count('READY=1') === 2);
      assert.match(told, /RELOADING=1 MONOTONIC_USEC=\d+[^]*READY=1 STATUS=4 logical volumes served/);
      daemon.kill('SIGSTOP');
      await waitFor('what was sent before', async () => {
        const before = count('WATCHDOG=1');
        await new Promise((resolve) => setTimeout(resolve, 450));
        return before === count('WATCHDOG=1');
      });
      daemon.kill('SIGCONT');
      const before = count('WATCHDOG=1');
      await waitFor('a sign of life', () => count('WATCHDOG=1') > before);
    } finally {
      daemon.kill('SIGTERM');
      daemon.kill('SIGCONT');
      await exited;
      await waitFor('STOPPING=1', () => count('STOPPING=1') === 1);
      manager.kill();
    }
    assert.equal(daemon.exitCode, 0);
  });
});
