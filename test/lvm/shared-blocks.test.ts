/** Extents that share a block of a device with those of an LV that somebody else serves: no command writes to them. Needs root. */
import assert from 'node:assert/strict';
import { truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { openBlockDevice } from '../../src/block/open.ts';
import { writeZeroes } from '../../src/block/sync-io.ts';
import { scanDevices } from '../../src/lvm/scan.ts';
import { openLv } from '../../src/lvm/wipe.ts';
import { mustRun, type Outcome, runProgram } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';

class Lab {
  readonly image: string;
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
    this.image = join(folder, 'pv.img');
  }

  run(device: string, command: string, ...args: readonly string[]): Promise<Outcome> {
    const env = { LVM_SYSTEM_DIR: this.#folder, ORION_LVM_DEVICES: device, ORION_LVM_CONTROL: '' };
    return runProgram(join(CHECKOUT, 'bin', command), args, { env });
  }

  /** A VG with extents of 1 KiB, made on a file: LVM2 and we refuse to make it on a disk with larger blocks. */
  async make(): Promise<void> {
    await writeFile(this.image, '');
    await truncate(this.image, 8 * 2 ** 20);
    await this.must(this.image, 'vgcreate', '-s1k', 'vg', this.image);
    for (const name of ['a', 'b']) await this.must(this.image, 'lvcreate', '-Zn', '-Wn', '-l1', `-n${name}`, 'vg');
  }

  async must(device: string, command: string, ...args: readonly string[]): Promise<string> {
    const { status, stdout, stderr } = await this.run(device, command, ...args);
    assert.equal(status, 0, `${command}: ${stderr}`);
    return stdout.trim();
  }

  /** The image as a disk with blocks of so many bytes. */
  async withDisk(blockBytes: number, use: (disk: string) => Promise<void>): Promise<void> {
    const disk = (await mustRun('losetup', ['-f', '--sector-size', `${blockBytes}`, '--show', this.image])).trim();
    try {
      await use(disk);
    } finally {
      await mustRun('losetup', ['-d', disk]);
    }
  }
}

/** Opens vg/b as a command does that writes to it. */
async function openB(disk: string): ReturnType<typeof openLv> {
  const [group] = (await scanDevices([disk])).volumeGroups;
  assert(group !== undefined);
  return openLv(group, 'b', ({ path }) => openBlockDevice(path, { direct: 'blocks' }));
}

test('an LV that shares a block of its disk with another is not opened to be written to', () =>
  withTemporaryFolder(async (folder) => {
    const lab = new Lab(folder);
    await lab.make();
    const message =
      /Cannot write to logical volume vg\/b: its extents share blocks of 4096 bytes of \/dev\/loop\d+ with others; copy /;
    await lab.withDisk(4096, (disk) => assert.rejects(openB(disk), message));
    // Blocks as large as extents are nobody else's.
    await lab.withDisk(1024, async (disk) => {
      const b = await openB(disk);
      await writeZeroes(b.device, 0, 1024);
      await b.close();
    });
  }));

test('a new LV whose head would share a block is refused, and taken back', () =>
  withTemporaryFolder(async (folder) => {
    const lab = new Lab(folder);
    await lab.make();
    await lab.withDisk(4096, async (disk) => {
      const { status, stderr } = await lab.run(disk, 'lvcreate', '-l1', '-nc', 'vg');
      assert.equal(status, 5);
      assert.match(stderr, /Cannot write to logical volume vg\/c: its extents share blocks of 4096 bytes/);
      assert.match(stderr, /Aborting\. Failed to wipe start of new LV\./);
      assert.deepEqual((await lab.must(disk, 'lvs', '--noheadings', '-olv_name', 'vg')).split(/\s+/), ['a', 'b']);
      await lab.must(disk, 'lvcreate', '-Zn', '-Wn', '-l1', '-nc', 'vg');
    });
    await lab.must(lab.image, 'lvcreate', '-l1', '-nd', 'vg');
  }));

test('no extents are moved to where they would share a block; the move can be aborted', () =>
  withTemporaryFolder(async (folder) => {
    const lab = new Lab(folder);
    await lab.make();
    await lab.withDisk(4096, async (disk) => {
      const { status, stderr } = await lab.run(disk, 'pvmove', '-i0', '--alloc', 'anywhere', `${disk}:0`, `${disk}:5`);
      assert.equal(status, 5);
      assert.match(
        stderr,
        /Cannot move extents in vg: its extents share blocks of 4096 bytes of \/dev\/loop\d+ with others/,
      );
      await lab.must(disk, 'pvmove', '--abort');
      assert.equal(await lab.must(disk, 'lvs', '--noheadings', '-oseg_pe_ranges', 'vg/a'), `${disk}:0-0`);
    });
    await lab.must(lab.image, 'pvmove', '-i0', '--alloc', 'anywhere', `${lab.image}:0`, `${lab.image}:5`);
  }));
