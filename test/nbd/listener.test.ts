/** Socket files: their permissions and their group. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { openListener } from '../../src/nbd/listener.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';

/** Root may give a file to any group, others to their own. */
const GROUP = process.getuid?.() === 0 ? 12_345 : (process.getgid?.() ?? 0);

test('a socket gets its group and its mode', async () => {
  await withTemporaryFolder(async (folder) => {
    const path = join(folder, 'socket');
    const address = { kind: 'unix', path, mode: 0o660, group: GROUP } as const;
    const { server } = await openListener(
      address,
      (socket) => socket.destroy(),
      (error) => assert.fail(error),
    );
    const { gid, mode } = statSync(path);
    assert.deepEqual([gid, mode & 0o777], [GROUP, 0o660]);
    await once(server.close(), 'close');
  });
});
