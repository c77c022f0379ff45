/** The units of packaging/ under a real systemd, udev and kernel: socket activation, sandbox, reload, attached volumes, watchdog. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { TestGroup } from '../daemon/images.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { runInVm } from '../helpers/vm.ts';

test('units', async () => {
  await withTemporaryFolder(async (folder) => {
    const extents = 16;
    const group = await new TestGroup(join(folder, 'disk'), 'vg0').write([{ name: 'my-data', extent: 0, extents }]);
    const { status, output } = await runInVm(join(import.meta.dirname, 'units.sh'), {
      args: [group.name, 'my-data', String(extents * 2 ** 20)],
      disks: [group.path],
      timeoutSeconds: 900,
    });
    assert.equal(status, 0, output);
    assert.match(output, /^done$/m, output);
  });
});
