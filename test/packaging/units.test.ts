/** What packaging/ installs is right in the eyes of the programs that read it: systemd, tmpfiles, udev, and nbd-client's manual. */
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { mustRun, runProgram } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';

const PACKAGING = join(CHECKOUT, 'packaging');

/** Copies the units to `folder`, with this checkout's paths; gives their names. An instance stands for a template. */
async function installUnits(folder: string): Promise<readonly string[]> {
  const names: string[] = [];
  for (const name of await readdir(PACKAGING)) {
    if (!/\.(service|socket)$/.test(name)) continue;
    const text = (await readFile(join(PACKAGING, name), 'utf8')).replaceAll('/opt/orion-lvm', CHECKOUT);
    await writeFile(join(folder, name), text);
    const instance = name.replace('@.', '@vg0-my\\x2ddata.');
    if (instance !== name) await writeFile(join(folder, instance), text);
    names.push(instance);
  }
  return names;
}

describe('units', () => {
  test('systemd has nothing to complain of', async () => {
    await withTemporaryFolder(async (folder) => {
      const names = await installUnits(folder);
      assert.deepEqual(names.toSorted(), [
        'orion-lvm-attach@vg0-my\\x2ddata.service',
        'orion-lvmd-control.socket',
        'orion-lvmd.service',
        'orion-lvmd.socket',
      ]);
      const args = ['verify', '--man=no', ...names.map((name) => join(folder, name))];
      const { status, stdout, stderr } = await runProgram('systemd-analyze', args);
      assert.deepEqual({ status, stdout, stderr }, { status: 0, stdout: '', stderr: '' });
    });
  });

  test('the daemon is not more exposed than it has to be', async () => {
    await withTemporaryFolder(async (folder) => {
      await installUnits(folder);
      const unit = join(folder, 'orion-lvmd.service');
      const said = await mustRun('systemd-analyze', ['security', '--offline=true', unit]);
      const exposure = Number(/exposure level for orion-lvmd.service: ([\d.]+)/.exec(said)?.[1]);
      assert.ok(exposure <= 4, said);
    });
  });

  test('an instance is the escaped name of the volume', async () => {
    const names = ['vg0/data', 'my-vg/my_lv.1+2'];
    for (const name of names) {
      const escaped = (await mustRun('systemd-escape', [name])).trim();
      assert.equal((await mustRun('systemd-escape', ['--unescape', escaped])).trim(), name);
    }
  });
});

test('tmpfiles makes the run-time directories', async () => {
  await withTemporaryFolder(async (folder) => {
    await mkdir(join(folder, 'run'));
    await mustRun('systemd-tmpfiles', ['--create', `--root=${folder}`, join(PACKAGING, 'orion-lvm.tmpfiles.conf')]);
    assert.equal((await stat(join(folder, 'run/orion-lvm/attached'))).mode & 0o777, 0o755);
    assert.equal((await stat(join(folder, 'run/lock/lvm'))).mode & 0o777, 0o700);
  });
});

test('every option in the nbdtab example is one of nbdtab(5)', async () => {
  const text = await readFile(join(PACKAGING, 'nbdtab.example'), 'utf8');
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  const known = new Set(['unix', 'persist', 'conns', 'port', 'timeout', 'bs', 'swap', 'sdp', 'no_optgo']);
  assert.ok(lines.length > 0);
  for (const line of lines) {
    const [device = '', server, name = '', options = '', ...rest] = line.split(/\s+/);
    assert.match(device, /^nbd\d+$/);
    assert.ok(server);
    assert.match(name, /^[\w.+-]+\/[\w.+-]+$/);
    for (const option of options.split(',')) assert.ok(known.has(option.split('=', 1)[0] ?? ''), option);
    assert.deepEqual(rest, []);
  }
});
