/**
 * Clients of a volume that several workers serve, through hand-overs to the next process (SIGUSR2), also while they are being spread there:
 * they are spread as before, and nobody loses a connection, a request or a byte. And after the death of a worker.
 */
import assert from 'node:assert/strict';
import { mkdtemp, open, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { ControlClient } from '../../src/daemon/client/control-client.ts';
import type { Numbers } from '../../src/observe/stats.ts';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { handOver, stopLast } from '../helpers/hand-over.ts';
import { mustRun } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';
import { BLOCK, numbers, verified } from '../helpers/verified-io.ts';
import { CMD, request, WireClient } from '../nbd/wire.ts';
import { exportOf, statusOf } from './status-of.ts';

const PART_BLOCKS = 256;
const CLIENTS = 4;

interface Stand {
  readonly daemon: RunningDaemon;
  readonly image: string;
  readonly client: () => Promise<WireClient>;
  readonly must: (command: string, ...args: readonly string[]) => Promise<string>;
  /** How many clients each worker has. */
  readonly counts: () => Promise<readonly number[]>;
}

async function stand(t: TestContext): Promise<Stand> {
  const folder = await mkdtemp(join(tmpdir(), 'orion-lvm-branches-'));
  const image = join(folder, 'pv.img');
  await writeFile(image, '');
  await truncate(image, 64 * 2 ** 20);
  const run = (control: string, command: string, args: readonly string[]): Promise<string> => {
    const env = { ORION_LVM_DEVICES: image, ORION_LVM_CONTROL: control, LVM_SYSTEM_DIR: folder };
    return mustRun(join(CHECKOUT, 'bin', command), args, { cwd: folder, env });
  };
  await run('', 'vgcreate', ['vg', image]);
  await run('', 'lvcreate', ['-Zn', '-Wn', '-L16m', '-nlv', 'vg']);
  const daemon = await startDaemon([image], ['--workers', '2']);
  t.after(async () => {
    await stopLast(daemon);
    await daemon.stop();
    await rm(folder, { recursive: true, force: true });
  });
  const control = join(dirname(daemon.socket), 'control.sock');
  return {
    daemon,
    image,
    async client() {
      const client = await WireClient.open(daemon.socket);
      await client.attach('vg/lv');
      return client;
    },
    must: (command, ...args) => run(control, command, args),
    async counts() {
      const { clients } = (await new ControlClient(control).request('GET', '/v1/numbers')) as Numbers;
      return [0, 1].map((index) => clients.filter(({ worker }) => worker === index).length);
    },
  };
}

test('through hand-overs, changes and a hand-over in the middle, nobody notices anything', async (t) => {
  const { daemon, client, must, counts } = await stand(t);
  const seed = Math.floor(Math.random() * 2 ** 32);
  t.diagnostic(`seed ${seed}`);
  let over = false;
  const clients: WireClient[] = [];
  while (clients.length < CLIENTS) clients.push(await client());
  const working = Promise.all(
    clients.map((one, index) => {
      const part = { offset: index * PART_BLOCKS * BLOCK, blocks: PART_BLOCKS };
      return verified(one, numbers(seed + index), part, () => over);
    }),
  );
  const spread = (): Promise<void> =>
    waitFor('them to be spread', async () => (await counts()).every((count) => count === CLIENTS / 2));
  await spread();
  await handOver(daemon);
  await spread();
  assert.deepEqual((await exportOf(daemon, 'vg/lv')).workers, [0, 1]);
  // One, and a change, at once: while they are being spread.
  for (let round = 0; round < 2; round++) await handOver(daemon);
  await must('lvextend', '-L+4m', 'vg/lv');
  await spread();
  assert.equal((await exportOf(daemon, 'vg/lv')).sizeBytes, 20 * 2 ** 20);
  over = true;
  const commands = (await working).reduce((sum, count) => sum + count);
  t.diagnostic(`${commands} commands`);
  for (const one of clients) one.close();
});

test('a daemon that is told to end while it spreads them ends, and what it has answered is done', async (t) => {
  const { daemon, client, image } = await stand(t);
  const clients: WireClient[] = [];
  while (clients.length < CLIENTS) clients.push(await client());
  await handOver(daemon);
  for (const [index, one] of clients.entries()) {
    one.send(request({ type: CMD.write, cookie: 7n, offset: index * BLOCK, payload: Buffer.alloc(BLOCK, index + 1) }));
  }
  await stopLast(daemon);
  await waitFor('its end', () => /stopped: everything acknowledged is durable/.test(daemon.log()));
  assert.doesNotMatch(daemon.log(), /a client was lost/);
  await using file = await open(image, 'r');
  for (const [index, one] of clients.entries()) {
    // One that was on its way was not read any more.
    const reply = await one.rest();
    if (reply.length === 0) continue;
    assert.deepEqual([reply.length, reply.readUInt32BE(4)], [16, 0]);
    const { buffer } = await file.read(Buffer.alloc(BLOCK), 0, BLOCK, 2 ** 20 + index * BLOCK);
    assert.ok(buffer.equals(Buffer.alloc(BLOCK, index + 1)));
  }
});

test('a worker dies and comes back: who had to come to the other one is spread again', async (t) => {
  const { daemon, client, counts } = await stand(t);
  const clients: WireClient[] = [];
  while (clients.length < CLIENTS) clients.push(await client());
  assert.deepEqual(await counts(), [2, 2]);
  const { workers } = await statusOf(daemon);
  process.kill(workers[1]?.pid ?? 0, 'SIGKILL');
  // The second and the fourth were there, and come again.
  for (const at of [1, 3]) {
    assert.equal((await clients[at]!.rest()).length, 0);
    await waitFor('it to be taken', async () => {
      try {
        clients[at] = await client();
        return true;
      } catch (error) {
        // Who comes before the death was seen is sent to the dead worker, and comes again.
        if (error instanceof assert.AssertionError && error.message.startsWith('the server closed')) return false;
        throw error;
      }
    });
  }
  await waitFor('them to be spread', async () => (await counts()).every((count) => count === CLIENTS / 2));
  for (const one of clients) {
    one.send(request({ type: CMD.flush, cookie: 7n }));
    assert.equal((await one.reply()).cookie, 7n);
    one.close();
  }
});
