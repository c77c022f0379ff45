/** Which devices specs mean: paths, globs, directories, and by default every block device that LVM2 would look at. */
import assert from 'node:assert/strict';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { openBlockDevice } from '../../src/block/open.ts';
import { describeDevice, listDevices } from '../../src/lvm/devices.ts';
import { LvmError } from '../../src/lvm/errors.ts';
import { mustRun } from '../helpers/run.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';

/** A folder with two images, a link to the first one, a folder and a FIFO. */
async function withImages(use: (folder: string) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    await writeFile(join(folder, 'b.img'), Buffer.alloc(4096));
    await writeFile(join(folder, 'a.img'), Buffer.alloc(4096));
    await symlink('a.img', join(folder, 'c.img'));
    await mkdir(join(folder, 'empty'));
    await mustRun('mkfifo', [join(folder, 'fifo')]);
    await use(folder);
  });
}

describe('specs', () => {
  test('paths are kept in their order, under the first name of each device', async () => {
    await withImages(async (folder) => {
      const specs = ['c.img', 'b.img', 'a.img', 'b.img'].map((name) => join(folder, name));
      assert.deepEqual(await listDevices(specs), specs.slice(0, 2));
    });
  });

  test('globs and directories give their files and block devices, sorted', async () => {
    await withImages(async (folder) => {
      const both = [join(folder, 'a.img'), join(folder, 'b.img')];
      assert.deepEqual(await listDevices([join(folder, '*.img')]), both);
      assert.deepEqual(await listDevices([folder]), both);
      assert.deepEqual(await listDevices([join(folder, '[ab].im?'), folder]), both);
    });
  });

  test('what gives no device is said, by name', async () => {
    await withImages(async (folder) => {
      const cases = {
        gone: /gone: No such file or directory$/,
        '*.raw': /\*\.raw: no block device and no regular file matches$/,
        empty: /empty: the directory holds no block device and no regular file$/,
        fifo: /fifo: is neither a block device nor a regular file$/,
      };
      for (const [name, message] of Object.entries(cases)) {
        await assert.rejects(listDevices([join(folder, name)]), (error) => {
          assert.ok(error instanceof LvmError);
          assert.equal(error.code, 'DEVICE_NOT_FOUND');
          assert.match(error.message, message);
          return true;
        });
      }
      const problems: string[] = [];
      const specs = ['gone', 'a.img', 'empty'].map((name) => join(folder, name));
      const onProblem = (message: string): void => void problems.push(message);
      assert.deepEqual(await listDevices(specs, { onProblem }), [join(folder, 'a.img')]);
      assert.equal(problems.length, 2);
    });
  });

  test('a name with the characters of a glob is a name first', async () => {
    await withTemporaryFolder(async (folder) => {
      const path = join(folder, 'disk[1].img');
      await writeFile(path, '');
      assert.deepEqual(await listDevices([path]), [path]);
    });
  });
});

/** A sysfs with these attribute files, and a /dev with a file for each device. */
async function listed(attributes: Readonly<Record<string, string>>, names: readonly string[]): Promise<string[]> {
  let found: string[] = [];
  await withTemporaryFolder(async (folder) => {
    const devDirectory = join(folder, 'dev');
    await mkdir(join(devDirectory, 'mapper'), { recursive: true });
    for (const name of names) await writeFile(join(devDirectory, name), '');
    for (const [path, value] of Object.entries(attributes)) {
      const file = join(folder, 'class/block', path);
      await mkdir(join(file, '..'), { recursive: true });
      await writeFile(file, `${value}\n`);
    }
    const paths = await listDevices([], { sysfs: folder, devDirectory });
    found = paths.map((path) => path.slice(devDirectory.length + 1));
  });
  return found;
}

describe('by default', () => {
  test('the disks and partitions that may be PVs', async () => {
    const attributes = {
      'sda/size': '1000',
      'sda/sda1/partition': '1',
      'sda1/size': '500',
      'sdb/size': '1000',
      'sdc/size': '0',
      'ram0/size': '8192',
      'nbd0/size': '8192',
      'sr0/size': '8192',
      'loop3/size': '8192',
      'sdd/size': '1000',
      'sdd/holders/md0/size': '1000',
      'md0/size': '1000',
      'sde/size': '1000',
      'sde/holders/dm-0/dm/uuid': 'mpath-36001',
      'dm-0/size': '1000',
      'dm-0/dm/uuid': 'mpath-36001',
      'dm-0/dm/name': 'mpatha',
      'sdf/size': '1000',
      'sdf/holders/dm-1/dm/uuid': 'LVM-abc',
      'dm-1/size': '1000',
      'dm-1/dm/uuid': 'LVM-abc',
      'dm-1/dm/name': 'vg-lv',
    };
    const names = [...new Set(Object.keys(attributes).map((path) => path.split('/')[0] ?? '')), 'mapper/mpatha'];
    const expected = process.geteuid?.() === 0 ? ['mapper/mpatha', 'loop3', 'md0', 'sda1', 'sdb', 'sdf'] : [];
    assert.deepEqual(await listed(attributes, names), expected);
  });
});

describe('describing', () => {
  test('a file, and a loop device over it', async () => {
    await withTemporaryFolder(async (folder) => {
      const path = join(folder, 'disk');
      await writeFile(path, Buffer.alloc(65536));
      const file = await openBlockDevice(path, { readOnly: true });
      const { identity, ...described } = await describeDevice(file);
      await file.close();
      assert.deepEqual(described, { path, sizeBytes: 65536, logicalBlockSize: 512, kind: 'file', readOnly: false });
      assert.match(identity, /^file:\d+:\d+$/);

      const loop = (await mustRun('losetup', ['-f', '--show', '--read-only', path])).trim();
      try {
        const device = await openBlockDevice(loop, { readOnly: true });
        const found = await describeDevice(device);
        await device.close();
        assert.equal(found.kind, 'block');
        assert.equal(found.major, 7);
        assert.equal(`/dev/loop${found.minor}`, loop);
        assert.equal(found.readOnly, true);
        assert.equal(found.held, false);
        assert.equal(found.sizeBytes, 65536);
      } finally {
        await mustRun('losetup', ['-d', loop]);
      }
    });
  });
});
