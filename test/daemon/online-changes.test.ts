/**
 * Changes of volumes that clients use: what they wrote is there, what they may not lose is refused, and whatever moment a command
 * is killed at, the daemon serves what the metadata says and nothing is left suspended or held off.
 */
import assert from 'node:assert/strict';
import { mkdtemp, open, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { type MirrorState, mirrorStates } from '../../src/dm/mirror/control.ts';
import { ControlClient } from '../../src/daemon/client/control-client.ts';
import { type CommandOutcome, CommandRunner } from '../../src/daemon/commands/runner.ts';
import { Daemon } from '../../src/daemon/compose.ts';
import { ROUTES } from '../../src/daemon/control/routes.ts';
import { loadSettings } from '../../src/daemon/config.ts';
import { createLog } from '../../src/daemon/log.ts';
import type { LiveVolumes } from '../../src/lvm/live.ts';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { hostedProcesses } from '../helpers/hosted.ts';
import { NbdWriter } from '../helpers/nbd-writer.ts';
import { check, documentOf } from '../helpers/openapi.ts';
import { mustRun, type Outcome, runProgram } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';
import { CMD, ENOSPC, EINVAL, EPERM, request, WireClient } from '../nbd/wire.ts';

const MIB = 2 ** 20;
const EXTENT = 4 * MIB;
const SILENT = createLog({ level: 'silent', format: 'json' });

/** Two PVs with vg0/a of 16 MiB on them, and a daemon that serves it. */
class Stand {
  readonly folder: string;
  readonly images: readonly string[];
  daemon: RunningDaemon | null = null;

  private constructor(folder: string) {
    this.folder = folder;
    this.images = ['pv0.img', 'pv1.img'].map((name) => join(folder, name));
  }

  /** `template`: the images are copies of its own. */
  static async open(t: TestContext, template?: Stand): Promise<Stand> {
    const stand = new Stand(await mkdtemp(join(tmpdir(), 'orion-online-')));
    t.after(async () => {
      await stand.daemon?.stop();
      await rm(stand.folder, { recursive: true, force: true });
    });
    if (template !== undefined) {
      await mustRun('cp', ['--sparse=always', ...template.images, stand.folder]);
      return stand;
    }
    for (const image of stand.images) {
      await writeFile(image, '');
      await truncate(image, 64 * MIB);
    }
    await stand.must('vgcreate', 'vg0', ...stand.images);
    await stand.must('lvcreate', '-L16m', '-na', 'vg0');
    return stand;
  }

  async start(workers: string, ...args: readonly string[]): Promise<void> {
    this.daemon = await startDaemon(this.images, ['--workers', workers, ...args]);
  }

  get socket(): string {
    return this.daemon?.socket ?? '';
  }

  get env(): NodeJS.ProcessEnv {
    const control = this.daemon === null ? '' : join(dirname(this.socket), 'control.sock');
    return { ORION_LVM_DEVICES: this.images.join(','), ORION_LVM_CONTROL: control, LVM_SYSTEM_DIR: this.folder };
  }

  run(command: string, ...args: readonly string[]): Promise<Outcome> {
    return runProgram(join(CHECKOUT, 'bin', command), args, { cwd: this.folder, env: this.env });
  }

  must(command: string, ...args: readonly string[]): Promise<string> {
    return mustRun(join(CHECKOUT, 'bin', command), args, { cwd: this.folder, env: this.env });
  }
}

async function attached(socket: string, name: string): Promise<WireClient> {
  const client = await WireClient.open(socket);
  await client.attach(name);
  return client;
}

async function errorOf(client: WireClient, offset: number, type: number = CMD.write): Promise<number> {
  const payload = Buffer.alloc(4096, 1);
  client.send(request({ type, offset, ...(type === CMD.write ? { payload } : { length: 4096 }) }));
  return (await client.reply(type === CMD.read ? 4096 : 0)).error;
}

for (const workers of ['0', '2']) {
  describe(`with --workers ${workers}`, () => {
    test('clients write on while volumes grow, shrink, move to other names', { timeout: 120_000 }, async (t) => {
      const stand = await Stand.open(t);
      await stand.start(workers);
      // What is cut off is not written to.
      const writer = new NbdWriter(() => stand.socket, 'vg0/a', 16 * MIB);
      writer.start();
      await waitFor('writes', () => writer.writes > 100);
      await stand.must('lvextend', '-L+20m', 'vg0/a');
      const client = await attached(stand.socket, 'vg0/a');
      assert.equal(await errorOf(client, 35 * MIB), 0, 'the new end');
      await stand.must('lvreduce', '-y', '-L20m', 'vg0/a');
      assert.ok([EINVAL, ENOSPC].includes(await errorOf(client, 35 * MIB)), 'beyond the new end');
      assert.equal(await errorOf(client, 19 * MIB), 0);
      await stand.must('lvcreate', '-l2', '-nother', 'vg0');
      await stand.must('lvchange', '--addtag', 'x', 'vg0/a');
      await stand.must('lvchange', '--refresh', 'vg0/a');
      const writes = writer.writes;
      await waitFor('more writes', () => writer.writes > writes + 100);
      await writer.stop();
      assert.equal(writer.reconnects, 0, 'no connection was lost');
      await writer.verify();
      // A new name: who is connected stays, who comes has to use it.
      await stand.must('lvrename', 'vg0', 'a', 'b');
      assert.equal(await errorOf(client, 0, CMD.read), 0);
      await stand.must('vgrename', 'vg0', 'vg1');
      assert.equal(await errorOf(client, 4096, CMD.read), 0);
      client.close();
      (await attached(stand.socket, 'vg1/b')).close();
    });

    test('what the control socket answers is what its document says', async (t) => {
      const stand = await Stand.open(t);
      await stand.start(workers);
      const client = new ControlClient(join(dirname(stand.socket), 'control.sock'));
      const document = await documentOf();
      let checked = 0;
      for (const { method, path } of ROUTES.filter((route) => route.method === 'GET')) {
        const media = document.paths[path]?.[method.toLowerCase()]?.responses['200']?.content?.['application/json'];
        const name = media?.schema['$ref']?.replace('#/components/schemas/', '');
        if (name === undefined) continue;
        check(document, name, await client.request(method, path.replace('{vg}', 'vg0').replace('{lv}', 'a')));
        checked++;
      }
      assert.ok(checked >= 3);
      assert.match(await client.text('/metrics'), /^orion_lvm_build_info/m);
      assert.equal(await client.request('POST', '/v1/rescan'), undefined);
    });

    test('volumes in use stay, but for --force; the read-only flag reaches who is connected', async (t) => {
      const stand = await Stand.open(t);
      await stand.start(workers);
      const client = await attached(stand.socket, 'vg0/a');
      for (const argv of [
        ['lvremove', '-y', 'vg0/a'],
        ['lvchange', '-an', 'vg0/a'],
        ['vgremove', '-y', 'vg0'],
        ['vgchange', '-an', 'vg0'],
      ] as const) {
        const [command, ...args] = argv;
        const { status, stderr } = await stand.run(command, ...args);
        assert.equal(status, 5, argv.join(' '));
        assert.match(stderr, /^ {2}Logical volume vg0\/a in use\.$/m);
      }
      for (const command of ['pvcreate', 'pvremove']) {
        const { status, stderr } = await stand.run(command, '-ff', '-y', stand.images[0]!);
        assert.equal(status, 5, command);
        assert.match(stderr, /^ {2}Can't open \S+pv0\.img exclusively\. {2}Mounted filesystem\?$/m);
        assert.match(stderr, /^ {2}Logical volume vg0\/a on it is active\.$/m);
      }
      assert.match(await stand.must('lvs', '--noheadings', '-olv_attr,lv_device_open'), /-wi-ao---- +open/);
      await stand.must('lvchange', '-pr', 'vg0/a');
      assert.equal(await errorOf(client, 0), EPERM);
      assert.equal(await errorOf(client, 0, CMD.read), 0);
      await stand.must('lvchange', '-prw', 'vg0/a');
      assert.equal(await errorOf(client, 0), 0);
      await stand.must('lvremove', '-f', 'vg0/a');
      await client.rest();
      assert.equal(await stand.must('lvs', '--noheadings'), '');
      await stand.must('lvcreate', '-l1', '-nc', 'vg0');
      (await attached(stand.socket, 'vg0/c')).close();
    });
  });
}

function volumesText(rows: readonly (readonly [string, number])[]): string {
  return rows.map(([name, bytes]) => `${name} ${bytes / EXTENT}`).join(', ');
}

test('a daemon that only reads changes nothing', async (t) => {
  const stand = await Stand.open(t);
  await stand.start('0', '--read-only');
  const { status, stderr } = await stand.run('lvrename', 'vg0', 'a', 'b');
  assert.equal(status, 5);
  assert.match(stderr, /open for reading only by orion-lvmd/);
  const before = await Promise.all(stand.images.map((image) => readFile(image)));
  for (const [command, ...args] of [
    ['pvcreate', '-ff', '-y', stand.images[1]!],
    ['pvremove', '-ff', '-y', stand.images[1]!],
    ['pvck', '--repair', '-f', join(stand.folder, 'vg0.vg'), '-y', stand.images[1]!],
    ['vgcreate', 'vg1', join(stand.folder, 'new.img')],
    ['pvcreate', join(stand.folder, 'new.img')],
  ] as const) {
    if (command === 'vgcreate') await writeFile(join(stand.folder, 'new.img'), Buffer.alloc(8 * MIB));
    if (command === 'pvck') await stand.must('vgcfgbackup', '-f', join(stand.folder, 'vg0.vg'), 'vg0');
    const refused = await stand.run(command, ...args);
    assert.equal(refused.status, 5, `${command}: ${refused.stderr}`);
    assert.match(refused.stderr, /open for reading only by orion-lvmd/, command);
  }
  for (const [i, image] of stand.images.entries()) assert.ok(before[i]?.equals(await readFile(image)), image);
  assert.match(await stand.must('lvs', '--noheadings', '-olv_name,lv_attr'), /^ +a +-Ri-a-----/);
});

describe('a command that is killed', () => {
  /** Each on vg0/a of 4 extents; what there is afterwards if it was not, or was, committed. */
  const COMMANDS: readonly (readonly [readonly string[], string, string])[] = [
    [['lvcreate', '-l1', '-nn', 'vg0'], 'a 4', 'a 4, n 1'],
    [['lvextend', '-l+2', 'vg0/a'], 'a 4', 'a 6'],
    [['lvreduce', '-y', '-l3', 'vg0/a'], 'a 4', 'a 3'],
    [['lvrename', 'vg0', 'a', 'z'], 'a 4', 'z 4'],
    [['lvremove', '-y', 'vg0/a'], 'a 4', ''],
  ];

  for (const [argv, before, after] of COMMANDS) {
    test(`${argv.join(' ')}, at every call to the daemon`, { timeout: 120_000 }, async (t) => {
      const seen = new Set<string>();
      const template = await Stand.open(t);
      for (let fatal = 1, survived = false; !survived; fatal++) {
        const stand = await Stand.open(t, template);
        await using killing = await KillingDaemon.start(stand, fatal);
        const outcome = await killing.run(argv);
        survived = killing.killedIn === null;
        killing.spare();
        assert.equal(outcome.exitCode, survived ? 0 : 5);
        const { metadata, served } = await killing.state();
        assert.ok([before, after].includes(metadata), `after call ${fatal}: ${metadata}`);
        seen.add(metadata);
        // What was not wiped is not served; everything else is, as the metadata has it.
        const unwiped = killing.killedIn === 'holds' && metadata === 'a 4, n 1';
        assert.equal(served, unwiped ? 'a 4' : metadata, `after call ${fatal}`);
        if (metadata.startsWith('a') || metadata.startsWith('z')) await killing.canBeUsed(metadata[0] ?? '');
        assert.equal((await killing.run(['lvcreate', '-l1', '-nlast', 'vg0'])).exitCode, 0, 'the next command');
      }
      assert.deepEqual([...seen].toSorted(), [before, after].toSorted(), 'both states were met');
    });
  }
});

test('a move whose command dies before it commits what is in sync goes on as a mirror that can lose a leg', async (t) => {
  const stand = await Stand.open(t);
  // Holes of an image would stay holes, and nothing be read or written for them.
  await using image = await open(stand.images[0] ?? '', 'r+');
  await image.write(Buffer.alloc(16 * MIB, 'x'), 0, 16 * MIB, MIB);
  await using killing = await KillingDaemon.start(stand, Number.POSITIVE_INFINITY);
  killing.killInSync = true;
  const { exitCode } = await killing.run(['pvmove', '-i1', ...stand.images]);
  assert.deepEqual([exitCode, killing.killedIn], [5, 'moveStatus']);
  killing.killInSync = false;
  const [mirror, ...others] = await killing.mirrors('vg0/pvmove0');
  assert.ok(mirror !== undefined && others.length === 0);
  assert.deepEqual([mirror.sealed, mirror.bytesInSync], [false, 16 * MIB]);
  await killing.canBeUsed('a');
  // What a mirror does by itself is counted on its devices.
  const [from, to] = await Promise.all(stand.images.map((image) => killing.bytesOn(image)));
  assert.ok((from?.read ?? 0) >= 16 * MIB && (to?.write ?? 0) >= 16 * MIB, JSON.stringify([from, to]));
  const fields = ['-a', '--noheadings', '-olv_name,lv_attr,copy_percent', 'vg0'];
  const shown = await mustRun(join(CHECKOUT, 'bin/lvs'), fields, { env: killing.env });
  assert.match(shown, /^ +\[pvmove0\] +p-C-aom--- 100\.00 *$/m);
  // The next one goes on with it.
  assert.equal((await killing.run(['pvmove', '-i1'])).exitCode, 0);
  assert.deepEqual(await killing.mirrors('vg0/pvmove0'), []);
  await killing.canBeUsed('a');
});

/** A daemon in this process, whose commands die when they call it for the n-th time (in which it still does what was asked). */
class KillingDaemon {
  readonly #stand: Stand;
  readonly #daemon: Daemon;
  readonly #runner: CommandRunner;
  readonly #outcomes: CommandOutcome[] = [];
  readonly #socket: string;
  #left: number;
  /** The method that it called; null: it was let live. */
  killedIn: string | null = null;
  /** Whether a command dies that is told of a move in sync. */
  killInSync = false;

  private constructor(stand: Stand, daemon: Daemon, socket: string, fatal: number) {
    this.#stand = stand;
    this.#daemon = daemon;
    this.#socket = socket;
    this.#left = fatal;
    this.#runner = new CommandRunner({
      live: this.#killing(daemon.live),
      log: SILENT,
      env: { NODE_COMPILE_CACHE: join(CHECKOUT, 'node_modules/.cache/compile'), ...process.env },
      finished: (outcome) => {
        this.#outcomes.push(outcome);
        return Promise.resolve();
      },
      moveLeft: (pvmoveLv) => daemon.live.unseal(pvmoveLv),
    });
  }

  static async start(stand: Stand, fatal: number): Promise<KillingDaemon> {
    const socket = join(stand.folder, 'nbd.sock');
    const control = join(stand.folder, 'control.sock');
    const settings = loadSettings(
      { devices: stand.images, listen: [`unix:${socket}`], control, workers: 0, logLevel: 'silent' },
      { env: {}, cwd: stand.folder, uid: process.geteuid?.() ?? 0, systemConfigFile: join(stand.folder, 'none.toml') },
    );
    const daemon = await Daemon.start(settings, SILENT);
    return new KillingDaemon(stand, daemon, socket, fatal);
  }

  /** The daemon's volumes, which kill the command that asks too often. */
  #killing(live: LiveVolumes): LiveVolumes {
    const call = async <Result>(method: string, work: Promise<Result>): Promise<Result> => {
      if (--this.#left === 0) this.#kill(method);
      return work;
    };
    const moveStatus: LiveVolumes['moveStatus'] = async (lv) => {
      const status = await live.moveStatus(lv);
      if (this.killInSync && status?.inSync === true) this.#kill('moveStatus');
      return status;
    };
    return {
      present: true,
      holds: (identity) => call('holds', live.holds(identity)),
      prepare: (change) => call('prepare', live.prepare(change)),
      committed: (change) => call('committed', live.committed(change)),
      abandoned: (change) => call('abandoned', live.abandoned(change)),
      activate: (activation) => call('activate', live.activate(activation)),
      status: (vgId) => call('status', live.status(vgId)),
      moveStatus: (lv) => call('moveStatus', moveStatus(lv)),
      rescan: () => call('rescan', live.rescan()),
      flushLost: (identity, errno) => call('flushLost', live.flushLost(identity, errno)),
    };
  }

  #kill(method: string): void {
    this.killedIn = method;
    // There is one: a process is kept ready only when a command has ended.
    for (const pid of hostedProcesses()) process.kill(pid, 'SIGKILL');
  }

  /** Of commands that go to its control socket. */
  get env(): NodeJS.ProcessEnv {
    return { ...this.#stand.env, ORION_LVM_CONTROL: join(this.#stand.folder, 'control.sock') };
  }

  /** Bytes read from and written to a device so far. */
  async bytesOn(image: string): Promise<{ readonly read: number; readonly write: number }> {
    const devices = (await this.#daemon.stats()).flatMap((worker) => worker?.devices ?? []);
    const io = devices.find(({ path }) => path === image)?.io;
    return { read: io?.ops.read.bytes ?? 0, write: io?.ops.write.bytes ?? 0 };
  }

  /** The mirrors of a move, as they are. */
  async mirrors(layer: string): Promise<readonly MirrorState[]> {
    const stats = await this.#daemon.stats();
    return stats.flatMap((worker) => (worker?.volumes ?? []).flatMap((volume) => mirrorStates(volume, layer)));
  }

  /** Commands live from now on. */
  spare(): void {
    this.#left = Number.POSITIVE_INFINITY;
  }

  async run([name = '', ...argv]: readonly string[]): Promise<CommandOutcome> {
    const env = { ORION_LVM_DEVICES: this.#stand.images.join(','), LVM_SYSTEM_DIR: this.#stand.folder };
    const terminal = { isTTY: false, columns: 80 };
    const request = { name, argv, cwd: this.#stand.folder, env, terminal, devices: null, configFile: null };
    const before = this.#outcomes.length;
    this.#runner.start({ ...request, configDevices: [] }, () => undefined);
    await waitFor(`the end of ${name}`, () => this.#outcomes.length > before);
    return this.#outcomes.at(-1)!;
  }

  /** "a 4, n 1": LVs and extents, as metadata and as exports. */
  async state(): Promise<{ readonly metadata: string; readonly served: string }> {
    const text = await this.#stand.must(
      'lvs',
      '--noheadings',
      '--nosuffix',
      '--units',
      'b',
      '-olv_name,lv_size',
      'vg0',
    );
    const rows = text.split('\n').flatMap((line) => {
      const [name, size] = line.trim().split(/\s+/);
      return name === undefined || size === undefined ? [] : [[name, Number(size)] as const];
    });
    const active = this.#daemon.status().exports.filter(({ state }) => state === 'active');
    const served = active.map(({ name, sizeBytes = 0 }) => [name.slice('vg0/'.length), sizeBytes] as const);
    return { metadata: volumesText(rows), served: volumesText(served) };
  }

  /** A client may come, and nothing waits for a resume that never comes. */
  async canBeUsed(name: string): Promise<void> {
    const client = await attached(this.#socket, `vg0/${name}`);
    assert.equal(await errorOf(client, 0), 0);
    client.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#runner.close();
    await this.#daemon.close();
  }
}
