/**
 * Files in memory, read and written as memory (native/mapped.c): the same bytes and errors as by calls, holes stay holes, whatever
 * others do to the file meanwhile; and what it may cost. Needs root, to mount file systems.
 */
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { closeSync, fstatSync, ftruncateSync, futimesSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import type { BlockDevice } from '../../src/block/device.ts';
import { Errno } from '../../src/block/errors.ts';
import { openBlockDevice } from '../../src/block/open.ts';
import { Op, RequestFlag } from '../../src/block/request.ts';
import { openRing, Ring } from '../../src/block/ring.ts';
import { fallocate, Falloc } from '../../src/native/addon.ts';
import { Batch, pattern, performOk, readAt } from './harness.ts';

const run = promisify(execFile);
const MIB = 2 ** 20;
const PAGE = Number(execFileSync('getconf', ['PAGESIZE'], { encoding: 'utf8' }));
const WINDOW = 65_536;
const BUDGET_WINDOWS = 2 ** 30 / WINDOW;
const LONG_AGO = 1_000_000;
const MODULES = new URL('../../src/', import.meta.url).href;

let ring: Ring;
/** A tmpfs of its own with room for 2 MiB, and a ramfs. */
let small: string;
let ramfs: string;
/** A folder of the system's tmpfs. */
let folder: string;
let files = 0;
before(async () => {
  const opened = openRing();
  assert(opened instanceof Ring);
  ring = opened;
  folder = await mkdtemp('/dev/shm/orion-mapped-');
  small = await mkdtemp(join(tmpdir(), 'orion-mapped-'));
  ramfs = await mkdtemp(join(tmpdir(), 'orion-mapped-'));
  await run('mount', ['-t', 'tmpfs', '-o', 'size=2M,huge=never', 'tmpfs', small]);
  await run('mount', ['-t', 'ramfs', 'ramfs', ramfs]);
});
after(async () => {
  for (const mounted of [small, ramfs]) {
    // Lazily: a failure may have left a file open.
    await run('umount', ['--lazy', mounted]);
    await rm(mounted, { recursive: true });
  }
  await rm(folder, { recursive: true });
});

interface Opened {
  readonly path: string;
  readonly fd: number;
  readonly file: number;
}

/** A new file of this size, a hole, in the ring. */
function create(sizeBytes: number, parent: string = folder): Opened {
  const path = join(parent, `file-${++files}`);
  const fd = openSync(path, 'wx+');
  ftruncateSync(fd, sizeBytes);
  return { path, fd, file: ring.addFile(fd) };
}

function drop({ fd, file }: Opened): void {
  ring.removeFile(file);
  ftruncateSync(fd, 0);
  closeSync(fd);
}

function ended(push: (owner: { ringDone(result: number): void }) => void): Promise<number> {
  return new Promise((resolve) => {
    push({ ringDone: resolve });
  });
}

function write({ file }: Opened, bytes: Buffer, position: number): Promise<number> {
  return ended((owner) => ring.write(owner, file, bytes, 0, bytes.length, position, false));
}

/** What is read; or minus an errno. */
async function read({ file }: Opened, length: number, position: number): Promise<Buffer | number> {
  const bytes = Buffer.alloc(length, 0xee);
  const count = await ended((owner) => ring.read(owner, file, bytes, 0, length, position));
  return count < 0 ? count : bytes.subarray(0, count);
}

/** How much of a file is in this process's memory as a mapping, in bytes; undefined: it is not mapped. */
function resident(path: string): number | undefined {
  const lines = readFileSync('/proc/self/smaps', 'utf8').split('\n');
  const at = lines.findIndex((line) => line.endsWith(` ${path}`));
  if (at < 0) return undefined;
  const found = /^Rss:\s+(\d+) kB$/.exec(lines.slice(at).find((line) => line.startsWith('Rss:')) ?? '');
  return Number(found?.[1]) * 1024;
}

/** A sparse file with one page in each of so many windows, all of which were read: the ring's budget is used. */
async function useUp(windows: number): Promise<Opened> {
  const opened = create(windows * WINDOW);
  const bytes = Buffer.alloc(PAGE, 0xdd);
  for (let window = 0; window < windows; window++) writeSync(opened.fd, bytes, 0, PAGE, window * WINDOW);
  for (let times = 0; times < 2; times++) {
    for (let first = 0; first < windows; first += 1024) {
      const reads = Array.from({ length: Math.min(1024, windows - first) }, (_, i) =>
        read(opened, PAGE, (first + i) * WINDOW),
      );
      for (const back of await Promise.all(reads)) assert.deepEqual(back, bytes);
    }
  }
  return opened;
}

function below(bound: number, random: () => number): number {
  return Math.floor(random() * bound);
}

/** Repeats from its seed; [0, 1). */
function randomFrom(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/** Discards or zeroes a range. */
async function clearSome(device: BlockDevice, model: Buffer, random: () => number): Promise<void> {
  const offset = below(model.length - 1, random);
  const length = 1 + below(Math.min(100_000, model.length - offset - 1), random);
  const op = random() < 0.5 ? Op.discard : Op.writeZeroes;
  const flags = op === Op.writeZeroes && random() < 0.3 ? RequestFlag.noUnmap : 0;
  await performOk(device, { op, offset, length, flags });
  const [back, zeros, old] = [
    await readAt(device, offset, length),
    Buffer.alloc(length),
    model.subarray(offset, offset + length),
  ];
  // ramfs can't give anything back: what is discarded there stays as it was.
  if (op === Op.discard && back.equals(old)) return;
  assert(back.equals(zeros));
  old.fill(0);
}

/** Batches of reads and writes, in the order of submission, with discards and zeroes between, against a model. */
async function againstModel(path: string, size: number, rounds: number, seed: number): Promise<void> {
  const random = randomFrom(seed);
  const device = await openBlockDevice(path, { engine: 'uring' });
  const model = Buffer.alloc(size);
  for (let round = 0; round < rounds; round++) {
    const batch = new Batch();
    const checks: (() => void)[] = [];
    let next = 0;
    for (let count = 1 + below(12, random); count > 0; count--) {
      const odd = random() < 0.3;
      const longest = random() < 0.1 ? 300_000 : 20_000;
      const length = odd ? 1 + below(longest, random) : PAGE * (1 + below(longest / PAGE, random));
      // Often where the one before ended, so that several go together.
      const anywhere = odd ? below(size - length, random) : PAGE * below((size - length) / PAGE, random);
      const offset = random() < 0.5 && next + length <= size ? next : anywhere;
      next = offset + length;
      if (random() < 0.5) {
        const buffer = random() < 0.1 ? Buffer.alloc(length) : pattern(length, below(2 ** 31, random));
        buffer.copy(model, offset);
        batch.submit(device, { op: Op.write, offset, buffer, flags: random() < 0.1 ? RequestFlag.fua : 0 });
      } else {
        const expected = Buffer.from(model.subarray(offset, next));
        const request = batch.submit(device, { op: Op.read, offset, buffer: Buffer.alloc(length, 0xee) });
        checks.push(() => {
          assert(request.buffer.equals(expected), `round ${round}: ${length} bytes at ${offset} differ`);
        });
      }
    }
    await batch.done();
    for (const request of batch.completed) assert.equal(request.error, 0);
    for (const check of checks) check();
    if (random() < 0.4) await clearSome(device, model, random);
  }
  await device.close();
  assert(readFileSync(path).equals(model));
}

describe('a file in memory', () => {
  for (const where of ['tmpfs', 'ramfs', 'tmpfs, by calls']) {
    test(`keeps what is written to it, as a model does (${where})`, async () => {
      const seed = Math.floor(Math.random() * 2 ** 31);
      const full = where.endsWith('by calls') ? await useUp(BUDGET_WINDOWS) : null;
      // Not whole pages.
      const size = MIB + 1024;
      const opened = create(size, where === 'ramfs' ? ramfs : folder);
      try {
        await againstModel(opened.path, size, 400, seed);
      } catch (error) {
        throw new Error(`with seed ${seed}`, { cause: error });
      }
      drop(opened);
      if (full !== null) drop(full);
    });
  }

  test('is mapped, and let go', async () => {
    const opened = create(MIB);
    assert.equal(await write(opened, pattern(MIB, 1), 0), MIB);
    assert.deepEqual(await read(opened, MIB, 0), pattern(MIB, 1));
    assert.equal(resident(opened.path), MIB);
    drop(opened);
    assert.equal(resident(opened.path), undefined);
  });

  test('stays sparse when all of it is read, and where it was given back', async () => {
    const opened = create(64 * MIB);
    for (let i = 0; i < 10; i++) await write(opened, pattern(PAGE, i), i * 6 * MIB + 3 * PAGE);
    await write(opened, pattern(MIB, 11), 63 * MIB);
    const before_ = fstatSync(opened.fd).blocks;
    for (let times = 0; times < 2; times++) {
      for (let at = 0; at < 64 * MIB; at += 32_768) {
        const bytes = await read(opened, 32_768, at);
        assert(Buffer.isBuffer(bytes) && bytes.length === 32_768);
      }
    }
    assert.equal(fstatSync(opened.fd).blocks, before_);
    const punched = Falloc.punchHole | Falloc.keepSize;
    assert.equal(await ended((owner) => ring.fallocate(owner, opened.file, punched, 63 * MIB, MIB / 2)), 0);
    assert.deepEqual(
      await read(opened, MIB, 63 * MIB),
      Buffer.concat([Buffer.alloc(MIB / 2), pattern(MIB, 11).subarray(MIB / 2)]),
    );
    assert.equal(fstatSync(opened.fd).blocks, before_ - MIB / 2 / 512);
    drop(opened);
  });

  test('that others cut short ends where it ends, and may grow again', async () => {
    const opened = create(MIB);
    const bytes = pattern(MIB, 2);
    await write(opened, bytes, 0);
    assert.deepEqual(await read(opened, MIB, 0), bytes);
    ftruncateSync(opened.fd, 300_000);
    assert.deepEqual(await read(opened, WINDOW, 298_000), bytes.subarray(298_000, 300_000));
    assert.deepEqual(await read(opened, PAGE, 500_000), Buffer.alloc(0));
    // Behind the end, in the page that it is in: a mapping would lose it.
    assert.equal(await write(opened, Buffer.from('more'), 300_500), 4);
    assert.equal(fstatSync(opened.fd).size, 300_504);
    assert.deepEqual(await read(opened, PAGE, 300_500), Buffer.from('more'));
    // Far longer than it was: mapped anew.
    ftruncateSync(opened.fd, 200 * MIB);
    assert.equal(await write(opened, bytes, 150 * MIB), MIB);
    assert.deepEqual(await read(opened, MIB, 150 * MIB), bytes);
    assert.deepEqual(await read(opened, PAGE, 0), bytes.subarray(0, PAGE));
    assert.equal(resident(opened.path), MIB + WINDOW);
    drop(opened);
  });

  test('whose memory is gone in the middle of a copy (SIGBUS) is read and written by calls', async () => {
    // By 4 GiB: the quick look at the size does not see that.
    const opened = create(2 ** 32 + 8 * MIB);
    const bytes = pattern(3 * PAGE, 3);
    await write(opened, bytes, 2 ** 32);
    assert.deepEqual(await read(opened, 3 * PAGE, 2 ** 32), bytes);
    ftruncateSync(opened.fd, 8 * MIB);
    assert.deepEqual(await read(opened, 3 * PAGE, 2 ** 32), Buffer.alloc(0));
    ftruncateSync(opened.fd, 2 ** 32 + 8 * MIB);
    await write(opened, bytes, 2 ** 32);
    assert.deepEqual(await read(opened, 3 * PAGE, 2 ** 32), bytes);
    ftruncateSync(opened.fd, 8 * MIB);
    assert.equal(await write(opened, Buffer.from('x'), 2 ** 32 + PAGE), 1);
    assert.equal(fstatSync(opened.fd).size, 2 ** 32 + PAGE + 1);
    drop(opened);
  });

  test('lives through another process that cuts it short and lets it grow again and again', async () => {
    const opened = create(MIB);
    const script = `const { openSync, ftruncateSync } = require('node:fs');
      const fd = openSync(process.argv[1], 'r+');
      for (let i = 0; i < 4000; i++) { ftruncateSync(fd, (i * 7919) % ${MIB}); ftruncateSync(fd, ${MIB}); }`;
    const other = run(process.execPath, ['-e', script, opened.path]);
    const state = { running: true };
    const end = other.finally(() => (state.running = false));
    const bytes = pattern(WINDOW, 4);
    for (let i = 0; state.running; i++) {
      const position = ((i * 5) % 16) * WINDOW;
      const results = await Promise.all([write(opened, bytes, position), read(opened, WINDOW, position)]);
      assert.equal(results[0], WINDOW);
      const back = results[1];
      // What is there is either what was written, or zeros; how much of it the other decides.
      assert(Buffer.isBuffer(back));
      for (let at = 0; at < back.length; at += 512) assert(back[at] === 0 || back[at] === bytes[at]);
    }
    await end;
    await write(opened, bytes, 0);
    assert.deepEqual(await read(opened, WINDOW, 0), bytes);
    drop(opened);
  });

  test('on a file system that is full fails where it needs more, and only there', async () => {
    const opened = create(4 * MIB, small);
    const other = create(4 * MIB, small);
    let pages = 0;
    for (; (await write(opened, pattern(PAGE, pages), pages * PAGE)) === PAGE; pages++);
    const room = (2 * MIB) / PAGE;
    assert(pages > 0.7 * room && pages <= room);
    assert.equal(await write(opened, pattern(PAGE, 1), pages * PAGE), -Errno.ENOSPC);
    for (let page = 0; page < pages; page++) {
      assert.deepEqual(await read(opened, PAGE, page * PAGE), pattern(PAGE, page));
      assert.equal(await write(opened, pattern(PAGE, page + 1), page * PAGE), PAGE);
    }
    assert.deepEqual(await read(opened, PAGE, pages * PAGE), Buffer.alloc(PAGE));
    // Another gives pages back and somebody takes them: they are known, and can't be had.
    const errno = await new Promise((resolve) => {
      fallocate(opened.fd, Falloc.punchHole | Falloc.keepSize, PAGE, 2 * PAGE, resolve);
    });
    assert.equal(errno, 0);
    while ((await write(other, pattern(PAGE, 7), fstatSync(other.fd).blocks * 512)) === PAGE);
    assert.deepEqual(await read(opened, PAGE, PAGE), Buffer.alloc(PAGE));
    assert.equal(await write(opened, pattern(PAGE, 8), 2 * PAGE), -Errno.ENOSPC);
    assert.equal(await write(opened, pattern(PAGE, 8), 0), PAGE);
    drop(other);
    assert.equal(await write(opened, pattern(PAGE, 8), 2 * PAGE), PAGE);
    assert.deepEqual(
      await read(opened, 3 * PAGE, 0),
      Buffer.concat([pattern(PAGE, 8), Buffer.alloc(PAGE), pattern(PAGE, 8)]),
    );
    drop(opened);
  });

  test('has a time of modification that follows what is written', async () => {
    const opened = create(MIB);
    const { fd } = opened;
    const bytes = pattern(PAGE, 5);
    await write(opened, bytes, 0);
    const age = (): void => futimesSync(fd, LONG_AGO, LONG_AGO);
    const moved = (): boolean => fstatSync(fd).mtimeMs > LONG_AGO * 1000;
    age();
    await read(opened, PAGE, 0);
    assert(!moved());
    // At once, where nothing was written for a while.
    await write(opened, bytes, 0);
    assert(moved() && fstatSync(fd).atimeMs === LONG_AGO * 1000);
    // With a flush.
    age();
    await write(opened, bytes, 0);
    assert(!moved());
    assert.equal(await ended((owner) => ring.fdatasync(owner, opened.file)), 0);
    assert(moved());
    age();
    assert.equal(await ended((owner) => ring.fdatasync(owner, opened.file)), 0);
    assert(!moved());
    // Within a second, if there is none.
    await write(opened, bytes, 0);
    while (!moved()) await new Promise(setImmediate);
    // When the file is let go.
    age();
    await write(opened, bytes, 0);
    assert(!moved());
    ring.removeFile(opened.file);
    assert(moved());
    closeSync(fd);
  });

  test('that may only be read is only read', async () => {
    const opened = create(MIB);
    await write(opened, pattern(MIB, 6), 0);
    const fd = openSync(opened.path, 'r');
    const readOnly = { path: opened.path, fd, file: ring.addFile(fd) };
    for (let times = 0; times < 2; times++) {
      assert.deepEqual(await read(readOnly, MIB, 0), pattern(MIB, 6));
      assert.equal(await write(readOnly, Buffer.alloc(PAGE), 0), -Errno.EBADF);
    }
    ring.removeFile(readOnly.file);
    closeSync(fd);
    drop(opened);
  });

  test('is seen alike by calls and by other processes', async () => {
    const opened = create(MIB);
    await write(opened, pattern(MIB, 7), 0);
    await read(opened, MIB, 0);
    assert.equal(await write(opened, pattern(PAGE, 8), PAGE + 1), PAGE);
    const back = Buffer.alloc(PAGE);
    readSync(opened.fd, back, 0, PAGE, PAGE + 1);
    assert.deepEqual(back, pattern(PAGE, 8));
    const script = `const { openRing } = await import('${MODULES}block/ring.ts');
      const { openSync, readFileSync } = await import('node:fs');
      const ring = openRing();
      const file = ring.addFile(openSync(process.argv[1], 'r+'));
      const page = ${PAGE};
      const bytes = Buffer.alloc(page);
      const go = (op) => new Promise((ringDone) => op({ ringDone }));
      for (let times = 0; times < 2; times++) await go((owner) => ring.read(owner, file, bytes, 0, page, page + 1));
      process.stdout.write(bytes.toString('hex'));
      bytes.fill(0x99);
      await go((owner) => ring.write(owner, file, bytes, 0, page, 2 * page));
      if (!readFileSync('/proc/self/maps', 'utf8').includes(process.argv[1])) throw new Error('not mapped');`;
    const { stdout } = await run(process.execPath, ['--input-type=module', '-e', script, opened.path]);
    assert.equal(stdout, pattern(PAGE, 8).toString('hex'));
    assert.deepEqual(await read(opened, PAGE, 2 * PAGE), Buffer.alloc(PAGE, 0x99));
    drop(opened);
  });

  test('takes no more resident memory than the ring may', async () => {
    const many = await useUp(BUDGET_WINDOWS + 100);
    assert.equal(resident(many.path), BUDGET_WINDOWS * PAGE);
    const other = create(MIB);
    await write(other, pattern(MIB, 9), 0);
    assert.deepEqual(await read(other, MIB, 0), pattern(MIB, 9));
    assert.equal(resident(other.path), 0);
    drop(many);
    assert.deepEqual(await read(other, MIB, 0), pattern(MIB, 9));
    assert.equal(resident(other.path), MIB);
    drop(other);
  });
});

/** How a process ends that maps a file, in a worker thread or not, and is sent SIGBUS. */
async function endOf(inWorker: boolean): Promise<unknown> {
  const opened = create(MIB);
  const source = `const { openRing } = await import('${MODULES}block/ring.ts');
    const { openSync } = await import('node:fs');
    const ring = openRing();
    const file = ring.addFile(openSync('${opened.path}', 'r+'));
    await new Promise((ringDone) => ring.write({ ringDone }, file, Buffer.alloc(4096, 1), 0, 4096, 0));
    await new Promise((ringDone) => ring.write({ ringDone }, file, Buffer.alloc(4096, 2), 0, 4096, 0));`;
  const url = JSON.stringify(`data:text/javascript,${encodeURIComponent(source)}`);
  const first = inWorker
    ? `const { Worker } = await import('node:worker_threads');
       await new Promise((resolve) => new Worker(new URL(${url})).once('exit', resolve));`
    : source;
  const script = `${first} process.kill(process.pid, 'SIGBUS'); while (true) await new Promise(setImmediate);`;
  const result = run(process.execPath, ['--input-type=module', '-e', script], { timeout: 20_000 });
  const signal = await result.then(
    () => 'none',
    (error: unknown) => (error instanceof Error && 'signal' in error ? error.signal : error),
  );
  assert.equal(await read(opened, 1, 0).then((bytes) => Buffer.isBuffer(bytes) && bytes[0]), 2);
  drop(opened);
  return signal;
}

describe('a SIGBUS that is not ours', () => {
  test('ends the process as it would without us', async () => {
    assert.equal(await endOf(false), 'SIGBUS');
  });

  test('does so when the thread that used files in memory is gone', async () => {
    assert.equal(await endOf(true), 'SIGBUS');
  });
});
