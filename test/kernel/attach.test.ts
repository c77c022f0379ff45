/** `orion-lvm attach` and `detach` before a real kernel and udev: names, sizes that change while mounted, refusals, reconnect. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { runInVm } from '../helpers/vm.ts';
import { TestGroup } from '../daemon/images.ts';

test('volumes as kernel devices', async () => {
  await withTemporaryFolder(async (folder) => {
    const extents = 24;
    const group = new TestGroup(join(folder, 'disk'), 'my-vg');
    await group.write([{ name: 'data-1', extent: 0, extents }]);
    const { status, output } = await runInVm(join(import.meta.dirname, 'attach.sh'), {
      args: [group.name, 'data-1', String(extents * 2 ** 20)],
      disks: [group.path],
      timeoutSeconds: 600,
    });
    assert.equal(status, 0, output);
    assert.match(output, /^done$/m, output);
  });
});
