/**
 * A real Linux kernel as the judge: its nbd client reads every LV of the golden volume group through our daemon, a file system
 * written through an export is right under LVM2, and the other way round.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { unpackGolden, withTemporaryFolder } from '../helpers/shared.ts';
import { runInVm } from '../helpers/vm.ts';

test('the kernel reads and writes our exports, and LVM2 agrees', async () => {
  await withTemporaryFolder(async (folder) => {
    const golden = await unpackGolden('basic', folder);
    const { status, output } = await runInVm(join(import.meta.dirname, 'linux-client.sh'), {
      args: [(await readFile(join(folder, 'manifest'), 'utf8')).trim()],
      disks: golden.images,
      timeoutSeconds: 600,
    });
    assert.equal(status, 0, output);
    assert.match(output, /^done$/m, output);
  });
});
