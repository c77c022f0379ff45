/**
 * The end of a process that has a dirty write-back cache: SIGUSR2, after which the next process has all of it and reads nothing old from its own
 * cache; and SIGTERM while the device refuses writes: the daemon ends, says what was lost, and what was flushed before is on the device.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { open, rm, truncate, writeFile } from 'node:fs/promises';
import { get, type IncomingMessage } from 'node:http';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import type { Numbers } from '../../src/observe/stats.ts';
import { pattern } from '../block/harness.ts';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { handOver, stopLast } from '../helpers/hand-over.ts';
import { NbdWriter } from '../helpers/nbd-writer.ts';
import { mustRun } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';
import { SlowFile } from '../helpers/slow-file.ts';
import { CMD, request, WireClient } from '../nbd/wire.ts';

const MIB = 2 ** 20;
const LV_BYTES = 24 * MIB;
/** Where the first extent begins. */
const DATA_START = MIB;

/** A PV with the LV vg/lv, and the settings of a daemon that caches it and writes back only when it must. */
async function prepare(folder: string): Promise<{
  readonly image: string;
  readonly config: string;
  /** Runs a command on the image, as long as no daemon has it. */
  readonly must: (command: string, ...args: readonly string[]) => Promise<string>;
}> {
  const image = join(folder, 'pv.img');
  await writeFile(image, '');
  await truncate(image, 64 * MIB);
  const env = { ORION_LVM_DEVICES: image, ORION_LVM_CONTROL: '', LVM_SYSTEM_DIR: folder };
  const must = (command: string, ...args: readonly string[]): Promise<string> =>
    mustRun(join(CHECKOUT, 'bin', command), args, { cwd: folder, env });
  await must('vgcreate', 'vg', image);
  await must('lvcreate', '-Zn', '-Wn', `-L${LV_BYTES}b`, '-nlv', 'vg');
  const config = join(folder, 'lvm.toml');
  await writeFile(config, `direct = true\ncache_size = ${64 * MIB}\ncache_policy = "writeback"\n`);
  return { image, config, must };
}

async function onDisk(image: string, at: number, length: number): Promise<Buffer> {
  await using file = await open(image, 'r');
  const bytes = Buffer.alloc(length);
  await file.read(bytes, 0, length, DATA_START + at);
  return bytes;
}

async function write(wire: WireClient, offset: number, payload: Buffer): Promise<void> {
  wire.send(request({ type: CMD.write, offset, payload }));
  assert.equal((await wire.reply()).error, 0);
}

async function read(wire: WireClient, offset: number, length: number): Promise<Buffer> {
  wire.send(request({ type: CMD.read, offset, length }));
  const { error, data } = await wire.reply(length);
  assert.equal(error, 0);
  return Buffer.from(data);
}

async function flush(wire: WireClient): Promise<number> {
  wire.send(request({ type: CMD.flush }));
  return (await wire.reply()).error;
}

/** All of it, in requests that are short enough to be kept. */
async function readAll(wire: WireClient): Promise<Buffer> {
  const parts: Buffer[] = [];
  for (let at = 0; at < LV_BYTES; at += MIB) parts.push(await read(wire, at, MIB));
  return Buffer.concat(parts);
}

async function moreWrites(writer: NbdWriter, count: number): Promise<void> {
  const before = writer.writes;
  await waitFor('more writes', () => writer.writes > before + count);
}

async function client(daemon: RunningDaemon, name = 'vg/lv'): Promise<WireClient> {
  const wire = await WireClient.open(daemon.socket);
  await wire.attach(name);
  return wire;
}

async function dirtyBytes({ socket }: RunningDaemon): Promise<number> {
  const asked = get({ socketPath: join(dirname(socket), 'control.sock'), path: '/v1/numbers' });
  const [response] = (await once(asked, 'response')) as [IncomingMessage];
  let body = '';
  for await (const chunk of response) body += String(chunk);
  const { devices } = JSON.parse(body) as Pick<Numbers, 'devices'>;
  return devices.reduce((sum, { cache }) => sum + (cache?.dirtyBytes ?? 0), 0);
}

for (const workers of ['0', '2']) {
  describe(`a dirty cache, --workers ${workers}`, { timeout: 120_000 }, () => {
    test('is on the device when the next process serves, which reads nothing of before', async () => {
      await withTemporaryFolder(async (folder) => {
        const { image, config } = await prepare(folder);
        const daemon = await startDaemon([image], ['--config', config, '--workers', workers]);
        try {
          const wire = await client(daemon);
          let expected = Buffer.alloc(LV_BYTES);
          for (let round = 1; round <= 2; round++) {
            // All of it is in the cache of this process; then half of it changes, without a flush, in pieces that are no blocks.
            assert(expected.equals(await readAll(wire)), `before hand-over ${round}`);
            const bytes = pattern(4 * MIB + 777, round);
            const at = round * 3 * MIB + 333;
            expected = Buffer.from(expected);
            bytes.copy(expected, at);
            await write(wire, at, bytes);
            assert.ok((await dirtyBytes(daemon)) >= 4 * MIB, 'it is dirty');
            await handOver(daemon);
            assert(expected.equals(await onDisk(image, 0, LV_BYTES)), `on the device after hand-over ${round}`);
            assert(expected.equals(await readAll(wire)), `read after hand-over ${round}`);
            assert.equal(await dirtyBytes(daemon), 0);
          }
          wire.close();
        } finally {
          await stopLast(daemon);
          await daemon.stop();
        }
      });
    });

    test('goes along under writes, and nobody loses a connection or a byte', async () => {
      await withTemporaryFolder(async (folder) => {
        const { image, config } = await prepare(folder);
        const daemon = await startDaemon([image], ['--config', config, '--workers', workers]);
        let { socket } = daemon;
        const writer = new NbdWriter(() => socket, 'vg/lv', LV_BYTES);
        try {
          writer.start();
          for (let round = 0; round < 2; round++) {
            await moreWrites(writer, 500);
            await handOver(daemon);
          }
          await moreWrites(writer, 500);
          await writer.stop();
          assert.equal(writer.reconnects, 0);
          await writer.verify();
        } finally {
          await stopLast(daemon);
          await daemon.stop();
        }
        const again = await startDaemon([image]);
        ({ socket } = again);
        await writer.verify();
        await again.stop();
      });
    });

    test('that the device refuses does not keep the daemon from ending, and is told', async () => {
      await withTemporaryFolder(async (folder) => {
        const { image, config } = await prepare(folder);
        const broken = join(folder, 'broken');
        const options = ['error-pwrite=EIO', 'error-pwrite-rate=100%', `error-pwrite-file=${broken}`];
        await using file = await SlowFile.mount(image, folder, options);
        const daemon = await startDaemon([file.path], ['--config', config, '--workers', workers]);
        const wire = await client(daemon);
        await write(wire, 0, pattern(2 * MIB, 1));
        assert.equal(await flush(wire), 0);
        await write(wire, 8 * MIB, pattern(MIB, 2));
        await writeFile(broken, '');
        assert.equal(await flush(wire), 5, 'EIO');
        assert(pattern(MIB, 2).equals(await read(wire, 8 * MIB, MIB)), 'it is in memory still');
        wire.close();
        const code = await daemon.stop();
        assert.match(daemon.log(), /the flush before closing failed: errno 5.*not everything could be made durable/s);
        assert.notEqual(code, 0);
        await rm(broken);
        assert(pattern(2 * MIB, 1).equals(await onDisk(image, 0, 2 * MIB)), 'what was flushed');
      });
    });

    test('that is given up with its volume fails no flush of another one', async () => {
      await withTemporaryFolder(async (folder) => {
        const { image, config, must } = await prepare(folder);
        await must('lvcreate', '-Zn', '-Wn', '-L4m', '-nother', 'vg');
        const broken = join(folder, 'broken');
        const options = ['error-pwrite=EIO', 'error-pwrite-rate=100%', `error-pwrite-file=${broken}`];
        await using file = await SlowFile.mount(image, folder, options);
        const daemon = await startDaemon([file.path], ['--config', config, '--workers', workers]);
        try {
          const [wire, other] = [await client(daemon), await client(daemon, 'vg/other')];
          await write(wire, 0, pattern(MIB, 1));
          await writeFile(broken, '');
          assert.equal(await flush(wire), 5, 'EIO');
          wire.close();
          const env = { ORION_LVM_DEVICES: file.path, ORION_LVM_CONTROL: join(dirname(daemon.socket), 'control.sock') };
          await waitFor('it to be deactivated', () =>
            mustRun(join(CHECKOUT, 'bin/lvchange'), ['-an', 'vg/lv'], { env: { ...env, LVM_SYSTEM_DIR: folder } }).then(
              () => true,
              () => false,
            ),
          );
          assert.match(daemon.log(), /a volume could not be flushed when it was closed/);
          await rm(broken);
          assert.equal(await flush(other), 0);
          await write(other, 0, pattern(MIB, 2));
          assert.equal(await flush(other), 0);
          other.close();
        } finally {
          assert.equal(await daemon.stop(), 0, daemon.log());
        }
      });
    });
  });
}
