/** A real block device that is empty at first: nothing happens in /dev when it gets its medium, so the interval finds it. */
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { ControlClient } from '../../src/daemon/client/control-client.ts';
import type { DaemonStatus } from '../../src/daemon/status.ts';
import { startDaemon, waitFor } from '../helpers/daemon.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { TestGroup } from './images.ts';

const ATTEMPTS = 5;

/** False: somebody else took the loop device while it was empty. */
async function mediumComes(folder: string): Promise<boolean> {
  const base = await new TestGroup(join(folder, 'base'), 'base').write([{ name: 'lv', extent: 0, extents: 1 }]);
  const later = await new TestGroup(join(folder, 'later'), 'later').write([{ name: 'lv', extent: 0, extents: 2 }]);
  const device = (await mustRun('losetup', ['-f', '--show', later.path])).trim();
  await mustRun('losetup', ['-d', device]);
  const config = join(folder, 'lvm.toml');
  await writeFile(config, 'rescan_interval = 1\n');
  const daemon = await startDaemon([base.path, device], ['--config', config]);
  const control = new ControlClient(join(dirname(daemon.socket), 'control.sock'));
  try {
    if ((await runProgram('losetup', [device, later.path])).status !== 0) return false;
    await waitFor('the volume on it', async () => {
      const { exports } = (await control.request('GET', '/v1/status')) as DaemonStatus;
      return exports.some(({ name, state }) => name === 'later/lv' && state === 'active');
    });
    assert.equal((await mustRun('nbdinfo', ['--size', daemon.uri('later/lv')])).trim(), String(2 * 2 ** 20));
    return true;
  } finally {
    assert.equal(await daemon.stop(), 0, daemon.log());
    const { stdout } = await runProgram('losetup', ['-n', '-O', 'NAME', '-j', later.path]);
    for (const name of stdout.split('\n').filter(Boolean)) await mustRun('losetup', ['-d', name.trim()]);
  }
}

test('a block device gets its medium', async () => {
  await withTemporaryFolder(async (folder) => {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const own = join(folder, String(attempt));
      await mkdir(own);
      if (await mediumComes(own)) return;
    }
    assert.fail('other programs took every loop device');
  });
});
