/**
 * What the commands do to data: wiping the head of a new LV, overwriting one that goes, resizing file systems. The bytes are
 * looked at on the image files.
 */
import assert from 'node:assert/strict';
import { open, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { run } from '../../src/cli/run.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';
import { NOBODY } from '../helpers/terminal.ts';

const MIB = 1024 * 1024;
/** Where extents start. */
const PE_START = MIB;

interface World {
  readonly image: string;
  /** Runs one of our commands; its exit code, and all that it printed. */
  command(...argv: readonly string[]): Promise<{ readonly code: number; readonly text: string }>;
  read(offset: number, length: number): Promise<Buffer>;
  write(offset: number, bytes: Buffer): Promise<void>;
}

/** A VG `vg` of extents of 1 MiB on one image of 64 MiB, filled with 0xEE. */
async function withVg(use: (world: World) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const image = join(folder, 'pv');
    const env = { ORION_LVM_DEVICES: image, HOME: folder, XDG_RUNTIME_DIR: folder, XDG_STATE_HOME: folder };
    const file = await open(image, 'w+');
    try {
      await file.write(Buffer.alloc(64 * MIB, 0xee));
      const world: World = {
        image,
        async command(...argv) {
          let text = '';
          const add = (line: string): void => void (text += `${line}\n`);
          const output = { print: add, error: add, plainError: add, printPlain: add };
          const code = await run(argv, output, { env, cwd: folder, uid: 1000, now: 1000, terminal: NOBODY });
          return { code, text };
        },
        async read(offset, length) {
          const bytes = Buffer.alloc(length);
          await file.read(bytes, 0, length, offset);
          return bytes;
        },
        async write(offset, bytes) {
          await file.write(bytes, 0, bytes.length, offset);
        },
      };
      await succeed(world, 'vgcreate', '-y', '-s', '1M', 'vg', image);
      await use(world);
    } finally {
      await file.close();
    }
  });
}

async function succeed(world: World, ...argv: readonly string[]): Promise<string> {
  const { code, text } = await world.command(...argv);
  assert.equal(code, 0, `${argv.join(' ')}: ${text}`);
  return text;
}

function isAll(bytes: Buffer, value: number): boolean {
  return bytes.every((byte) => byte === value);
}

describe('the head of a new LV', () => {
  test('is zeroed, and nothing else', () =>
    withVg(async (world) => {
      await succeed(world, 'lvcreate', '-l4', '-n', 'a', 'vg');
      assert(isAll(await world.read(PE_START, 4096), 0));
      assert(isAll(await world.read(PE_START + 4096, 4 * MIB - 4096), 0xee));
    }));

  test('is left alone when asked, inactive, read-only or to be skipped', () =>
    withVg(async (world) => {
      for (const option of ['-Zn', '-an', '-pr', '-ky']) {
        const text = await succeed(world, 'lvcreate', option, '-l2', vgName(option), 'vg');
        assert.match(text, /WARNING: Logical volume vg\/lvol\d not zeroed\./);
      }
      assert(isAll(await world.read(PE_START, 8 * MIB), 0xee));
      const refused = await world.command('lvcreate', '-an', '-Zy', '-l1', 'vg');
      assert.deepEqual(refused, {
        code: 5,
        text: 'Cannot zero inactive logical volume with option -Zy or -Wy.\n',
      });
    }));

  test('loses a signature that is further in', () =>
    withVg(async (world) => {
      await world.write(PE_START + 64 * 1024 + 64, Buffer.from('_BHRfS_M'));
      const text = await succeed(world, 'lvcreate', '-y', '-l4', '-n', 'a', 'vg');
      assert.match(text, /^Wiping btrfs signature on \/dev\/vg\/a\.$/m);
      assert(isAll(await world.read(PE_START + 64 * 1024 + 64, 8), 0));
    }));

  test('keeps a signature when the answer is no, and then the LV is not made', () =>
    withVg(async (world) => {
      await world.write(PE_START + 1080, Buffer.from([0x53, 0xef]));
      const { code, text } = await world.command('lvcreate', '-qq', '-l4', '-n', 'a', 'vg');
      assert.equal(code, 5, text);
      assert.match(text, /^Aborted wiping of \w+\.$/m);
      assert.match(text, /^1 existing signature left on the device\.$/m);
      assert.match(text, /^Aborting\. Failed to wipe start of new LV\.$/m);
      assert.deepEqual([...(await world.read(PE_START + 1080, 2))], [0x53, 0xef]);
      assert.equal((await world.command('lvs', '--noheadings', 'vg')).text, '');
    }));

  test('is not made when its head cannot be wiped', () =>
    withVg(async (world) => {
      await truncate(world.image, PE_START + 4 * MIB);
      const { code, text } = await world.command('lvcreate', '-y', '-l8', '-n', 'a', 'vg');
      assert.equal(code, 5, text);
      assert.match(text, /^Cannot write to logical volume vg\/a: .* was it resized\?\.$/m);
      assert.match(text, /^Aborting\. Failed to wipe start of new LV\.$/m);
      assert.doesNotMatch((await world.command('lvs', '--noheadings', 'vg')).text, /^ *a /m);
      // A snapshot's store is wiped before it is anybody's: then there is nothing to take back.
      await succeed(world, 'lvcreate', '-y', '-l2', '-n', 'b', 'vg');
      const snapshot = await world.command('lvcreate', '-y', '-s', '-l8', '-n', 's', 'vg/b');
      assert.equal(snapshot.code, 5, snapshot.text);
      assert.match(snapshot.text, /was it resized/);
      assert.doesNotMatch(snapshot.text, /Failed to find|Manual intervention/);
    }));
});

function vgName(option: string): string {
  return option === '-an' ? '-Zn' : '-y';
}

describe('lvremove --wipe', () => {
  for (const method of ['zero', 'random', 'discard'] as const) {
    test(`${method} overwrites the extents of the LV and no others`, () =>
      withVg(async (world) => {
        await succeed(world, 'lvcreate', '-an', '-l4', '-n', 'before', 'vg');
        await succeed(world, 'lvcreate', '-an', '-l6', '-n', 'a', 'vg');
        await succeed(world, 'lvcreate', '-an', '-l4', '-n', 'behind', 'vg');
        await succeed(world, 'lvremove', '--wipe', method, 'vg/a');
        const wiped = await world.read(PE_START + 4 * MIB, 6 * MIB);
        if (method === 'random') assert(new Set(wiped).size === 256 && !wiped.includes(Buffer.alloc(64, 0xee)));
        else assert(isAll(wiped, 0));
        assert(isAll(await world.read(PE_START, 4 * MIB), 0xee));
        assert(isAll(await world.read(PE_START + 10 * MIB, 4 * MIB), 0xee));
      }));
  }

  test('wipes nothing when an LV can not go, or in test mode', () =>
    withVg(async (world) => {
      await succeed(world, 'lvcreate', '-an', '-l6', '-n', 'a', 'vg');
      const text = await succeed(world, 'lvremove', '-t', '--wipe', 'zero', 'vg/a');
      assert.match(text, /TEST MODE/);
      assert(isAll(await world.read(PE_START, 6 * MIB), 0xee));
    }));
});

/** What one of our commands shows in a terminal, after others have made what it works on. */
function inTerminal(argv: string, ...setup: readonly (readonly string[])[]): Promise<string> {
  return withTemporaryFolder(async (folder) => {
    const image = join(folder, 'pv');
    await writeFile(image, Buffer.alloc(24 * MIB));
    const env = { ...process.env, ORION_LVM_DEVICES: image, LVM_SYSTEM_DIR: folder };
    const lvm = join(CHECKOUT, 'bin/orion-lvm');
    for (const line of setup) await mustRun(lvm, [...line], { cwd: folder, env });
    return mustRun('script', ['-qec', `${lvm} ${argv}`, '/dev/null'], { cwd: folder, env });
  });
}

describe('how far a wipe is', () => {
  test('is shown in a terminal, and taken away again', async () => {
    const made = [
      ['vgcreate', 'vg', 'pv'],
      ['lvcreate', '-an', '-Zn', '-l4', '-n', 'a', 'vg'],
    ];
    const shown = await inTerminal('lvremove -y --wipe random vg/a', ...made);
    assert.match(shown, /\r {2}Wiping vg\/a \[#* *\] \d+%/u);
    assert(shown.lastIndexOf('\r\u001B[K') > shown.lastIndexOf('%'));
    assert.match(shown, /Logical volume "a" successfully removed/u);
    assert.doesNotMatch(await inTerminal('lvremove -q -y --wipe random vg/a', ...made), /Wiping|%/);
    assert.match(
      await inTerminal('pvremove --wipe zero pv', ['pvcreate', 'pv']),
      /Wiping physical volume pv \[#+\] 100%/,
    );
    assert.doesNotMatch(await inTerminal('pvremove -q --wipe zero pv', ['pvcreate', 'pv']), /Wiping|%/);
  });

  test('is kept out of files', () =>
    withVg(async (world) => {
      await succeed(world, 'lvcreate', '-an', '-l4', '-n', 'a', 'vg');
      assert.doesNotMatch(await succeed(world, 'lvremove', '--wipe', 'zero', 'vg/a'), /Wiping|%/);
    }));
});

describe('issue_discards', () => {
  const settings = 'devices/issue_discards=1';

  test('discards what lvremove, lvreduce and vgremove give back, and nothing else', () =>
    withVg(async (world) => {
      await succeed(world, 'lvcreate', '-an', '-l4', '-n', 'stays', 'vg');
      await succeed(world, 'lvcreate', '-an', '-l6', '-n', 'a', 'vg');
      await succeed(world, 'lvcreate', '-an', '-l6', '-n', 'b', 'vg');
      await succeed(world, 'lvreduce', '--config', settings, '-f', '-l4', 'vg/a');
      assert(isAll(await world.read(PE_START + 8 * MIB, 2 * MIB), 0));
      assert(isAll(await world.read(PE_START + 10 * MIB, 6 * MIB), 0xee));
      await succeed(world, 'lvremove', '-y', '--config', settings, 'vg/b');
      assert(isAll(await world.read(PE_START + 10 * MIB, 6 * MIB), 0));
      assert(isAll(await world.read(PE_START, 8 * MIB), 0xee));
      await succeed(world, 'vgremove', '-ff', '--config', settings, 'vg');
      assert(isAll(await world.read(PE_START, 8 * MIB), 0));
    }));

  test('discards nothing when it is off', () =>
    withVg(async (world) => {
      await succeed(world, 'lvcreate', '-an', '-l4', '-n', 'a', 'vg');
      await succeed(world, 'lvremove', '-y', 'vg/a');
      assert(isAll(await world.read(PE_START, 4 * MIB), 0xee));
    }));

  test('asks first, as everything is lost then', () =>
    withVg(async (world) => {
      await succeed(world, 'lvcreate', '-an', '-l4', '-n', 'a', 'vg');
      const { code, text } = await world.command('lvremove', '--config', settings, 'vg/a');
      assert.equal(code, 5);
      assert.match(text, /Logical volume vg\/a not removed\./);
      assert(isAll(await world.read(PE_START, 4 * MIB), 0xee));
    }));
});

/** The bytes of an LV of one piece at the start of the VG, as a file of its own. */
async function extract(world: World, folder: string, extents: number): Promise<string> {
  const path = join(folder, 'lv');
  const file = await open(path, 'w');
  await file.write(await world.read(PE_START, extents * MIB));
  await file.close();
  return path;
}

describe('--resizefs', () => {
  test('ext4 shrinks before the LV and grows after it, and keeps its files', () =>
    withVg(async (world) => {
      await withTemporaryFolder(async (folder) => {
        await succeed(world, 'lvcreate', '-l16', '-n', 'a', 'vg');
        const source = join(folder, 'source');
        await mustRun('mkdir', [source]);
        await mustRun('cp', [import.meta.filename, join(source, 'file')]);
        await mustRun('mkfs.ext4', ['-q', '-F', '-d', source, '-E', `offset=${PE_START}`, world.image, '16M']);
        await succeed(world, 'lvreduce', '-r', '-l12', 'vg/a');
        await checkExt(await extract(world, folder, 12), folder, 12);
        await succeed(world, 'lvextend', '-r', '-l+20', 'vg/a');
        await checkExt(await extract(world, folder, 32), folder, 32);
      });
    }));

  test('XFS grows after the LV, and is never shrunk', () =>
    withTemporaryFolder(async (folder) => {
      const image = join(folder, 'pv');
      const env = { ...process.env, ORION_LVM_DEVICES: image, LVM_SYSTEM_DIR: folder };
      await mustRun('truncate', ['-s', '512M', image]);
      const lvm = (...argv: readonly string[]): Promise<string> =>
        mustRun(join(CHECKOUT, 'bin/orion-lvm'), argv, { cwd: folder, env });
      await lvm('vgcreate', '-s', '1M', 'vg', image);
      await lvm('lvcreate', '-an', '-Zn', '-L320M', '-n', 'a', 'vg');
      const range = ['-f', '--show', '-o', String(PE_START), '--sizelimit', String(320 * MIB), image];
      const loop = (await mustRun('losetup', range)).trim();
      await mustRun('mkfs.xfs', ['-q', loop]);
      await mustRun('losetup', ['-d', loop]);
      const shrunk = await runProgram(join(CHECKOUT, 'bin/orion-lvm'), ['lvreduce', '-y', '-r', '-L310M', 'vg/a'], {
        env,
      });
      assert.equal(shrunk.status, 5);
      assert.match(shrunk.stderr, /Filesystem "xfs" on vg\/a can't be shrunk\./);
      await lvm('lvresize', '-r', '-L+100M', 'vg/a');
      const file = await open(image);
      const { buffer } = await file.read(Buffer.alloc(512), 0, 512, PE_START);
      await file.close();
      assert.equal(Number(buffer.readBigUInt64BE(8)) * buffer.readUInt32BE(4), 420 * MIB);
    }));

  test('what can not be done safely is refused before anything is changed', () =>
    withVg(async (world) => {
      await succeed(world, 'lvcreate', '-l4', '-n', 'a', 'vg');
      await succeed(world, 'lvcreate', '-l4', '-n', 'b', 'vg');
      const none = await world.command('lvextend', '-r', '-l+4', 'vg/b');
      assert.deepEqual([none.code, none.text.split('\n')[0]], [5, 'No filesystem found on vg/b to resize.']);
      await mustRun('mkfs.ext4', ['-q', '-F', '-E', `offset=${PE_START}`, world.image, '4M']);
      const split = await world.command('lvextend', '-r', '-l+4', 'vg/a');
      assert.equal(split.code, 5);
      assert.match(
        split.text,
        /Cannot resize the filesystem on vg\/a: the logical volume is not one range of one device\./,
      );
      assert.match(await succeed(world, 'lvs', '--noheadings', '-o', 'lv_size', 'vg/a'), /^4\.00m/);
    }));

  test('a file system that does not fit into less stops the command', () =>
    withVg(async (world) => {
      await succeed(world, 'lvcreate', '-l16', '-n', 'a', 'vg');
      await mustRun('mkfs.ext4', ['-q', '-F', '-E', `offset=${PE_START}`, world.image, '16M']);
      const { code, text } = await world.command('lvreduce', '-r', '-l1', 'vg/a');
      assert.equal(code, 5, text);
      assert.match(text, /Filesystem resize failed\./);
      assert.match(await succeed(world, 'lvs', '--noheadings', '-o', 'lv_size', 'vg/a'), /^16\.00m/);
    }));
});

async function checkExt(path: string, folder: string, mib: number): Promise<void> {
  const check = await runProgram('e2fsck', ['-fn', path]);
  assert.equal(check.status, 0, check.stdout + check.stderr);
  const blocks = /^Block count:\s*(\d+)$/m.exec(await mustRun('dumpe2fs', ['-h', path]))?.[1];
  const size = /^Block size:\s*(\d+)$/m.exec(await mustRun('dumpe2fs', ['-h', path]))?.[1];
  assert.equal(Number(blocks) * Number(size), mib * MIB);
  const copy = join(folder, 'copy');
  await mustRun('debugfs', ['-R', `dump /file ${copy}`, path]);
  assert.deepEqual(await readFile(copy), await readFile(import.meta.filename));
}
