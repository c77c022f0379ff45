/** An attached volume under a real kernel, with I/O on it, while the daemon is replaced by its next process, and restarted. */
import assert from 'node:assert/strict';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { runInVm } from '../helpers/vm.ts';

test('a mounted volume does not notice that its daemon is replaced', async (t) => {
  await withTemporaryFolder(async (folder) => {
    const disk = join(folder, 'disk');
    await using file = await open(disk, 'w');
    await file.truncate(96 * 2 ** 20);
    const script = join(import.meta.dirname, 'restart.sh');
    const { status, output } = await runInVm(script, { disks: [disk], timeoutSeconds: 1200 });
    assert.equal(status, 0, output);
    assert.match(output, /^done$/m, output);
    const pauses = [...output.matchAll(/^pause (\d+)$/gm)].map(([, ms]) => `${ms} ms`);
    assert.ok(pauses.length >= 3, output);
    t.diagnostic(`pauses in the virtual machine: ${pauses.join(', ')}`);
  });
});
