/**
 * SIGUSR2: a daemon is replaced by its next process under clients that write, that have sent half a request, and that connect at that
 * moment; none of them notices. Where the next process can't follow, everything stays as it was.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, describe, test, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { handOver, pidOf, stopLast } from '../helpers/hand-over.ts';
import { NbdWriter } from '../helpers/nbd-writer.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';
import { clientFlags, CMD, option, query, request, WireClient } from '../nbd/wire.ts';
import { EXTENT, TestGroup } from './images.ts';
import { exportOf, statusOf } from './status-of.ts';

const ONE = { name: 'one', extent: 0, extents: 8 };
const TWO = { name: 'two', extent: 8, extents: 8 };
const THREE = { name: 'three', extent: 16, extents: 1 };
const ROUNDS = 3;

interface Stand {
  readonly folder: string;
  readonly group: TestGroup;
  readonly daemon: RunningDaemon;
  readonly config: string;
}

async function makeStand(t: TestContext, workers: string): Promise<Stand> {
  const folder = await mkdtemp(join(tmpdir(), 'orion-lvm-restart-'));
  const group = await new TestGroup(join(folder, 'vg.img'), 'vg').write([ONE, TWO, THREE]);
  const config = join(folder, 'lvm.toml');
  await writeFile(config, '');
  const daemon = await startDaemon([group.path], ['--config', config, '--workers', workers]);
  t.after(async () => {
    await stopLast(daemon);
    await daemon.stop();
    await rm(folder, { recursive: true, force: true });
  });
  return { folder, group, daemon, config };
}

/** Requests of which a part is sent before, and the rest after. */
const HALVES: readonly { readonly what: string; readonly length: number; readonly sent: number }[] = [
  { what: 'a header', length: 512, sent: 9 },
  { what: 'a header and no payload', length: 4096, sent: 28 },
  { what: 'half of a short payload', length: 4096, sent: 28 + 1000 },
  { what: 'half of a long payload', length: 1 << 20, sent: 28 + 300_001 },
];

function payloadOf(index: number, length: number): Buffer {
  return Buffer.alloc(length, `payload ${index} `);
}

for (const workers of ['0', '2']) {
  describe(`a daemon with --workers ${workers}`, () => {
    test('is replaced, and no client notices', async (t) => {
      const { group, daemon, folder } = await makeStand(t, workers);
      const env = { ORION_LVM_CONTROL: join(dirname(daemon.socket), 'control.sock'), LVM_SYSTEM_DIR: folder };
      await mustRun(join(CHECKOUT, 'bin/lvchange'), ['-an', 'vg/three'], { env });
      const writer = new NbdWriter(() => daemon.socket, 'vg/one', ONE.extents * EXTENT);
      writer.start();
      await waitFor('the first writes', () => writer.writes > 100);

      // Nobody else ever gets the lock that claims the image.
      const thief = spawn('sh', ['-c', 'while :; do flock -n "$0" echo free; done', group.path]);
      const thiefGone = once(thief, 'exit');
      t.after(() => thief.kill());
      let stolen = '';
      thief.stdout.on('data', (chunk: Buffer) => (stolen += chunk.toString()));
      let newcomers = 0;
      const enough = new AbortController();
      const visitors = (async (): Promise<void> => {
        while (!enough.signal.aborted) {
          const client = await WireClient.open(daemon.socket);
          await client.attach('vg/two');
          client.send(request({ type: CMD.read, length: 4096 }));
          assert.equal((await client.reply(4096)).error, 0);
          client.close();
          newcomers++;
        }
      })();

      const halves = await Promise.all(
        HALVES.map(async ({ length, sent }, index) => {
          const client = await WireClient.open(daemon.socket);
          await client.attach('vg/two');
          const offset = EXTENT * (1 + index);
          const payload = payloadOf(index, length);
          const whole = request({ type: CMD.write, cookie: BigInt(index), offset, payload });
          // An answer to what is before it says that this has arrived, too.
          client.send(request({ type: CMD.flush }), whole.subarray(0, sent));
          assert.equal((await client.reply()).error, 0);
          return { client, rest: whole.subarray(sent), offset, payload };
        }),
      );
      for (let round = 0; round < ROUNDS; round++) {
        await handOver(daemon);
        const before = writer.writes;
        await waitFor('more writes', () => writer.writes > before + 100);
      }
      for (const [index, { client, rest, offset, payload }] of halves.entries()) {
        client.send(rest);
        const { cookie, error } = await client.reply();
        assert.deepEqual([cookie, error], [BigInt(index), 0], HALVES[index]?.what ?? '');
        client.send(request({ type: CMD.read, offset, length: payload.length }));
        assert.ok((await client.reply(payload.length)).data.equals(payload), HALVES[index]?.what ?? '');
        client.close();
      }
      enough.abort();
      await visitors;
      assert.ok(newcomers > 0);
      await writer.stop();
      assert.equal(writer.reconnects, 0, 'the writer had to connect again');
      await writer.verify();
      assert.equal((await exportOf(daemon, 'vg/three')).state, 'inactive', 'what was deactivated stays so');
      await waitFor('the count of connections', async () => (await statusOf(daemon)).connections === 0);
      thief.kill();
      await thiefGone;
      assert.equal(stolen, '', 'the image was nobody’s for a moment');
      await mustRun(join(CHECKOUT, 'bin/lvchange'), ['-ay', 'vg/three'], { env });
      assert.equal((await exportOf(daemon, 'vg/three')).state, 'active');
      await stopLast(daemon);
      assert.equal(existsSync(daemon.socket), false, 'the last process leaves no socket');
    });

    test('goes on when its next process can’t', async (t) => {
      const { daemon, config } = await makeStand(t, workers);
      const writer = new NbdWriter(() => daemon.socket, 'vg/one', ONE.extents * EXTENT);
      writer.start();
      await waitFor('the first writes', () => writer.writes > 100);
      const pid = await pidOf(daemon);
      for (const [text, reason] of [
        ['no_such_key = 1\n', /no_such_key[\s\S]*everything stays here/],
        [
          '[activation]\nauto_activation_volume_list = ["other"]\n',
          /would not be served any more[\s\S]*everything stays/,
        ],
      ] as const) {
        await writeFile(config, text);
        const logged = daemon.log().length;
        process.kill(pid, 'SIGUSR2');
        await waitFor(`a refusal of ${text}`, () => reason.test(daemon.log().slice(logged)));
        const before = writer.writes;
        await waitFor('more writes', () => writer.writes > before + 100);
      }
      const client = await WireClient.open(daemon.socket);
      await client.attach('vg/two');
      client.close();
      await writer.stop();
      assert.equal(writer.reconnects, 0);
      assert.equal(await pidOf(daemon), pid);
      await writer.verify();
    });
  });
}

test('a client in the middle of its handshake is let go, one that does not read goes along with its answers, and neither holds anybody up', async (t) => {
  const { daemon } = await makeStand(t, '1');
  const slow = await WireClient.open(daemon.socket);
  await slow.take(18);
  slow.send(clientFlags(), option(7, query('vg/one')).subarray(0, 20));
  const deaf = await WireClient.open(daemon.socket);
  await deaf.attach('vg/two');
  deaf.socket.pause();
  const READS = 16;
  for (let i = 0; i < READS; i++) deaf.send(request({ type: CMD.read, cookie: BigInt(i), length: 1 << 20 }));
  const idle = await WireClient.open(daemon.socket);
  await idle.attach('vg/one');
  // Twice, so that what it has not taken is taken along by one that it was given to.
  await handOver(daemon);
  await handOver(daemon);
  await slow.rest();
  deaf.socket.resume();
  const answered = new Set<bigint>();
  for (let i = 0; i < READS; i++) {
    const { cookie, error, data } = await deaf.reply(1 << 20);
    assert.ok(error === 0 && data.every((byte) => byte === 0));
    answered.add(cookie);
  }
  assert.equal(answered.size, READS);
  deaf.send(request({ type: CMD.flush, cookie: 99n }));
  assert.equal((await deaf.reply()).cookie, 99n);
  idle.send(request({ type: CMD.read, length: 512 }));
  assert.equal((await idle.reply(512)).error, 0);
  for (const client of [slow, deaf, idle]) client.close();
});

test('clients that choose at the last moment don’t keep others from going along', async (t) => {
  const { daemon } = await makeStand(t, '2');
  const idle = await WireClient.open(daemon.socket);
  await idle.attach('vg/two');
  const late = await Promise.all(
    Array.from({ length: 200 }, async () => {
      const client = await WireClient.open(daemon.socket);
      await client.take(18);
      client.send(clientFlags());
      return client;
    }),
  );
  const before = await pidOf(daemon);
  process.kill(before, 'SIGUSR2');
  // Nobody is greeted any more when clients are waited for.
  await waitFor('new clients to wait', async () => {
    const probe = await WireClient.open(daemon.socket);
    const greeted = await Promise.race([
      probe.take(18).then(
        () => true,
        () => true,
      ),
      delay(50, false),
    ]);
    probe.close();
    return !greeted;
  });
  const write = request({ type: CMD.write, payload: Buffer.alloc(4096, 7) });
  for (const client of late) {
    client.send(option(7, query('vg/two')), write);
    await delay(4);
  }
  await waitFor('the next process', async () => (await pidOf(daemon)) !== before);
  idle.send(request({ type: CMD.read, length: 512 }));
  assert.equal((await idle.reply(512)).error, 0);
  for (const client of [idle, ...late]) client.close();
  await waitFor('the end of the process before', () => !existsSync(`/proc/${before}`));
});

describe('sockets of systemd', () => {
  const folders: string[] = [];
  after(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true, force: true }))));

  test('go to the next process, and systemd is told which it is', async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'orion-lvm-restart-'));
    folders.push(folder);
    const { path } = await new TestGroup(join(folder, 'vg.img'), 'vg').write([ONE]);
    const config = join(folder, 'lvm.toml');
    await writeFile(config, `run_dir = ${JSON.stringify(folder)}\n`);
    const notify = join(folder, 'notify.sock');
    const socket = join(folder, 'nbd.sock');
    const daemon = spawn('python3', ['-uc', SERVICE_MANAGER, notify, socket, join(folder, 'control.sock')], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, DAEMON: join(CHECKOUT, 'bin/orion-lvmd'), DEVICE: path, ORION_LVM_CONFIG: config },
    });
    t.after(() => daemon.kill());
    let said = '';
    daemon.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()));
    await waitFor('READY', () => said.includes('READY=1'));
    const running = { socket };
    const client = await WireClient.open(socket);
    await client.attach('vg/one');
    const { pid } = await statusOf(running);
    process.kill(pid, 'SIGUSR2');
    await waitFor('the next process', async () => (await statusOf(running)).pid !== pid);
    const next = (await statusOf(running)).pid;
    await waitFor('MAINPID', () => said.includes(`MAINPID=${next}\nREADY=1`));
    client.send(request({ type: CMD.read, length: 512 }));
    assert.equal((await client.reply(512)).error, 0);
    const other = await WireClient.open(socket);
    await other.attach('vg/one');
    for (const each of [client, other]) each.close();
    process.kill(next, 'SIGTERM');
    await waitFor('STOPPING', () => said.includes('STOPPING=1'));
    // systemd's sockets stay when the daemon ends.
    assert.equal((await runProgram('test', ['-S', socket])).status, 0);
  });
});

/** Listens for the daemon, starts it, and prints what it is told. */
const SERVICE_MANAGER = `
import os, socket, sys
notify, nbd, control = sys.argv[1:]
heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
heard.bind(notify)
listeners = []
for path in (nbd, control):
    each = socket.socket(socket.AF_UNIX)
    each.bind(path)
    each.listen(16)
    listeners.append(each)
if os.fork() == 0:
    fds = [os.dup2(each.fileno(), 20 + i) for i, each in enumerate(listeners)]
    for i, fd in enumerate(fds): os.dup2(fd, 3 + i)
    env = dict(os.environ, NOTIFY_SOCKET=notify, LISTEN_FDS='2', LISTEN_FDNAMES='nbd:control', LISTEN_PID=str(os.getpid()))
    os.execve(os.environ['DAEMON'], ['orion-lvmd', '--devices', os.environ['DEVICE'], '--log-level', 'warn'], env)
while True:
    message, fds, _, _ = socket.recv_fds(heard, 4096, 4)
    for fd in fds: os.close(fd)
    print(message.decode())
`;
