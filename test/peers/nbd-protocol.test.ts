/**
 * Real NBD clients against the server alone, over a volume of memory devices: two of them linear, one that takes only
 * 4096-byte blocks, so that odd requests are served by read-modify-write. What they negotiate, copy, verify, and how they
 * fare with requests that no proper client sends. Another one has a line of zeroes.
 */
import assert from 'node:assert/strict';
import { randomFillSync } from 'node:crypto';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { MemoryDevice } from '../../src/block/memory.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { BufferPool } from '../../src/nbd/buffer-pool.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { makeExport, TestDirectory } from '../nbd/exports.ts';
import { LocalServer } from '../nbd/local-server.ts';

const MIB = 2 ** 20;
const SIZE = 24 * MIB;

let folder = '';
let uri = '';
let readOnlyUri = '';
let listUri = '';
let tcpUri = '';
let holesUri = '';
const buffers = new BufferPool({ poison: true });
const volume = makeVolume();
const holes = makeHoles();
const directory = new TestDirectory([
  makeExport({ name: 'vg/lv', description: '24 MiB linear', volume }),
  makeExport({ name: 'vg/holes', description: 'zero from 1 MiB to 3 MiB', volume: holes }),
  makeExport({ name: 'vg/ro', description: 'the same, read-only', volume, readOnly: true, preferredBlockSize: 65_536 }),
]);
const server = new LocalServer({ directory, buffers });

function makeVolume(): Volume {
  const made = new Volume('vg/lv', { targets });
  const devices = new Map([
    ['plain', new MemoryDevice({ sizeBytes: 16 * MIB })],
    ['blocks', new MemoryDevice({ sizeBytes: 16 * MIB, logicalBlockSize: 4096, requestAlignment: 4096 })],
  ]);
  const half = SIZE / 2 / 512;
  made.load(
    [
      { start: 0, length: half, target: 'linear', params: { device: 'plain', offset: 2048 } },
      { start: half, length: half, target: 'linear', params: { device: 'blocks', offset: 2048 } },
    ],
    (name) => devices.get(name)!,
  );
  made.resume();
  return made;
}

function makeHoles(): Volume {
  const made = new Volume('vg/holes', { targets });
  const device = new MemoryDevice({ sizeBytes: 16 * MIB });
  const mib = 2048;
  made.load(
    [
      { start: 0, length: mib, target: 'linear', params: { device: 'plain', offset: 2048 } },
      { start: mib, length: 2 * mib, target: 'zero', params: {} },
      { start: 3 * mib, length: mib, target: 'linear', params: { device: 'plain', offset: 8192 } },
    ],
    () => device,
  );
  made.resume();
  return made;
}

async function exportsOf(...args: readonly string[]): Promise<Record<string, unknown>[]> {
  const info = JSON.parse(await mustRun('nbdinfo', ['--json', ...args])) as { exports: Record<string, unknown>[] };
  return info.exports;
}

/** Runs a script in nbdsh, connected as `h` and with libnbd's own checks off, and returns what it printed. */
function nbdsh(script: string, target = uri): Promise<string> {
  // libnbd's Python module belongs to the system's Python.
  const env = { PATH: `/usr/bin:${process.env['PATH'] ?? ''}` };
  const args = ['-u', target, '-c', 'h.set_strict_mode(0)', '-c', script];
  return mustRun('nbdsh', args, { env });
}

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'orion-nbd-peers-'));
  const path = join(folder, 'nbd.sock');
  await server.listen({ kind: 'unix', path });
  const tcp = await server.listen({ kind: 'tcp', host: '127.0.0.1', port: 0 });
  uri = `nbd+unix:///vg/lv?socket=${path}`;
  readOnlyUri = `nbd+unix:///vg/ro?socket=${path}`;
  holesUri = `nbd+unix:///vg/holes?socket=${path}`;
  listUri = `nbd+unix:///?socket=${path}`;
  tcpUri = tcp.kind === 'tcp' ? `nbd://127.0.0.1:${tcp.port}/vg/lv` : '';
});
after(async () => {
  await server.close();
  await volume.close();
  await holes.close();
  await rm(folder, { recursive: true, force: true });
  assert.equal(buffers.outstanding, 0);
});

describe('libnbd', () => {
  test('nbdinfo sees each property', async () => {
    const [item] = await exportsOf(uri);
    const { uri: _uri, content: _content, 'export-size-str': _text, ...rest } = item ?? {};
    assert.deepEqual(rest, {
      'export-name': 'vg/lv',
      description: '24 MiB linear',
      contexts: ['base:allocation'],
      is_rotational: false,
      is_read_only: false,
      can_cache: true,
      can_df: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 64 * MIB,
      'export-size': SIZE,
    });
    const [readOnly] = await exportsOf(readOnlyUri);
    assert.deepEqual(
      ['is_read_only', 'can_trim', 'can_zero', 'can_flush', 'block_size_preferred'].map((key) => readOnly?.[key]),
      [true, false, false, true, 65_536],
    );
  });

  test('nbdinfo lists the exports, and says so when there is none of that name', async () => {
    const list = await exportsOf('--list', listUri);
    assert.deepEqual(
      list.map((item) => [item['export-name'], item['description']]),
      [
        ['vg/lv', '24 MiB linear'],
        ['vg/holes', 'zero from 1 MiB to 3 MiB'],
        ['vg/ro', 'the same, read-only'],
      ],
    );
    const { status, stderr } = await runProgram('nbdinfo', [uri.replace('vg/lv', 'vg/none')]);
    assert.equal(status, 1);
    assert.match(stderr, /No such file or directory.*vg\/none/);
  });

  test('nbdcopy copies in and out over 4 connections with 64 requests each', async () => {
    const data = join(folder, 'data');
    const back = join(folder, 'back');
    const bytes = randomFillSync(Buffer.alloc(SIZE));
    bytes.fill(0, 5 * MIB, 9 * MIB);
    await writeFile(data, bytes);
    const parallel = ['--connections=4', '--requests=64'];
    for (const target of [uri, tcpUri]) {
      await mustRun('nbdcopy', [...parallel, '--flush', data, target]);
      await mustRun('nbdcopy', [...parallel, target, back]);
      await mustRun('cmp', [data, back]);
    }
    await mustRun('nbdcopy', [...parallel, '--request-size=33554432', uri, back]);
    await mustRun('cmp', [data, back]);
    await mustRun('nbdcopy', ['--synchronous', uri, back]);
    await mustRun('cmp', [data, back]);
    assert.equal((await stat(back)).size, SIZE);
  });

  test('requests that no proper client sends get the exact errors, and the connection lives on', async () => {
    const output = await nbdsh(`
import errno
def expect(name, call):
    try:
        call()
        print(name, 0)
    except nbd.Error as e:
        print(name, e.errno)
size = h.get_size()
expect("read-past-end", lambda: h.pread(1024, size - 512))
expect("write-past-end", lambda: h.pwrite(bytearray(1024), size - 512))
expect("zero-past-end", lambda: h.zero(1024, size - 512))
expect("trim-past-end", lambda: h.trim(1024, size - 512))
expect("cache-past-end", lambda: h.cache(1024, size - 512))
expect("read-overflow", lambda: h.pread(512, 2**64 - 512))
expect("write-overflow", lambda: h.pwrite(bytearray(512), 2**64 - 512))
expect("read-empty", lambda: h.pread(0, 0))
expect("write-empty", lambda: h.pwrite(bytearray(0), 0))
expect("trim-empty", lambda: h.trim(0, 0))
expect("read-fua", lambda: h.pread(512, 0, 1))
expect("read-bad-flag", lambda: h.pread(512, 0, 1 << 14))
expect("write-bad-flag", lambda: h.pwrite(bytearray(512), 0, 1 << 14))
expect("fast-zero", lambda: h.zero(512, 0, nbd.CMD_FLAG_FAST_ZERO))
expect("zero-no-hole-fua", lambda: h.zero(512, 0, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA))
expect("flush", lambda: h.flush())
expect("cache", lambda: h.cache(size, 0))
expect("alive", lambda: h.pread(512, 0))
`);
    const errors = Object.fromEntries(
      output
        .trim()
        .split('\n')
        .map((line) => line.split(' ')),
    ) as Record<string, string>;
    assert.deepEqual(errors, {
      'read-past-end': 'EINVAL',
      'write-past-end': 'ENOSPC',
      'zero-past-end': 'ENOSPC',
      'trim-past-end': 'EINVAL',
      'cache-past-end': 'EINVAL',
      'read-overflow': 'EINVAL',
      'write-overflow': 'ENOSPC',
      'read-empty': '0',
      'write-empty': '0',
      'trim-empty': '0',
      'read-fua': '0',
      'read-bad-flag': 'EINVAL',
      'write-bad-flag': 'EINVAL',
      'fast-zero': 'ENOTSUP',
      'zero-no-hole-fua': '0',
      flush: '0',
      cache: '0',
      alive: '0',
    });
  });

  test('structured replies: chunks, a hole where the table is zero, errors with their text', async () => {
    const output = await nbdsh(
      `
assert h.get_structured_replies_negotiated()
h.pwrite(b"x" * 8192, 0)
for flags, offset, size in ((0, 4095, 2), (nbd.CMD_FLAG_DF, 0, 8192), (nbd.CMD_FLAG_DF, 1 << 20, 65536), (0, (1 << 20) - 1, 2)):
    chunks = []
    def chunk(data, at, status, err):
        chunks.append((len(data), at, status))
    data = h.pread_structured(size, offset, chunk, flags)
    print(chunks, bytes(data).count(0))
def told(context, message):
    if "server message" in message:
        print(message)
    return 0
h.set_debug_callback(told)
h.set_debug(True)
try:
    h.pread(512, h.get_size())
except nbd.Error as e:
    print(e.errno)
`,
      holesUri,
    );
    assert.deepEqual(output.trim().split('\n'), [
      '[(2, 4095, 1)] 0',
      '[(8192, 0, 1)] 0',
      '[(65536, 1048576, 2)] 65536',
      '[(2, 1048575, 1)] 2',
      'structured error server message: READ: 512 bytes at offset 4194304 are not inside the 4194304 bytes of the export',
      'EINVAL',
    ]);
  });

  test('a read-only export refuses what writes', async () => {
    const output = await nbdsh(
      `
for call in (lambda: h.pwrite(bytearray(512), 0), lambda: h.zero(512, 0), lambda: h.trim(512, 0), lambda: h.flush()):
    try:
        call()
        print("ok")
    except nbd.Error as e:
        print(e.errno)
`,
      readOnlyUri,
    );
    assert.deepEqual(output.trim().split('\n'), ['EPERM', 'EPERM', 'EPERM', 'ok']);
  });

  test('reads queued behind writes of megabytes do not lock up', async () => {
    await nbdsh(`
done = 0
def finished(err):
    global done
    assert err.value == 0
    done += 1
    return 1
buffers = [nbd.Buffer.from_bytearray(bytearray([i + 1]) * (2 * 1024 * 1024)) for i in range(8)]
results = [nbd.Buffer(2 * 1024 * 1024) for i in range(16)]
for i in range(8):
    h.aio_pwrite(buffers[i], i * 2 * 1024 * 1024, completion=finished)
for i in range(16):
    h.aio_pread(results[i], 16 * 1024 * 1024 + (i % 4) * 2 * 1024 * 1024, completion=finished)
while done < 24:
    h.poll(-1)
for i in range(8):
    assert h.pread(2 * 1024 * 1024, i * 2 * 1024 * 1024) == bytearray([i + 1]) * (2 * 1024 * 1024)
`);
  });

  test('a flush on one connection covers the writes answered on another', async () => {
    await nbdsh(`
g = nbd.NBD()
g.connect_uri(${JSON.stringify(uri)})
h.pwrite(b"x" * 4096, 4096)
g.flush()
assert g.pread(4096, 4096) == b"x" * 4096
g.shutdown()
`);
  });

  test('the client may say goodbye at once: everything asked before is answered', async () => {
    await nbdsh(`
bufs = [nbd.Buffer(256 * 1024) for i in range(32)]
done = 0
def finished(err):
    global done
    assert err.value == 0
    done += 1
    return 1
for i in range(32):
    h.aio_pread(bufs[i], i * 4096, completion=finished)
h.aio_disconnect()
while not (h.aio_is_closed() or h.aio_is_dead()):
    h.poll(-1)
assert done == 32, done
`);
  });
});

describe('qemu', () => {
  test('qemu-io writes patterns, zeroes and odd bytes on both devices, and reads them back', async () => {
    const commands = ['write -P 0x5a 1M 64k', 'read -P 0x5a 1M 64k', 'write -z 1M 32k', 'read -P 0 1M 32k'];
    for (const base of [0, SIZE / 2, SIZE / 2 - 4]) {
      commands.push(`write -P 0x77 ${base} 64k`, `write -f -P 0xa5 ${base + 5} 3`, `read -P 0xa5 ${base + 5} 3`);
      commands.push(`read -P 0x77 ${base} 5`, `read -P 0x77 ${base + 8} 4096`);
      commands.push(`write -z -u ${base + 9} 5000`, `read -P 0 ${base + 9} 5000`, `read -P 0x77 ${base + 5009} 100`);
      commands.push(`write -z ${base + 8} 6000`, `read -P 0 ${base + 8} 6000`);
    }
    commands.push('discard 2M 1M', 'flush');
    for (let i = 0; i < 8; i++) commands.push(`aio_write -P ${i + 1} ${i}M 1M`);
    commands.push('aio_flush');
    for (let i = 0; i < 8; i++) commands.push(`aio_read -P ${i + 1} ${i}M 1M`);
    commands.push('aio_flush');
    const args = ['-f', 'raw', ...commands.flatMap((command) => ['-c', command]), uri];
    const output = await mustRun('qemu-io', args);
    assert.doesNotMatch(output, /verification failed|error|invalid/i);
  });

  test('qemu-img info, convert, compare, map and bench', async () => {
    const data = join(folder, 'qemu.raw');
    await writeFile(data, randomFillSync(Buffer.alloc(SIZE)));
    const info = JSON.parse(await mustRun('qemu-img', ['info', '--output=json', '-f', 'raw', uri])) as object;
    assert.equal((info as Record<string, unknown>)['virtual-size'], SIZE);
    await mustRun('qemu-img', ['convert', '-n', '-W', '-m', '16', '-f', 'raw', '-O', 'raw', data, uri]);
    await mustRun('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', data, uri]);
    const qcow = join(folder, 'back.qcow2');
    await mustRun('qemu-img', ['convert', '-W', '-m', '8', '-f', 'raw', '-O', 'qcow2', tcpUri, qcow]);
    await mustRun('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', qcow, uri]);
    await mustRun('qemu-img', ['map', '--output=json', '-f', 'raw', uri]);
    for (const write of [[], ['-w', '--flush-interval=64']]) {
      await mustRun('qemu-img', ['bench', '-f', 'raw', '-c', '2000', '-d', '64', ...write, uri]);
    }
  });
});

describe('fio', () => {
  test('verifies what it wrote at random, in odd sizes, 64 deep', async () => {
    const size = `${SIZE / MIB}m`;
    const args = ['--name=verify', '--ioengine=nbd', `--uri=${uri}`, '--rw=randwrite', '--bsrange=512-128k'];
    args.push('--blockalign=512', '--iodepth=64', `--size=${size}`, '--io_size=32m', '--fsync=100');
    args.push('--verify=crc32c', '--verify_async=0', '--do_verify=1', '--verify_fatal=1', '--randseed=7');
    assert.match(await mustRun('fio', args, { cwd: folder }), /err= 0/);
  });
});

test('every byte that the clients left is the same through every door', async () => {
  const images = ['one', 'two'].map((name) => join(folder, name));
  await mustRun('nbdcopy', [uri, images[0]!]);
  await mustRun('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', readOnlyUri, images[1]!]);
  assert.ok((await readFile(images[0]!)).equals(await readFile(images[1]!)));
});
