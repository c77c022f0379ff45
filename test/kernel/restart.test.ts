/** An attached volume under a real kernel, with I/O on it, while the daemon is replaced by its next process, and restarted. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { TestGroup } from '../daemon/images.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { runInVm } from '../helpers/vm.ts';

test('a mounted volume does not notice that its daemon is replaced', async (t) => {
  await withTemporaryFolder(async (folder) => {
    const group = await new TestGroup(join(folder, 'disk'), 'vg0').write([{ name: 'data', extent: 0, extents: 30 }]);
    const { status, output } = await runInVm(join(import.meta.dirname, 'restart.sh'), {
      args: [`${group.name}/data`],
      disks: [group.path],
      timeoutSeconds: 900,
    });
    assert.equal(status, 0, output);
    assert.match(output, /^done$/m, output);
    const pauses = [...output.matchAll(/^pause (\d+)$/gm)].map(([, ms]) => `${ms} ms`);
    assert.ok(pauses.length >= 2, output);
    t.diagnostic(`pauses in the virtual machine: ${pauses.join(', ')}`);
  });
});
