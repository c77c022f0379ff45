/**
 * A process that was to follow a daemon (SIGUSR2) and fails, at every step: until it is told to take everything the daemon goes on, and
 * nobody notices; from then on both end, whatever the other one does.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { type IncomingMessage, request as askFor } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { ControlClient } from '../../src/daemon/client/control-client.ts';
import type { Numbers } from '../../src/observe/stats.ts';
import { accepts, startDaemon, waitFor } from '../helpers/daemon.ts';
import { handOver, pidOf, stopLast } from '../helpers/hand-over.ts';
import { mustRun } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';
import { CMD, request, WireClient } from '../nbd/wire.ts';
import { TestGroup } from './images.ts';
import { statusOf } from './status-of.ts';

const HERE = import.meta.dirname;
/** What does not hang answers, or ends, on a machine of any speed: only a process that hangs is not waited for. */
const PATIENCE = { ready: 60_000, commands: 500, look: 60_000, serving: 1000, end: 500 };

class Stand {
  readonly folder: string;
  readonly socket: string;
  readonly child: ChildProcess;
  log = '';

  private constructor(folder: string, image: string, workers: string, patience: typeof PATIENCE) {
    this.folder = folder;
    this.socket = join(folder, 'nbd.sock');
    const own = [join(HERE, 'fake-successor.ts'), join(folder, 'step'), JSON.stringify(patience)];
    const flags = `--devices ${image} --listen unix:${this.socket} --control ${join(folder, 'control.sock')} --workers ${workers}`;
    this.child = spawn(process.execPath, [join(HERE, 'handing-daemon.ts'), ...own, ...flags.split(' ')], {
      env: { ...process.env, ORION_LVM_CONFIG: join(folder, 'lvm.toml') },
    });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.on('data', (chunk: Buffer) => (this.log += chunk.toString()));
    }
  }

  static async open(t: TestContext, workers: string, patience = PATIENCE): Promise<Stand> {
    const folder = await mkdtemp(join(tmpdir(), 'orion-lvm-handover-'));
    const { path } = await new TestGroup(join(folder, 'vg.img'), 'vg').write([{ name: 'one', extent: 0, extents: 2 }]);
    await writeFile(join(folder, 'lvm.toml'), '');
    const stand = new Stand(folder, path, workers, patience);
    const ended = once(stand.child, 'exit');
    t.after(async () => {
      stand.child.kill();
      await ended;
      await rm(folder, { recursive: true, force: true });
    });
    await waitFor('the daemon to listen', () => accepts(stand.socket));
    return stand;
  }

  async attached(): Promise<WireClient> {
    const client = await WireClient.open(this.socket);
    await client.attach('vg/one');
    return client;
  }

  /** Begins a hand-over to a process that fails so; gives where the log was. */
  async begin(step: string): Promise<number> {
    await writeFile(join(this.folder, 'step'), step);
    const at = this.log.length;
    this.child.kill('SIGUSR2');
    return at;
  }

  /** The process that was started last. */
  successor(): number {
    return Number([...this.log.matchAll(/fake successor (\d+)/g)].at(-1)?.[1]);
  }
}

/** A process that has ended and that nobody has waited for is not. */
function isThere(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) Z/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

async function write(client: WireClient, byte: number): Promise<void> {
  const payload = Buffer.alloc(8192, byte);
  client.send(request({ type: CMD.write, offset: 512, payload }));
  assert.equal((await client.reply()).error, 0);
  client.send(request({ type: CMD.read, offset: 512, length: payload.length }));
  assert.ok((await client.reply(payload.length)).data.equals(payload));
}

/** A hand-over to a process that fails at this step: why it is refused, and that everything goes on. */
async function refusedAt(
  stand: Stand,
  client: WireClient,
  { step, reason, byte }: { readonly step: string; readonly reason: RegExp; readonly byte: number },
): Promise<void> {
  const at = await stand.begin(step);
  await waitFor(`the refusal at ${step}`, () => /everything stays here/.test(stand.log.slice(at)));
  assert.match(stand.log.slice(at), reason, step);
  await waitFor(`the end of the process that fails at ${step}`, () => !isThere(stand.successor()));
  await write(client, byte);
  (await stand.attached()).close();
  assert.equal((await statusOf(stand)).state, 'serving');
}

const REFUSED: readonly (readonly [step: string, reason: RegExp])[] = [
  ['start: exit', /it has ended/],
  ['estate: exit', /it has ended/],
  ['estate: lie', /it said serving instead of ready/],
  ['look: exit', /it has ended/],
  ['look: lie', /it said serving instead of looked/],
  ['look: lose', /vg\/one would not be served any more: it is not liked/],
];
const HANGING = [
  ['estate: hang', { ready: 5000 }, /it is not ready after 5000 ms/],
  ['look: hang', { look: 1000 }, /it is not looked after 1000 ms/],
] as const;

for (const workers of ['0', '1']) {
  describe(`with --workers ${workers}`, { timeout: 120_000 }, () => {
    test('a process that fails before everything is its changes nothing', async (t) => {
      const stand = await Stand.open(t, workers);
      const client = await stand.attached();
      let byte = 0;
      for (const [step, reason] of REFUSED) await refusedAt(stand, client, { step, reason, byte: ++byte });
      const env = { ORION_LVM_CONTROL: join(stand.folder, 'control.sock'), LVM_SYSTEM_DIR: stand.folder };
      await mustRun(join(CHECKOUT, 'bin/lvchange'), ['--addtag', 'x', 'vg/one'], { env });
      client.close();
      stand.child.kill();
      await once(stand.child, 'exit');
      assert.equal(stand.child.exitCode, 0, stand.log);
    });

    for (const [step, patience, reason] of HANGING) {
      test(`a process that hangs (${step}) is not waited for, and changes nothing`, async (t) => {
        const stand = await Stand.open(t, workers, { ...PATIENCE, ...patience });
        const client = await stand.attached();
        await refusedAt(stand, client, { step, reason, byte: 1 });
        client.close();
      });
    }

    for (const act of ['exit', 'hang']) {
      test(`a process that has everything and fails (${act}) ends with the daemon`, async (t) => {
        const stand = await Stand.open(t, workers);
        const client = await stand.attached();
        await write(client, 1);
        const ended = once(stand.child, 'exit');
        await stand.begin(`take: ${act}`);
        assert.deepEqual(await ended, [5, null], stand.log);
        assert.match(stand.log, /both end/);
        await waitFor('its end', () => !isThere(stand.successor()));
        await client.rest();
        // Nobody is left who has the devices, the lock, or the sockets.
        const next = await startDaemon(
          [join(stand.folder, 'vg.img')],
          ['--control', join(stand.folder, 'control.sock')],
        );
        const other = await WireClient.open(next.socket);
        await other.attach('vg/one');
        other.send(request({ type: CMD.read, offset: 512, length: 8192 }));
        assert.ok((await other.reply(8192)).data.equals(Buffer.alloc(8192, 1)));
        other.close();
        assert.equal(await next.stop(), 0);
      });
    }
  });
}

test('who comes while it is tried is spread over the workers when it has failed', { timeout: 60_000 }, async (t) => {
  const stand = await Stand.open(t, '2', { ...PATIENCE, look: 1000 });
  const clients = [await stand.attached()];
  const at = await stand.begin('look: hang');
  await waitFor('it to look', () => stand.log.includes('it is at look'));
  while (clients.length < 4) clients.push(await stand.attached());
  await waitFor('the refusal', () => /everything stays here/.test(stand.log.slice(at)));
  const control = new ControlClient(join(stand.folder, 'control.sock'));
  await waitFor('them to be spread', async () => {
    const numbers = (await control.request('GET', '/v1/numbers')) as Numbers;
    return [0, 1].every((index) => numbers.clients.filter(({ worker }) => worker === index).length === 2);
  });
  for (const [index, client] of clients.entries()) {
    await write(client, index + 1);
    client.close();
  }
});

test('told twice to end, the daemon takes along the process that has everything', { timeout: 60_000 }, async (t) => {
  const stand = await Stand.open(t, '1', { ...PATIENCE, serving: 600_000 });
  const client = await stand.attached();
  const ended = once(stand.child, 'exit');
  await stand.begin('take: hang');
  await waitFor('it to have everything', () => stand.log.includes('it is at take'));
  // Two of one kind may be one.
  stand.child.kill('SIGTERM');
  stand.child.kill('SIGINT');
  assert.deepEqual(await ended, [5, null], stand.log);
  await waitFor('its end', () => !isThere(stand.successor()));
  client.close();
});

test('a command that does not end keeps the daemon, and goes on', { timeout: 60_000 }, async (t) => {
  const stand = await Stand.open(t, '1');
  const asked = askFor({ socketPath: join(stand.folder, 'control.sock'), path: '/v1/commands', method: 'POST' });
  const surroundings = { env: { LVM_SYSTEM_DIR: stand.folder }, terminal: { isTTY: true, columns: 80 } };
  const settings = { devices: null, configFile: null, configDevices: [] };
  asked.end(JSON.stringify({ name: 'lvremove', argv: ['vg/one'], cwd: stand.folder, ...surroundings, ...settings }));
  const [response] = (await once(asked, 'response')) as [IncomingMessage];
  let told = '';
  response.on('data', (chunk: Buffer) => (told += chunk.toString()));
  await waitFor('the prompt', () => told.includes('"prompt"'));
  const at = await stand.begin('take: exit');
  await waitFor('the refusal', () => /lvremove still runs[\s\S]*everything stays here/.test(stand.log.slice(at)));
  assert.ok(!told.includes('"exit"'));
  asked.destroy();
  await write(await stand.attached(), 1);
});

test(
  'a restore that has its volume alone keeps the daemon; when it is done, the daemon may go',
  { timeout: 60_000 },
  async (t) => {
    const stand = await Stand.open(t, '1');
    const client = await stand.attached();
    const control = new ControlClient(join(stand.folder, 'control.sock'));
    const hold = await control.stream('POST', '/v1/holds/vg/one', {});
    const at = await stand.begin('take: exit');
    await waitFor('the refusal', () =>
      /restore of vg\/one still runs[\s\S]*everything stays here/.test(stand.log.slice(at)),
    );
    await assert.rejects(stand.attached());
    await write(client, 1);
    hold.close();
    const ended = once(stand.child, 'exit');
    await stand.begin('take: exit');
    assert.deepEqual(await ended, [5, null], stand.log);
  },
);

test('what the settings name and can’t be had is told before, or left out', { timeout: 60_000 }, async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'orion-lvm-handover-'));
  const { path } = await new TestGroup(join(folder, 'vg.img'), 'vg').write([{ name: 'one', extent: 0, extents: 2 }]);
  const config = join(folder, 'lvm.toml');
  await writeFile(config, '');
  // Of a service manager's that is not there; `systemd-notify` fails.
  const notify = join(folder, 'notify.sock');
  const daemon = await startDaemon([path], ['--config', config, '--workers', '1'], { NOTIFY_SOCKET: notify });
  t.after(async () => {
    await stopLast(daemon);
    await daemon.stop();
    await rm(folder, { recursive: true, force: true });
  });
  const client = await WireClient.open(daemon.socket);
  await client.attach('vg/one');
  const pid = await pidOf(daemon);
  // A service manager that would take the end of this process for the service's.
  process.kill(pid, 'SIGUSR2');
  await waitFor('the refusal', () =>
    /does not hear which process follows[\s\S]*everything stays here/.test(daemon.log()),
  );
  await write(client, 1);
  const manager = spawn('python3', ['-uc', MANAGER, notify], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => manager.kill());
  let heard = '';
  manager.stdout.on('data', (chunk: Buffer) => (heard += chunk.toString()));
  await waitFor('the manager', () => existsSync(notify));
  // An audit log that can't be opened: nothing would be recorded.
  await mkdir(join(folder, 'audit.log'));
  await writeFile(config, `[audit]\nfile = "${join(folder, 'audit.log')}"\n`);
  process.kill(pid, 'SIGUSR2');
  await waitFor('the refusal', () => /audit log \S+audit\.log[\s\S]*everything stays here/.test(daemon.log()));
  await write(client, 1);
  assert.equal(await pidOf(daemon), pid);
  // An address that is taken.
  const server = createServer().listen(0, '127.0.0.1');
  t.after(() => server.close());
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await writeFile(config, `[metrics]\nlisten = "tcp:127.0.0.1:${port}"\n`);
  await handOver(daemon);
  await waitFor('the log to say so', () => /metrics are left out/.test(daemon.log()));
  await write(client, 2);
  const told = `MAINPID=${await pidOf(daemon)}\nREADY=1`;
  await waitFor('the manager to be told', () => heard.includes(told));
  client.close();
});

/** Prints what it is told. systemd-notify waits until the descriptors that it sends are closed. */
const MANAGER = `
import os, socket, sys
heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
heard.bind(sys.argv[1])
while True:
    message, fds, _, _ = socket.recv_fds(heard, 4096, 4)
    for fd in fds: os.close(fd)
    print(message.decode())
`;
