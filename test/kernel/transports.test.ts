/**
 * What only a real kernel can judge of the ways to the daemon: clients over vsock, with TLS and without, and the kernel's own nbd
 * over TLS by certificates of `orion-lvm tls init`.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { startDaemon } from '../helpers/daemon.ts';
import { mustRun } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';
import { runInVm } from '../helpers/vm.ts';
import { EXTENT, TestGroup } from '../daemon/images.ts';

/** Has compiled what only a daemon with TLS loads, as `runInVm` has the rest. */
async function compile(disk: string, tls: string): Promise<void> {
  const socket = join(tls, 'nbd.sock');
  const extra = ['--tls-certificates', tls, '--tls-verify-clients', '--listen', `unix:${socket}?tls=required`];
  const daemon = await startDaemon([disk], ['--workers', '1', ...extra]);
  const options = `tls-certificates=${join(tls, 'alice')}&tls-hostname=localhost`;
  await mustRun('nbdinfo', ['--list', `nbds+unix:///?socket=${socket}&${options}`]);
  await daemon.stop();
}

test('clients over vsock, and the kernel over TLS', async () => {
  await withTemporaryFolder(async (folder) => {
    const extents = 8;
    const group = new TestGroup(join(folder, 'disk'), 'vg');
    await group.write([{ name: 'lv', extent: 0, extents }]);
    // Here and not there: an emulated processor takes minutes for the keys.
    const tls = join(folder, 'tls');
    const init = ['tls', 'init', '--dir', tls, '--host', 'localhost', '--client', 'alice'];
    await mustRun(join(CHECKOUT, 'bin/orion-lvm'), init);
    await compile(group.path, tls);
    const { status, output } = await runInVm(join(import.meta.dirname, 'transports.sh'), {
      args: [`${group.name}/lv`, String(extents * EXTENT), tls],
      disks: [group.path],
      timeoutSeconds: 300,
    });
    assert.equal(status, 0, output);
    assert.match(output, /^done$/m, output);
  });
});
