/** Worker processes of the real daemon: clients' sockets on their way, the death of a worker and of the supervisor. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test, type TestContext } from 'node:test';
import { accepts, type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';
import { clientFlags, CMD, EPERM, option, query, request, WireClient } from '../nbd/wire.ts';
import { EXTENT, TestGroup, type TestVolume } from './images.ts';
import { exportOf, statusOf, waitForStatus } from './status-of.ts';

const ONE: TestVolume = { name: 'one', extent: 0, extents: 4 };
const TWO: TestVolume = { name: 'two', extent: 4, extents: 4 };
/** Greeting, and EXPORT_NAME's answer to a client that agreed to no zeroes. */
const GREETING_BYTES = 18;
const EXPORT_NAME_BYTES = 10;

let folder = '';
let count = 0;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'orion-lvm-worker-'));
});
after(async () => {
  await rm(folder, { recursive: true, force: true });
});

async function newGroup(volumes: readonly TestVolume[] = [ONE, TWO]): Promise<TestGroup> {
  const directory = join(folder, `group${count++}`);
  await mkdir(directory);
  return new TestGroup(join(directory, 'vg.img'), 'vg').write(volumes);
}

async function daemonFor(t: TestContext, group: TestGroup, args: readonly string[] = []): Promise<RunningDaemon> {
  const daemon = await startDaemon([group.path], ['--workers', '2', ...args]);
  t.after(() => daemon.stop());
  return daemon;
}

async function attached(daemon: RunningDaemon, name: string): Promise<WireClient> {
  const client = await WireClient.open(daemon.socket);
  await client.attach(name);
  return client;
}

async function writes(client: WireClient, fill: number, offset = 0): Promise<number> {
  client.send(request({ type: CMD.write, offset, payload: Buffer.alloc(4096, fill) }));
  return (await client.reply()).error;
}

async function reads(client: WireClient, offset = 0): Promise<number> {
  client.send(request({ type: CMD.read, offset, length: 4096 }));
  const { error, data } = await client.reply(4096);
  assert.equal(error, 0);
  assert.ok(data.equals(Buffer.alloc(4096, data[0] ?? 0)));
  return data[0] ?? -1;
}

/** The process id of the worker that serves a volume. */
async function workerOf(daemon: RunningDaemon, name: string): Promise<number> {
  const { workers } = await statusOf(daemon);
  const { worker } = await exportOf(daemon, name);
  const pid = workers.find(({ index }) => index === worker)?.pid ?? null;
  assert(pid !== null);
  return pid;
}

/** Whether a process runs; one that waits to be reaped by whoever inherited it does not. */
async function isAlive(pid: number): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  return stat !== '' && !/\) Z /.test(stat);
}

describe('the hand-over of sockets', () => {
  test('volumes are spread over the workers', async (t) => {
    const daemon = await daemonFor(t, await newGroup());
    assert.notEqual(await workerOf(daemon, 'vg/one'), await workerOf(daemon, 'vg/two'));
    const { workers } = await statusOf(daemon);
    for (const { pid } of workers) assert.notEqual(pid, daemon.child.pid);
  });

  for (const workers of ['0', '2']) {
    test(`nothing is lost of requests right behind GO and EXPORT_NAME, on unix and TCP, from many at once (${workers} workers)`, async (t) => {
      const daemon = await daemonFor(t, await newGroup(), ['--workers', workers, '--listen', 'tcp:127.0.0.1:0']);
      const { listening } = await statusOf(daemon);
      const port = Number(
        listening
          .find((uri) => uri.startsWith('tcp:'))
          ?.split(':')
          .at(-1),
      );
      const targets = [daemon.socket, { host: '127.0.0.1', port }];
      const PIPELINED = 40;
      const conversation = async (index: number): Promise<void> => {
        const client = await WireClient.open(targets[index % 2] ?? daemon.socket);
        const name = index % 4 < 2 ? 'vg/one' : 'vg/two';
        const byName = index % 3 === 0;
        const offset = index * 8192;
        const payload = Buffer.alloc(4096, index + 1);
        const all = [
          clientFlags(),
          byName ? option(1, Buffer.from(name)) : option(7, query(name)),
          request({ type: CMD.write, cookie: 1000n, offset, payload }),
          ...Array.from({ length: PIPELINED }, (_, i) =>
            request({ type: CMD.write, cookie: BigInt(i), offset: offset + 4096, payload }),
          ),
        ];
        // Cut where it hurts: within the option, within a request, or nowhere.
        const bytes = Buffer.concat(all);
        const cut = [bytes.length, 30, 60, bytes.length - 100][index % 4] ?? bytes.length;
        client.send(bytes.subarray(0, cut));
        if (cut < bytes.length) {
          await client.take(GREETING_BYTES);
          client.send(bytes.subarray(cut));
        } else {
          await client.take(GREETING_BYTES);
        }
        if (byName) await client.take(EXPORT_NAME_BYTES);
        else while ((await client.optionReply()).type !== 1);
        const answered = new Set<bigint>();
        while (answered.size <= PIPELINED) answered.add((await client.reply()).cookie);
        client.send(request({ type: CMD.read, offset, length: 8192 }));
        assert.ok((await client.reply(8192)).data.equals(Buffer.alloc(8192, index + 1)));
        client.close();
      };
      await Promise.all(Array.from({ length: 60 }, (_, index) => conversation(index)));
      await waitForStatus(daemon, 'the clients to be gone', ({ connections }) => connections === 0);
      for (const { clients } of (await statusOf(daemon)).exports) assert.equal(clients, 0);
      assert.equal(await daemon.stop(), 0, daemon.log());
    });

    test(`what was agreed on is known to who serves the volume (${workers} workers)`, async (t) => {
      const daemon = await daemonFor(t, await newGroup(), ['--workers', workers]);
      const client = await attached(daemon, 'vg/one');
      await writes(client, 7, 4096);
      client.close();
      const map = await mustRun('nbdinfo', ['--map', '--json', daemon.uri('vg/one')]);
      const extents = JSON.parse(map) as { offset: number; length: number; type: number }[];
      assert.deepEqual(
        extents.map(({ offset, type }) => [offset, type]),
        [
          [0, 3],
          [4096, 0],
          [8192, 3],
        ],
      );
    });

    test(`clients that end their side right behind their requests get every answer (${workers} workers)`, async (t) => {
      const daemon = await daemonFor(t, await newGroup(), ['--workers', workers]);
      const conversation = async (): Promise<void> => {
        const client = await WireClient.open(daemon.socket);
        const requests = Array.from({ length: 10 }, (_, i) => request({ type: CMD.flush, cookie: BigInt(i) }));
        client.socket.end(Buffer.concat([clientFlags(), option(1, Buffer.from('vg/one')), ...requests]));
        await client.take(GREETING_BYTES + EXPORT_NAME_BYTES);
        for (let i = 0; i < 10; i++) assert.equal((await client.reply()).error, 0);
        assert.equal((await client.rest()).length, 0);
        client.close();
      };
      await Promise.all(Array.from({ length: 20 }, conversation));
      assert.equal(await daemon.stop(), 0, daemon.log());
    });
  }

  test('real clients: nbdinfo, qemu-io, and fio with verification', async (t) => {
    const daemon = await daemonFor(t, await newGroup());
    assert.match(await mustRun('nbdinfo', ['--list', daemon.uri('')]), /vg\/two/);
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 9 1M 64k', '-c', 'read -P 9 1M 64k', daemon.uri('vg/two')]);
    const job = [
      '--name=v',
      '--ioengine=nbd',
      `--uri=${daemon.uri('vg/one')}`,
      '--rw=randwrite',
      '--bs=4k',
      '--size=2M',
    ];
    await mustRun('fio', [
      ...job,
      '--iodepth=16',
      '--verify=crc32c',
      '--verify_state_save=0',
      '--numjobs=1',
      '--output-format=terse',
    ]);
    assert.equal(await daemon.stop(), 0, daemon.log());
  });
});

describe('a worker that is killed', () => {
  test('comes back with its tables; clients of others notice nothing, new ones wait for it', async (t) => {
    const group = await newGroup();
    const daemon = await daemonFor(t, group);
    const [one, two] = await Promise.all([attached(daemon, 'vg/one'), attached(daemon, 'vg/two')]);
    assert.equal(await writes(one, 1), 0);
    assert.equal(await writes(two, 2), 0);
    for (let round = 1; round <= 3; round++) {
      const victim = await workerOf(daemon, 'vg/one');
      process.kill(victim, 'SIGKILL');
      if (round === 1) await one.rest();
      // Whether the supervisor knows already or not: who asks for the volume gets it.
      await waitFor('the volume to be served again', async () => {
        const again = await WireClient.open(daemon.socket);
        try {
          await again.attach('vg/one');
          assert.equal(await reads(again), 1, 'what was acknowledged is there');
          return true;
        } catch (error) {
          // Handed to the worker at the very moment of its death: it connects again.
          assert.match(String(error), /closed after/);
          return false;
        } finally {
          again.close();
        }
      });
      assert.notEqual(await workerOf(daemon, 'vg/one'), victim);
      assert.equal(await reads(two), 2, 'the other client goes on');
      assert.equal((await statusOf(daemon)).workers.find(({ restarts }) => restarts > 0)?.restarts, round);
    }
    await waitForStatus(daemon, 'only one client', ({ connections }) => connections === 1);
    assert.equal((await exportOf(daemon, 'vg/two')).clients, 1);
    two.close();
    one.close();
    assert.equal(await daemon.stop(), 0, daemon.log());
  });

  test('does not lose what clients send while they wait for the next one', async (t) => {
    const daemon = await daemonFor(t, await newGroup());
    const victim = await workerOf(daemon, 'vg/one');
    process.kill(victim, 'SIGKILL');
    await waitForStatus(daemon, 'the supervisor to know', ({ workers }) =>
      workers.some(({ restarts }) => restarts === 1),
    );
    const CLIENTS = 8;
    const conversation = async (index: number): Promise<void> => {
      const client = await WireClient.open(daemon.socket);
      await client.take(GREETING_BYTES);
      client.send(clientFlags(), option(1, Buffer.from('vg/one')));
      const payload = Buffer.alloc(32 * 1024, index);
      for (let i = 0; i < 10; i++) {
        const bytes = request({ type: CMD.write, cookie: BigInt(i), offset: index * payload.length, payload });
        client.send(bytes.subarray(0, 20 + i));
        // A turn of the event loop, so that the halves arrive one after the other.
        await new Promise((resolve) => setImmediate(resolve));
        client.send(bytes.subarray(20 + i));
      }
      await client.take(EXPORT_NAME_BYTES);
      for (let i = 0; i < 10; i++) assert.equal((await client.reply()).error, 0);
      assert.equal(await reads(client, index * payload.length), index);
      client.close();
    };
    await Promise.all(Array.from({ length: CLIENTS }, (_, index) => conversation(index)));
    assert.equal(await daemon.stop(), 0, daemon.log());
  });

  test('gets what changed while it was away', async (t) => {
    const group = await newGroup();
    const daemon = await daemonFor(t, group);
    const victim = await workerOf(daemon, 'vg/one');
    await group.write([{ ...ONE, extents: 3 }, TWO]);
    process.kill(victim, 'SIGKILL');
    daemon.child.kill('SIGHUP');
    await waitForStatus(daemon, 'the new size', ({ exports }) =>
      exports.some(({ name, sizeBytes }) => name === 'vg/one' && sizeBytes === 3 * EXTENT),
    );
    const client = await attached(daemon, 'vg/one');
    assert.equal(await writes(client, 5), 0);
    client.close();
    assert.equal(await daemon.stop(), 0, daemon.log());
  });
});

describe('a supervisor that is killed', () => {
  test('its workers answer what they took, flush and end; the next daemon waits for them', async (t) => {
    const group = await newGroup();
    const daemon = await daemonFor(t, group);
    const pids = (await statusOf(daemon)).workers.flatMap(({ pid }) => pid ?? []);
    assert.equal(pids.length, 2);
    const client = await attached(daemon, 'vg/one');
    const REQUESTS = 200;
    const payload = Buffer.alloc(16 * 1024, 3);
    for (let i = 0; i < REQUESTS; i++) client.send(request({ type: CMD.write, cookie: BigInt(i), payload }));
    await client.reply();
    const exited = once(daemon.child, 'exit');
    const begun = performance.now();
    daemon.child.kill('SIGKILL');
    await exited;
    const args = ['--devices', group.path, '--listen', `unix:${daemon.socket}`, '--workers', '2'];
    const next = await startDaemon([group.path], [...args, '--control', join(daemon.socket, '../control.sock')]);
    t.after(() => next.stop());
    await waitFor('its second socket to be listened on', () => accepts(daemon.socket));
    const paused = performance.now() - begun;
    t.diagnostic(`served again ${Math.round(paused)} ms after the kill`);
    for (const pid of pids)
      assert.ok(!(await isAlive(pid)), 'the old workers have ended before the next daemon serves');
    const replies = await client.rest();
    assert.equal(replies.length % 16, 0);
    const again = await attached({ ...next, socket: daemon.socket }, 'vg/one');
    assert.equal(await reads(again), 3);
    client.close();
    again.close();
    assert.equal(await next.stop(), 0, next.log());
  });

  test('SIGTERM to all of its processes, as systemd sends it, is a stop like any other', async (t) => {
    const daemon = await daemonFor(t, await newGroup());
    const client = await attached(daemon, 'vg/two');
    assert.equal(await writes(client, 1), 0);
    for (const { pid } of (await statusOf(daemon)).workers) if (pid !== null) process.kill(pid, 'SIGTERM');
    assert.equal(await writes(client, 2), 0, 'a worker does not end by itself');
    assert.equal(await daemon.stop(), 0, daemon.log());
    assert.equal((await client.rest()).length, 0);
    client.close();
  });

  test('Ctrl-C at a terminal does not reach workers, not even while they start', async (t) => {
    const daemon = await daemonFor(t, await newGroup());
    const { pid: supervisor, workers } = await statusOf(daemon);
    const groups = new Set<string>();
    for (const pid of [supervisor, ...workers.map((worker) => worker.pid)]) {
      const [, , group = ''] = (await readFile(`/proc/${pid}/stat`, 'utf8')).replace(/^.*\) /, '').split(' ');
      groups.add(group);
    }
    assert.equal(groups.size, 3, [...groups].join(' '));
  });

  test('another daemon with the same control socket is refused at once', async (t) => {
    const group = await newGroup();
    const daemon = await daemonFor(t, group);
    const control = join(daemon.socket, '../control.sock');
    const other = await newGroup();
    const args = ['--devices', other.path, '--listen', `unix:${folder}/o.sock`, '--control', control, '--workers', '1'];
    const { status, stderr } = await runProgram(join(CHECKOUT, 'bin/orion-lvmd'), args, {});
    assert.equal(status, 5);
    assert.match(stderr, /cannot listen on unix:.*control.sock: another daemon use/);
  });
});

describe('changes under connected clients', () => {
  for (const workers of ['0', '2']) {
    test(`permission, size and name change, and nobody is let go (${workers} workers)`, async (t) => {
      const group = await newGroup();
      const daemon = await daemonFor(t, group, ['--workers', workers]);
      const client = await attached(daemon, 'vg/one');
      const reload = async (volumes: readonly TestVolume[], name: string, is: object): Promise<void> => {
        await group.write(volumes);
        daemon.child.kill('SIGHUP');
        await waitForStatus(daemon, `${name} to be ${JSON.stringify(is)}`, ({ exports }) =>
          exports.some(
            (each) =>
              each.name === name &&
              Object.entries({ ...each, ...is }).every(([key, value]) => Object(each)[key] === value),
          ),
        );
      };
      assert.equal(await writes(client, 1), 0);
      await reload([{ ...ONE, readOnly: true }, TWO], 'vg/one', { readOnly: true });
      assert.equal(await writes(client, 2), EPERM);
      assert.equal(await reads(client), 1);
      await reload([ONE, TWO], 'vg/one', { readOnly: false });
      assert.equal(await writes(client, 3), 0);
      const { lastSuspendMs = -1 } = await exportOf(daemon, 'vg/one');
      assert.ok(lastSuspendMs >= 0 && lastSuspendMs < 10_000, `${lastSuspendMs} ms`);

      await reload([{ ...ONE, extents: 3 }, TWO], 'vg/one', { sizeBytes: 3 * EXTENT });
      assert.equal(await writes(client, 4, 2 * EXTENT), 0);
      assert.notEqual(await writes(client, 4, 3 * EXTENT), 0, 'past the end');
      await reload([{ ...ONE, extents: 4 }, TWO], 'vg/one', { sizeBytes: 4 * EXTENT });
      assert.equal(await writes(client, 5, 3 * EXTENT), 0, 'the client that stayed may use what was added');

      await reload([{ ...ONE, name: 'uno', formerly: 'one' }, TWO], 'vg/uno', { clients: 1 });
      assert.equal(await reads(client, 3 * EXTENT), 5);
      const again = await attached(daemon, 'vg/uno');
      assert.equal(await reads(again), 3);
      again.close();
      client.close();
      assert.equal(await daemon.stop(), 0, daemon.log());
    });
  }
});
