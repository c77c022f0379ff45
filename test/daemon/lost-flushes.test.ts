/** A flush that has failed, wherever that was: nobody's flush of the device may succeed afterwards. */
import assert from 'node:assert/strict';
import { truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { Errno } from '../../src/block/errors.ts';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { mustRun, type Outcome, runProgram } from '../helpers/run.ts';
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

/** A VG on a disk that can refuse flushes and writes, under a daemon. */
class Stand implements AsyncDisposable {
  readonly file: SlowFile;
  readonly daemon: RunningDaemon;
  readonly #disk: string;
  readonly #env: NodeJS.ProcessEnv;

  private constructor(file: SlowFile, daemon: RunningDaemon, disk: string, env: NodeJS.ProcessEnv) {
    this.file = file;
    this.daemon = daemon;
    this.#disk = disk;
    this.#env = env;
  }

  static async open(folder: string): Promise<Stand> {
    const image = join(folder, 'pv.img');
    await writeFile(image, '');
    await truncate(image, 32 * MIB);
    const env = { LVM_SYSTEM_DIR: folder, ORION_LVM_DEVICES: image, ORION_LVM_CONTROL: '' };
    await mustRun(command('vgcreate'), ['vg', image], { env });
    await mustRun(command('lvcreate'), ['-L8m', '-nlv', 'vg'], { env });
    const file = await SlowFile.mountRefusing(image, folder);
    // Of a disk, unlike of a file, only who asked for a flush is told that it has failed.
    const disk = (await mustRun('losetup', ['-f', '--show', file.path])).trim();
    return new Stand(file, await startDaemon([disk], ['--workers', '1']), disk, env);
  }

  create(name: string): Promise<Outcome> {
    return this.run('lvcreate', '-L4m', `-n${name}`, 'vg');
  }

  run(name: string, ...args: readonly string[]): Promise<Outcome> {
    const control = join(dirname(this.daemon.socket), 'control.sock');
    const env = { ...this.#env, ORION_LVM_DEVICES: this.#disk, ORION_LVM_CONTROL: control };
    return runProgram(command(name), args, { env });
  }

  async client(): Promise<WireClient> {
    const client = await WireClient.open(this.daemon.socket);
    await client.attach('vg/lv');
    return client;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.daemon.stop();
    await mustRun('losetup', ['-d', this.#disk]);
    await this.file[Symbol.asyncDispose]();
  }
}

async function write(client: WireClient): Promise<void> {
  client.send(request({ type: CMD.write, offset: 0, payload: Buffer.alloc(4096, 'x') }));
  assert.equal((await client.reply()).error, 0);
}

test('in a command: clients, and those of a worker that is started again, are told', { timeout: 60_000 }, async () => {
  await withTemporaryFolder(async (folder) => {
    await using stand = await Stand.open(folder);
    const { file, daemon } = stand;
    const client = await stand.client();
    await write(client);
    await file.refuseFlush();
    assert.match((await stand.create('other')).stderr, /flush failed: EIO/);
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
    const again = await stand.client();
    assert.equal(await flushOf(again), Errno.EIO);
    again.close();
  });
});

test('metadata that the disk refuses is no loss of what clients wrote', { timeout: 60_000 }, async () => {
  await withTemporaryFolder(async (folder) => {
    await using stand = await Stand.open(folder);
    const client = await stand.client();
    await write(client);
    await stand.file.refuseWrites();
    assert.match((await stand.create('other')).stderr, /write of \d+ bytes at offset \d+ failed: EIO/);
    await stand.file.takeWrites();
    assert.equal(await flushOf(client), 0);
    client.close();
    assert.equal((await stand.create('other')).status, 0);
    assert.equal(await stand.daemon.stop(), 0, stand.daemon.log());
  });
});

test('it counts until the volume group lets its devices go', { timeout: 60_000 }, async () => {
  await withTemporaryFolder(async (folder) => {
    await using stand = await Stand.open(folder);
    assert.equal((await stand.create('other')).status, 0);
    const client = await stand.client();
    await write(client);
    await stand.file.refuseFlush();
    assert.equal(await flushOf(client), Errno.EIO);
    // The disk takes flushes again, and has lost what it has lost.
    await write(client);
    assert.equal(await flushOf(client), Errno.EIO);
    client.close();
    const set = async (name: string, ...args: readonly string[]): Promise<void> => {
      await waitFor('nobody to use it', async () => (await statusOf(stand.daemon)).connections === 0);
      const { status, stderr } = await stand.run(name, ...args);
      assert.equal(status, 0, stderr);
    };
    const flushed = async (): Promise<number> => {
      const next = await stand.client();
      await write(next);
      const error = await flushOf(next);
      next.close();
      return error;
    };
    await set('lvchange', '-an', 'vg/lv');
    await set('lvchange', '-ay', 'vg/lv');
    assert.equal(await flushed(), Errno.EIO, 'the other LV has the device all the time');
    await set('vgchange', '-an', 'vg');
    await set('vgchange', '-ay', 'vg');
    assert.equal(await flushed(), 0);
    const told = stand.daemon.log().split('a flush has failed').length - 1;
    assert.equal(told, 1, stand.daemon.log());
    assert.match(stand.daemon.log(), /"device":"\/dev\/loop\d+","errno":5,"msg":"a flush has failed/);
    assert.equal(await stand.daemon.stop(), 0, stand.daemon.log());
  });
});

test('a daemon that knows of one is not handed over: the next would know of nothing', { timeout: 60_000 }, async () => {
  await withTemporaryFolder(async (folder) => {
    await using stand = await Stand.open(folder);
    const client = await stand.client();
    await write(client);
    await stand.file.refuseFlush();
    assert.equal(await flushOf(client), Errno.EIO);
    process.kill((await statusOf(stand.daemon)).pid, 'SIGUSR2');
    await waitFor('it to be refused', () => /a flush of \/dev\/loop\d+ has failed/.test(stand.daemon.log()));
    assert.equal(await flushOf(client), Errno.EIO);
    client.close();
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
