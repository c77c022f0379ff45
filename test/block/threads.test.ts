/** The threads engine where the suite cannot look: failing files, file systems without hole punching, grouped flushes. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { closeSync, fdatasync, openSync, read, write } from 'node:fs';
import { mkdtemp, open, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';
import type { DeviceLimits } from '../../src/block/device.ts';
import { AlignedMemory, SLAB_BYTES } from '../../src/block/aligned-memory.ts';
import { Errno } from '../../src/block/errors.ts';
import { openBlockDevice } from '../../src/block/open.ts';
import { Op, RequestFlag } from '../../src/block/request.ts';
import { ThreadsDevice, type SystemCalls } from '../../src/block/threads.ts';
import { blockDiscard, fallocate, readCached, Falloc } from '../../src/native/addon.ts';
import { Batch, pattern, perform, performOk, readAt, temporaryFile } from './harness.ts';

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

/** Nothing is ever cached, so that every read reaches `read`. */
const SYSTEM: SystemCalls = { read, write, readCached: () => -Errno.EAGAIN, fdatasync, fallocate, blockDiscard };

async function over(path: string, calls: Partial<SystemCalls> = {}): Promise<ThreadsDevice> {
  const handle = await open(path, 'r+');
  const options = { name: path, kind: 'file', identity: path, limits: LIMITS, handle } as const;
  return new ThreadsDevice({ ...options, calls: { ...SYSTEM, ...calls } });
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

/** Enough event-loop turns for everything to happen that does not wait for the test. */
async function turns(): Promise<void> {
  for (let i = 0; i < 5; i++) await new Promise(setImmediate);
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

  test('continues what the system cut short or interrupted', async () => {
    const file = await temporaryFile(MIB);
    const seen: number[] = [];
    const cut =
      (call: SystemCalls['read']): SystemCalls['read'] =>
      (fd, buffer, at, bytes, position, done) => {
        seen.push(bytes);
        if (seen.length % 3 === 0) setImmediate(done, Object.assign(new Error('EINTR'), { errno: -Errno.EINTR }), 0);
        else call(fd, buffer, at, Math.min(bytes, 1000), position, done);
      };
    const device = await over(file.path, { read: cut(read), write: cut(write) });
    const buffer = pattern(10_000, 3);
    await performOk(device, { op: Op.write, offset: 77, buffer });
    assert(seen.length >= 14);
    assert(buffer.equals(await readAt(device, 77, 10_000)));
    await device.close();
    await file.dispose();
  });

  test('takes from the page cache what is there, and the rest from the pool', async () => {
    const file = await temporaryFile(MIB);
    const bytes = pattern(MIB, 5);
    await writeFile(file.path, bytes);
    const asked: string[] = [];
    const device = await over(file.path, {
      readCached: (fd, buffer, at, length, position) => {
        asked.push(`cached ${position}+${length}`);
        if (position === 0) return -Errno.EAGAIN;
        return readCached(fd, buffer, at, position === 4096 ? 1000 : length, position);
      },
      read: (fd, buffer, at, length, position, done) => {
        asked.push(`pool ${position}+${length}`);
        read(fd, buffer, at, length, position, done);
      },
    });
    for (const [offset, length] of [
      [0, 512],
      [4096, 4096],
      [8192, 4096],
      [0, 256 * 1024],
    ] as const) {
      assert((await readAt(device, offset, length)).equals(bytes.subarray(offset, offset + length)));
    }
    assert.deepEqual(asked, [
      'cached 0+512',
      'pool 0+512',
      'cached 4096+4096',
      'pool 5096+3096',
      'cached 8192+4096',
      'pool 0+262144',
    ]);
    await device.close();
    await file.dispose();
  });

  test('asks the page cache no more where the file system cannot tell', async () => {
    const file = await temporaryFile(MIB);
    let asked = 0;
    const device = await over(file.path, {
      readCached: () => {
        asked++;
        return -Errno.EOPNOTSUPP;
      },
    });
    for (let i = 0; i < 3; i++) await readAt(device, 0, 512);
    assert.equal(asked, 1);
    await device.close();
    await file.dispose();
  });

  test('fails every flush after one that failed', async () => {
    const device = await over('/dev/null');
    // fdatasync of a character device is EINVAL.
    assert.equal(await perform(device, { op: Op.flush }), Errno.EINVAL);
    assert.equal(await perform(device, { op: Op.flush }), Errno.EINVAL);
    await performOk(device, { op: Op.write, buffer: Buffer.alloc(512) });
    await device.close();

    let syncs = 0;
    const failing = await over('/dev/null', {
      fdatasync: (_fd, done) => {
        syncs++;
        setImmediate(done, syncs === 1 ? Object.assign(new Error('EIO'), { errno: -Errno.EIO }) : null);
      },
    });
    const lost: number[] = [];
    failing.onFlushLost = (errno) => void lost.push(errno);
    assert.equal(
      await perform(failing, { op: Op.write, buffer: Buffer.alloc(512), flags: RequestFlag.fua }),
      Errno.EIO,
    );
    assert.equal(await perform(failing, { op: Op.flush }), Errno.EIO);
    assert.deepEqual(lost, [Errno.EIO]);
    assert.equal(
      await perform(failing, { op: Op.write, buffer: Buffer.alloc(512), flags: RequestFlag.fua }),
      Errno.EIO,
    );
    assert.equal(syncs, 1);
    await failing.close();
    // What failed for somebody else fails here, though all is well with this descriptor.
    const told = await over('/dev/null', { fdatasync: (_fd, done) => void setImmediate(done, null) });
    assert.equal(await perform(told, { op: Op.flush }), 0);
    told.loseFlushes?.(Errno.EIO);
    assert.equal(await perform(told, { op: Op.flush }), Errno.EIO);
    await performOk(told, { op: Op.write, buffer: Buffer.alloc(512) });
    await told.close();
  });

  test('serves waiting flushes by one fdatasync, later ones by the next, and FUA after its data', async () => {
    const log: string[] = [];
    const syncing: (() => void)[] = [];
    const device = await over('/dev/null', {
      write: (_fd, _buffer, _at, bytes, position, done) => {
        log.push(`write ${position}`);
        setImmediate(done, null, bytes);
      },
      fdatasync: (_fd, done) => {
        log.push('sync');
        syncing.push(() => {
          done(null);
        });
      },
    });
    const [early, late, fua] = [new Batch(), new Batch(), new Batch()];
    for (let i = 0; i < 100; i++) early.submit(device, { op: Op.flush });
    await turns();
    assert.equal(syncing.length, 1);
    // These come while the first fdatasync runs: what they must cover may have been completed after it began.
    late.submit(device, { op: Op.flush });
    fua.submit(device, { op: Op.write, offset: 512, buffer: Buffer.alloc(512), flags: RequestFlag.fua });
    await turns();
    assert.deepEqual(log, ['sync', 'write 512']);
    syncing[0]!();
    assert.equal(early.completed.length, 100);
    await turns();
    assert.equal(late.completed.length + fua.completed.length, 0);
    assert.deepEqual(log, ['sync', 'write 512', 'sync']);
    syncing[1]!();
    assert.equal(late.completed.length + fua.completed.length, 2);
    await device.close();
  });

  test('bounds what it has in the system at once', async () => {
    const waiting: (() => void)[] = [];
    let most = 0;
    const device = await over('/dev/null', {
      read: (_fd, _buffer, _at, bytes, _position, done) => {
        waiting.push(() => {
          done(null, bytes);
        });
        most = Math.max(most, waiting.length);
      },
    });
    const batch = new Batch();
    for (let i = 0; i < 100; i++) batch.submit(device, { op: Op.read, offset: i * 512, buffer: Buffer.alloc(512) });
    while (batch.outstanding > 0) {
      await new Promise(setImmediate);
      // The newest first: the order of completion is the system's affair.
      waiting.pop()?.();
    }
    // Of the pool's threads, all but two: for the other devices, and for a flush.
    assert.equal(most, Number(process.env['UV_THREADPOOL_SIZE'] ?? 4) - 2);
    await device.close();
  });

  test('writes zeroes where the file system cannot mark a range as zeroes', async () => {
    // tmpfs punches holes but has no FALLOC_FL_ZERO_RANGE; ramfs has no fallocate at all.
    const mounted = await mkdtemp(join(tmpdir(), 'orion-block-'));
    const onTmpfs = await mkdtemp('/dev/shm/orion-block-');
    await run('mount', ['-t', 'ramfs', 'ramfs', mounted]);
    try {
      await zeroesWithoutHelp(join(onTmpfs, 'disk.img'));
      await zeroesWithoutHelp(join(mounted, 'disk.img'));
    } finally {
      // Lazily: a failure may have left the file open.
      await run('umount', ['--lazy', mounted]);
      await rm(mounted, { recursive: true });
      await rm(onTmpfs, { recursive: true });
    }
  });

  test('tries what is unsupported only until it knows, one way after the other', async () => {
    const modes: number[] = [];
    const device = await over('/dev/null', {
      fallocate: (_fd, mode, _offset, _bytes, done) => {
        modes.push(mode & ~Falloc.keepSize);
        setImmediate(done, (mode & Falloc.punchHole) !== 0 ? Errno.EOPNOTSUPP : 0);
      },
    });
    const batch = new Batch();
    for (let i = 0; i < 2; i++) batch.submit(device, { op: Op.writeZeroes, offset: i * 4096, length: 4096 });
    await batch.done();
    await performOk(device, { op: Op.writeZeroes, offset: 0, length: 4096 });
    const { punchHole, zeroRange } = Falloc;
    assert.deepEqual(modes, [punchHole, punchHole, zeroRange, zeroRange, zeroRange]);
    await device.close();
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

  test('zeroing that turns out to need aligned memory waits for it', async () => {
    const file = await temporaryFile(MIB);
    const handle = await open(file.path, 'r+');
    const told: (() => void)[] = [];
    const calls: SystemCalls = {
      ...SYSTEM,
      fallocate: (_fd, _mode, _offset, _bytes, done) => told.push(() => done(Errno.EOPNOTSUPP)),
    };
    const bounce = new AlignedMemory(SLAB_BYTES);
    const device = new ThreadsDevice({ name: 'x', kind: 'file', identity: 'x', limits: LIMITS, handle, calls, bounce });
    await performOk(device, { op: Op.write, buffer: pattern(MIB, 4) });
    const batch = new Batch();
    for (let i = 0; i < 4; i++) batch.submit(device, { op: Op.writeZeroes, offset: (i * MIB) / 4, length: MIB / 4 });
    while (batch.outstanding > 0) {
      for (const tell of told.splice(0)) tell();
      await turns();
    }
    assert(batch.completed.every(({ error }) => error === 0));
    assert((await readAt(device, 0, MIB)).equals(Buffer.alloc(MIB)));
    assert.equal(bounce.outstanding, 0);
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
