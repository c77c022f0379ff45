/**
 * What real clients make of structured replies and `base:allocation`, on a volume whose table has zeroes and whose image files
 * have holes: libnbd's tools, its Python binding, and qemu's.
 */
import assert from 'node:assert/strict';
import { randomFillSync } from 'node:crypto';
import { mkdtemp, open, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { openBlockDevice } from '../../src/block/open.ts';
import type { OpenedDevice } from '../../src/block/device.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { BufferPool } from '../../src/nbd/buffer-pool.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { makeExport, TestDirectory } from '../nbd/exports.ts';
import { LocalServer } from '../nbd/local-server.ts';

const MIB = 2 ** 20;
const SECTORS = MIB / 512;
const SIZE = 24 * MIB;
/** [start, length, whether it is a hole], in MiB. */
const MAP: readonly (readonly [number, number, boolean])[] = [
  // linear on a file: data only in its second MiB
  [0, 1, true],
  [1, 1, false],
  // the rest of that, zeroes of the table, and two stripes without data
  [2, 10, true],
  // the stripes' last rows
  [12, 4, false],
  // linear again
  [16, 8, true],
];

let folder = '';
let uri = '';
let image: Buffer = Buffer.alloc(0);
const devices: OpenedDevice[] = [];
const volume = new Volume('vg/sparse', { targets });
const buffers = new BufferPool({ poison: true });
const directory = new TestDirectory([makeExport({ name: 'vg/sparse', volume })]);
const server = new LocalServer({ directory, buffers });

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'orion-status-'));
  for (const name of ['a', 'b']) {
    const path = join(folder, name);
    const file = await open(path, 'w');
    await file.truncate(64 * MIB);
    await file.sync();
    await file.close();
    devices.push(await openBlockDevice(path));
  }
  const stripe = (device: string): object => ({ device, offset: 16 * SECTORS });
  volume.load(
    [
      { start: 0, length: 4 * SECTORS, target: 'linear', params: { device: 'a', offset: SECTORS } },
      { start: 4 * SECTORS, length: 4 * SECTORS, target: 'zero', params: {} },
      {
        start: 8 * SECTORS,
        length: 8 * SECTORS,
        target: 'striped',
        params: { chunkSize: 128, stripes: [stripe('a'), stripe('b')] },
      },
      { start: 16 * SECTORS, length: 8 * SECTORS, target: 'linear', params: { device: 'b', offset: 32 * SECTORS } },
    ],
    (name) => devices[name === 'a' ? 0 : 1]!,
  );
  volume.resume();
  const path = join(folder, 'nbd.sock');
  await server.listen({ kind: 'unix', path });
  uri = `nbd+unix:///vg/sparse?socket=${path}`;
  image = Buffer.alloc(SIZE);
  const writes: string[] = [];
  for (const [start, length, hole] of MAP) {
    if (hole) continue;
    randomFillSync(image, start * MIB, length * MIB);
    writes.push(`h.pwrite(image[${start * MIB}:${(start + length) * MIB}], ${start * MIB})`);
  }
  const source = join(folder, 'image');
  const file = await open(source, 'w');
  await file.write(image);
  await file.close();
  await nbdsh(`image = open(${JSON.stringify(source)}, "rb").read()\n${writes.join('\n')}\nh.flush()`);
});
after(async () => {
  await server.close();
  await volume.close();
  for (const device of devices) await device.close();
  await rm(folder, { recursive: true, force: true });
  assert.equal(buffers.outstanding, 0);
});

/** Runs a script in nbdsh with `h` connected, the context asked for, and libnbd's own checks off. */
function nbdsh(script: string): Promise<string> {
  const env = { PATH: `/usr/bin:${process.env['PATH'] ?? ''}` };
  const setup = 'h.set_strict_mode(0); h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)';
  const connect = `h.connect_uri(${JSON.stringify(uri)})`;
  return mustRun('nbdsh', ['-c', setup, '-c', connect, '-c', script], { env });
}

function bytesRead(): number {
  return volume.stats.snapshot().ops.read.bytes;
}

/** [offset, length, hole] in MiB, neighbours joined. */
function joined(extents: readonly (readonly [number, number, boolean])[]): (readonly [number, number, boolean])[] {
  const found: [number, number, boolean][] = [];
  for (const [start, length, hole] of extents) {
    const last = found.at(-1);
    if (last !== undefined && last[2] === hole) last[1] += length / MIB;
    else found.push([start / MIB, length / MIB, hole]);
  }
  return found;
}

describe('base:allocation', () => {
  test('nbdinfo maps it and adds it up', async () => {
    type Extent = { offset: number; length: number; type: number };
    const extents = JSON.parse(await mustRun('nbdinfo', ['--map', '--json', uri])) as Extent[];
    for (const { type } of extents) assert.ok(type === 0 || type === 3);
    assert.deepEqual(joined(extents.map(({ offset, length, type }) => [offset, length, type === 3])), MAP);
    const totals = await mustRun('nbdinfo', ['--map', '--totals', uri]);
    assert.match(totals, new RegExp(`^\\s*${5 * MIB}\\s.*data`, 'm'));
    assert.match(await mustRun('nbdinfo', [uri]), /base:allocation/);
    assert.equal((await runProgram('nbdinfo', ['--map=qemu:dirty-bitmap:x', uri])).status, 1);
  });

  test('qemu-img maps it, and converts only what is data', async () => {
    type Extent = { start: number; length: number; data: boolean; zero: boolean };
    const extents = JSON.parse(await mustRun('qemu-img', ['map', '--output=json', '-f', 'raw', uri])) as Extent[];
    for (const { data, zero } of extents) assert.equal(data, !zero);
    assert.deepEqual(joined(extents.map(({ start, length, zero }) => [start, length, zero])), MAP);
    const out = join(folder, 'converted');
    // Without looking for zeroes in the data itself.
    await mustRun('qemu-img', ['convert', '-S', '0', '-f', 'raw', '-O', 'raw', uri, out]);
    assert.ok((await readFile(out)).equals(image));
    await mustRun('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', uri, `${out}.qcow2`]);
    await mustRun('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', `${out}.qcow2`, uri]);
    const io = await mustRun('qemu-io', ['-f', 'raw', '-r', '-c', 'read -P 0 4M 4M', '-c', 'read -P 0 3M 9M', uri]);
    assert.doesNotMatch(io, /verification failed|error/i);
  });

  test('nbdcopy reads only the data', async () => {
    const out = join(folder, 'copied');
    const atFirst = bytesRead();
    await mustRun('nbdcopy', ['--sparse=0', uri, out]);
    assert.ok((await readFile(out)).equals(image));
    assert.equal(bytesRead() - atFirst, 5 * MIB);
    assert.ok((await stat(out)).blocks * 512 < 8 * MIB, 'and leaves holes');
    await mustRun('nbdcopy', ['--synchronous', uri, out]);
    assert.ok((await readFile(out)).equals(image));
  });

  test('BLOCK_STATUS at odd places, with REQ_ONE, and refused', async () => {
    const output = await nbdsh(`
assert h.can_meta_context("base:allocation") and not h.can_meta_context("x:y")
def status(count, offset, flags=0):
    found = []
    def extents(context, at, entries, err):
        assert context == "base:allocation" and at == offset
        found.append(entries)
    try:
        h.block_status(count, offset, extents, flags)
        assert len(found) == 1
        print(found[0])
    except nbd.Error as e:
        print(e.errno)
M = 1 << 20
status(3, M - 1)
status(2 * M, M - 5, nbd.CMD_FLAG_REQ_ONE)
status(M, 5 * M)
status(h.get_size(), 0, nbd.CMD_FLAG_REQ_ONE)
status(0, 0)
status(2, h.get_size() - 1)
status(512, 0, nbd.CMD_FLAG_DF)
assert h.pread(4, 0) == bytes(4)
`);
    assert.deepEqual(output.trim().split('\n'), [
      '[1, 3, 2, 0]',
      '[5, 3]',
      `[${MIB}, 3]`,
      `[${MIB}, 3]`,
      'EINVAL',
      'EINVAL',
      'EINVAL',
    ]);
  });

  test('a READ over a segment of zeroes comes in pieces, with DF in one; zeroing is fast', async () => {
    const output = await nbdsh(`
def read(count, offset, flags=0):
    found = []
    def chunk(data, at, status, err):
        found.append((at, len(data), status == nbd.READ_HOLE))
    data = h.pread_structured(count, offset, chunk, flags)
    assert data == h.pread(count, offset)
    print(sorted(found))
M = 1 << 20
read(6 * M, 3 * M)
read(6 * M, 3 * M, nbd.CMD_FLAG_DF)
read(M, 5 * M)
assert h.can_fast_zero()
h.zero(M, 17 * M, nbd.CMD_FLAG_FAST_ZERO)
h.zero(M, 17 * M, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
`);
    assert.deepEqual(output.trim().split('\n'), [
      `[(${3 * MIB}, ${MIB}, False), (${4 * MIB}, ${4 * MIB}, True), (${8 * MIB}, ${MIB}, False)]`,
      `[(${3 * MIB}, ${6 * MIB}, False)]`,
      `[(${5 * MIB}, ${MIB}, True)]`,
    ]);
  });

  test('without structured replies there is none, and everything else works', async () => {
    const env = { PATH: `/usr/bin:${process.env['PATH'] ?? ''}` };
    const script = `
h.set_request_structured_replies(False)
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri(${JSON.stringify(uri)})
print(h.get_structured_replies_negotiated(), h.can_meta_context("base:allocation"), h.can_df(), len(h.pread(65536, 4 << 20)))
`;
    assert.equal((await mustRun('nbdsh', ['-c', script], { env })).trim(), 'False False False 65536');
  });
});
