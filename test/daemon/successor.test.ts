/** A process that is to follow and can't even be started: the one that is here is told, and goes on. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';

const SUCCESSOR = JSON.stringify(new URL('../../src/daemon/handover/successor.ts', import.meta.url).href);

test('without a free descriptor nothing is handed over, and the reason is told', async () => {
  const source = `
    import { openSync } from 'node:fs';
    import { FdList, Successor } from ${SUCCESSOR};
    const opened = () => { try { return openSync('/dev/null'); } catch { return null; } };
    while (opened() !== null);
    try {
      Successor.start({ main: '/nonexistent', args: [] }, new FdList(), {});
    } catch (error) {
      process.stdout.write(error.code + ' ' + error.message);
    }`;
  const command = 'ulimit -n 200 && exec "$@"';
  const node = [process.execPath, '--input-type=module', '-e', source];
  const { stdout } = await promisify(execFile)('sh', ['-c', command, 'sh', ...node]);
  assert.match(stdout, /^HAND_OVER .*no descriptor is free/);
});
