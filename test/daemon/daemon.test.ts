/** The real daemon as a process, on temporary images: serving, signals, reload, exclusivity, failures of the start. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, copyFile, mkdir, mkdtemp, open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { type IncomingMessage, request as httpRequest } from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test, type TestContext } from 'node:test';
import type { DaemonStatus } from '../../src/daemon/status.ts';
import { type RunningDaemon, startDaemon as start, waitFor } from '../helpers/daemon.ts';
import { mustRun, type Outcome, runProgram } from '../helpers/run.ts';
import { CHECKOUT, unpackGolden } from '../helpers/shared.ts';
import { clientFlags, CMD, ERR, option, query, request, WireClient } from '../nbd/wire.ts';
import { EXTENT, TestGroup, type TestVolume } from './images.ts';

const DAEMON = join(CHECKOUT, 'bin/orion-lvmd');
const DATA: TestVolume = { name: 'data', extent: 0, extents: 8 };
const MORE: TestVolume = { name: 'more', extent: 8, extents: 4, readOnly: true };

let folder = '';
let count = 0;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'orion-lvm-daemon-'));
});
after(async () => {
  await rm(folder, { recursive: true, force: true });
});

/** A new directory with one image of a VG called `name` in it. */
async function newGroup(name: string, volumes: readonly TestVolume[] = [DATA, MORE]): Promise<TestGroup> {
  const directory = join(folder, `group${count++}`);
  await mkdir(directory);
  return new TestGroup(join(directory, `${name}.img`), name).write(volumes);
}

function controlOf(daemon: RunningDaemon): string {
  return join(dirname(daemon.socket), 'control.sock');
}

/** Status code and body of a request to the control socket. */
async function ask(daemon: RunningDaemon, path = '/v1/status', method = 'GET'): Promise<[number, string]> {
  const asked = httpRequest({ socketPath: controlOf(daemon), path, method });
  asked.end();
  const [response] = (await once(asked, 'response')) as [IncomingMessage];
  let body = '';
  for await (const chunk of response) body += String(chunk);
  return [response.statusCode ?? 0, body];
}

async function statusOf(daemon: RunningDaemon): Promise<DaemonStatus> {
  const [code, body] = await ask(daemon);
  assert.equal(code, 200);
  return JSON.parse(body) as DaemonStatus;
}

async function exportsOf(daemon: RunningDaemon): Promise<Record<string, string>> {
  const { exports } = await statusOf(daemon);
  return Object.fromEntries(exports.map(({ name, state, reason }) => [name, reason ?? state]));
}

/** What the daemons of the running suite are started with. */
let workers = '2';

function startDaemon(devices: readonly string[], args: readonly string[] = []): Promise<RunningDaemon> {
  return start(devices, ['--workers', workers, ...args]);
}

/** A daemon that is stopped when the test is over, however it ends. */
async function daemonFor(
  t: TestContext,
  devices: readonly string[],
  args: readonly string[] = [],
): Promise<RunningDaemon> {
  const daemon = await startDaemon(devices, args);
  t.after(() => daemon.stop());
  return daemon;
}

/** What the server says to a client that asks for an export that it doesn't serve. */
async function refusalOf(daemon: RunningDaemon, name: string): Promise<string> {
  const client = await WireClient.open(daemon.socket);
  await client.take(18);
  client.send(clientFlags(), option(7, query(name)));
  const { type, payload } = await client.optionReply();
  client.close();
  assert.equal(type, ERR.unknown);
  return payload.toString();
}

/** Runs the daemon expecting it to end by itself. */
function runDaemon(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  const sockets = ['--listen', `unix:${folder}/x.sock`, '--control', `${folder}/xc.sock`];
  const given = args.includes('--listen') || args.includes('--help');
  return runProgram(DAEMON, given ? args : [...args, ...sockets], { cwd: folder, env });
}

for (const count of ['0', '2']) {
  describe(`with --workers ${count}`, () => {
    before(() => {
      workers = count;
    });
    suites();
  });
}

function suites(): void {
  describe('serving', () => {
    let group: TestGroup;
    let daemon: RunningDaemon;
    before(async () => {
      group = await newGroup('vg');
      daemon = await startDaemon([group.path]);
    });
    after(async () => {
      assert.equal(await daemon.stop(), 0, daemon.log());
    });

    test('LIST names the volumes', async () => {
      const list = JSON.parse(await mustRun('nbdinfo', ['--list', '--json', daemon.uri('')])) as {
        exports: readonly Record<string, unknown>[];
      };
      const shown = list.exports.map((item) => [item['export-name'], item['export-size'], item['is_read_only']]);
      assert.deepEqual(shown, [
        ['vg/data', 8 * EXTENT, false],
        ['vg/more', 4 * EXTENT, true],
      ]);
      const uuid = '\\w{6}(?:-\\w{4}){5}-\\w{6}';
      const described = new RegExp(`^8 MiB linear logical volume of volume group vg, id ${uuid}/${uuid}$`);
      assert.match(String(list.exports[0]?.['description']), described);
    });

    test('what is written is where the metadata says', async () => {
      const input = join(folder, 'input');
      const bytes = Buffer.alloc(DATA.extents * EXTENT);
      for (let at = 0; at < bytes.length; at += 512) bytes.writeUInt32BE(at + 1, at);
      await writeFile(input, bytes);
      await mustRun('nbdcopy', ['--flush', input, daemon.uri('vg/data')]);
      assert.ok((await group.read(DATA, 0, bytes.length)).equals(bytes));
      const output = join(folder, 'output');
      await mustRun('nbdcopy', [daemon.uri('vg/data'), output]);
      assert.ok((await readFile(output)).equals(bytes));
    });

    test('a name that is not served says why', async () => {
      assert.equal(await refusalOf(daemon, 'vg/none'), 'there is no logical volume vg/none');
      assert.match(await refusalOf(daemon, ''), /there is no default export/);
    });

    test('the control socket answers, to its owner only', async () => {
      assert.equal((await stat(controlOf(daemon))).mode & 0o777, 0o600);
      assert.equal((await stat(daemon.socket)).mode & 0o777, 0o600);
      const status = await statusOf(daemon);
      assert.equal(status.state, 'serving');
      assert.equal(status.pid, daemon.child.pid);
      assert.deepEqual(status.listening, [`unix:${daemon.socket}`]);
      const held = [{ path: group.path, sizeBytes: 32 * EXTENT, readOnly: false, state: 'open' }];
      assert.deepEqual(status.devices, held);
      assert.deepEqual(
        status.volumeGroups.map(({ name, seqno, partial }) => ({ name, seqno, partial })),
        [{ name: 'vg', seqno: 1, partial: false }],
      );
      const exports = status.exports.map(({ id, worker, ...rest }) => {
        assert.match(id, /^\S{38} \S{38}$/);
        assert.equal(status.workers[worker ?? -1]?.index, worker);
        return rest;
      });
      assert.deepEqual(exports, [
        { name: 'vg/data', state: 'active', sizeBytes: 8 * EXTENT, readOnly: false, clients: 0 },
        {
          name: 'vg/more',
          state: 'active',
          sizeBytes: 4 * EXTENT,
          readOnly: true,
          note: 'read-only: the LV has no write permission',
          clients: 0,
        },
      ]);
      assert.equal((await ask(daemon, '/'))[0], 404);
      assert.match((await ask(daemon, '/v1/status', 'POST'))[1], /"code": "BAD_METHOD"/);
      assert.deepEqual(await ask(daemon, '/v1/status?x=1', 'HEAD'), [200, '']);
      const curl = await mustRun('curl', ['-sf', '--unix-socket', controlOf(daemon), 'http://localhost/v1/status']);
      assert.equal((JSON.parse(curl) as DaemonStatus).state, 'serving');
    });

    test('clients are counted', async () => {
      const client = await WireClient.open(daemon.socket);
      await client.attach('vg/data');
      assert.deepEqual(
        (await statusOf(daemon)).exports.map(({ clients }) => clients),
        [1, 0],
      );
      client.close();
      await waitFor('the client to be gone', async () => (await statusOf(daemon)).connections === 0);
      assert.equal((await statusOf(daemon)).exports[0]?.clients, 0);
    });

    test('a second daemon on the same device is refused, and the first goes on', async () => {
      const { status, stderr } = await runDaemon(['--devices', group.path]);
      assert.equal(status, 5);
      assert.match(stderr, /^orion-lvmd: .*vg\.img: is in use by another process.*only one daemon may hold a device/m);
      const link = join(folder, 'other-name.img');
      await mustRun('ln', ['-sf', group.path, link]);
      assert.equal((await runDaemon(['--devices', link])).status, 5, 'by another name');
      assert.equal((await runDaemon(['--devices', group.path, '--read-only'])).status, 5, 'for reading');
      assert.equal((await statusOf(daemon)).state, 'serving');
    });
  });

  describe('the end', () => {
    test('SIGTERM drains: everything acknowledged is on disk', async (t) => {
      const group = await newGroup('vg');
      const daemon = await daemonFor(t, [group.path]);
      const client = await WireClient.open(daemon.socket);
      await client.attach('vg/data');
      const size = 32 * 1024;
      const total = (DATA.extents * EXTENT) / size;
      const block = (index: number): Buffer => Buffer.alloc(size, index + 1);
      for (let i = 0; i < total; i++) {
        client.send(request({ type: CMD.write, cookie: BigInt(i), offset: i * size, payload: block(i) }));
      }
      const acknowledged = [await client.reply()];
      const exited = once(daemon.child, 'exit');
      daemon.child.kill('SIGTERM');
      const rest = await client.rest();
      for (let at = 0; at + 16 <= rest.length; at += 16) {
        acknowledged.push({
          error: rest.readUInt32BE(at + 4),
          cookie: rest.readBigUInt64BE(at + 8),
          data: Buffer.alloc(0),
        });
      }
      client.close();
      assert.deepEqual(await exited, [0, null], daemon.log());
      assert.match(daemon.log(), /stopped: everything acknowledged is durable/);
      assert.ok(acknowledged.length > 1, 'what was in flight was answered');
      for (const { cookie, error } of acknowledged) {
        assert.equal(error, 0);
        const index = Number(cookie);
        assert.ok((await group.read(DATA, index * size, size)).equals(block(index)), `block ${index}`);
      }
      await assert.rejects(stat(daemon.socket), { code: 'ENOENT' });
    });

    test('a second signal ends it at once', async (t) => {
      const group = await newGroup('vg');
      const config = join(folder, 'patient.toml');
      await writeFile(config, '[limits]\ndrain_timeout = 3600\n');
      const daemon = await daemonFor(t, [group.path], ['--config', config]);
      const client = await WireClient.open(daemon.socket);
      await client.attach('vg/data');
      // Replies that nobody takes keep the drain waiting.
      client.socket.pause();
      for (let i = 0; i < 64; i++) client.send(request({ type: CMD.read, offset: 0, length: 4 * EXTENT }));
      await waitFor('reads to be stuck', () => client.socket.readableLength > 0);
      daemon.child.kill('SIGTERM');
      await waitFor('the drain to begin', () => daemon.log().includes('stopping'));
      assert.equal((await statusOf(daemon)).state, 'draining', 'the control socket answers to the end');
      const exited = once(daemon.child, 'exit');
      daemon.child.kill('SIGINT');
      assert.deepEqual(await exited, [5, null]);
      assert.match(daemon.log(), /second signal/);
      client.close();
    });
  });

  describe('SIGHUP', () => {
    test('new groups and volumes appear, unchanged ones go on, removed ones let their clients go', async (t) => {
      const group = await newGroup('vg');
      const directory = dirname(group.path);
      const daemon = await daemonFor(t, [directory]);
      const client = await WireClient.open(daemon.socket);
      await client.attach('vg/data');
      const payload = Buffer.alloc(4096, 7);
      client.send(request({ type: CMD.write, offset: 0, payload }));
      await client.reply();

      const other = await new TestGroup(join(directory, 'other.img'), 'other').write([DATA]);
      daemon.child.kill('SIGHUP');
      await waitFor('the new group', async () => (await exportsOf(daemon))['other/data'] === 'active');
      const otherClient = await WireClient.open(daemon.socket);
      await otherClient.attach('other/data');

      await group.write([{ ...DATA, extents: 7 }, { name: 'fresh', extent: 7, extents: 1 }, MORE]);
      await rm(other.path);
      daemon.child.kill('SIGHUP');
      await waitFor('the new volume', async () => (await exportsOf(daemon))['vg/fresh'] === 'active');
      await waitFor('the removed group', async () => !('other/data' in (await exportsOf(daemon))));
      assert.equal((await otherClient.rest()).length, 0, 'its client was let go');
      otherClient.close();

      client.send(request({ type: CMD.read, offset: 0, length: 4096 }));
      assert.ok((await client.reply(4096)).data.equals(payload), 'the first client never noticed');
      const { exports } = await statusOf(daemon);
      assert.equal(exports.find(({ name }) => name === 'vg/data')?.sizeBytes, 7 * EXTENT);
      client.close();
      assert.equal(await daemon.stop(), 0, daemon.log());
    });

    test('trouble that is found later takes no client away; what the metadata removed does, with the reason', async (t) => {
      const group = await newGroup('vg');
      const copy = join(dirname(group.path), 'a-copy.img');
      const daemon = await daemonFor(t, [dirname(group.path)]);
      const client = await WireClient.open(daemon.socket);
      await client.attach('vg/data');
      const works = async (): Promise<void> => {
        const payload = Buffer.alloc(512, 9);
        client.send(request({ type: CMD.write, offset: 0, payload }));
        assert.equal((await client.reply()).error, 0);
      };
      const problemOf = async (): Promise<string> => (await statusOf(daemon)).exports[0]?.problem ?? '';
      await copyFile(group.path, copy);
      daemon.child.kill('SIGHUP');
      await waitFor('the copy to be found', async () =>
        /is on .*vg.img, which is in use.*a-copy/.test(await problemOf()),
      );
      await works();
      const told = /"problem":"PV .*vg.img, which is in use, and also on .*a-copy.img","msg":"served on"/;
      await waitFor('the log to say so', () => told.test(daemon.log()));
      await rm(copy);

      const file = await open(group.path, 'r+');
      await file.write(Buffer.alloc(512), 0, 512, 4096);
      await file.close();
      daemon.child.kill('SIGHUP');
      await waitFor('the damage to be found', async () => /the metadata of vg can't be read/.test(await problemOf()));
      await works();
      const late = await WireClient.open(daemon.socket);
      await late.attach('vg/more');

      await group.write([DATA]);
      daemon.child.kill('SIGHUP');
      await waitFor('the new metadata', async () => !('vg/more' in (await exportsOf(daemon))));
      assert.equal((await late.rest()).length, 0, 'its client was let go');
      const removed = /"lv":"vg\/more".*"reason":"no metadata that was found has such .*"no longer served"/;
      await waitFor('the log to say why', () => removed.test(daemon.log()));
      await waitFor('the problem to be over', async () => (await problemOf()) === '');
      await works();
      late.close();
      client.close();
      assert.equal(await daemon.stop(), 0, daemon.log());
    });

    test('tables reloaded under load lose nothing', async (t) => {
      const group = await newGroup('vg', [DATA]);
      const daemon = await daemonFor(t, [group.path]);
      const job = [
        '--name=verify',
        '--ioengine=nbd',
        `--uri=${daemon.uri('vg/data')}`,
        '--size=8M',
        '--bs=4k',
        '--loops=8',
      ];
      const verify = ['--rw=randwrite', '--iodepth=32', '--verify=crc32c', '--verify_fatal=1', '--verify_state_save=0'];
      const fio = runProgram('fio', [...job, ...verify], { cwd: folder });
      const reloads = (): number => daemon.log().split('table reloaded').length - 1;
      for (let round = 0; round < 20; round++) {
        const before = reloads();
        // The size, and so the table, changes each time; the part that is written stays.
        await group.write([{ ...DATA, extents: 9 + (round % 5) }]);
        daemon.child.kill('SIGHUP');
        await waitFor('the reload', () => reloads() > before);
      }
      const { status, stdout, stderr } = await fio;
      assert.equal(status, 0, `${stdout}${stderr}`);
      assert.equal(await daemon.stop(), 0, daemon.log());
    });

    test('a bad configuration is refused and the old one stays', async (t) => {
      const group = await newGroup('vg');
      const config = join(folder, 'reload.toml');
      await writeFile(config, '');
      const daemon = await daemonFor(t, [group.path], ['--config', config]);
      await writeFile(config, '[limits]\nconnections = "many"\n[activation]\nauto_activation_volume_list = []\n');
      daemon.child.kill('SIGHUP');
      await waitFor('the refusal', () => daemon.log().includes('reload refused'));
      assert.match(daemon.log(), /limits.connections: \\"many\\" is not allowed/);
      assert.deepEqual(await exportsOf(daemon), { 'vg/data': 'active', 'vg/more': 'active' });

      await writeFile(config, 'read_only = true\n[activation]\nauto_activation_volume_list = ["vg/more"]\n');
      daemon.child.kill('SIGHUP');
      const excluded = 'not in activation.auto_activation_volume_list';
      await waitFor('the list', async () => (await exportsOf(daemon))['vg/data'] === excluded);
      assert.equal((await exportsOf(daemon))['vg/more'], 'active');
      assert.match(daemon.log(), /"key":"read_only".*takes effect at the next start/);
      assert.match(await refusalOf(daemon, 'vg/data'), /vg\/data is not served: not in/);

      await writeFile(config, '');
      daemon.child.kill('SIGHUP');
      await waitFor('it to be back', async () => (await exportsOf(daemon))['vg/data'] === 'active');
      assert.equal(await daemon.stop(), 0, daemon.log());
    });

    test('the activation list knows tags', async (t) => {
      const group = await newGroup('vg', [{ ...DATA, tags: ['serve'] }, MORE]);
      const config = join(folder, 'tags.toml');
      await writeFile(config, '[activation]\nauto_activation_volume_list = ["@serve", "vg2", "vg2/more"]\n');
      const daemon = await daemonFor(t, [group.path], ['--config', config]);
      const { 'vg/data': data, 'vg/more': more } = await exportsOf(daemon);
      assert.equal(data, 'active');
      assert.match(more ?? '', /auto_activation_volume_list/);
      assert.equal(await daemon.stop(), 0, daemon.log());
    });
  });

  describe('what is damaged or missing', () => {
    test('a missing device takes only its own volumes', async (t) => {
      const golden = await unpackGolden('basic', folder);
      const [first = '', second = ''] = golden.images;
      await rm(second);
      const daemon = await daemonFor(t, [first, second]);
      const exports = await exportsOf(daemon);
      assert.equal(Object.keys(exports).length, golden.volumes.length);
      const reasons = Object.values(exports);
      assert.ok(reasons.includes('active'), JSON.stringify(exports));
      assert.ok(
        reasons.some((reason) => /physical volume .* is missing/.test(reason)),
        JSON.stringify(exports),
      );
      assert.equal((await statusOf(daemon)).volumeGroups[0]?.partial, true);
      assert.match(daemon.log(), /pv2.img: No such file/);
      assert.equal(await daemon.stop(), 0, daemon.log());
    });

    test('two volume groups of one name are not served, whichever comes first', async (t) => {
      const one = await newGroup('twin', [DATA]);
      const two = await newGroup('twin', [DATA]);
      const daemon = await daemonFor(t, [one.path, two.path]);
      assert.match((await exportsOf(daemon))['twin/data'] ?? '', /two volume groups have this name/);
      assert.equal(await daemon.stop(), 0, daemon.log());
    });

    test('a read-only daemon writes nothing', async (t) => {
      const group = await newGroup('vg');
      const before_ = await readFile(group.path);
      const daemon = await daemonFor(t, [group.path], ['--read-only']);
      const info = JSON.parse(await mustRun('nbdinfo', ['--json', daemon.uri('vg/data')])) as {
        exports: readonly Record<string, unknown>[];
      };
      assert.equal(info.exports[0]?.['is_read_only'], true);
      const client = await WireClient.open(daemon.socket);
      await client.attach('vg/data');
      client.send(request({ type: CMD.write, offset: 0, payload: Buffer.alloc(512, 1) }));
      assert.equal((await client.reply()).error, 1);
      client.close();
      assert.equal(await daemon.stop(), 0, daemon.log());
      assert.ok((await readFile(group.path)).equals(before_));
    });

    test('devices without a volume group are served as nothing, and said so', async (t) => {
      const path = join(folder, 'empty.img');
      await writeFile(path, Buffer.alloc(EXTENT));
      const daemon = await daemonFor(t, [path]);
      assert.deepEqual(await exportsOf(daemon), {});
      assert.match(daemon.log(), /no logical volumes were found/);
      assert.equal(await daemon.stop(), 0, daemon.log());
    });

    test('named devices that are no physical volumes are told with what they hold', async (t) => {
      const group = await newGroup('vg');
      const names = ['disk.img', 'disk.qcow2', 'text', 'blank.img'];
      const [disk, image, text, blank] = names.map((name) => join(folder, name));
      const table = Buffer.alloc(EXTENT);
      table.write('55aa', 510, 'hex');
      await writeFile(disk!, table);
      await writeFile(image!, Buffer.concat([Buffer.from('QFI\xfb', 'latin1'), Buffer.alloc(EXTENT)]));
      await writeFile(text!, 'A list of what is on the disks.\n'.repeat(100));
      await writeFile(blank!, Buffer.alloc(EXTENT));
      const daemon = await daemonFor(t, [group.path, disk!, image!, text!, blank!]);
      const told = daemon
        .log()
        .split('\n')
        .filter((line) => line.includes('no physical volume'));
      assert.equal(told.length, 3, daemon.log());
      assert.match(told[0]!, /disk\.img.*it has a partition table \(dos\); docs\/operating.md/);
      assert.match(told[1]!, /disk\.qcow2.*the file is qcow2, not the bytes of a disk; docs\/operating.md/);
      assert.match(told[2]!, /text.*it has no LVM2 label, and nothing else that is known/);
      assert.equal(await daemon.stop(), 0, daemon.log());
    });
  });
}

describe('a start that fails', () => {
  let image = '';
  before(async () => {
    image = (await newGroup('vg')).path;
    await writeFile(join(folder, 'plain-file'), '');
    await writeFile(join(folder, 'bad.toml'), 'devicess = []\n[log]\nlevel = "loud"\n');
  });

  const cases: readonly (readonly [string, readonly string[], number, RegExp])[] = [
    ['unknown flag', ['--devices', 'x', '--lisen', 'y'], 3, /unknown option '--lisen'/],
    ['workers', ['--devices', 'IMAGE', '--workers', '1000'], 3, /--workers: 1000 is not allowed: .* from 0 to 256/],
    ['config', ['--config', 'bad.toml'], 3, /bad.toml: .*\norion-lvmd: .*bad.toml: /],
    ['no device', ['--devices', 'none.img'], 5, /no devices to serve: .*none.img: No such file/],
    ['wrong kind', ['--devices', '/dev/null'], 5, /no devices to serve: \/dev\/null: /],
    [
      'no directory',
      ['--devices', 'IMAGE', '--listen', 'unix:no/dir/s.sock'],
      5,
      /cannot listen on unix:.*no\/dir\/s.sock: there is no directory .*no\/dir$/m,
    ],
    ['a file there', ['--devices', 'IMAGE', '--listen', 'unix:plain-file'], 5, /cannot listen on .*not a socket/],
    [
      'no control',
      ['--devices', 'IMAGE', '--control', 'no/c.sock', '--listen', 'unix:l'],
      5,
      /cannot listen on .*no\/c.sock: there is no directory .*no$/m,
    ],
    ['bad host', ['--devices', 'IMAGE', '--listen', 'tcp:203.0.113.1:10809'], 5, /cannot listen on tcp:203.0.113.1/],
  ];
  for (const [name, args, code, message] of cases) {
    test(name, async () => {
      const control = args.includes('--listen') && !args.includes('--control') ? ['--control', 'c.sock'] : [];
      const given = args.map((arg) => (arg === 'IMAGE' ? image : arg));
      const { status, stderr, stdout } = await runDaemon([...given, ...control]);
      assert.equal(status, code, stderr);
      assert.match(stderr, message);
      assert.doesNotMatch(stderr, /\n {4}at /, 'no stack for a mistake');
      assert.equal(stdout, '');
    });
  }

  test('a port that is taken', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    assert.ok(address !== null && typeof address === 'object');
    const listen = ['--listen', `tcp:127.0.0.1:${address.port}`, '--control', `${folder}/t.sock`];
    const { status, stderr } = await runDaemon(['--devices', image, ...listen]);
    server.close();
    assert.equal(status, 5);
    assert.match(stderr, /cannot listen on tcp:127.0.0.1:\d+: the address is already in use/);
  });

  test('a device without permission', async () => {
    const unreadable = join(folder, 'secret.img');
    await copyFile(image, unreadable);
    await chmod(unreadable, 0);
    await chmod(folder, 0o777);
    // Root may read everything, so another user tries.
    const user = process.geteuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
    const args = ['--devices', unreadable, '--listen', `unix:${folder}/n.sock`, '--control', `${folder}/nc.sock`];
    const child = spawn(DAEMON, args, { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'], ...user });
    let stderr = '';
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    const [status] = (await once(child, 'close')) as [number];
    assert.match(stderr, /no devices to serve: .*secret.img: .*permission denied/);
    assert.equal(status, 5);
  });

  test('--check-config says ok or what is wrong', async () => {
    const good = join(folder, 'good.toml');
    await writeFile(good, 'devices = ["x.img"]\n');
    assert.deepEqual(await runDaemon(['--check-config', '--config', good]), {
      status: 0,
      stdout: `${good}: ok\n`,
      stderr: '',
    });
    const idle = join(folder, 'idle.toml');
    await writeFile(idle, 'cache_policy = "writeback"\n');
    assert.deepEqual(await runDaemon(['--check-config', '--config', idle]), {
      status: 0,
      stdout: `${idle}: ok\n`,
      stderr: 'orion-lvmd: cache_policy has no effect: cache_size is 0\n',
    });
    const nobody = join(folder, 'nobody.toml');
    await writeFile(nobody, '[access]\nobservers = ["user:no-such-user"]\n');
    assert.equal(
      (await runDaemon(['--check-config', '--config', nobody])).stderr,
      `orion-lvmd: ${nobody}: access.observers: "user:no-such-user" is not allowed: this host has no user no-such-user\n`,
    );
    const bad = await runDaemon(['--check-config', '--config', 'bad.toml']);
    assert.equal(bad.status, 3);
    assert.match(bad.stderr, /devicess: no such key; did you mean devices\?/);
    assert.match(bad.stderr, /log.level: "loud" is not allowed/);
    const example = ['--check-config', '--config', join(CHECKOUT, 'lvm.toml.example'), '--devices', 'x'];
    assert.equal((await runDaemon(example)).status, 0);
  });

  test('a stale socket is replaced', async (t) => {
    const group = await newGroup('vg');
    const daemon = await daemonFor(t, [group.path]);
    const sockets = ['--listen', `unix:${daemon.socket}`, '--control', controlOf(daemon)];
    daemon.child.kill('SIGKILL');
    await once(daemon.child, 'exit');
    const next = spawn(DAEMON, ['--devices', group.path, ...sockets], { stdio: 'ignore' });
    const ended = once(next, 'exit');
    await waitFor('the next daemon', async () => (await runProgram('nbdinfo', [daemon.uri('vg/data')])).status === 0);
    next.kill('SIGTERM');
    assert.deepEqual(await ended, [0, null]);
    await daemon.stop();
  });
});
