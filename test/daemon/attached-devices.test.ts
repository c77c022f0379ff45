/** Attached devices without a kernel that has nbd: connections that it would get, from a server of ours, and what is refused. */
import assert from 'node:assert/strict';
import { mkdir, readFile, writeFile, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { refuseAttached } from '../../src/cli/lv/attached.ts';
import { AttachedDevices } from '../../src/daemon/attached-devices.ts';
import {
  type AttachedDevice,
  type AttachSystem,
  lockDevices,
  noteDevice,
  notedDevices,
} from '../../src/daemon/client/attached.ts';
import { ClientHandshake, negotiate } from '../../src/daemon/client/handshake.ts';
import { connectDevice, reconnectDevice } from '../../src/daemon/client/kernel-device.ts';
import { createLog } from '../../src/daemon/log.ts';
import { type NbdChange, type NbdConnection, NetlinkError } from '../../src/native/netlink.ts';
import { Handshake } from '../../src/nbd/handshake.ts';
import { finalReply, greeting } from '../../src/nbd/option-replies.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { makeExport, TestDirectory } from '../nbd/exports.ts';
import { LocalServer } from '../nbd/local-server.ts';

const MIB = 2 ** 20;
const OPTIONS = { timeoutSeconds: null, reconnectSeconds: 60, readOnly: false, blockSize: 512 };

/** A kernel that notes what it is told, and how many connections were in the transmission phase when it was. */
class FakeKernel {
  readonly told: (NbdConnection | NbdChange)[] = [];
  readonly alive: number[] = [];
  readonly #server: LocalServer;
  refusal: number | null = null;

  constructor(server: LocalServer) {
    this.#server = server;
  }

  #note(change: NbdChange): Promise<void> {
    this.told.push(change);
    this.alive.push(this.#server.connections().filter(({ phase }) => phase === 'transmission').length);
    return this.refusal === null ? Promise.resolve() : Promise.reject(new NetlinkError(this.refusal, null));
  }

  connect = (connection: NbdConnection): Promise<void> => this.#note(connection);
  reconfigure = (change: NbdChange): Promise<void> => this.#note(change);
  disconnect = (index: number): Promise<void> => this.#note({ index });
}

interface Bench {
  readonly server: LocalServer;
  readonly kernel: FakeKernel;
  readonly system: AttachSystem;
  readonly device: AttachedDevice;
  readonly address: string;
  readonly folder: string;
}

async function withBench(use: (bench: Bench) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const server = new LocalServer({ directory: new TestDirectory([makeExport()]) });
    const path = join(folder, 'nbd.sock');
    await server.listen({ kind: 'unix', path });
    const files = { 'sys/nbd1/pid': '1\n', 'sys/nbd1/size': '2048\n', 'sys/nbd1/queue/io_timeout': '30000\n' };
    for (const [name, text] of Object.entries({ ...files, 'sys/nbd1/backend': 'vg-uuid/lv-uuid\n' })) {
      await mkdir(dirname(join(folder, name)), { recursive: true });
      await writeFile(join(folder, name), text);
    }
    const kernel = new FakeKernel(server);
    const at = (name: string): string => join(folder, name);
    const system = { directory: at('notes'), sysBlock: at('sys'), dev: at('dev'), proc: at('proc'), kernel };
    const facts = { kernelName: 'nbd1', exportName: 'vg/lv', connections: 3, volume: 'vg-uuid/lv-uuid' };
    try {
      await use({ server, kernel, system, device: { ...facts, server: `unix:${path}` }, address: path, folder });
    } finally {
      await server.close();
    }
  });
}

describe('connections for the kernel', () => {
  test('each is in the transmission phase when the kernel gets it, and ours is closed afterwards', async () => {
    await withBench(async ({ kernel, system, device, folder }) => {
      await connectDevice(device, { ...OPTIONS, readOnly: true }, system);
      const [told] = kernel.told as NbdConnection[];
      assert.equal(new Set(told?.sockets).size, 3);
      assert.deepEqual(kernel.alive, [3]);
      const { sockets, serverFlags, ...rest } = told as NbdConnection;
      assert.ok(sockets.every((fd) => fd > 2));
      assert.equal(serverFlags & 0x103, 0x103, 'flags, read-only, several connections');
      const facts = { index: 1, sizeBytes: MIB, backend: 'vg-uuid/lv-uuid', blockSizeBytes: 512 };
      assert.deepEqual(rest, { ...facts, timeoutSeconds: 0, deadConnectionSeconds: 60 });
      assert.equal(await readFile(join(folder, 'sys/nbd1/queue/io_timeout'), 'utf8'), '30000');
      await connectDevice({ ...device, connections: 1 }, OPTIONS, system);
      assert.equal(await readFile(join(folder, 'sys/nbd1/queue/io_timeout'), 'utf8'), '3000');
    });
  });

  test('a kernel that refuses leaves none open', async () => {
    await withBench(async ({ server, kernel, system, device }) => {
      kernel.refusal = 16;
      await assert.rejects(reconnectDevice(device, system), { code: 'NETLINK', errno: 16 });
      assert.deepEqual(kernel.told[0]?.backend, 'vg-uuid/lv-uuid');
      await gone(server);
    });
  });

  test('what the server refuses is told in its words, and leaves none open', async () => {
    await withBench(async ({ server, kernel, system, device }) => {
      const wrong = { ...device, exportName: 'vg/none' };
      await assert.rejects(connectDevice(wrong, OPTIONS, system), /vg\/none at unix:.*: there is no export "vg\/none"/);
      assert.deepEqual(kernel.told, []);
      await gone(server);
      const nowhere = { ...device, server: 'unix:/nonexistent/sock' };
      await assert.rejects(connectDevice(nowhere, OPTIONS, system), {
        code: 'HANDSHAKE',
        message: /: no such file or directory$/,
      });
    });
  });

  test('over TCP too', async () => {
    const server = new LocalServer({ directory: new TestDirectory([makeExport()]) });
    const address = await server.listen({ kind: 'tcp', host: '127.0.0.1', port: 0 });
    assert.ok(address.kind === 'tcp');
    const target = { server: `tcp:0.0.0.0:${address.port}`, exportName: 'vg/lv', timeoutMs: 5000 };
    const { close, sizeBytes } = await negotiate(target);
    assert.equal(sizeBytes, MIB);
    close();
    await server.close();
  });
});

/** Connections end on their own: a close is asked for. */
async function gone(server: LocalServer): Promise<void> {
  while (server.connections().length > 0) await new Promise((resolve) => setImmediate(resolve));
}

describe('a handshake', () => {
  test('is the same however its bytes are split', () => {
    const server = new Handshake(new TestDirectory([makeExport()]));
    const client = new ClientHandshake('vg/lv');
    let outcome: unknown = null;
    const queue = [greeting()];
    for (let bytes = queue.shift(); bytes !== undefined; bytes = queue.shift()) {
      for (const byte of bytes) {
        const step = client.receive(Buffer.from([byte]));
        outcome ??= step.outcome;
        if (step.send === null) continue;
        const answer = server.receive(step.send);
        queue.push(...answer.replies);
        if (answer.outcome?.kind === 'negotiated') queue.push(...finalReply(answer.outcome.negotiated));
      }
    }
    assert.deepEqual({ ...(outcome as object), flags: 0 }, { sizeBytes: MIB, flags: 0 });
  });

  test('with what is no NBD server, an old one, or one that does not answer ends with the reason', async () => {
    await withTemporaryFolder(async (folder) => {
      const path = join(folder, 'sock');
      const open: Socket[] = [];
      let says = Buffer.from('HTTP/1.1 400 Bad Request\r\n');
      const server = createServer((socket) => {
        open.push(socket.on('error', () => undefined));
        socket.write(says);
      }).listen(path);
      const attempt = (): Promise<unknown> =>
        negotiate({ server: `unix:${path}`, exportName: 'vg/lv', timeoutMs: 100 });
      try {
        await assert.rejects(attempt(), /does not speak NBD/);
        says = Buffer.from('NBDMAGICIHAVEOPT\0\0');
        await assert.rejects(attempt(), /fixed newstyle/);
        says = Buffer.from('NBDMAGICIHAVEOPT\0\x03');
        await assert.rejects(attempt(), /did not answer for 100 ms/);
        says = Buffer.concat([says, Buffer.alloc(20, 1)]);
        await assert.rejects(attempt(), /more than was asked/);
      } finally {
        for (const socket of open) socket.destroy();
        server.close();
      }
    });
  });
});

test('a daemon that ends waits neither for a server that does not answer nor for an attach under way', async () => {
  await withBench(async ({ system, device, folder }) => {
    const asked = Promise.withResolvers<void>();
    const open: Socket[] = [];
    const silent = createServer((socket) => {
      open.push(socket);
      asked.resolve();
    }).listen(join(folder, 'silent'));
    const server = `unix:${join(folder, 'silent')}`;
    const log = createLog({ level: 'silent', format: 'json' });
    const signal = new AbortController();
    const waiting = reconnectDevice({ ...device, server }, system, signal.signal);
    await asked.promise;
    signal.abort();
    await assert.rejects(waiting, /nobody wants the connection/);
    for (const socket of open) socket.destroy();
    silent.close();
    await noteDevice(device, system);
    const held = await lockDevices(system);
    const rest = { sizeOf: () => null, nameOf: () => 'vg/new', servers: () => [device.server], log, system };
    const devices = new AttachedDevices(rest);
    const following = devices.follow();
    await devices.close();
    await following;
    await held.close();
    assert.deepEqual(await notedDevices(system), [device]);
  });
});

test("a volume's new name is noted, for devices of this server only, and udev told", async () => {
  await withBench(async ({ system, device, folder }) => {
    await noteDevice(device, system);
    const nameOf = (volume: string): string | null => (volume === device.volume ? 'vg/new' : null);
    const rest = { sizeOf: () => null, nameOf, log: createLog({ level: 'silent', format: 'json' }), system };
    await new AttachedDevices({ ...rest, servers: () => ['unix:/other'] }).follow();
    assert.deepEqual(await notedDevices(system), [device]);
    await new AttachedDevices({ ...rest, servers: () => [device.server] }).follow();
    assert.equal(await readFile(join(folder, 'sys/nbd1/uevent'), 'utf8'), 'change');
    assert.deepEqual(await notedDevices(system), [{ ...device, exportName: 'vg/new' }]);
  });
});

test('without a daemon no merge changes what the kernel still has attached', async () => {
  await withBench(async ({ system, device, folder }) => {
    await noteDevice(device, system);
    const own = new Map([['vg-uuid lv-uuid', 'vg/lv']]);
    await assert.rejects(refuseAttached(own, system), /vg\/lv in use: it is attached as \/dev\/nbd1, which waits/);
    await refuseAttached(new Map([['vg-uuid other', 'vg/other']]), system);
    // A note that nobody took away.
    await rm(join(folder, 'sys/nbd1/pid'));
    await refuseAttached(own, system);
  });
});
