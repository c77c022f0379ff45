/** A real Linux kernel as the client of a volume that moves: ext4 under fio with verification, there and back, no wrong byte. */
import assert from 'node:assert/strict';
import { truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { runInVm } from '../helpers/vm.ts';

test('pvmove there and back under a mounted file system, with a storm of suspends', async () => {
  await withTemporaryFolder(async (folder) => {
    const disks = ['a.img', 'b.img'].map((name) => join(folder, name));
    for (const disk of disks) {
      await writeFile(disk, '');
      await truncate(disk, 80 * 1024 * 1024);
    }
    const script = join(import.meta.dirname, 'online-move.sh');
    const { status, output } = await runInVm(script, { disks, timeoutSeconds: 900 });
    assert.equal(status, 0, output);
    assert.match(output, /^done$/m, output);
  });
});
