/** `devtypes` against LVM2's: every form of the report, what it refuses, and the words for it. No device is needed. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runProgram } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';

const LINES: readonly (readonly string[])[] = [
  [],
  ['-v'],
  ['-o', 'name'],
  ['-o', 'help'],
  ['-o', 'all'],
  ['-o', 'devtype_all'],
  ['-o', '+name'],
  ['-o', '#name'],
  ['-o', 'selected,name', '-S', 'max_partitions=64'],
  ['-o', 'lv_name'],
  ['-o', 'lv_all'],
  ['-o', ''],
  ['-O', '-max_partitions,name'],
  ['-O', 'nothing'],
  ['-S', 'help'],
  ['-S', 'name=~^s'],
  ['-S', 'devtype_max_partitions>32'],
  ['-S', 'nothing=1'],
  ['--unbuffered'],
  ['--rows'],
  ['--nameprefixes', '--noheadings'],
  ['--nameprefixes', '--noheadings', '--unquoted'],
  ['--separator', ',', '--aligned'],
  ['--reportformat', 'json'],
  ['--binary'],
  ['--nosuffix'],
  ['--units', 'k'],
  ['--all'],
  ['sd'],
];

test('devtypes says what LVM2 says', async () => {
  await withTemporaryFolder(async (folder) => {
    const env = { LVM_SYSTEM_DIR: folder, LVM_SUPPRESS_FD_WARNINGS: '1', ORION_LVM_CONTROL: '' };
    const options = { cwd: folder, env };
    for (const line of LINES) {
      const [real, own] = await Promise.all([
        runProgram('lvm', ['devtypes', ...line], options),
        runProgram(`${CHECKOUT}/bin/orion-lvm`, ['devtypes', ...line], options),
      ]);
      assert.deepEqual(own, real, line.join(' '));
    }
  });
});

test('other reports know nothing of device types', async () => {
  const real = await runProgram('lvm', ['lvs', '-o', 'devtype_all'], { env: { LVM_SUPPRESS_FD_WARNINGS: '1' } });
  const own = await runProgram(`${CHECKOUT}/bin/orion-lvm`, ['lvs', '-o', 'devtype_all']);
  assert.equal(own.status, 5);
  assert.equal(
    own.stderr.split('\n').at(-2),
    real.stderr.split('\n').find((line) => /Unrecognised field/.test(line)),
  );
});
