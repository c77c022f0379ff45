/** The ring: what it moves, what it refuses, and that it ends well: full, idle, closed or torn down with requests in flight. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { closeSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { Errno } from '../../src/block/errors.ts';
import { lookBeforeSleep, openRing, Ring } from '../../src/block/ring.ts';

const run = promisify(execFile);
const RING = JSON.stringify(new URL('../../src/block/ring.ts', import.meta.url).href);

let directory: string;
let path: string;
let fd: number;
let ring: Ring;
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'orion-ring-'));
  path = join(directory, 'file');
  writeFileSync(path, Buffer.alloc(65_536, 1));
  fd = openSync(path, 'r+');
  const opened = openRing();
  assert(opened instanceof Ring);
  ring = opened;
});
after(() => {
  closeSync(fd);
  rmSync(directory, { recursive: true });
});

/** Settles after so many ticks of a timer. */
function ticks(count: number, everyMs: number): Promise<void> {
  return new Promise((resolve) => {
    let left = count;
    const timer = setInterval(() => {
      if (--left > 0) return;
      clearInterval(timer);
      resolve();
    }, everyMs);
  });
}

function ended(push: (owner: { ringDone(result: number): void }) => void): Promise<number> {
  return new Promise((resolve) => {
    push({ ringDone: resolve });
  });
}

async function refused(push: Parameters<typeof ended>[0]): Promise<void> {
  assert.equal(await ended(push), -Errno.EINVAL);
}

describe('ring', () => {
  test('reads, writes, syncs and punches holes', async () => {
    const file = ring.addFile(fd);
    const bytes = Buffer.from('a few bytes');
    assert.equal(await ended((owner) => ring.write(owner, file, bytes, 2, 9, 1000, true)), 9);
    assert.equal(await ended((owner) => ring.fdatasync(owner, file)), 0);
    const back = Buffer.alloc(20, 0xee);
    assert.equal(await ended((owner) => ring.read(owner, file, back, 1, 11, 999)), 11);
    assert.equal(back.toString('latin1'), `\xee\x01few bytes\x01${'\xee'.repeat(8)}`);
    assert.equal(await ended((owner) => ring.fallocate(owner, file, 3, 4096, 8192)), 0);
    assert(readFileSync(path).subarray(4096, 12_288).equals(Buffer.alloc(8192)));
    assert.equal(await ended((owner) => ring.read(owner, file, back, 0, 20, 65_530)), 6);
    assert.equal(await ended((owner) => ring.read(owner, file, back, 0, 20, 70_000)), 0);
    ring.removeFile(file);
  });

  test('does the same with files in memory', async () => {
    const inMemory = await mkdtemp('/dev/shm/orion-ring-');
    const memoryFd = openSync(join(inMemory, 'file'), 'w+');
    const file = ring.addFile(memoryFd);
    const large = Buffer.alloc(300_000, 7);
    assert.equal(await ended((owner) => ring.write(owner, file, large, 0, 300_000, 10, false)), 300_000);
    const back = Buffer.alloc(300_000);
    assert.equal(await ended((owner) => ring.read(owner, file, back, 0, 300_000, 10)), 300_000);
    assert(back.equals(large));
    assert.equal(await ended((owner) => ring.read(owner, file, back, 0, 100, 300_000)), 10);
    assert.equal(await ended((owner) => ring.fdatasync(owner, file)), 0);
    ring.removeFile(file);
    closeSync(memoryFd);
    rmSync(inMemory, { recursive: true });
  });

  test('gives the system its own words', async () => {
    const readOnly = openSync(path, 'r');
    const file = ring.addFile(readOnly);
    closeSync(readOnly);
    assert.equal(await ended((owner) => ring.write(owner, file, Buffer.alloc(512), 0, 512, 0, false)), -Errno.EBADF);
    assert.equal(await ended((owner) => ring.read(owner, file, Buffer.alloc(512), 0, 512, 0)), 512);
    ring.removeFile(file);
    assert.equal(ring.addFile(1_000_000), -Errno.EBADF);
  });

  test('refuses files, regions and ranges that are not there', async () => {
    const file = ring.addFile(fd);
    const small = Buffer.alloc(100);
    await refused((owner) => ring.read(owner, file + 1000, small, 0, 100, 0));
    await refused((owner) => ring.read(owner, file + 1, small, 0, 100, 0));
    await refused((owner) => ring.read(owner, file, small, 1, 100, 0));
    await refused((owner) => ring.read(owner, file, small, 101, 1, 0));
    await refused((owner) => ring.read(owner, file, small, -1, 1, 0));
    await refused((owner) => ring.read(owner, file, small, 0, -1, 0));
    await refused((owner) => ring.read(owner, file, small, 0, 2 ** 31, 0));
    await refused((owner) => ring.read(owner, file, small, 0, Number.NaN, 0));
    await refused((owner) => ring.write(owner, file, small, 0, 10, -1, false));
    await refused((owner) => ring.write(owner, file, small, 0, 10, 2 ** 60, false));
    await refused((owner) => ring.fallocate(owner, file, 3, Number.POSITIVE_INFINITY, 1));
    ring.removeFile(file);
    await refused((owner) => ring.read(owner, file, small, 0, 100, 0));
    assert.throws(() => ring.read({ ringDone: () => assert.fail() }, file, Buffer.alloc(0), 0, 1, 0), TypeError);
    assert(readFileSync(path).length === 65_536);
  });

  test('takes no memory that was detached, or could become less', async () => {
    const file = ring.addFile(fd);
    const owner = { ringDone: (): void => assert.fail() };
    const gone = Buffer.from(new ArrayBuffer(512));
    for (let times = 0; times < 2; times++) {
      assert.equal(await ended((reader) => ring.read(reader, file, gone, 0, 512, 0)), 512);
    }
    gone.buffer.transfer();
    const resizable = Buffer.from(new ArrayBuffer(512, { maxByteLength: 1024 }));
    const shrunk = Buffer.from(new ArrayBuffer(512, { maxByteLength: 1024 }), 0, 512);
    shrunk.buffer.resize(100);
    for (const buffer of [gone, resizable, shrunk]) {
      assert.throws(() => ring.read(owner, file, buffer, 0, 512, 0), TypeError);
    }
    assert.equal(ring.inFlight, 0);
    ring.removeFile(file);
  });

  test('keeps files and buffers in use, and gives them back', async () => {
    const file = ring.addFile(fd);
    const before_ = process.memoryUsage().arrayBuffers;
    for (let i = 0; i < 200; i++) {
      const pending: Promise<number>[] = [];
      // Each in a large buffer of its own that nobody else refers to.
      for (let k = 0; k < 8; k++)
        pending.push(ended((owner) => ring.read(owner, file, Buffer.alloc(2 ** 21), 0, 512, 0)));
      assert.throws(() => ring.removeFile(file), { code: 'ERR_ASSERTION' });
      assert.deepEqual(new Set(await Promise.all(pending)), new Set([512]));
    }
    // 3.2 GiB went by; what remains waits for the garbage collector.
    assert(process.memoryUsage().arrayBuffers - before_ < 2 ** 31);
    ring.removeFile(file);
    assert.equal(ring.inFlight, 0);
  });

  test('takes as many requests as it has slots, and tells who waits for more', async () => {
    const file = ring.addFile(fd);
    const buffer = Buffer.alloc(512);
    let done = 0;
    await new Promise<void>((resolve) => {
      const owner = {
        ringDone: (result: number): void => {
          assert.equal(result, 512);
          done++;
        },
      };
      while (!ring.full) ring.read(owner, file, buffer, 0, 512, 0);
      assert.throws(() => ring.read(owner, file, buffer, 0, 512, 0), { code: 'ERR_ASSERTION' });
      ring.waitForRoom({
        ringHasRoom: () => {
          assert(!ring.full);
          resolve();
        },
      });
    });
    while (ring.inFlight > 0) await new Promise(setImmediate);
    assert.equal(done, ring.slots);
    ring.removeFile(file);
  });

  for (const parent of [tmpdir(), '/dev/shm']) {
    test(`does what lies side by side together, and tells each its own end (${parent})`, async () => {
      const folder = await mkdtemp(join(parent, 'orion-ring-'));
      const bytes = Buffer.from(Array.from({ length: 100_000 }, (_, i) => (i * 7) % 251));
      writeFileSync(join(folder, 'file'), bytes);
      const readFd = openSync(join(folder, 'file'), 'r');
      const file = ring.addFile(readFd);
      const back = Buffer.alloc(120_000);
      // Up to the end of the file, across it, and past it.
      const lengths = [1, 4096, 40_000, 3, 50_000, 5900, 4096, 10];
      let at = 0;
      const reads = lengths.map((length) => {
        const position = at;
        at += length;
        return ended((owner) => ring.read(owner, file, back, position, length, position));
      });
      const results = await Promise.all(reads);
      assert.deepEqual(results.slice(0, 5), lengths.slice(0, 5));
      assert.equal(results[5], 5900);
      // Short reads leave those behind them untried.
      assert.deepEqual(results.slice(6), [-Errno.EINTR, -Errno.EINTR]);
      assert(back.subarray(0, 100_000).equals(bytes));
      // The first of a run that fails is told why, the others to try again.
      const failing = [0, 512, 1024].map((position) =>
        ended((owner) => ring.write(owner, file, back, position, 512, position, false)),
      );
      assert.deepEqual(await Promise.all(failing), [-Errno.EBADF, -Errno.EINTR, -Errno.EINTR]);
      ring.removeFile(file);
      closeSync(readFd);
      rmSync(folder, { recursive: true });
    });
  }

  test('a loop whose waits are long does not look for events meanwhile', async () => {
    lookBeforeSleep(1000);
    const before = { cpu: process.cpuUsage(), at: performance.now() };
    await ticks(60, 5);
    const { user, system } = process.cpuUsage(before.cpu);
    const wall = performance.now() - before.at;
    lookBeforeSleep(0);
    assert.ok((user + system) / 1000 < wall / 2, `${user + system} us of CPU in ${wall} ms`);
  });

  test('timers and completions come while it looks, too', async () => {
    const file = ring.addFile(fd);
    const into = Buffer.alloc(4096);
    const expected = readFileSync(path).subarray(0, 4096);
    lookBeforeSleep(1000);
    const ticking = ticks(40, 1);
    for (let reads = 0; reads < 400; reads++) {
      into.fill(0);
      assert.equal(await ended((owner) => ring.read(owner, file, into, 0, 4096, 0)), 4096);
      assert.deepEqual(into, expected);
    }
    await ticking;
    lookBeforeSleep(0);
    ring.removeFile(file);
  });

  test('checks what it is given by name', () => {
    const raw: Record<string, (...values: unknown[]) => unknown> = createRequire(import.meta.url)(
      '../../build/orion.node',
    );
    for (const values of [[], [63, () => {}], [100, () => {}], [64, 5], [65_536, () => {}], [64, () => {}]]) {
      // The last is right, but there is a ring already.
      assert.throws(() => raw['ringOpen']!(...values), TypeError);
    }
    assert.throws(() => raw['ringPin']!({}), TypeError);
    assert.throws(() => raw['ringPin']!(Buffer.alloc(0)), TypeError);
    assert.throws(() => raw['ringAddFile']!(-1), TypeError);
    for (const value of [-1, 1001, 0.5, '1']) assert.throws(() => raw['ringLook']!(value), TypeError);
    assert.throws(() => raw['ringHold']!(1), TypeError);
    assert.equal(raw['ringUnpin']!(77_777), Errno.EINVAL);
    assert.equal(raw['ringRemoveFile']!(77_777), Errno.EBADF);
    assert.throws(() => raw['pageBuffer']!(0), TypeError);
    assert.throws(() => raw['directAlignment']!('x'), TypeError);
  });
});

/** Runs a script with `ring`, `fd` and `file` of its own in a process of its own; gives what it wrote. */
async function inProcess(script: string): Promise<string> {
  const source = `const { openRing } = await import(${RING});
    const { openSync, writeSync } = await import('node:fs');
    const ring = openRing();
    const fd = openSync(process.argv[1], 'r+');
    const file = ring.addFile(fd);
    const buffer = Buffer.alloc(65536);
    const say = (text) => writeSync(1, text);
    ${script}`;
  const { stdout } = await run(process.execPath, ['--input-type=module', '-e', source, path], { timeout: 20_000 });
  return stdout;
}

describe('a ring and its process', () => {
  test('keep each other alive only for requests', async () => {
    assert.equal(await inProcess(`say('idle');`), 'idle');
    assert.equal(
      await inProcess(`ring.read({ ringDone: (n) => say('read ' + n) }, file, buffer, 0, 100, 0);`),
      'read 100',
    );
    const chained = `let left = 1000;
      const owner = { ringDone: () => { if (--left > 0) ring.read(owner, file, buffer, 0, 4096, 0); else say('done'); } };
      ring.read(owner, file, buffer, 0, 4096, 0);`;
    assert.equal(await inProcess(chained), 'done');
  });

  test('end with requests in flight, pushed or taken by the kernel', async () => {
    const push = `for (let i = 0; i < 500; i++) ring.write({ ringDone: () => {} }, file, buffer, 0, 65536, 0, true);`;
    assert.equal(await inProcess(`${push} say('bye'); process.exit(0);`), 'bye');
    // Immediates run after the hand-over to the kernel (uv_prepare).
    assert.equal(await inProcess(`${push} setImmediate(() => { say('bye'); process.exit(0); });`), 'bye');
    assert.equal(await inProcess(`${push} setImmediate(() => { ring.close(); say('closed'); });`), 'closed');
    const inCallback = `ring.read({ ringDone: () => {
      try { ring.close(); } catch ({ code }) { say(code); }
      setImmediate(() => { ring.close(); say(' closed'); });
    } }, file, buffer, 0, 100, 0);`;
    assert.equal(await inProcess(inCallback), 'ERR_RING_CALLING closed');
  });

  test('end with an exception of an owner as any uncaught one', async () => {
    const script = `process.on('uncaughtException', (error) => { say(error.message); process.exit(0); });
      ring.read({ ringDone: () => { throw new Error('thrown') } }, file, buffer, 0, 100, 0);`;
    assert.equal(await inProcess(script), 'thrown');
  });

  test('are there in worker threads, which may be ended at any time', async () => {
    const source = `const { openRing } = await import(${RING});
      const { openSync } = await import('node:fs');
      const { parentPort, workerData } = await import('node:worker_threads');
      const ring = openRing();
      const file = ring.addFile(openSync(workerData, 'r+'));
      const owner = { ringDone: () => { ring.write(owner, file, Buffer.alloc(65536), 0, 65536, 0, true); } };
      for (let i = 0; i < 50; i++) owner.ringDone();
      setImmediate(() => parentPort.postMessage('busy'));`;
    for (let i = 0; i < 3; i++) {
      const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`), { workerData: path });
      await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
      await worker.terminate();
    }
  });

  test('know why there is none', async () => {
    // RLIMIT_NOFILE leaves no descriptor for a ring.
    const source = `const { openRing } = await import(${RING});
      const { openSync } = await import('node:fs');
      const { execFileSync } = await import('node:child_process');
      await import(${JSON.stringify(new URL('../../src/native/addon.ts', import.meta.url).href)}).then((m) => m.loadAddon());
      execFileSync('prlimit', ['--pid', String(process.pid), '--nofile=3:3']);
      process.stdout.write(String(openRing()));`;
    const { stdout } = await run(process.execPath, ['--input-type=module', '-e', source]);
    assert.equal(stdout, String(Errno.EMFILE));
  });
});
