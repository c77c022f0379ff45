/**
 * The server over real sockets: commands reach the volume as they should (facts 18, 25, 28), clients that misbehave or
 * vanish harm nobody (26, 30, 31), and it lets go of clients in an orderly way (32, 34).
 */
import assert from 'node:assert/strict';
import { randomFillSync } from 'node:crypto';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import * as fc from 'fast-check';
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { type IoRequest, Op, RequestFlag } from '../../src/block/request.ts';
import { BufferPool } from '../../src/nbd/buffer-pool.ts';
import type { NbdServerLimits } from '../../src/nbd/server.ts';
import { waitFor } from '../helpers/daemon.ts';
import { listed, makeExport, TestDirectory, type TestExport } from './exports.ts';
import { LocalServer } from './local-server.ts';
import {
  clientFlags,
  CMD,
  EINVAL,
  EIO,
  ENOSPC,
  EPERM,
  ERR,
  option,
  query,
  replies,
  request,
  WireClient,
} from './wire.ts';

const MIB = 2 ** 20;
const { errno } = constants;

interface Bench {
  readonly path: string;
  readonly server: LocalServer;
  readonly directory: TestDirectory;
  readonly device: FaultyDevice;
  readonly memory: MemoryDevice;
  readonly buffers: BufferPool;
  /** Opens a raw connection; `attached` ones are in the transmission phase of vg/lv. */
  readonly client: () => Promise<WireClient>;
  readonly attached: () => Promise<WireClient>;
}

let folder = '';
let counter = 0;

interface BenchOptions {
  readonly sizeBytes?: number;
  readonly limits?: Partial<NbdServerLimits>;
  readonly export?: Partial<TestExport>;
}

/** A server on a unix socket; afterwards it is closed, and must have let go of everything. */
async function withServer(options: BenchOptions, use: (bench: Bench) => Promise<void>): Promise<void> {
  const memory = new MemoryDevice({ sizeBytes: options.sizeBytes ?? 16 * MIB });
  const device = new FaultyDevice(memory);
  const directory = new TestDirectory([makeExport({ volume: device, ...options.export })]);
  const buffers = new BufferPool({ poison: true });
  const server = new LocalServer({ directory, buffers, limits: options.limits ?? {} });
  const path = join(folder, `${counter++}.sock`);
  await server.listen({ kind: 'unix', path });
  const clients: WireClient[] = [];
  const client = async (): Promise<WireClient> => {
    const opened = await WireClient.open(path);
    clients.push(opened);
    return opened;
  };
  const attached = async (): Promise<WireClient> => {
    const opened = await client();
    await opened.attach('vg/lv');
    return opened;
  };
  try {
    await use({ path, server, directory, device, memory, buffers, client, attached });
  } finally {
    device.decide = () => ({ kind: 'pass' });
    device.releaseAll();
    for (const opened of clients) opened.close();
    await server.close();
  }
  assert.equal(server.connections().length, 0);
  assert.equal(buffers.outstanding, 0, 'buffers that were not released');
  for (const [name, count] of directory.open) assert.equal(count, 0, `${name} is still open`);
  await assert.rejects(stat(path), { code: 'ENOENT' });
}

/** What it takes to see that the server still serves. */
async function assertServes(bench: Bench): Promise<void> {
  const client = await bench.attached();
  const data = randomFillSync(Buffer.alloc(5000));
  client.send(request({ type: CMD.write, cookie: 1n, offset: 12 * MIB + 77, payload: data }));
  assert.equal((await client.reply()).error, 0);
  client.send(request({ type: CMD.read, cookie: 2n, offset: 12 * MIB + 77, length: 5000 }));
  assert.deepEqual((await client.reply(5000)).data, data);
  client.close();
}

function hold(request_: IoRequest): { readonly kind: 'hold' | 'pass' } {
  return { kind: request_.offset < 8 * MIB ? 'hold' : 'pass' };
}

/** What a killed server leaves: a socket file that nobody listens behind. */
async function leaveStaleSocket(path: string): Promise<void> {
  const script = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
  await once(spawn(process.execPath, ['-e', script]), 'exit');
  assert.ok((await stat(path)).isSocket());
  const probe = createServer();
  probe.listen(path);
  const [error] = (await once(probe, 'error')) as [NodeJS.ErrnoException];
  assert.equal(error.code, 'EADDRINUSE');
}

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'orion-nbd-'));
});
after(async () => {
  await rm(folder, { recursive: true, force: true });
});

describe('commands on the volume', () => {
  test('each command becomes the operation that it stands for, with its flags', async () => {
    await withServer({}, async ({ attached, device }) => {
      const seen: string[] = [];
      device.decide = ({ op, flags, offset, length }) => {
        seen.push(`${Object.keys(Op)[op]} ${offset}+${length} ${flags}`);
        return { kind: 'pass' };
      };
      const client = await attached();
      const send = async (type: number, flags: number): Promise<void> => {
        const payload = type === CMD.write ? Buffer.alloc(512) : undefined;
        client.send(request({ type, flags, offset: 1024, length: 512, ...(payload && { payload }) }));
        assert.equal((await client.reply(type === CMD.read ? 512 : 0)).error, 0);
      };
      for (const type of [CMD.read, CMD.write, CMD.flush, CMD.trim, CMD.writeZeroes, CMD.cache]) {
        await send(type, 0);
        await send(type, 1);
      }
      await send(CMD.writeZeroes, 2);
      await send(CMD.writeZeroes, 3);
      const { fua, noUnmap } = RequestFlag;
      const expected = [
        ['read 1024+512 0', 'read 1024+512 0'],
        ['write 1024+512 0', `write 1024+512 ${fua}`],
        ['flush 0+0 0', 'flush 0+0 0'],
        ['discard 1024+512 0', `discard 1024+512 ${fua}`],
        ['writeZeroes 1024+512 0', `writeZeroes 1024+512 ${fua}`],
        ['read 1024+512 0', 'read 1024+512 0'],
        [`writeZeroes 1024+512 ${noUnmap}`, `writeZeroes 1024+512 ${fua | noUnmap}`],
      ];
      assert.deepEqual(seen, expected.flat());
    });
  });

  test("the volume's errors become the protocol's", async () => {
    const table: readonly (readonly [number, number])[] = [
      [errno.EPERM, EPERM],
      [errno.EROFS, EPERM],
      [errno.EIO, EIO],
      [errno.ENOMEM, 12],
      [errno.EINVAL, EINVAL],
      [errno.ENOSPC, ENOSPC],
      [errno.EDQUOT, ENOSPC],
      [errno.EFBIG, ENOSPC],
      [errno.EOPNOTSUPP, EINVAL],
      [errno.ENXIO, EIO],
      [errno.ETIMEDOUT, EIO],
    ];
    await withServer({}, async ({ attached, device, server }) => {
      const client = await attached();
      for (const [given, expected] of table) {
        device.decide = () => ({ kind: 'fail', errno: given });
        for (const type of [CMD.read, CMD.write, CMD.flush, CMD.trim, CMD.writeZeroes, CMD.cache]) {
          client.send(request({ type, length: 512, ...(type === CMD.write && { payload: Buffer.alloc(512) }) }));
          assert.equal((await client.reply(512)).error, expected, `errno ${given} of command ${type}`);
        }
      }
      assert.equal(server.connections()[0]?.counters?.errors, table.length * 6);
    });
  });

  test('CACHE of a large range reads it in bounded pieces', async () => {
    await withServer({ sizeBytes: 2 ** 32 }, async ({ attached, device, buffers }) => {
      const pieces: number[] = [];
      device.decide = ({ offset, length }) => {
        assert.equal(offset, 5 + pieces.reduce((sum, piece) => sum + piece, 0));
        // What the connection reads into, and what the command does.
        assert.equal(buffers.outstanding, 2);
        pieces.push(length);
        return { kind: 'pass' };
      };
      const client = await attached();
      client.send(request({ type: CMD.cache, cookie: 1n, offset: 5, length: 10 * MIB + 1 }));
      assert.deepEqual(await client.reply(), { cookie: 1n, error: 0, data: Buffer.alloc(0) });
      assert.equal(pieces.length, 21);
      device.decide = ({ offset }) => (offset > MIB ? { kind: 'fail', errno: errno.EIO } : { kind: 'pass' });
      client.send(request({ type: CMD.cache, cookie: 2n, length: 10 * MIB }));
      assert.equal((await client.reply()).error, EIO);
    });
  });

  test('replies come in the order of completion, and a flush on one connection is one flush of the volume', async () => {
    await withServer({}, async ({ attached, device }) => {
      const [a, b] = [await attached(), await attached()];
      device.decide = () => ({ kind: 'hold' });
      a.send(request({ type: CMD.read, cookie: 1n, offset: 0, length: 10 }), request({ type: CMD.flush, cookie: 2n }));
      await device.whenHeld(2);
      device.release(device.held[1]!);
      assert.equal((await a.reply()).cookie, 2n);
      b.send(request({ type: CMD.write, cookie: 3n, offset: 100, payload: Buffer.from('b') }));
      await device.whenHeld(2);
      device.releaseAll();
      assert.equal((await b.reply()).cookie, 3n);
      assert.equal((await a.reply(10)).cookie, 1n);
      assert.equal(device.submitted[Op.flush], 1);
    });
  });

  test('status tells who is there and what they did', async () => {
    await withServer({}, async ({ attached, client, server, path }) => {
      const first = await attached();
      await client();
      first.send(request({ type: CMD.write, payload: Buffer.alloc(1000) }));
      await first.reply();
      first.send(request({ type: CMD.read, length: 300 }));
      await first.reply(300);
      await waitFor('the second connection', () => server.connections().length === 2);
      const [one, two] = server.connections();
      assert.deepEqual(one, {
        id: 1,
        peer: `unix:${path}`,
        phase: 'transmission',
        exportName: 'vg/lv',
        readOnly: false,
        requestsInFlight: 0,
        bytesInFlight: 0,
        counters: {
          reads: 1,
          writes: 1,
          flushes: 0,
          trims: 0,
          writeZeroes: 0,
          caches: 0,
          errors: 0,
          readBytes: 300,
          writtenBytes: 1000,
        },
      });
      assert.deepEqual([two?.phase, two?.exportName, two?.counters], ['handshake', null, null]);
    });
  });
});

describe('hostile and hasty clients', () => {
  test('requests right behind GO, without waiting for its answer, are served', async () => {
    await withServer({}, async ({ client }) => {
      for (const [greetingOption, answerBytes] of [
        [option(7, query('vg/lv')), 32 + 20],
        [option(1, Buffer.from('vg/lv')), 10],
      ] as const) {
        const hasty = await client();
        hasty.send(clientFlags(), greetingOption, request({ type: CMD.read, cookie: 5n, length: 512 }));
        await hasty.take(18 + answerBytes);
        assert.equal((await hasty.reply(512)).cookie, 5n);
      }
    });
  });

  test('10,000 pipelined requests of a client that reads nothing meanwhile are all answered', async () => {
    await withServer({}, async (bench) => {
      const client = await bench.attached();
      client.socket.pause();
      const messages: Buffer[] = [];
      for (let i = 0; i < 10_000; i++) {
        if (i % 4 === 0) {
          messages.push(
            request({ type: CMD.write, cookie: BigInt(i), offset: i * 512, payload: Buffer.alloc(512, i) }),
          );
        } else messages.push(request({ type: CMD.read, cookie: BigInt(i), offset: i * 512, length: 4096 }));
      }
      client.send(...messages);
      await waitFor('everything to be sent', () => client.socket.writableLength === 0);
      await assertServes(bench);
      client.socket.resume();
      const bytes = await client.take(2500 * 16 + 7500 * (16 + 4096));
      const lengths = new Map(Array.from({ length: 10_000 }, (_, i) => [BigInt(i), i % 4 === 0 ? 0 : 4096]));
      const all = replies(bytes, lengths);
      assert.equal(new Set(all.map(({ cookie }) => cookie)).size, 10_000);
      assert.ok(all.every(({ error }) => error === 0));
    });
  });

  test('a client that never reads is stopped within its limits, and served again when it does', async () => {
    const limits = { maxBytesPerConnection: MIB, maxRequestsPerConnection: 16 };
    await withServer({ limits }, async (bench) => {
      const client = await bench.attached();
      client.socket.pause();
      const batch = Buffer.concat(Array<Buffer>(100).fill(request({ type: CMD.read, length: 65_536 })));
      let sent = 0;
      for (; sent < 2000 && client.socket.write(batch); sent += 100);
      await waitFor('the limit', () => (bench.server.connections()[0]?.bytesInFlight ?? 0) > MIB - 70_000);
      for (let i = 0; i < 5; i++) {
        await assertServes(bench);
        const { bytesInFlight, requestsInFlight } = bench.server.connections()[0]!;
        assert.ok(bytesInFlight <= MIB && requestsInFlight <= 16);
      }
      client.socket.resume();
      for (let i = 0; i < sent; i++) assert.equal((await client.reply(65_536)).error, 0);
    });
  });

  test('clients that vanish at each point of a session harm nobody, and their accepted writes are done', async () => {
    await withServer({}, async (bench) => {
      const script = Buffer.concat([
        clientFlags(),
        option(3),
        option(6, query('vg/lv', [1, 2, 3])),
        option(7, query('vg/lv', [3])),
        request({ type: CMD.write, cookie: 1n, payload: Buffer.alloc(200, 0xaa) }),
        request({ type: CMD.read, cookie: 2n, length: 300_000 }),
        request({ type: CMD.flush, cookie: 3n }),
        request({ type: CMD.disc }),
      ]);
      const tcp = await bench.server.listen({ kind: 'tcp', host: '127.0.0.1', port: 0 });
      assert.equal(tcp.kind, 'tcp');
      for (let at = 0; at <= script.length; at += 3) {
        const client = await WireClient.open(at % 2 === 0 || tcp.kind !== 'tcp' ? bench.path : tcp);
        client.socket.write(script.subarray(0, at), () => {
          if (at % 4 === 0) client.close();
          else if (at % 2 === 0) client.socket.end(() => client.close());
          else client.socket.resetAndDestroy();
        });
      }
      await waitFor('the clients to be gone', () => bench.server.connections().length === 0);
      assert.deepEqual(bench.memory.peek(0, 200), Buffer.alloc(200, 0xaa));
      await assertServes(bench);
    });
  });

  test('a client that vanishes with commands in flight: they end, and only then is the export let go', async () => {
    await withServer({}, async (bench) => {
      const { device, memory, directory } = bench;
      const tcp = await bench.server.listen({ kind: 'tcp', host: '127.0.0.1', port: 0 });
      if (tcp.kind !== 'tcp') return;
      const client = await WireClient.open(tcp);
      await client.attach('vg/lv');
      device.decide = hold;
      const payload = randomFillSync(Buffer.alloc(200_000));
      client.send(
        request({ type: CMD.write, cookie: 1n, payload }),
        request({ type: CMD.read, cookie: 2n, length: 100_000 }),
        request({ type: CMD.cache, cookie: 3n, length: 4 * MIB }),
      );
      await device.whenHeld(3);
      client.socket.resetAndDestroy();
      await waitFor('the reset to be seen', () => bench.server.connections()[0]?.phase === 'closing');
      await assertServes(bench);
      await waitFor('the other client to be let go', () => directory.open.get('vg/lv') === 1);
      assert.equal(bench.server.connections().length, 1);
      device.releaseAll();
      await waitFor('the export to be let go', () => directory.open.get('vg/lv') === 0);
      assert.deepEqual(memory.peek(0, payload.length), payload);
      assert.equal(device.submitted[Op.read], 3, "the CACHE did not go on (two reads were its and the client's)");
    });
  });

  test('half-closed clients and those that say DISC get every answer, then the end', async () => {
    await withServer({}, async (bench) => {
      for (const goodbye of ['half-close', 'DISC'] as const) {
        const client = await bench.attached();
        bench.device.decide = hold;
        for (let i = 0n; i < 8n; i++) client.send(request({ type: CMD.read, cookie: i, length: 50_000 }));
        if (goodbye === 'DISC') client.send(request({ type: CMD.disc }));
        else client.socket.end();
        await bench.device.whenHeld(8);
        bench.device.releaseAll();
        const all = replies(await client.rest(), new Map(Array.from({ length: 8 }, (_, i) => [BigInt(i), 50_000])));
        assert.equal(all.length, 8, goodbye);
      }
    });
  });

  test('garbage ends its connection only', async () => {
    await withServer({}, async (bench) => {
      const greeted = await bench.client();
      greeted.send(randomFillSync(Buffer.alloc(10_000)));
      const negotiating = await bench.client();
      negotiating.send(clientFlags(), randomFillSync(Buffer.alloc(10_000)));
      const serving = await bench.attached();
      serving.send(request({ type: CMD.read, cookie: 1n, length: 10 }), Buffer.alloc(100_000));
      assert.equal((await greeted.rest()).length, 18);
      assert.equal((await negotiating.rest()).length, 18);
      assert.equal((await serving.rest()).length, 26);
      await assertServes(bench);
    });
  });

  test('random bytes, cut at random, in every phase', async () => {
    await withServer({}, async (bench) => {
      const bytes = fc.uint8Array({ minLength: 1, maxLength: 200 }).map((array) => Buffer.from(array));
      const message = fc.oneof(
        bytes,
        fc.record({ type: fc.nat(8), flags: fc.nat(3), length: fc.nat(70_000) }).map((fields) => request(fields)),
      );
      await fc.assert(
        fc.asyncProperty(
          fc.boolean(),
          fc.array(message, { maxLength: 8 }),
          fc.boolean(),
          async (attach, all, abrupt) => {
            const client = attach ? await bench.attached() : await bench.client();
            for (const piece of all) client.send(piece);
            if (abrupt) client.close();
            else client.socket.end();
            await client.rest();
            client.close();
          },
        ),
        { numRuns: 60 },
      );
      await assertServes(bench);
    });
  });

  test('who negotiates too long is closed; who is idle afterwards is not', async () => {
    await withServer({ limits: { handshakeTimeoutMs: 60 } }, async (bench) => {
      const idle = await bench.attached();
      const silent = await bench.client();
      const slow = await bench.client();
      slow.send(clientFlags(), option(3));
      assert.equal((await silent.rest()).length, 18);
      await slow.rest();
      idle.send(request({ type: CMD.read, cookie: 9n, length: 1 }));
      assert.equal((await idle.reply(1)).cookie, 9n);
    });
  });

  test('LISTs of a client that reads none of them do not pile up', async () => {
    const exports = Array.from({ length: 20_000 }, (_, i) =>
      makeExport({ name: `vg/lv${i}`, description: 'x'.repeat(100) }),
    );
    await withServer({}, async (bench) => {
      const { directory } = bench;
      let lists = 0;
      directory.list = () => {
        lists++;
        return exports.map(listed);
      };
      const client = await bench.client();
      await client.take(18);
      client.socket.pause();
      client.send(clientFlags(), option(3));
      await waitFor('the first LIST to be heard', () => lists === 1);
      client.send(option(3));
      for (let i = 0; i < 5; i++) await assertServes(bench);
      assert.equal(lists, 1, 'the second waits until the answer to the first is taken');
      client.socket.resume();
      for (let acks = 0; acks < 2;) if ((await client.optionReply()).type === 1) acks++;
      assert.equal(lists, 2);
    });
  });

  test('connections over the limit are closed at once', async () => {
    await withServer({ limits: { maxConnections: 2 } }, async (bench) => {
      const first = await bench.attached();
      await bench.attached();
      const third = await bench.client();
      assert.equal((await third.rest()).length, 0);
      first.close();
      await waitFor('room', () => bench.server.connections().length === 1);
      await bench.attached();
    });
  });
});

describe('letting go', () => {
  test('close finishes what was accepted, answers it, and ends the connections', async () => {
    await withServer({}, async (bench) => {
      const { device, server } = bench;
      const client = await bench.attached();
      const negotiating = await bench.client();
      await negotiating.take(18);
      device.decide = hold;
      client.send(
        request({ type: CMD.write, cookie: 1n, payload: Buffer.alloc(1000, 7) }),
        request({ type: CMD.read, cookie: 2n, offset: MIB, length: 1000 }),
      );
      await device.whenHeld(2);
      const closed = server.close();
      await assert.rejects(WireClient.open(bench.path));
      await assert.rejects(server.listen({ kind: 'unix', path: bench.path }), { code: 'CLOSED' });
      assert.equal((await negotiating.rest()).length, 0);
      negotiating.close();
      client.send(request({ type: CMD.read, cookie: 3n, length: 1 }));
      assert.equal(server.connections()[0]?.phase, 'closing');
      device.releaseAll();
      const all = replies(await client.rest(), new Map([[2n, 1000]]));
      assert.deepEqual(new Set(all.map(({ cookie }) => cookie)), new Set([1n, 2n]));
      client.close();
      await closed;
      assert.deepEqual(bench.memory.peek(0, 1000), Buffer.alloc(1000, 7));
    });
  });

  test('close waits only so long for a client that takes no answers, but for the volume as long as it works', async () => {
    await withServer({ limits: { drainTimeoutMs: 50 } }, async (bench) => {
      const { device, server } = bench;
      const patient = await bench.attached();
      device.decide = hold;
      patient.send(request({ type: CMD.read, cookie: 1n, length: 1000 }));
      await device.whenHeld(1);
      const stuck = await bench.attached();
      stuck.socket.pause();
      stuck.send(request({ type: CMD.read, offset: 8 * MIB, length: 8 * MIB }));
      await waitFor('the answer to be ready', () => {
        const info = server.connections()[1];
        return info?.requestsInFlight === 0 && info.bytesInFlight > 8 * MIB;
      });
      const closed = server.close();
      await waitFor('the stuck client to be dropped', () => server.connections().length === 1);
      device.releaseAll();
      assert.equal((await patient.reply(1000)).cookie, 1n);
      patient.close();
      await closed;
      assert.equal(server.connections().length, 0);
    });
  });

  test('a client that takes some of its answers does not put off the end of a stop', async (t) => {
    let clock = 1000;
    t.mock.method(performance, 'now', () => clock);
    await withServer({ limits: { drainTimeoutMs: 10_000 } }, async ({ attached, server }) => {
      const client = await attached();
      const { socket } = client;
      socket.pause();
      const unsent = (): number => server.connections()[0]?.bytesInFlight ?? 0;
      // The first is more than the system takes.
      for (const lengths of [[4 * MIB], Array.from({ length: 8 }, () => MIB)]) {
        const before = unsent();
        for (const length of lengths) client.send(request({ type: CMD.read, length }));
        await waitFor('the answers to be ready', () => unsent() - before > lengths.reduce((a, b) => a + b));
      }
      const closed = server.close();
      clock = 10_900;
      socket.on('data', () => socket.pause());
      await waitFor('the first answer to be taken', () => {
        socket.resume();
        return unsent() < 12 * MIB;
      });
      assert.equal(server.connections().length, 1);
      clock = 11_001;
      await closed;
    });
  });

  test('disconnect lets go of one export and leaves the others alone', async () => {
    await withServer({}, async (bench) => {
      bench.directory.exports.push(makeExport({ name: 'vg/other' }));
      const other = await bench.client();
      await other.attach('vg/other');
      const client = await bench.attached();
      bench.device.decide = hold;
      client.send(request({ type: CMD.read, cookie: 1n, length: 512 }));
      await bench.device.whenHeld(1);
      let gone = false;
      const disconnected = bench.server.disconnect('vg/lv').then(() => (gone = true));
      other.send(request({ type: CMD.read, length: 5 }));
      await other.reply(5);
      assert.equal(gone, false);
      bench.device.releaseAll();
      assert.equal((await client.reply(512)).error, 0);
      await client.rest();
      client.close();
      await disconnected;
      assert.equal(bench.directory.open.get('vg/lv'), 0);
      assert.deepEqual(
        bench.server.connections().map(({ exportName }) => exportName),
        ['vg/other'],
      );
      await bench.server.disconnect('vg/none');
    });
  });
});

describe('addresses', () => {
  const directory = new TestDirectory([makeExport()]);

  test('TCP, on a port of the system, over IPv4 and IPv6', async () => {
    const server = new LocalServer({ directory });
    for (const host of ['127.0.0.1', '::1']) {
      const address = await server.listen({ kind: 'tcp', host, port: 0 });
      assert.ok(address.kind === 'tcp' && address.port > 0);
      if (address.kind !== 'tcp') return;
      const client = await WireClient.open(address);
      await client.attach('vg/lv');
      client.send(request({ type: CMD.read, cookie: 1n, length: 10 }));
      assert.equal((await client.reply(10)).cookie, 1n);
      assert.match(
        server.connections().at(-1)?.peer ?? '',
        host === '::1' ? /^tcp:\[::1\]:\d+$/ : /^tcp:127\.0\.0\.1:\d+$/,
      );
      await assert.rejects(server.listen(address), { name: 'NbdError', code: 'ADDRESS_IN_USE' });
      client.close();
    }
    await server.close();
  });

  test('a refused option leaves the answer readable over TCP, though more bytes had come', async () => {
    const server = new LocalServer({ directory });
    const address = await server.listen({ kind: 'tcp', host: '127.0.0.1', port: 0 });
    if (address.kind !== 'tcp') return;
    const client = await WireClient.open(address);
    await client.take(18);
    client.send(clientFlags(), option(7, query('nope')), option(2), Buffer.alloc(500_000));
    assert.equal((await client.optionReply()).type, ERR.unknown);
    assert.equal((await client.optionReply()).type, 1);
    client.close();
    await server.close();
  });

  test("a socket file's mode, a stale one, a live one, and what is none", async () => {
    const path = join(folder, 'mode.sock');
    const first = new LocalServer({ directory });
    await first.listen({ kind: 'unix', path, mode: 0o660 });
    assert.equal((await stat(path)).mode & 0o777, 0o660);
    const second = new LocalServer({ directory });
    await assert.rejects(second.listen({ kind: 'unix', path }), { code: 'ADDRESS_IN_USE', message: /another server/ });
    await first.close();
    await assert.rejects(stat(path), { code: 'ENOENT' });

    await leaveStaleSocket(path);
    await second.listen({ kind: 'unix', path });
    assert.equal((await stat(path)).mode & 0o777, 0o600);
    await second.close();

    const file = join(folder, 'file');
    await writeFile(file, 'precious');
    const third = new LocalServer({ directory });
    await assert.rejects(third.listen({ kind: 'unix', path: file }), {
      code: 'ADDRESS_IN_USE',
      message: /not a socket/,
    });
    await assert.rejects(third.listen({ kind: 'unix', path: join(folder, 'no/such/folder') }), {
      code: 'LISTEN_FAILED',
    });
    await assert.rejects(third.listen({ kind: 'unix', path: `/tmp/${'x'.repeat(110)}` }), { code: 'LISTEN_FAILED' });
    await third.close();
  });
});
