/** An attached volume under a real kernel, with I/O on it, while its worker and its daemon are killed and come back. */
import assert from 'node:assert/strict';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { mustRun } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';
import { runInVm } from '../helpers/vm.ts';

test('a mounted volume survives its worker and its daemon', async () => {
  await withTemporaryFolder(async (folder) => {
    const disk = join(folder, 'disk');
    await using file = await open(disk, 'w');
    await file.truncate(96 * 2 ** 20);
    const env = { ORION_LVM_DEVICES: disk };
    await mustRun(join(CHECKOUT, 'bin/vgcreate'), ['-s', '1m', 'vg0', disk], { env });
    await mustRun(join(CHECKOUT, 'bin/lvcreate'), ['-L', '48m', '-n', 'data', 'vg0'], { env });
    const { status, output } = await runInVm(join(import.meta.dirname, 'reconnect.sh'), {
      disks: [disk],
      timeoutSeconds: 1200,
    });
    assert.equal(status, 0, output);
    assert.match(output, /^done$/m, output);
  });
});
