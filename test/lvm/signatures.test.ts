/** Signatures are found where the real tools write them, and gone once their bytes are zeroed. */
import assert from 'node:assert/strict';
import { open, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { findImageFormat } from '../../src/lvm/image-formats.ts';
import { findSignatures, SIGNATURE_HEAD_BYTES, SIGNATURE_TAIL_BYTES } from '../../src/lvm/signatures.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';

const MIB = 1024 * 1024;

function find(bytes: Buffer): readonly string[] {
  const sizeBytes = bytes.length;
  const tail = bytes.subarray(Math.max(0, sizeBytes - SIGNATURE_TAIL_BYTES));
  return findSignatures({ head: bytes.subarray(0, SIGNATURE_HEAD_BYTES), tail, sizeBytes }).map(
    ({ type, offset, length }) => `${type} ${offset} ${length}`,
  );
}

const MAKERS: readonly (readonly [type: string, command: string, ...args: readonly string[]])[] = [
  ['ext2', 'mkfs.ext2', '-q', '-F'],
  ['ext3', 'mkfs.ext3', '-q', '-F'],
  ['ext4', 'mkfs.ext4', '-q', '-F'],
  ['swap', 'mkswap', '-q'],
];

describe('signatures', () => {
  for (const [type, command, ...args] of MAKERS) {
    test(`${command} is seen as wipefs sees it`, () =>
      withTemporaryFolder(async (folder) => {
        const path = join(folder, 'image');
        const file = await open(path, 'w');
        await file.truncate(16 * MIB);
        await file.close();
        await mustRun(command, [...args, path]);
        const found = find(await readFile(path));
        const { stdout } = await runProgram('wipefs', ['--noheadings', '-O', 'TYPE,OFFSET,LENGTH', path]);
        const theirs = stdout
          .trim()
          .split('\n')
          .map((line) => {
            const [name = '', offset = '', length = ''] = line.trim().split(/\s+/);
            return `${name} ${Number(offset)} ${length}`;
          });
        assert.deepEqual(found, theirs);
        assert.equal(found[0]?.split(' ')[0], type);
        const bytes = await readFile(path);
        for (const line of found) {
          const [, offset, length] = line.split(' ').map(Number);
          bytes.fill(0, offset, (offset ?? 0) + (length ?? 0));
        }
        assert.deepEqual(find(bytes), []);
      }));
  }

  test('forms of disks in files are seen where qemu-img and others write them', () =>
    withTemporaryFolder(async (folder) => {
      const path = join(folder, 'image');
      for (const format of ['qcow2', 'qed', 'vmdk', 'vdi', 'vpc', 'vhdx', 'parallels']) {
        await mustRun('qemu-img', ['create', '-q', '-f', format, path, '10M']);
        assert.equal(findImageFormat(await readFile(path))?.type, format);
        await rm(path);
      }
      for (const program of ['gzip', 'xz', 'zstd']) {
        await mustRun('sh', ['-c', `head -c 100000 /dev/zero | ${program} > ${path}`]);
        assert.equal(findImageFormat(await readFile(path))?.type, program);
      }
      assert.equal(findImageFormat(Buffer.alloc(MIB)), null);
      assert.equal(findImageFormat(Buffer.alloc(0)), null);
    }));

  test('pvcreate asks before it takes a disk of a virtual machine', () =>
    withTemporaryFolder(async (folder) => {
      const path = join(folder, 'disk.qcow2');
      await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'preallocation=full', path, '10M']);
      const before = await readFile(path);
      const pvcreate = join(CHECKOUT, 'bin/pvcreate');
      const { status, stderr } = await runProgram(pvcreate, [path]);
      assert.equal(status, 5);
      assert.match(stderr, /WARNING: qcow2 signature detected on \S+disk.qcow2 at offset 0. Wipe it\? \[y\/n\]/);
      assert.ok(before.equals(await readFile(path)));
      await mustRun(pvcreate, ['-y', path]);
      assert.deepEqual(findImageFormat(await readFile(path)), null);
    }));

  test('partition tables, RAID at the end, and none at all', () => {
    const dos = Buffer.alloc(MIB);
    dos.write('55aa', 510, 'hex');
    assert.deepEqual(find(dos), ['dos 510 2']);
    const fat = Buffer.from(dos);
    fat.write('FAT32   ', 82, 'latin1');
    assert.deepEqual(find(fat), ['vfat 82 8']);
    const md = Buffer.alloc(MIB);
    md.write('fc4e2ba9', MIB - 64 * 1024, 'hex');
    assert.deepEqual(find(md), [`linux_raid_member ${MIB - 64 * 1024} 4`]);
    assert.deepEqual(find(Buffer.alloc(4096)), []);
    assert.deepEqual(find(Buffer.alloc(512)), []);
  });
});
