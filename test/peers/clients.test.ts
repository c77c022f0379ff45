/**
 * Real NBD clients against the real daemon, writing: qemu-io's patterns, nbdcopy in and out, qemu-img's convert and compare,
 * fio with verification, and a file system over nbdfuse. Sizes are small; the point is that each of them is content.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { mustRun } from '../helpers/run.ts';
import { unpackGolden } from '../helpers/shared.ts';

describe('clients', () => {
  let folder = '';
  let daemon: RunningDaemon;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'orion-lvm-clients-'));
    const golden = await unpackGolden('basic', folder);
    daemon = await startDaemon(golden.images);
  });
  after(async () => {
    assert.equal(await daemon.stop(), 0, daemon.log());
    await rm(folder, { recursive: true, force: true });
  });

  test('nbdinfo shows what can be negotiated', async () => {
    const info = JSON.parse(await mustRun('nbdinfo', ['--json', daemon.uri('vg_basic/span')])) as {
      exports: Record<string, unknown>[];
    };
    const [item] = info.exports;
    assert.ok(item);
    assert.equal(item['export-name'], 'vg_basic/span');
    assert.equal(item['export-size'], 58720256);
    for (const can of ['can_cache', 'can_flush', 'can_fua', 'can_multi_conn', 'can_trim', 'can_zero'])
      assert.equal(item[can], true, can);
    assert.equal(item['is_read_only'], false);
    assert.equal(item['block_size_minimum'], 1);
  });

  test('qemu-io writes patterns, zeroes and odd bytes, and reads them back', async () => {
    const commands = [
      'write -P 0x5a 1M 64k',
      'read -P 0x5a 1M 64k',
      'write -z 1M 32k',
      'read -P 0 1M 32k',
      'write -z -u 1056k 16k',
      'read -P 0 1056k 16k',
      'write -f -P 0xa5 3 5',
      'read -P 0xa5 3 5',
      'read -P 0x5a 1072k 8k',
      'discard 2M 1M',
      'aio_write -P 0x11 4M 1M',
      'aio_write -P 0x22 5M 1M',
      'aio_flush',
      'read -P 0x11 4M 1M',
      'read -P 0x22 5M 1M',
      'flush',
    ];
    const output = await mustRun('qemu-io', [
      '-f',
      'raw',
      ...commands.flatMap((command) => ['-c', command]),
      daemon.uri('vg_basic/str'),
    ]);
    assert.doesNotMatch(output, /Pattern verification failed|error/i);
  });

  test('nbdcopy in, nbdcopy and qemu-img out', async () => {
    const data = join(folder, 'data.raw');
    await writeFile(data, Buffer.concat([randomBytes(9 << 20), Buffer.alloc(4 << 20), randomBytes(11 << 20)]));
    await mustRun('nbdcopy', ['--connections=4', '--requests=64', '--flush', data, daemon.uri('vg_basic/str')]);
    const back = join(folder, 'back.raw');
    await mustRun('nbdcopy', ['--connections=4', '--requests=64', daemon.uri('vg_basic/str'), back]);
    assert.ok((await readFile(back)).equals(await readFile(data)));
    const qcow = join(folder, 'back.qcow2');
    await mustRun('qemu-img', [
      'convert',
      '-f',
      'raw',
      '-O',
      'qcow2',
      '-W',
      '-m',
      '8',
      daemon.uri('vg_basic/str'),
      qcow,
    ]);
    await mustRun('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', qcow, daemon.uri('vg_basic/str')]);
    await mustRun('qemu-img', [
      'bench',
      '-f',
      'raw',
      '-c',
      '2000',
      '-d',
      '64',
      '-w',
      '--flush-interval=64',
      daemon.uri('vg_basic/str'),
    ]);
  });

  test('fio verifies random writes with trims', async () => {
    const args = [
      '--name=verify',
      '--ioengine=nbd',
      `--uri=${daemon.uri('vg_basic/span')}`,
      '--rw=randwrite',
      '--bsrange=512-128k',
      '--blockalign=512',
    ];
    args.push(
      '--iodepth=64',
      '--size=56m',
      '--io_size=48m',
      '--verify=crc32c',
      '--verify_async=0',
      '--do_verify=1',
      '--verify_fatal=1',
      '--fsync=200',
    );
    const output = await mustRun('fio', args, { cwd: folder });
    assert.match(output, /err= 0/);
  });

  test('a file system over nbdfuse', async () => {
    const mountPoint = join(folder, 'fuse');
    const fileSystem = join(folder, 'fs');
    await mkdir(mountPoint);
    await mkdir(fileSystem);
    const fuse = spawn('nbdfuse', [mountPoint, daemon.uri('vg_basic/lin')], { stdio: 'inherit' });
    const ended = once(fuse, 'exit');
    const disk = join(mountPoint, 'nbd');
    await waitFor('nbdfuse to mount', () => existsSync(disk));
    try {
      await mustRun('fsck.ext4', ['-fn', disk]);
      await mustRun('mkfs.ext4', ['-q', '-F', disk]);
      await mustRun('debugfs', ['-w', '-R', `write ${join(folder, 'data.raw')} data.raw`, disk]);
      await mustRun('fsck.ext4', ['-fn', disk]);
      await mustRun('debugfs', ['-R', `dump data.raw ${join(fileSystem, 'data.raw')}`, disk]);
      assert.ok((await readFile(join(fileSystem, 'data.raw'))).equals(await readFile(join(folder, 'data.raw'))));
    } finally {
      await mustRun('fusermount3', ['-u', mountPoint]);
      await ended;
    }
  });
});
