/** The threads engine where the suite cannot look: failing files, file systems without hole punching, grouped flushes. */
import assert from 'node:assert/strict';
import { closeSync, openSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { mkdtemp, open, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execFile } from 'node:child_process';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';
import type { DeviceLimits } from '../../src/block/device.ts';
import { Errno } from '../../src/block/errors.ts';
import { openBlockDevice } from '../../src/block/open.ts';
import { Op, RequestFlag, type IoRequest } from '../../src/block/request.ts';
import { ThreadsDevice } from '../../src/block/threads.ts';
import { Batch, makeRequest, pattern, perform, performOk, readAt, temporaryFile } from './harness.ts';

const run = promisify(execFile);
const MIB = 2 ** 20;
const LIMITS: DeviceLimits = {
  sizeBytes: MIB,
  logicalBlockSize: 512,
  physicalBlockSize: 512,
  requestAlignment: 1,
  readOnly: false,
  canDiscard: true,
  discardGranularity: 512,
};

async function over(path: string): Promise<ThreadsDevice> {
  const handle = await open(path, 'r+');
  return new ThreadsDevice({ name: path, kind: 'file', identity: path, limits: LIMITS, handle });
}

async function zeroesWithoutHelp(path: string): Promise<void> {
  await writeFile(path, pattern(3 * MIB, 1));
  const device = await openBlockDevice(path);
  const batch = new Batch();
  batch.submit(device, { op: Op.writeZeroes, offset: 1, length: MIB - 1, flags: RequestFlag.noUnmap });
  batch.submit(device, { op: Op.writeZeroes, offset: MIB, length: MIB + 5, flags: RequestFlag.noUnmap });
  for (let i = 0; i < 20; i++) {
    batch.submit(device, { op: Op.writeZeroes, offset: 2 * MIB + 4096 * 2 * i + 100, length: 4096 });
  }
  batch.submit(device, { op: Op.discard, offset: 3 * MIB - 4096, length: 4096, flags: RequestFlag.fua });
  await batch.done();
  assert(batch.completed.every(({ error }) => error === 0));
  const expected = pattern(3 * MIB, 1).fill(0, 1, 2 * MIB + 5);
  for (let i = 0; i < 20; i++) expected.fill(0, 2 * MIB + 4096 * 2 * i + 100, 2 * MIB + 4096 * (2 * i + 1) + 100);
  assert(expected.subarray(0, -4096).equals(await readAt(device, 0, 3 * MIB - 4096)));
  await device.close();
}

describe('threads engine', () => {
  test('reports what the system says of a write', async () => {
    const device = await over('/dev/full');
    assert.equal(await perform(device, { op: Op.write, buffer: Buffer.alloc(4096) }), Errno.ENOSPC);
    assert.equal(
      await perform(device, { op: Op.write, buffer: Buffer.alloc(4096), flags: RequestFlag.fua }),
      Errno.ENOSPC,
    );
    await device.close();
  });

  test('reports end of file inside the device as EIO', async () => {
    const file = await temporaryFile(MIB);
    const device = await openBlockDevice(file.path);
    await truncate(file.path, MIB / 2);
    assert.equal(await perform(device, { op: Op.read, offset: MIB - 4096, buffer: Buffer.alloc(4096) }), Errno.EIO);
    assert.equal(await perform(device, { op: Op.read, offset: MIB / 2 - 4096, buffer: Buffer.alloc(8192) }), Errno.EIO);
    await performOk(device, { op: Op.read, offset: MIB / 2 - 4096, buffer: Buffer.alloc(4096) });
    await device.close();
    await file.dispose();
  });

  test('fails every flush after one that failed', async () => {
    const device = await over('/dev/null');
    // fdatasync of a character device is EINVAL.
    assert.equal(await perform(device, { op: Op.flush }), Errno.EINVAL);
    await performOk(device, { op: Op.write, buffer: Buffer.alloc(512) });
    assert.equal(
      await perform(device, { op: Op.write, buffer: Buffer.alloc(512), flags: RequestFlag.fua }),
      Errno.EINVAL,
    );
    assert.equal(await perform(device, { op: Op.flush }), Errno.EINVAL);
    await device.close();
  });

  test('serves all waiting flushes by one fdatasync', async () => {
    const file = await temporaryFile(MIB);
    const device = await openBlockDevice(file.path);
    const completions: number[] = [];
    let turn = 0;
    let left = 500;
    await new Promise<void>((resolve) => {
      const owner = {
        ioDone(request: IoRequest): void {
          assert.equal(request.error, 0);
          completions.push(turn);
          if (--left === 0) resolve();
        },
      };
      const count = (): void => {
        turn++;
        if (left > 0) setImmediate(count);
      };
      count();
      for (let i = 0; i < 500; i++) {
        const request = makeRequest({ op: Op.flush });
        request.owner = owner;
        device.submit(request);
      }
    });
    assert.equal(new Set(completions).size, 1);
    await device.close();
    await file.dispose();
  });

  test('writes zeroes where the file system cannot mark a range as zeroes', async () => {
    // tmpfs punches holes but has no FALLOC_FL_ZERO_RANGE; ramfs has no fallocate at all.
    const directory = await mkdtemp(join(tmpdir(), 'orion-block-'));
    await run('mount', ['-t', 'ramfs', 'ramfs', directory]);
    const onTmpfs = await mkdtemp('/dev/shm/orion-block-');
    await zeroesWithoutHelp(join(onTmpfs, 'disk.img'));
    await zeroesWithoutHelp(join(directory, 'disk.img'));
    await run('umount', [directory]);
    await rm(directory, { recursive: true });
    await rm(onTmpfs, { recursive: true });
  });

  test('takes a discard that is not supported for done', async () => {
    const file = await temporaryFile(MIB);
    const handle = await open(file.path, 'r+');
    // A regular file does not know BLKDISCARD.
    const device = new ThreadsDevice({ name: 'x', kind: 'block', identity: 'x', limits: LIMITS, handle });
    const batch = new Batch();
    for (let i = 0; i < 20; i++) batch.submit(device, { op: Op.discard, offset: i * 4096, length: 4096 });
    await batch.done();
    assert(batch.completed.every(({ error }) => error === 0));
    await device.close();
    await file.dispose();
  });

  test('gives the space of a file back when it discards or zeroes, unless told not to', async () => {
    const file = await temporaryFile(4 * MIB);
    const device = await openBlockDevice(file.path);
    const used = async (): Promise<number> => (await stat(file.path)).blocks * 512;
    await performOk(device, { op: Op.write, buffer: pattern(4 * MIB, 2), flags: RequestFlag.fua });
    assert((await used()) >= 4 * MIB);
    await performOk(device, { op: Op.writeZeroes, length: MIB, flags: RequestFlag.noUnmap | RequestFlag.fua });
    assert((await used()) >= 4 * MIB);
    await performOk(device, { op: Op.writeZeroes, length: MIB, flags: RequestFlag.fua });
    assert((await used()) < 3.5 * MIB);
    await performOk(device, { op: Op.discard, offset: MIB, length: 3 * MIB, flags: RequestFlag.fua });
    assert((await used()) < MIB / 2);
    await device.close();
    await file.dispose();
  });

  test('closes its file', async () => {
    const file = await temporaryFile(MIB);
    const handle = await open(file.path, 'r+');
    const { fd } = handle;
    const device = new ThreadsDevice({ name: 'x', kind: 'file', identity: 'x', limits: LIMITS, handle });
    await device.close();
    const reused = openSync('/dev/null', 'r');
    assert.equal(reused, fd, 'the lowest free descriptor is the one that was closed');
    closeSync(reused);
    await file.dispose();
  });
});
