/**
 * The block cache in the daemon, on image files past the page cache: whoever else writes to the devices (commands, other workers), what
 * clients read is what the device holds, and what was flushed survives a worker's death.
 */
import assert from 'node:assert/strict';
import { mkdtemp, open, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { pattern } from '../block/harness.ts';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { NbdWriter } from '../helpers/nbd-writer.ts';
import { mustRun } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';
import { CMD, request, WireClient } from '../nbd/wire.ts';

const MIB = 2 ** 20;

interface Options {
  readonly workers: string;
  readonly policy: 'writethrough' | 'writeback';
  readonly extentBytes?: string;
}

interface Place {
  readonly image: string;
  /** Bytes. */
  readonly offset: number;
}

/** Two PVs with the empty VG vg0 on them, and a daemon that serves it. */
class Stand {
  readonly folder: string;
  readonly images: readonly string[];
  readonly #places = new Map<string, Place>();
  #daemon: RunningDaemon | null = null;

  private constructor(folder: string) {
    this.folder = folder;
    this.images = ['pv0.img', 'pv1.img'].map((name) => join(folder, name));
  }

  static async open(t: TestContext, { workers, policy, extentBytes = '4m' }: Options): Promise<Stand> {
    const stand = new Stand(await mkdtemp(join(tmpdir(), 'orion-cached-')));
    t.after(async () => {
      await stand.#daemon?.stop();
      await rm(stand.folder, { recursive: true, force: true });
    });
    for (const image of stand.images) {
      await writeFile(image, '');
      await truncate(image, 64 * MIB);
    }
    await stand.must('vgcreate', '-s', extentBytes, 'vg0', ...stand.images);
    const config = join(stand.folder, 'lvm.toml');
    const settings = `direct = true\ncache_size = ${8 * MIB}\ncache_policy = "${policy}"\nio_scheduler = "deadline"\n`;
    await writeFile(config, settings);
    stand.#daemon = await startDaemon(stand.images, ['--config', config, '--workers', workers]);
    return stand;
  }

  get daemon(): RunningDaemon {
    assert(this.#daemon !== null);
    return this.#daemon;
  }

  must(command: string, ...args: readonly string[]): Promise<string> {
    const control = this.#daemon === null ? '' : join(dirname(this.#daemon.socket), 'control.sock');
    const env = { ORION_LVM_DEVICES: this.images.join(','), ORION_LVM_CONTROL: control, LVM_SYSTEM_DIR: this.folder };
    return mustRun(join(CHECKOUT, 'bin', command), args, { cwd: this.folder, env });
  }

  client(name: string): Promise<Client> {
    return Client.open(this.daemon.socket, name);
  }

  /** Runs a command until it succeeds: clients that have hung up may not be gone yet. */
  async eventually(command: string, ...args: readonly string[]): Promise<void> {
    await waitFor(`${command} ${args.join(' ')}`, () =>
      this.must(command, ...args).then(
        () => true,
        () => false,
      ),
    );
  }

  /** Whoever comes before a worker's death is noticed is sent away. */
  async eventualClient(name: string): Promise<Client> {
    const opened: Client[] = [];
    await waitFor(`a client of ${name}`, () =>
      this.client(name).then(
        (client) => opened.push(client) > 0,
        () => false,
      ),
    );
    return opened[0] ?? assert.fail();
  }

  /** Looks up where the only segments of LVs lie. */
  async locate(...names: readonly string[]): Promise<void> {
    const fields = ['--units', 'b', '--nosuffix', '-o', 'lv_name,devices,vg_extent_size'];
    const report = await this.must('lvs', '--noheadings', ...fields, 'vg0');
    for (const [, name = '', image = '', extent = '', size = ''] of report.matchAll(/(\S+) +(\S+)\((\d+)\) +(\d+)/g)) {
      // Extents begin at 1 MiB, unless somebody wishes otherwise.
      if (names.includes(name)) this.#places.set(name, { image, offset: MIB + Number(extent) * Number(size) });
    }
  }

  place(name: string): Place {
    const place = this.#places.get(name);
    assert(place !== undefined, `${name} was not located`);
    return place;
  }

  /** What the image holds, beside the daemon. */
  async onDisk(name: string, at: number, length: number): Promise<Buffer> {
    const { image, offset } = this.place(name);
    const handle = await open(image, 'r');
    const bytes = Buffer.alloc(length);
    await handle.read(bytes, 0, length, offset + at);
    await handle.close();
    return bytes;
  }

  async overwrite(name: string, at: number, bytes: Buffer): Promise<void> {
    const { image, offset } = this.place(name);
    const handle = await open(image, 'r+');
    await handle.write(bytes, 0, bytes.length, offset + at);
    await handle.sync();
    await handle.close();
  }
}

class Client {
  readonly #wire: WireClient;

  private constructor(wire: WireClient) {
    this.#wire = wire;
  }

  static async open(socket: string, name: string): Promise<Client> {
    const wire = await WireClient.open(socket);
    await wire.attach(`vg0/${name}`);
    return new Client(wire);
  }

  async write(offset: number, payload: Buffer): Promise<void> {
    this.#wire.send(request({ type: CMD.write, offset, payload }));
    assert.equal((await this.#wire.reply()).error, 0);
  }

  async read(offset: number, length: number): Promise<Buffer> {
    this.#wire.send(request({ type: CMD.read, offset, length }));
    const { error, data } = await this.#wire.reply(length);
    assert.equal(error, 0);
    return Buffer.from(data);
  }

  async flush(): Promise<void> {
    this.#wire.send(request({ type: CMD.flush }));
    assert.equal((await this.#wire.reply()).error, 0);
  }

  close(): void {
    this.#wire.socket.destroy();
  }
}

for (const policy of ['writethrough', 'writeback'] as const) {
  describe(`volumes on cached devices (${policy})`, () => {
    test('extents that change hands hold what the command left there', { timeout: 60_000 }, async (t) => {
      const stand = await Stand.open(t, { workers: '1', policy });
      await stand.must('lvcreate', '-L16m', '-nold', 'vg0');
      await stand.must('lvcreate', '-L4m', '-nstays', 'vg0');
      const old = await stand.client('old');
      const stays = await stand.client('stays');
      await old.write(0, pattern(2 * MIB, 1));
      await stays.write(0, pattern(MIB, 2));
      assert(pattern(2 * MIB, 1).equals(await old.read(0, 2 * MIB)));
      await stand.locate('old', 'stays');
      old.close();
      await stand.eventually('lvremove', '-f', 'vg0/old');
      await stand.must('lvcreate', '-y', '-L16m', '-nnew', 'vg0');
      await stand.locate('new');
      assert.deepEqual(stand.place('new'), stand.place('old'), 'it took the same extents');
      const fresh = await stand.client('new');
      const read = await fresh.read(0, 2 * MIB);
      assert(Buffer.alloc(4096).equals(read.subarray(0, 4096)), 'its head was zeroed');
      assert(read.equals(await stand.onDisk('new', 0, 2 * MIB)));
      await fresh.write(8192, pattern(4096, 3));
      assert(pattern(MIB, 2).equals(await stays.read(0, MIB)));
      // Nothing that the removed volume wrote comes behind.
      await fresh.flush();
      await stays.flush();
      assert(Buffer.alloc(4096).equals(await stand.onDisk('new', 0, 4096)));
      assert(pattern(4096, 3).equals(await stand.onDisk('new', 8192, 4096)));
      assert(pattern(MIB, 2).equals(await stand.onDisk('stays', 0, MIB)));
      fresh.close();
      stays.close();
    });

    test(
      'what others wrote while a volume was inactive is read; growing takes extents as they are',
      { timeout: 60_000 },
      async (t) => {
        const stand = await Stand.open(t, { workers: '1', policy });
        await stand.must('lvcreate', '-L8m', '-na', 'vg0');
        await stand.must('lvcreate', '-L8m', '-nb', 'vg0');
        const [a, b] = [await stand.client('a'), await stand.client('b')];
        await a.write(0, pattern(MIB, 1));
        await b.write(0, pattern(MIB, 2));
        assert(pattern(MIB, 2).equals(await b.read(0, MIB)));
        b.close();
        await stand.locate('a', 'b');
        await stand.eventually('lvchange', '-an', 'vg0/b');
        await stand.overwrite('b', 4096, pattern(4096, 9));
        await stand.must('lvchange', '-ay', 'vg0/b');
        const again = await stand.client('b');
        const expected = pattern(MIB, 2);
        pattern(4096, 9).copy(expected, 4096);
        assert(expected.equals(await again.read(0, MIB)));
        again.close();
        await stand.eventually('lvremove', '-f', 'vg0/b');
        await stand.must('lvextend', '-L16m', 'vg0/a');
        const grown = await stand.client('a');
        const end = await grown.read(8 * MIB, MIB);
        assert(end.equals(await stand.onDisk('a', 8 * MIB, MIB)), 'it has the bytes that lie there');
        await grown.write(8 * MIB, pattern(MIB, 5));
        assert(pattern(MIB, 5).equals(await a.read(8 * MIB, MIB)), 'every client sees them');
        assert(pattern(MIB, 1).equals(await a.read(0, MIB)));
        a.close();
        grown.close();
      },
    );
  });
}

describe('volumes on cached devices, more', () => {
  const policy = 'writeback';
  test('a device that is enlarged while it is used is used up to its new end', { timeout: 60_000 }, async (t) => {
    const stand = await Stand.open(t, { workers: '1', policy });
    await stand.must('lvcreate', '-l15', '-na', 'vg0', stand.images[0] ?? '');
    const a = await stand.client('a');
    await a.write(59 * MIB + 1, pattern(MIB - 1, 1));
    await truncate(stand.images[0] ?? '', 128 * MIB);
    await stand.must('pvresize', stand.images[0] ?? '');
    await stand.must('lvextend', '-l31', 'vg0/a', stand.images[0] ?? '');
    const grown = await stand.client('a');
    await grown.write(60 * MIB - 100, pattern(64 * MIB - 1000, 2));
    assert(pattern(64 * MIB - 1000, 2).equals(await grown.read(60 * MIB - 100, 64 * MIB - 1000)));
    assert(
      pattern(MIB - 1, 1)
        .subarray(0, MIB - 101)
        .equals(await a.read(59 * MIB + 1, MIB - 101)),
    );
    a.close();
    grown.close();
  });

  test('snapshots hold what was acknowledged before them', { timeout: 60_000 }, async (t) => {
    const stand = await Stand.open(t, { workers: '1', policy });
    await stand.must('lvcreate', '-L8m', '-na', 'vg0');
    // Where the store will be, an old volume leaves rubbish, in memory and on the disk.
    await stand.must('lvcreate', '-L8m', '-nrubbish', 'vg0');
    const rubbish = await stand.client('rubbish');
    await rubbish.write(0, pattern(4 * MIB, 8));
    rubbish.close();
    const a = await stand.client('a');
    await a.write(0, pattern(MIB, 1));
    await stand.eventually('lvremove', '-f', 'vg0/rubbish');
    await stand.must('lvcreate', '-s', '-L8m', '-nsnap', 'vg0/a');
    await a.write(0, pattern(MIB, 2));
    const snap = await stand.client('snap');
    assert(pattern(MIB, 1).equals(await snap.read(0, MIB)));
    assert(pattern(MIB, 2).equals(await a.read(0, MIB)));
    await snap.write(4096, pattern(4096, 3));
    await a.write(8192, pattern(4096, 4));
    const expected = pattern(MIB, 1);
    pattern(4096, 3).copy(expected, 4096);
    assert(expected.equals(await snap.read(0, MIB)));
    a.close();
    snap.close();
  });

  test('volumes move to other devices while clients write', { timeout: 90_000 }, async (t) => {
    const stand = await Stand.open(t, { workers: '1', policy });
    await stand.must('lvcreate', '-L24m', '-na', 'vg0', stand.images[0]!);
    const writer = new NbdWriter(() => stand.daemon.socket, 'vg0/a', 24 * MIB);
    writer.start();
    await waitFor('writes', () => writer.writes > 100);
    await stand.must('pvmove', '-i1', stand.images[0]!, stand.images[1]!);
    const { writes } = writer;
    await waitFor('more writes', () => writer.writes > writes + 100);
    await writer.stop();
    assert.equal(writer.reconnects, 0);
    await writer.verify();
    await stand.locate('a');
    assert.equal(stand.place('a').image, stand.images[1]);
  });

  test("volumes that share blocks of the cache don't write what is not theirs", { timeout: 60_000 }, async (t) => {
    // Extents of 1 KiB: four to a block. Such volumes are kept by one worker, however many there are.
    const stand = await Stand.open(t, { workers: '2', policy, extentBytes: '1k' });
    const names = ['a', 'b', 'c', 'd'];
    for (const name of names) await stand.must('lvcreate', '-Zn', '-Wn', '-L5k', `-n${name}`, 'vg0');
    await stand.locate(...names);
    const clients = await Promise.all(names.map((name) => stand.client(name)));
    for (let round = 1; round <= 5; round++) {
      await Promise.all(clients.map((client, i) => client.write(0, pattern(5 * 1024, 10 * round + i))));
      const read = await Promise.all(clients.map((client) => client.read(0, 5 * 1024)));
      for (const [i, bytes] of read.entries()) assert(pattern(5 * 1024, 10 * round + i).equals(bytes));
      await Promise.all(clients.map((client) => client.flush()));
      for (const [i, name] of names.entries()) {
        assert(
          pattern(5 * 1024, 10 * round + i).equals(await stand.onDisk(name, 0, 5 * 1024)),
          `${name}, round ${round}`,
        );
      }
    }
    for (const client of clients) client.close();
  });

  test('what was flushed survives the death of the worker', { timeout: 60_000 }, async (t) => {
    const stand = await Stand.open(t, { workers: '1', policy });
    await stand.must('lvcreate', '-L16m', '-na', 'vg0');
    const client = await stand.client('a');
    await client.write(0, pattern(3 * MIB, 1));
    await client.flush();
    await client.write(8 * MIB, pattern(MIB, 2));
    const { numbers } = JSON.parse(await stand.must('orion-lvm', 'status', '--reportformat', 'json')) as {
      readonly numbers: { readonly workers: readonly { readonly pid: number }[] };
    };
    const pid = numbers.workers[0]?.pid ?? 0;
    assert(pid > 1);
    process.kill(pid, 'SIGKILL');
    client.close();
    const next = await stand.eventualClient('a');
    assert(pattern(3 * MIB, 1).equals(await next.read(0, 3 * MIB)));
    next.close();
  });
});

test('status and metrics tell what is cached', { timeout: 60_000 }, async (t) => {
  const stand = await Stand.open(t, { workers: '1', policy: 'writeback' });
  await stand.must('lvcreate', '-L16m', '-na', 'vg0');
  const client = await stand.client('a');
  await client.write(0, pattern(MIB, 1));
  for (let i = 0; i < 10; i++) await client.read(0, 4096);
  const status = await stand.must('orion-lvm', 'status');
  assert.match(
    status,
    /Cached device +Cached +Dirty +Hits +Evictions +Write-back errors\n\s*\S+pv0\.img +1\.\S+ .* \d+ %/,
  );
  client.close();
});
