/** The C addon: what it does, what it refuses, and that bad arguments never reach the system. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import {
  blockDiscard,
  dataRanges,
  fallocate,
  Falloc,
  flock,
  Lock,
  pageBuffer,
  peerCredentials,
  peerGroups,
  readCached,
} from '../../src/native/addon.ts';
import { Errno } from '../../src/block/errors.ts';

/** The binding without the wrapper's types, to call it wrongly. */
const raw: Record<string, (...values: unknown[]) => unknown> = createRequire(import.meta.url)('../../build/orion.node');

let directory: string;
let path: string;
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'orion-native-'));
  path = join(directory, 'file');
  writeFileSync(path, Buffer.alloc(65_536, 1));
});
after(() => rm(directory, { recursive: true }));

/** Bytes of this process's memory that asked for huge pages, and begin where one may. */
function hugeBytes(): number {
  let bytes = 0;
  for (const [, start = '', end = '', flags = ''] of readFileSync('/proc/self/smaps', 'latin1').matchAll(
    /^([0-9a-f]+)-([0-9a-f]+) [^]*?^VmFlags: (.*)$/gm,
  )) {
    const from = Number.parseInt(start, 16);
    if (flags.split(' ').includes('hg') && from % 2 ** 21 === 0) bytes += Number.parseInt(end, 16) - from;
  }
  return bytes;
}

describe('pageBuffer', () => {
  test('is zeroed memory, which asks for huge pages where they fit', () => {
    const has = existsSync('/sys/kernel/mm/transparent_hugepage');
    const before = hugeBytes();
    const kept = [pageBuffer(2 ** 24), pageBuffer(2 ** 21 + 65_535), pageBuffer(2 ** 20), pageBuffer(1)];
    assert.equal(hugeBytes() - before, has ? 2 ** 24 + 2 ** 21 + 65_536 : 0);
    for (const buffer of kept) {
      assert.ok(buffer.equals(Buffer.alloc(buffer.length)));
      buffer.fill(1);
    }
  });
});

describe('flock', () => {
  test('excludes another open file, until it is unlocked or closed', () => {
    const [a, b] = [openSync(path, 'r'), openSync(path, 'r')];
    assert.equal(flock(a, Lock.exclusive | Lock.nonBlocking), 0);
    assert.equal(flock(b, Lock.exclusive | Lock.nonBlocking), Errno.EWOULDBLOCK);
    assert.equal(flock(b, Lock.shared | Lock.nonBlocking), Errno.EWOULDBLOCK);
    assert.equal(flock(a, Lock.shared | Lock.nonBlocking), 0);
    assert.equal(flock(b, Lock.shared | Lock.nonBlocking), 0);
    assert.equal(flock(b, Lock.unlock), 0);
    assert.equal(flock(a, Lock.exclusive | Lock.nonBlocking), 0);
    closeSync(a);
    assert.equal(flock(b, Lock.exclusive | Lock.nonBlocking), 0);
    closeSync(b);
  });

  test('returns what the system says', () => {
    assert.equal(flock(2 ** 31 - 1, Lock.shared), Errno.EBADF);
    const fd = openSync(path, 'r');
    assert.equal(flock(fd, 0), Errno.EINVAL);
    closeSync(fd);
  });
});

describe('readCached', () => {
  test('reads what was just written, and only inside the buffer', () => {
    const fd = openSync(path, 'r');
    const buffer = Buffer.alloc(100);
    assert.equal(readCached(fd, buffer, 10, 50, 0), 50);
    assert(buffer.equals(Buffer.concat([Buffer.alloc(10), Buffer.alloc(50, 1), Buffer.alloc(40)])));
    assert.equal(readCached(fd, buffer, 0, 100, 65_536), 0);
    assert.equal(readCached(2 ** 31 - 1, buffer, 0, 100, 0), -Errno.EBADF);
    for (const [at, length] of [
      [0, 101],
      [1, 100],
      [101, 1],
      [-1, 5],
      [0, 0],
      [0.5, 1],
    ]) {
      assert.throws(() => raw['readCached']?.(fd, buffer, at, length, 0), TypeError);
    }
    assert.throws(() => raw['readCached']?.(fd, {}, 0, 1, 0), TypeError);
    assert.throws(() => raw['readCached']?.(fd, buffer, 0, 1, -1), TypeError);
    closeSync(fd);
  });
});

describe('peerCredentials', () => {
  test('tells who is connected', async () => {
    const server = createServer().listen(join(directory, 'socket'));
    const connection = once(server, 'connection');
    const client = connect(join(directory, 'socket'));
    const [socket] = (await connection) as [Socket & { _handle: { fd: number } }];
    const peer = peerCredentials(socket._handle.fd);
    assert.deepEqual(peer, { pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() });
    const { Groups = '' } = Object.fromEntries(
      readFileSync('/proc/self/status', 'utf8')
        .split('\n')
        .map((line) => line.split(':\t')),
    ) as Record<string, string>;
    assert.deepEqual(peerGroups(socket._handle.fd), Groups.trim().split(/\s+/).filter(Boolean).map(Number));
    client.destroy();
    socket.destroy();
    server.close();
  });

  test('returns what the system says', () => {
    const fd = openSync(path, 'r');
    assert.equal(peerCredentials(fd), Errno.ENOTSOCK);
    assert.equal(peerGroups(fd), Errno.ENOTSOCK);
    closeSync(fd);
  });
});

function call(start: (callback: (errno: number) => void) => void): Promise<number> {
  return new Promise(start);
}

function callback(): void {
  assert.fail('called');
}

describe('calls on ranges', () => {
  test('punch holes', async () => {
    const fd = openSync(path, 'r+');
    const errno = await call((done) => {
      fallocate(fd, Falloc.punchHole | Falloc.keepSize, 4096, 8192, done);
    });
    closeSync(fd);
    assert.equal(errno, 0);
    assert(readFileSync(path).equals(Buffer.alloc(65_536, 1).fill(0, 4096, 12_288)));
    assert.equal(statSync(path).size, 65_536);
  });

  test('find data and holes in turn, data first', async () => {
    const file = `${path}.sparse`;
    writeFileSync(file, Buffer.alloc(8192, 1));
    truncateSync(file, 2 ** 20);
    const fd = openSync(file, 'r');
    const ranges = (offset: number, length: number): Promise<readonly number[]> =>
      new Promise((resolve) => {
        dataRanges(fd, offset, length, (errno, lengths) => {
          assert.equal(errno, 0);
          resolve([...lengths]);
        });
      });
    assert.deepEqual(await ranges(0, 2 ** 20), [8192, 2 ** 20 - 8192]);
    assert.deepEqual(await ranges(100, 50), [50]);
    assert.deepEqual(await ranges(10_000, 50), [0, 50]);
    assert.deepEqual(await ranges(2 ** 19, 2 ** 30), [0, 2 ** 19], 'up to the end of the file');
    assert.deepEqual(await ranges(2 ** 21, 1), []);
    closeSync(fd);
  });

  test('return what the system says', async () => {
    const fd = openSync(path, 'r');
    const readOnly = await call((done) => {
      fallocate(fd, Falloc.punchHole | Falloc.keepSize, 0, 4096, done);
    });
    assert.equal(readOnly, Errno.EBADF);
    const noDevice = await call((done) => {
      blockDiscard(fd, 0, 4096, done);
    });
    assert.equal(noDevice, Errno.ENOTTY);
    closeSync(fd);
  });

  test('may be under way when a worker ends', async () => {
    const addon = JSON.stringify(new URL('../../src/native/addon.ts', import.meta.url).href);
    const source = `import(${addon}).then(({ fallocate }) => {
      for (let i = 0; i < 100; i++) fallocate(1 << 30, 0, 0, 1, () => {});
      process.exit(0);
    })`;
    const worker = new Worker(source, { eval: true });
    const [code] = (await once(worker, 'exit')) as [number];
    assert.equal(code, 0);
  });
});

const show = (value: unknown): string => (typeof value === 'function' ? 'callback' : String(value));

describe('arguments', () => {
  const wrong: [string, unknown[]][] = [
    ['flock', []],
    ['flock', [1]],
    ['flock', [1, 2, 3]],
    ['flock', ['1', 2]],
    ['flock', [-1, 2]],
    ['flock', [1.5, 2]],
    ['flock', [Number.NaN, 2]],
    ['flock', [2 ** 31, 2]],
    ['flock', [1, 16]],
    ['flock', [1n, 2]],
    ['peerCredentials', []],
    ['peerGroups', ['x']],
    ['peerCredentials', [null]],
    ['peerCredentials', [{}]],
    ['fallocate', [1, 0, 0, 1]],
    ['fallocate', [1, 0, 0, 1, {}]],
    ['fallocate', [1, -1, 0, 1, callback]],
    ['fallocate', [1, 0, -1, 1, callback]],
    ['fallocate', [1, 0, 0, 0, callback]],
    ['fallocate', [1, 0, 2 ** 53, 1, callback]],
    ['fallocate', [1, 0, 0.5, 1, callback]],
    ['fallocate', [1, 0, Infinity, 1, callback]],
    ['blockDiscard', [1, 0, 1]],
    ['blockDiscard', [1, undefined, 1, callback]],
    ['blockDiscard', [1, 0, '1', callback]],
    ['dataRanges', [1, 0, 1]],
    ['dataRanges', [1, 0, 0, callback]],
    ['dataRanges', [-1, 0, 1, callback]],
    ['dataRanges', [1, 0, 1, 'callback']],
  ];
  for (const [name, values] of wrong) {
    test(`${name}(${values.map(show).join(', ')}) is a TypeError`, () => {
      assert.throws(() => raw[name]!(...values), TypeError);
    });
  }
});
