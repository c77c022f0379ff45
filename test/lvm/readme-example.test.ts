/** The program in README.md that uses the rooms as a library: it runs, and finds what a golden volume group has. */
import assert from 'node:assert/strict';
import { readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { runProgram } from '../helpers/run.ts';
import { CHECKOUT, unpackGolden, withTemporaryFolder } from '../helpers/shared.ts';

test('the example of README.md prints the tables of volumes on images', async () => {
  await withTemporaryFolder(async (folder) => {
    const readme = await readFile(join(CHECKOUT, 'README.md'), 'utf8');
    const program = /```ts\n(?<text>.*?)```/s.exec(readme)?.groups?.['text'] ?? '';
    await writeFile(join(folder, 'tables.ts'), program);
    await writeFile(join(folder, 'package.json'), '{ "type": "module" }');
    await symlink(CHECKOUT, join(folder, 'orion-lvm'));
    const { images, vgName } = await unpackGolden('basic', folder);
    const { status, stdout, stderr } = await runProgram(process.execPath, ['tables.ts', ...images], { cwd: folder });
    assert.deepEqual({ status, stderr }, { status: 0, stderr: '' });
    for (const [name, target] of [
      ['lin', 'linear'],
      ['str', 'striped'],
      ['span', 'linear'],
    ]) {
      assert.match(
        stdout,
        new RegExp(`^${vgName}/${name} \\[\\n {2}\\{\\n {4}start: 0,[^\\]]*target: '${target}'`, 'm'),
      );
    }
  });
});
