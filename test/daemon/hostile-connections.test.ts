/**
 * Thousands of clients that mean harm, beside fio, which verifies what it writes, and beside clients that come, read and go: no wrong
 * byte, nobody waits longer than DEADLINE_MS, and nothing of the thousands is left. $ORION_LVM_HOSTILE says how many (10000 take some
 * minutes).
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { clientFlags, CMD, option, query, request, WireClient } from '../nbd/wire.ts';
import { TestGroup } from './images.ts';
import { statusOf } from './status-of.ts';

const COUNT = Number(process.env['ORION_LVM_HOSTILE'] ?? 1000);
const AT_ONCE = 200;
const WARM_UP_WAVES = 3;
/** How long a request of an honest client may take, even to connect and negotiate. */
const DEADLINE_MS = 10_000;
/** What a process may have more than before, in KiB: pools that are full, code that was compiled. */
const NOISE_KIB = 64 * 1024;
/** A heap without room for garbage: growth is what is not let go. */
const SMALL_HEAP = '--max-old-space-size=64 --max-semi-space-size=1';
const MIB = 2 ** 20;

/** A number for the part of the test that is to be different each time, and the same in each run. */
let state = 1;
function next(limit: number): number {
  state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
  return (state >>> 8) % limit;
}

function garbage(length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => next(256)));
}

async function attached(client: WireClient): Promise<void> {
  await client.take(18);
  client.send(clientFlags(), option(7, query('vg/two')));
  for (;;) {
    const { type } = await client.optionReply();
    if (type === 1) return;
    assert.equal(type, 3);
  }
}

/** What they do; each is then reset, or waits for the server's end. */
const ATTACKS: Readonly<Record<string, (client: WireClient) => Promise<unknown> | void>> = {
  'garbage instead of flags': (client) => client.send(garbage(1 + next(4096))),
  'garbage instead of an option': (client) => client.send(clientFlags(), garbage(16 + next(4096))),
  'flags that nobody knows': (client) => client.send(clientFlags(0xffff_fff0)),
  'nothing at all': (client) => client.rest(),
  'one byte, and then nothing': (client) => {
    client.send(clientFlags().subarray(0, 1));
    return client.rest();
  },
  'half an option, and then nothing': (client) => {
    client.send(clientFlags(), option(7, query('vg/two')).subarray(0, 17 + next(8)));
    return client.rest();
  },
  'an option that is 4 GiB long': (client) => client.send(clientFlags(), option(3, garbage(64), 0xffff_ffff)),
  'an option that is 1 MiB long, and slow': (client) => {
    client.send(clientFlags(), option(7, garbage(100), MIB));
    return client.rest();
  },
  'many LISTs that are not read': (client) => {
    client.socket.pause();
    client.send(clientFlags(), ...Array.from({ length: 100 }, () => option(3)));
  },
  'half of the connection closed at once': (client) => {
    client.socket.end();
    return client.rest();
  },
  'half of the connection closed after GO': (client) => {
    client.send(clientFlags(), option(7, query('vg/two')));
    client.socket.end();
    return client.rest();
  },
  'gone after GO': (client) => client.send(clientFlags(), option(7, query('vg/two'))),
  'a GO for what there is not': (client) => client.send(clientFlags(), option(7, query('vg/none')), option(99)),
  'a request without its magic': async (client) => {
    await attached(client);
    client.send(garbage(4096));
    await client.rest();
  },
  'a WRITE of 4 GiB': async (client) => {
    await attached(client);
    const write = request({ type: CMD.write, payload: Buffer.alloc(0) });
    write.writeUInt32BE(0xffff_ffff, 24);
    client.send(write, Buffer.alloc(65_536));
    await client.rest();
  },
  'a WRITE behind the end, with its payload': async (client) => {
    await attached(client);
    client.send(request({ type: CMD.write, offset: 2 ** 40, payload: Buffer.alloc(MIB) }));
    assert.notEqual((await client.reply()).error, 0);
  },
  'half a WRITE, and gone': async (client) => {
    await attached(client);
    client.send(request({ type: CMD.write, payload: Buffer.alloc(MIB) }).subarray(0, 28 + next(MIB)));
  },
  'READs that nobody takes': async (client) => {
    await attached(client);
    client.socket.pause();
    client.send(...Array.from({ length: 256 }, () => request({ type: CMD.read, length: MIB })));
  },
  'commands that nobody knows': async (client) => {
    await attached(client);
    client.send(...Array.from({ length: 64 }, (_, i) => request({ type: 100 + i, length: next(2 ** 31) })));
  },
};

async function attack(places: readonly Place[], index: number): Promise<void> {
  const names = Object.keys(ATTACKS);
  const place = places[index % places.length]!;
  let client: WireClient;
  try {
    client = await WireClient.open(place);
  } catch {
    // So many at once don't fit into the listener's queue.
    return;
  }
  try {
    await ATTACKS[names[index % names.length] ?? '']?.(client);
  } catch (error) {
    // To be sent away is what they are there for.
    if (!(error instanceof assert.AssertionError) || !error.message.startsWith('the server closed')) throw error;
  }
  // A reset of one that has been shut down fails in Node, which then keeps it, and can't end.
  if (typeof place === 'string' || client.socket.writableEnded) client.close();
  else client.socket.resetAndDestroy();
}

type Place = Parameters<typeof WireClient.open>[0];

interface Use {
  readonly descriptors: number;
  readonly residentKib: number;
}

async function useOf(pid: number): Promise<Use> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return {
    descriptors: (await readdir(`/proc/${pid}/fd`)).length,
    residentKib: Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]),
  };
}

/** Runs until `stop`, which gives how long its longest request took, in ms; rejects if a byte was wrong. */
function startFio(t: TestContext, daemon: RunningDaemon, folder: string): () => Promise<number> {
  const args = `--name=verify --ioengine=nbd --rw=randwrite --bs=4k --iodepth=8 --size=8m --verify=crc32c --verify_backlog=64
    --verify_fatal=1 --time_based --runtime=3600 --output-format=json --uri=${daemon.uri('vg/one')}`;
  const fio = spawn('fio', args.split(/\s+/), { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
  t.after(() => fio.kill('SIGKILL'));
  let [output, errors] = ['', ''];
  fio.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  fio.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
  const closed = once(fio, 'close');
  return async () => {
    assert.equal(fio.exitCode, null, `fio ended: ${output}${errors}`);
    fio.kill('SIGINT');
    await closed;
    const { jobs } = JSON.parse(output.slice(output.indexOf('{'))) as {
      readonly jobs: readonly { readonly error: number; readonly write: FioSide; readonly read: FioSide }[];
    };
    const [job] = jobs;
    assert.ok(job !== undefined && job.write.total_ios > 0, output);
    assert.equal(job.error, 0, output + errors);
    assert.doesNotMatch(errors, /verify/);
    return Math.max(job.write.clat_ns.max, job.read.clat_ns.max) / 1e6;
  };
}

interface FioSide {
  readonly total_ios: number;
  readonly clat_ns: { readonly max: number };
}

test(`${COUNT} hostile clients harm nobody`, { timeout: 1_800_000 }, async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'orion-lvm-hostile-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const one = { name: 'one', extent: 0, extents: 8 };
  const two = { name: 'two', extent: 8, extents: 4 };
  const three = { name: 'three', extent: 12, extents: 4 };
  const group = await new TestGroup(join(folder, 'vg.img'), 'vg').write([one, two, three]);
  const config = join(folder, 'lvm.toml');
  const limits = [
    'handshake_timeout = 2',
    'drain_timeout = 2',
    'handshakes = 64',
    `total_bytes_in_flight = ${64 * MIB}`,
  ];
  await writeFile(config, `[limits]\n${limits.join('\n')}\n`);
  const args = `--config ${config} --workers 2 --log-level error --listen tcp:127.0.0.1:0`;
  const options = process.env['NODE_OPTIONS'];
  process.env['NODE_OPTIONS'] = SMALL_HEAP;
  const daemon = await startDaemon([group.path], args.split(' ')).finally(() => {
    if (options === undefined) delete process.env['NODE_OPTIONS'];
    else process.env['NODE_OPTIONS'] = options;
  });
  t.after(() => daemon.stop());
  const { workers, pid: supervisor, listening } = await statusOf(daemon);
  const port = Number(listening.find((uri) => uri.startsWith('tcp:'))?.split(':')[2]);
  const honestPlace = { host: '127.0.0.1', port };
  // By whom they come, others are not judged.
  const hostilePlaces = [daemon.socket, { ...honestPlace, localAddress: '127.0.0.2' }];
  const pids = [supervisor, ...workers.flatMap(({ pid }) => pid ?? [])];

  // What is to be read by those who come and go.
  const content = garbage(65_536);
  const writer = await WireClient.open(daemon.socket);
  await writer.attach('vg/three');
  writer.send(request({ type: CMD.write, payload: content }), request({ type: CMD.flush, cookie: 1n }));
  for (let i = 0; i < 2; i++) assert.equal((await writer.reply()).error, 0);
  writer.close();

  const wave = async (first: number, count: number): Promise<void> => {
    await Promise.all(Array.from({ length: count }, (_, i) => attack(hostilePlaces, first + i)));
  };
  const stopFio = startFio(t, daemon, folder);
  const enough = new AbortController();
  let longestMs = 0;
  let honest = 0;
  const visits = (async (): Promise<void> => {
    while (!enough.signal.aborted) {
      const begun = performance.now();
      const client = await WireClient.open(honestPlace);
      await client.attach('vg/three');
      client.send(request({ type: CMD.read, length: content.length }));
      const { error, data } = await client.reply(content.length);
      assert.equal(error, 0);
      assert.ok(data.equals(content), 'a wrong byte');
      client.close();
      longestMs = Math.max(longestMs, performance.now() - begun);
      honest++;
    }
  })();
  // Pools fill, and what is run often is compiled, in the first waves, while all others are at work, too.
  for (let i = 0; i < WARM_UP_WAVES; i++) await Promise.race([wave(i * AT_ONCE, AT_ONCE), visits]);
  await waitFor('them to be gone', async () => (await statusOf(daemon)).connections <= 2);
  const before = await Promise.all(pids.map(useOf));
  for (let done = 0; done < COUNT; done += AT_ONCE) {
    await Promise.race([wave(done, Math.min(AT_ONCE, COUNT - done)), visits]);
  }
  enough.abort();
  await visits;
  const fioMs = await stopFio();
  assert.ok(honest > 0);
  assert.ok(longestMs < DEADLINE_MS, `a visit took ${longestMs} ms`);
  assert.ok(fioMs < DEADLINE_MS, `a request of fio took ${fioMs} ms`);

  await waitFor('all to be gone', async () => (await statusOf(daemon)).connections === 0);
  const status = await statusOf(daemon);
  assert.deepEqual(
    status.workers.map(({ restarts }) => restarts),
    [0, 0],
  );
  const now = await Promise.all(pids.map(useOf));
  const figures = now.map(({ descriptors, residentKib }, i) => {
    return { descriptors: descriptors - before[i]!.descriptors, residentKib: residentKib - before[i]!.residentKib };
  });
  t.diagnostic(
    `${honest} visits, the longest ${longestMs.toFixed(0)} ms; fio's longest request ${fioMs.toFixed(0)} ms`,
  );
  t.diagnostic(`more than before: ${JSON.stringify(figures)}`);
  for (const { descriptors, residentKib } of figures) {
    // The control socket's own connection, and what the engine keeps open, come and go.
    assert.ok(descriptors <= 2, `${descriptors} descriptors were left`);
    assert.ok(residentKib < NOISE_KIB, `${residentKib} KiB were left`);
  }
});
