/** What the operating system refuses, as the commands tell it: in the C library's words, and not in Node's. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemWords } from '../../src/lvm/system-error.ts';
import { runProgram } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';

const COMMAND = join(CHECKOUT, 'bin/orion-lvm');

function system(code: string, errno: number): Error {
  return Object.assign(new Error(`${code}: words, open '/a'`), { code, errno });
}

test('words of the C library; other errors as they are', () => {
  assert.equal(systemWords(system('ENOENT', -2)), 'No such file or directory');
  assert.equal(systemWords(system('EEXIST', -17)), 'File exists');
  assert.equal(systemWords(system('EISDIR', -21)), 'Is a directory');
  assert.equal(systemWords(new Error('not the system')), 'not the system');
  assert.equal(systemWords('text'), 'text');
});

test('a backup that is not there, and one whose server is not', async () => {
  const missing = await runProgram(COMMAND, ['restore', '--verify', '/no/such/image']);
  assert.deepEqual(missing, {
    status: 5,
    stdout: '',
    stderr: '  /no/such/image: open failed: No such file or directory\n',
  });
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  server.close();
  await once(server, 'close');
  const nobody = await runProgram(COMMAND, ['backup', `nbd://127.0.0.1:${address.port}/vg/lv`, '-']);
  assert.equal(nobody.stderr, `  vg/lv at tcp:127.0.0.1:${address.port}: nobody listens there\n`);
  assert.equal(nobody.status, 5);
});

test('a daemon whose socket the user may not use is told to who names no devices', async () => {
  await withTemporaryFolder(async (folder) => {
    await mkdir(join(folder, 'closed'));
    // Root may use everything, so another user tries.
    const user = process.geteuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
    const control = createServer().listen(join(folder, 'closed', 'control.sock'));
    await once(control, 'listening');
    await chmod(join(folder, 'closed', 'control.sock'), user.uid === undefined ? 0 : 0o600);
    await chmod(folder, 0o755);
    try {
      const run = async (...args: readonly string[]): Promise<string> => {
        const env = {
          ...process.env,
          ORION_LVM_CONTROL: join(folder, 'closed', 'control.sock'),
          ORION_LVM_DEVICES: '',
        };
        const child = spawn(COMMAND, args, { env, cwd: '/', stdio: ['ignore', 'ignore', 'pipe'], ...user });
        let stderr = '';
        child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
        assert.deepEqual(await once(child, 'close'), [5, null], stderr);
        return stderr;
      };
      const refused = `orion-lvmd at ${folder}/closed/control.sock cannot be reached: permission denied.`;
      assert.match(await run('lvs'), new RegExp(`^ {2}WARNING: ${refused}\\n {2}No devices to look at: `));
      assert.equal(await run('status'), `  ${refused}\n`);
      assert.doesNotMatch(await run('pvs', '--devices', '/no/such/device', '/no/such/device'), /WARNING/);
    } finally {
      control.close();
    }
  });
});
