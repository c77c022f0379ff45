/**
 * Snapshots that our commands made, of a volume that was in use: the kernel activates them and finds every byte, in the sparse volume
 * as well; and what it writes then is ours to read.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { type RunningDaemon, startDaemon } from '../helpers/daemon.ts';
import { mustRun } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';
import { runInVm } from '../helpers/vm.ts';

const MIB = 2 ** 20;

async function hashOf(daemon: RunningDaemon, folder: string, name: string): Promise<string> {
  const path = join(folder, 'copy');
  await mustRun('nbdcopy', ['--no-extents', daemon.uri(`vg/${name}`), path]);
  return createHash('sha256')
    .update(await readFile(path))
    .digest('hex');
}

async function write(daemon: RunningDaemon, name: string, seed: number): Promise<void> {
  const job = `--name=${name} --ioengine=nbd --uri=${daemon.uri(`vg/${name}`)} --rw=randwrite --iodepth=16`;
  const rest = `--randseed=${seed} --bsrange=4k-32k --size=24m --io_size=2m --end_fsync=1 --verify=crc32c --verify_fatal=1 --verify_state_save=0`;
  await mustRun('fio', `${job} ${rest}`.split(' '));
}

test('the kernel activates snapshots that our commands made', async () => {
  await withTemporaryFolder(async (folder) => {
    const image = join(folder, 'disk0');
    await writeFile(image, '');
    await truncate(image, 256 * MIB);
    const hashes = new Map<string, string>();
    const names = ['origin', 's1', 's2', 'sparse'];
    const run = (control: string, command: string, ...args: readonly string[]): Promise<string> => {
      const env = { ORION_LVM_DEVICES: image, ORION_LVM_CONTROL: control, LVM_SYSTEM_DIR: folder };
      return mustRun(join(CHECKOUT, 'bin', command), args, { cwd: folder, env });
    };
    await run('', 'vgcreate', 'vg', image);
    await run('', 'lvcreate', '-L24M', '-norigin', 'vg');
    let daemon = await startDaemon([image], ['--workers', '2']);
    try {
      const control = join(dirname(daemon.socket), 'control.sock');
      await write(daemon, 'origin', 1);
      const first = await hashOf(daemon, folder, 'origin');
      await run(control, 'lvcreate', '-s', '-L4M', '-ns1', 'vg/origin');
      const writing = write(daemon, 'origin', 2);
      await run(control, 'lvextend', '-L+20M', 'vg/s1');
      await run(control, 'lvcreate', '-s', '-L24M', '-c64k', '-ns2', 'vg/origin');
      await run(control, 'lvcreate', '--type', 'snapshot', '-V24M', '-L12M', '-nsparse', 'vg');
      await writing;
      assert.equal(await hashOf(daemon, folder, 's1'), first);
      await Promise.all([write(daemon, 's2', 3), write(daemon, 'sparse', 4)]);
      for (const name of names) hashes.set(name, await hashOf(daemon, folder, name));
    } finally {
      assert.equal(await daemon.stop(), 0, daemon.log());
    }
    const manifest = [...hashes].map(([name, hash]) => `${name} ${hash}`).join('\n');
    const { status, output } = await runInVm(join(import.meta.dirname, 'snapshots.sh'), {
      args: ['vg', manifest],
      disks: [image],
      timeoutSeconds: 300,
    });
    assert.equal(status, 0, output);
    assert.match(output, /^done\r?$/m, output);
    const left = new Map([...output.matchAll(/^now (\S+) ([0-9a-f]{64})\r?$/gm)].map(([, name, hash]) => [name, hash]));
    assert.deepEqual(new Set(left.keys()), new Set(names));
    daemon = await startDaemon([image]);
    try {
      for (const name of names) assert.equal(await hashOf(daemon, folder, name), left.get(name), name);
    } finally {
      assert.equal(await daemon.stop(), 0, daemon.log());
    }
  });
});
