/** Opening: kinds, sizes, limits, identity, locks, and the errors that name what is wrong. Loop devices need root. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, link, mkdir, mkdtemp, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';
import type { DeviceError, DeviceErrorCode } from '../../src/block/errors.ts';
import { openBlockDevice, type OpenOptions } from '../../src/block/open.ts';
import { deviceNumbers, probeFile } from '../../src/block/probe.ts';
import { readSysfs } from '../../src/block/sysfs.ts';
import { temporaryFile, temporaryLoop } from './harness.ts';

const run = promisify(execFile);

async function fails(path: string, code: DeviceErrorCode, text: RegExp, options: OpenOptions = {}): Promise<void> {
  await assert.rejects(openBlockDevice(path, options), (error: DeviceError) => {
    assert.equal(error.name, 'DeviceError');
    assert.equal(error.code, code);
    assert.equal(error.device, path);
    assert(error.message.startsWith(`${path}: `), error.message);
    assert.match(error.message, text);
    return true;
  });
}

describe('opening', () => {
  test('refuses what holds no blocks, and names what it is', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'orion-block-'));
    const socket = createServer().listen(join(directory, 'socket'));
    await once(socket, 'listening');
    await run('mkfifo', [join(directory, 'fifo')]);
    await symlink('nowhere', join(directory, 'dangling'));
    await fails(directory, 'WRONG_KIND', /is a directory/);
    await fails(join(directory, 'socket'), 'WRONG_KIND', /is a socket/);
    await fails(join(directory, 'fifo'), 'WRONG_KIND', /is a FIFO/);
    await fails('/dev/null', 'WRONG_KIND', /is a character device/);
    await fails(join(directory, 'dangling'), 'NOT_FOUND', /does not exist/);
    await fails(join(directory, 'socket', 'below'), 'NOT_FOUND', /does not exist/);
    await fails(`${directory}/nul\0byte`, 'FAILED', /cannot be looked up/);
    socket.close();
    await rm(directory, { recursive: true });
  });

  test('names missing permission', async () => {
    const file = await temporaryFile(1024);
    await chmod(dirname(file.path), 0o755);
    await chmod(file.path, 0o400);
    const isRoot = process.getuid?.() === 0;
    if (isRoot) process.seteuid?.(65_534);
    try {
      await fails(file.path, 'NO_ACCESS', /cannot be opened for reading and writing: permission denied/);
    } finally {
      if (isRoot) process.seteuid?.(0);
    }
    await file.dispose();
  });

  test('rounds the size of a file down to whole sectors', async () => {
    const file = await temporaryFile(0);
    for (const [bytes, expected] of [
      [0, 0],
      [511, 0],
      [512, 512],
      [1_048_577, 1_048_576],
    ] as const) {
      await truncate(file.path, bytes);
      const device = await openBlockDevice(file.path, { readOnly: true });
      assert.equal(device.limits.sizeBytes, expected);
      await device.close();
    }
    await file.dispose();
  });

  test('refuses 2^53 bytes', () => {
    assert.equal(probeFile('x', { size: 2n ** 53n - 512n, blksize: 4096n }, false).sizeBytes, 2 ** 53 - 512);
    assert.throws(() => probeFile('x', { size: 2n ** 53n, blksize: 4096n }, false), { code: 'TOO_LARGE' });
  });

  test('gives one identity to every path of a file', async () => {
    const file = await temporaryFile(1024);
    const other = await temporaryFile(1024);
    await symlink(file.path, `${file.path}.symlink`);
    await link(file.path, `${file.path}.link`);
    const paths = [file.path, `${file.path}.symlink`, `${file.path}.link`, other.path];
    const devices = await Promise.all(paths.map((path) => openBlockDevice(path)));
    const identities = devices.map(({ identity }) => identity);
    assert.equal(new Set(identities.slice(0, 3)).size, 1);
    assert.notEqual(identities[3], identities[0]);
    await Promise.all(devices.map((device) => device.close()));
    await file.dispose();
    await other.dispose();
  });
});

describe('exclusive opening', () => {
  test('keeps a second writer away from a file, and writers from readers', async () => {
    const file = await temporaryFile(1024);
    const writer = await openBlockDevice(file.path, { exclusive: true });
    await fails(file.path, 'IN_USE', /is in use by another process.*stop/, { exclusive: true });
    await fails(file.path, 'IN_USE', /is in use/, { exclusive: true, readOnly: true });
    await (await openBlockDevice(file.path, { readOnly: true })).close();
    await writer.close();
    const readers = [
      await openBlockDevice(file.path, { exclusive: true, readOnly: true }),
      await openBlockDevice(file.path, { exclusive: true, readOnly: true }),
    ];
    await fails(file.path, 'IN_USE', /is in use/, { exclusive: true });
    await Promise.all(readers.map((reader) => reader.close()));
    await (await openBlockDevice(file.path, { exclusive: true })).close();
    await file.dispose();
  });

  test('sees the lock of another process, and its end', async () => {
    const file = await temporaryFile(1024);
    const opening = JSON.stringify(new URL('../../src/block/open.ts', import.meta.url).href);
    const source = `const { openBlockDevice } = await import(${opening});
      await openBlockDevice(process.argv[1], { exclusive: true });
      process.stdout.write('held');
      process.stdin.resume();`;
    const holder = spawn(process.execPath, ['--input-type=module', '-e', source, file.path], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    await once(holder.stdout, 'data');
    await fails(file.path, 'IN_USE', /is in use/, { exclusive: true });
    holder.kill('SIGKILL');
    await once(holder, 'close');
    await (await openBlockDevice(file.path, { exclusive: true })).close();
    await file.dispose();
  });

  test('keeps a second exclusive user away from a block device', async () => {
    const loop = await temporaryLoop(2 ** 20);
    const first = await openBlockDevice(loop.path, { exclusive: true });
    await fails(loop.path, 'IN_USE', /is in use: mounted.*stop/, { exclusive: true });
    await (await openBlockDevice(loop.path, { readOnly: true })).close();
    await first.close();
    await (await openBlockDevice(loop.path, { exclusive: true })).close();
    await loop.dispose();
  });
});

describe('limits of block devices', () => {
  test('come from the kernel', async () => {
    const loop = await temporaryLoop(2 ** 20 + 512, ['--sector-size', '512']);
    const device = await openBlockDevice(loop.path);
    assert.equal(device.limits.sizeBytes, 2 ** 20 + 512);
    assert.equal(device.limits.logicalBlockSize, 512);
    assert.equal(device.limits.canDiscard, true);
    assert.equal(device.kind, 'block');
    assert.match(device.identity, /^block:7:\d+$/);
    const minor = Number(device.identity.split(':')[2]);
    const sysfs = await readSysfs(7, minor);
    assert.equal(sysfs.sizeBytes, device.limits.sizeBytes);
    assert.equal(sysfs.logicalBlockSize, 512);
    assert.equal(sysfs.readOnly, false);
    await device.close();
    await loop.dispose();
  });

  test('tell larger blocks', async () => {
    const loop = await temporaryLoop(2 ** 20, ['--sector-size', '4096']);
    const { limits, close } = await openBlockDevice(loop.path).then((device) => ({
      limits: device.limits,
      close: () => device.close(),
    }));
    assert.equal(limits.logicalBlockSize, 4096);
    assert.equal(limits.physicalBlockSize, 4096);
    assert.equal(limits.topology?.minimumIoSize, 4096);
    await close();
    await loop.dispose();
  });

  test('tell a read-only device', async () => {
    const loop = await temporaryLoop(2 ** 20, ['--read-only']);
    await fails(loop.path, 'READ_ONLY', /is read-only/);
    const device = await openBlockDevice(loop.path, { readOnly: true });
    assert.equal(device.limits.readOnly, true);
    await device.close();
    await loop.dispose();
  });

  test('survive a sysfs that is not there, and use the disk of a partition', async () => {
    const root = await mkdtemp(join(tmpdir(), 'orion-sysfs-'));
    const nothing = await readSysfs(8, 1, root);
    assert(Object.values(nothing).every((value) => value === null));
    const disk = join(root, 'devices', 'sda');
    await mkdir(join(disk, 'queue'), { recursive: true });
    await mkdir(join(disk, 'sda1'));
    await mkdir(join(root, 'dev', 'block'), { recursive: true });
    await symlink(join(disk, 'sda1'), join(root, 'dev', 'block', '8:1'));
    await writeFile(join(disk, 'sda1', 'size'), '2048\n');
    await writeFile(join(disk, 'sda1', 'ro'), '1\n');
    await writeFile(join(disk, 'sda1', 'alignment_offset'), '-1\n');
    await writeFile(join(disk, 'queue', 'logical_block_size'), '4096\n');
    const facts = await readSysfs(8, 1, root);
    assert.equal(facts.sizeBytes, 2 ** 20);
    assert.equal(facts.readOnly, true);
    assert.equal(facts.logicalBlockSize, 4096);
    assert.equal(facts.alignmentOffset, null);
    await rm(root, { recursive: true });
  });

  test('unpack device numbers', () => {
    // As makedev(3) packs them.
    assert.deepEqual(deviceNumbers(0x801n), { major: 8, minor: 1 });
    assert.deepEqual(deviceNumbers(0xabc3_45den), { major: 0x345, minor: 0xabcde });
    assert.deepEqual(deviceNumbers(0xffff_ffffn), { major: 0xfff, minor: 0xfffff });
  });
});
