/**
 * A device that hangs for real: a file of a FUSE file system whose server is stopped in the middle. Its own volumes wait; the
 * others, the control socket and a scan don't; and when it goes on, so do they, with the right bytes.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { open, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { ControlClient } from '../../src/daemon/client/control-client.ts';
import type { DaemonStatus } from '../../src/daemon/status.ts';
import { startDaemon, waitFor } from '../helpers/daemon.ts';
import { runProgram } from '../helpers/run.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { SlowFile } from '../helpers/slow-file.ts';
import { DATA_START, EXTENT, TestGroup } from './images.ts';

const EXTENTS = 16;
/** Reads that wait at once: more than any pool has threads. */
const READS = 64;
const ENV = { PATH: `/usr/bin:${process.env['PATH'] ?? ''}` };

/** Reads one page of every stretch at the same time, then prints a line. */
const READ_MANY = `
bufs = [nbd.Buffer(4096) for _ in range(${READS})]
cookies = [h.aio_pread(bufs[i], i * ${(EXTENTS * EXTENT) / READS}) for i in range(${READS})]
print("waiting", flush=True)
while h.aio_in_flight() > 0: h.poll(-1)
print("right" if all(b.to_bytearray() == bytes([i + 1]) * 4096 for i, b in enumerate(bufs)) else "wrong", flush=True)
`;

/** Writes, flushes and reads for a while; prints the longest round in ms. */
const BE_QUICK = `
import time
longest = 0
for i in range(150):
    began = time.monotonic()
    h.pwrite(bytes([i]) * 4096, i * 8192); h.flush()
    assert h.pread(4096, i * 8192) == bytes([i]) * 4096
    longest = max(longest, time.monotonic() - began)
print(int(longest * 1000))
`;

/** The groups: "slow" with a page of its own number at the start of each stretch, and "quick". */
async function makeImages(folder: string): Promise<{ readonly slow: string; readonly quick: string }> {
  const slow = await new TestGroup(join(folder, 'slow.img'), 'slow').write([
    { name: 'lv', extent: 0, extents: EXTENTS },
  ]);
  const quick = await new TestGroup(join(folder, 'quick.img'), 'quick').write([
    { name: 'lv', extent: 0, extents: EXTENTS },
  ]);
  await using file = await open(slow.path, 'r+');
  for (let i = 0; i < READS; i++) {
    await file.write(Buffer.alloc(4096, i + 1), 0, 4096, DATA_START + i * ((EXTENTS * EXTENT) / READS));
  }
  return { slow: slow.path, quick: quick.path };
}

async function hangsAlone(folder: string, options: readonly string[]): Promise<void> {
  const { slow, quick } = await makeImages(folder);
  await using file = await SlowFile.mount(slow, folder);
  const daemon = await startDaemon([file.path, quick], options);
  try {
    const beQuick = async (): Promise<void> => {
      const args = ['-u', daemon.uri('quick/lv'), '-c', BE_QUICK];
      const { status, stdout, stderr } = await runProgram('/usr/bin/nbdsh', args, { env: ENV });
      assert.equal(status, 0, stderr);
      assert.ok(Number(stdout) < 2000, `the longest round took ${stdout.trim()} ms while another device hung`);
    };
    const reader = spawn('/usr/bin/nbdsh', ['-u', daemon.uri('slow/lv'), '-c', READ_MANY], {
      env: { ...process.env, ...ENV },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let said = '';
    file.hang();
    reader.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()));
    const read = once(reader, 'exit');
    await waitFor('the reads to wait', () => said.includes('waiting'));
    await beQuick();
    const control = new ControlClient(join(dirname(daemon.socket), 'control.sock'));
    const began = performance.now();
    const status = (await control.request('GET', '/v1/status')) as DaemonStatus;
    assert.ok(performance.now() - began < 5000, 'the status answers');
    assert.deepEqual(
      status.exports.map(({ name, state }) => `${name} ${state}`),
      ['quick/lv active', 'slow/lv active'],
    );
    daemon.child.kill('SIGHUP');
    await beQuick();
    assert.equal(said, 'waiting\n', 'nothing of the device that hangs was answered');
    file.goOn();
    await read;
    assert.equal(said, 'waiting\nright\n', daemon.log());
    await beQuick();
  } finally {
    file.goOn();
    assert.equal(await daemon.stop(), 0, daemon.log());
  }
}

describe('a device that hangs delays only its own volumes', () => {
  const ways: readonly (readonly string[])[] = [
    ['--workers', '0', '--engine', 'threads'],
    ['--workers', '1', '--engine', 'threads'],
    ['--workers', '1', '--engine', 'uring'],
    ['--workers', '2'],
  ];
  for (const options of ways) {
    test(options.join(' '), () => withTemporaryFolder((folder) => hangsAlone(folder, options)));
  }
});

test('a named device that is no physical volume, and hangs when it is asked what else it is, lets the daemon start', async () => {
  await withTemporaryFolder(async (folder) => {
    const { quick } = await makeImages(folder);
    const foreign = join(folder, 'foreign.img');
    await writeFile(foreign, Buffer.alloc(8 * EXTENT));
    // A scan reads only its first sectors.
    await using file = await SlowFile.mountHanging(foreign, folder, 4 * EXTENT);
    const daemon = await startDaemon([file.path, quick]);
    try {
      assert.match(daemon.log(), /what it holds is not known: it does not answer/);
      const { status, stderr } = await runProgram('/usr/bin/nbdsh', ['-u', daemon.uri('quick/lv'), '-c', BE_QUICK], {
        env: ENV,
      });
      assert.equal(status, 0, stderr);
    } finally {
      file.goOn();
      assert.equal(await daemon.stop(), 0, daemon.log());
    }
  });
});

test('a physical volume is not asked what else it is', async () => {
  await withTemporaryFolder(async (folder) => {
    const { quick } = await makeImages(folder);
    await using file = await SlowFile.mountHanging(quick, folder, 8 * EXTENT);
    const daemon = await startDaemon([file.path]);
    try {
      assert.equal(file.hasHung, false, 'nothing but its first sectors was read');
    } finally {
      file.goOn();
      assert.equal(await daemon.stop(), 0, daemon.log());
    }
  });
});
