/** A flush that has failed, wherever that was: nobody's flush of the device may succeed afterwards. */
import assert from 'node:assert/strict';
import { truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { Errno } from '../../src/block/errors.ts';
import { startDaemon, waitFor } from '../helpers/daemon.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';
import { SlowFile } from '../helpers/slow-file.ts';
import { CMD, request, WireClient } from '../nbd/wire.ts';
import { statusOf } from './status-of.ts';
import { Bench, wished } from './volume-bench.ts';

const MIB = 2 ** 20;

function command(name: string): string {
  return join(CHECKOUT, 'bin', name);
}

async function flushOf(client: WireClient): Promise<number> {
  client.send(request({ type: CMD.flush }));
  return (await client.reply()).error;
}

async function attached(socket: string): Promise<WireClient> {
  const client = await WireClient.open(socket);
  await client.attach('vg/lv');
  return client;
}

test('in a command: clients, and those of a worker that is started again, are told', { timeout: 60_000 }, async () => {
  await withTemporaryFolder(async (folder) => {
    const image = join(folder, 'pv.img');
    await writeFile(image, '');
    await truncate(image, 32 * MIB);
    const env = { LVM_SYSTEM_DIR: folder, ORION_LVM_DEVICES: image, ORION_LVM_CONTROL: '' };
    await mustRun(command('vgcreate'), ['vg', image], { env });
    await mustRun(command('lvcreate'), ['-L8m', '-nlv', 'vg'], { env });
    await using file = await SlowFile.mountRefusing(image, folder);
    // Its page cache is a file's no more: who asks first whether a flush succeeded is the only one to be told that it did not.
    const disk = (await mustRun('losetup', ['-f', '--show', file.path])).trim();
    const daemon = await startDaemon([disk], ['--workers', '1']);
    try {
      const client = await attached(daemon.socket);
      client.send(request({ type: CMD.write, offset: 0, payload: Buffer.alloc(4096, 'x') }));
      assert.equal((await client.reply()).error, 0);
      await file.refuseFlush();
      const live = { ...env, ORION_LVM_DEVICES: disk, ORION_LVM_CONTROL: join(dirname(daemon.socket), 'control.sock') };
      const failed = await runProgram(command('lvcreate'), ['-L4m', '-nother', 'vg'], { env: live });
      assert.match(failed.stderr, /flush failed: EIO/);
      assert(file.hasRefused);
      assert.equal(await flushOf(client), Errno.EIO);

      const pid = (await statusOf(daemon)).workers[0]?.pid ?? 0;
      process.kill(pid, 'SIGKILL');
      await client.rest();
      client.close();
      await waitFor('the next worker', async () => {
        const next = (await statusOf(daemon)).workers[0]?.pid ?? null;
        return next !== null && next !== pid;
      });
      const again = await attached(daemon.socket);
      assert.equal(await flushOf(again), Errno.EIO);
      again.close();
    } finally {
      await daemon.stop();
      await mustRun('losetup', ['-d', disk]);
    }
  });
});

test('before a worker is there: it is told before it gets its tables', async () => {
  const bench = await Bench.open(2);
  await bench.apply([wished('a'), wished('b')]);
  bench.pool.loseFlushes(['device'], 5);
  bench.hosts[1]?.loses('other');
  assert.deepEqual(bench.asked().slice(-3), ['0 loseFlushes device', '1 loseFlushes device', '0 loseFlushes other']);
  bench.hosts[0]?.die();
  await waitFor('another worker', () => bench.pool.slots[0]?.host !== null);
  const asked = bench.asked().filter((each) => each.startsWith('0 '));
  assert.deepEqual(asked.slice(0, 2), ['0 loseFlushes device', '0 loseFlushes other']);
});
