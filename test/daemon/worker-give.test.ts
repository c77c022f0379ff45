/**
 * Clients of one volume on their way between two worker processes that both have it: under random I/O that is verified, stalled, leaving,
 * and lost on the way. And which volumes two workers may have.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { openBlockDevice } from '../../src/block/open.ts';
import { ForkedWorker } from '../../src/daemon/worker/forked.ts';
import type { AdoptRequest, DeviceSpec, VolumeSpec, WorkerEvents } from '../../src/daemon/worker/host.ts';
import { OptionType } from '../../src/nbd/constants.ts';
import { PLAIN } from '../../src/nbd/features.ts';
import { DEFAULT_LIMITS } from '../../src/nbd/server.ts';
import { waitFor } from '../helpers/daemon.ts';
import { mustRun } from '../helpers/run.ts';
import { BLOCK, numbers, verified } from '../helpers/verified-io.ts';
import { OwnServer } from '../nbd/own-server.ts';
import { CMD, request, type WireClient } from '../nbd/wire.ts';

const SIZE = 16 * 2 ** 20;
const PLENTY_MS = 60_000;
const ID = 'vg lv';

interface Stand {
  readonly workers: readonly [ForkedWorker, ForkedWorker];
  /** Connections of which it was told that they have ended. */
  readonly ended: number[];
  readonly spec: VolumeSpec;
  /** A client of the first worker; connections count from 1. */
  readonly client: () => Promise<WireClient>;
  readonly move: (from: 0 | 1, connections?: readonly number[]) => Promise<readonly number[]>;
  /** What was sent along with the last client, in bytes. */
  readonly unsent: () => number;
}

async function stand(t: TestContext, direct = false): Promise<Stand> {
  const folder = await mkdtemp(join(tmpdir(), 'orion-lvm-give-'));
  const path = join(folder, 'image');
  await writeFile(path, '');
  await truncate(path, SIZE);
  const opened = await openBlockDevice(path);
  const { identity } = opened;
  await opened.close();
  const device: DeviceSpec = { path, identity, generation: 1, readOnly: false, sizeBytes: SIZE };
  const spec: VolumeSpec = {
    id: ID,
    name: 'vg/lv',
    description: '',
    contexts: [],
    table: [{ start: 0, length: SIZE / 512, target: 'linear', params: { device: path, offset: 0 } }],
    readOnly: false,
    preferredBlockSize: BLOCK,
    shared: true,
    devices: [device],
  };
  const rules = { otherwise: direct, direct: [], buffered: [] };
  const engine = { engine: 'threads' as const, direct: rules, cache: null, scheduler: 'none' as const, busyPoll: 0 };
  const settings = { limits: DEFAULT_LIMITS, engine, logLevel: 'silent', logFormat: 'json' as const };
  const ended: number[] = [];
  let unsent = 0;
  const start = (index: 0 | 1): Promise<ForkedWorker> => {
    const events: WorkerEvents = {
      connectionClosed: (connection) => void ended.push(connection),
      client: (request_, handle) => {
        unsent = request_.unsent?.length ?? 0;
        return workers[index === 0 ? 1 : 0].resumeClient(request_, handle);
      },
      flushLost: () => undefined,
      gone: () => undefined,
    };
    return ForkedWorker.start({ index, settings, events, lockFd: null });
  };
  const workers: readonly [ForkedWorker, ForkedWorker] = [await start(0), await start(1)];
  const server = await OwnServer.listen(join(folder, 's'));
  let count = 0;
  t.after(async () => {
    await server[Symbol.asyncDispose]();
    for (const worker of workers) await worker.drain();
    await rm(folder, { recursive: true });
  });
  if (!direct) {
    for (const worker of workers) {
      const [loaded] = await worker.load([spec]);
      assert.equal(loaded?.problem, undefined);
      await worker.resume([ID]);
    }
  }
  return {
    workers,
    ended,
    spec,
    async client() {
      const { client, socket } = await server.connected();
      await workers[0].adopt(requestOf(++count), socket);
      return client;
    },
    move: (from, connections = Array.from({ length: count }, (_, i) => i + 1)) =>
      workers[from].give({ id: ID, connections, workMs: PLENTY_MS }),
    unsent: () => unsent,
  };
}

/** As of a client that has had its final reply. */
function requestOf(connection: number): AdoptRequest {
  const info = { name: 'vg/lv', description: '', sizeBytes: SIZE, flags: 0 };
  const sizes = { minimumBlockSize: 1, preferredBlockSize: BLOCK, maximumBlockSize: 64 * 2 ** 20 };
  const negotiated = {
    exportName: 'vg/lv',
    option: OptionType.go,
    noZeroes: true,
    infoTypes: [],
    info: { ...info, ...sizes },
    features: PLAIN,
    leftover: Buffer.alloc(0),
  };
  return { connection, id: ID, negotiated, peer: 'test', identity: 'test', readOnly: false, resumed: true };
}

test('clients that write, read and verify are moved back and forth, and notice nothing', async (t) => {
  const { workers, ended, client, move } = await stand(t);
  const seed = Math.floor(Math.random() * 2 ** 32);
  t.diagnostic(`seed ${seed}`);
  const CLIENTS = 3;
  const blocks = SIZE / BLOCK / CLIENTS / 4;
  let rounds = 0;
  const ROUNDS = 60;
  // One after the other: each is the next that connects.
  const clients: WireClient[] = [];
  while (clients.length < CLIENTS) clients.push(await client());
  const all = clients.map((one, index) => {
    const offset = index * Math.floor(blocks) * BLOCK;
    return verified(one, numbers(seed + index), { offset, blocks: Math.floor(blocks) }, () => rounds === ROUNDS);
  });
  const next = numbers(seed + CLIENTS);
  await waitFor('all of them', async () => (await workers[0].stats()).connections.length === CLIENTS);
  for (; rounds < ROUNDS; rounds++) {
    // All of them, or one: whoever is elsewhere is nobody's here.
    const which = next(3) === 0 ? undefined : [1 + next(CLIENTS)];
    assert.deepEqual(await move(rounds % 2 === 0 ? 0 : 1, which), []);
  }
  const commands = (await Promise.all(all)).reduce((sum, count) => sum + count);
  t.diagnostic(`${commands} commands`);
  assert.deepEqual(ended, []);
  const counts = await Promise.all(workers.map(async (worker) => (await worker.stats()).connections.length));
  assert.equal((counts[0] ?? 0) + (counts[1] ?? 0), CLIENTS);
});

test('a client that takes nothing is moved with its answers; one that leaves is not, and its end is told once', async (t) => {
  const { workers, ended, client, move, unsent } = await stand(t);
  const [stalled, leaving] = [await client(), await client()];
  const payload = Buffer.alloc(2 ** 20);
  for (let at = 0; at < payload.length; at += 4) payload.writeUInt32BE(Math.imul(at, 0x9e3779b1) >>> 0, at);
  stalled.send(request({ type: CMD.write, offset: 0, payload }));
  assert.equal((await stalled.reply()).error, 0);
  const READS = 12;
  for (const one of [stalled, leaving]) {
    one.socket.pause();
    for (let i = 0; i < READS; i++) one.send(request({ type: CMD.read, cookie: BigInt(i), length: payload.length }));
  }
  leaving.send(request({ type: CMD.disc }));
  await waitFor('the one to leave', async () => {
    const { connections } = await workers[0].stats();
    return connections.some(({ phase }) => phase === 'closing');
  });
  for (let round = 0; round < 6; round++) {
    assert.deepEqual(await move(round % 2 === 0 ? 0 : 1), []);
    assert.ok(unsent() > 8 * 2 ** 20, `${unsent()} bytes went along`);
  }
  for (const one of [stalled, leaving]) {
    one.socket.resume();
    for (let i = 0; i < READS; i++) assert.ok((await one.reply(payload.length)).data.equals(payload));
  }
  assert.equal((await leaving.rest()).length, 0);
  leaving.close();
  await waitFor('its end', () => ended.length > 0);
  stalled.close();
  await waitFor('the end of the other', () => ended.length > 1);
  assert.deepEqual(ended, [2, 1]);
  const stats = await Promise.all(workers.map((worker) => worker.stats()));
  assert.deepEqual(
    stats.map(({ payloadBytes }) => payloadBytes),
    [0, 0],
  );
});

/** How many descriptors a process may have from now on. */
function limit(pid: number, most: string): Promise<string> {
  return mustRun('prlimit', ['--pid', String(pid), `--nofile=${most}:`]);
}

test('a client whose socket is lost on its way has ended, and nobody waits for it', async (t) => {
  const { workers, ended, client, move } = await stand(t);
  const [one, two] = [await client(), await client()];
  // No descriptor is free there then.
  await limit(workers[1].pid, '3');
  assert.deepEqual(await move(0, [1]), []);
  await waitFor('its end', () => ended.length === 1);
  assert.deepEqual(ended, [1]);
  assert.equal((await one.rest()).length, 0);
  await limit(workers[1].pid, '1024');
  assert.deepEqual(await move(0), []);
  two.send(request({ type: CMD.flush, cookie: 7n }));
  assert.equal((await two.reply()).cookie, 7n);
  assert.deepEqual(ended, [1]);
});

test('so it has if it is the supervisor that can’t take the socket', async (t) => {
  const { ended, client, move } = await stand(t);
  const [one, two] = [await client(), await client()];
  const script = 'prlimit --pid $0 --nofile=3: && echo low && read x && prlimit --pid $0 --nofile=1024: && echo back';
  const helper = spawn('sh', ['-c', script, String(process.pid)], { stdio: ['pipe', 'pipe', 'inherit'] });
  t.after(() => helper.kill());
  assert.match(String(await once(helper.stdout, 'data')), /low/);
  assert.deepEqual(await move(0, [1]), []);
  assert.deepEqual(ended, [1]);
  helper.stdin.end('\n');
  assert.match(String(await once(helper.stdout, 'data')), /back/);
  assert.equal((await one.rest()).length, 0);
  assert.deepEqual(await move(0), []);
  two.send(request({ type: CMD.flush, cookie: 7n }));
  assert.equal((await two.reply()).cookie, 7n);
  assert.deepEqual(ended, [1]);
});

test('clients of a suspended volume that ends are let go, and told that what waited is not done', async (t) => {
  const { workers, ended, client } = await stand(t);
  const one = await client();
  const [worker] = workers;
  const [suspended] = await worker.suspend({ ids: [ID], timeoutMs: PLENTY_MS });
  assert.equal(suspended?.problem, undefined);
  one.send(request({ type: CMD.write, payload: Buffer.alloc(BLOCK, 1) }), request({ type: CMD.read, length: BLOCK }));
  await waitFor('both to wait', async () => (await worker.stats()).connections[0]?.requestsInFlight === 2);
  await worker.wipe(ID);
  await worker.disconnect(ID);
  assert.equal((await worker.retire(ID)).problem, undefined);
  for (let i = 0; i < 2; i++) assert.equal((await one.reply()).error, 5, 'EIO');
  assert.equal((await one.rest()).length, 0);
  assert.deepEqual(ended, [1]);
});

test('one that goes on is not wiped', async (t) => {
  const { workers, client } = await stand(t);
  const one = await client();
  await workers[0].wipe(ID);
  one.send(request({ type: CMD.flush }));
  assert.equal((await one.reply()).error, 0);
});

test('past the page cache a volume is one worker’s', async (t) => {
  const { workers, spec } = await stand(t, true);
  const [shared] = await workers[0].load([spec]);
  assert.match(shared?.problem ?? '', /image is used past the page cache: only one worker can have/);
  const { shared: _, ...own } = spec;
  const [alone] = await workers[0].load([own]);
  assert.equal(alone?.problem, undefined);
});
