/** The control socket on a daemon that only notes what it is asked: its document, its refusals, and commands from their begin to their end. */
import assert from 'node:assert/strict';
import { open, readFile, writeFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import type { Role } from '../../src/daemon/access.ts';
import { ControlClient, ControlClientError, type EventStream } from '../../src/daemon/client/control-client.ts';
import type { CommandEvent, CommandRequest } from '../../src/daemon/client/messages.ts';
import { CommandRunner } from '../../src/daemon/commands/runner.ts';
import { ROUTES } from '../../src/daemon/control/routes.ts';
import { createLog } from '../../src/daemon/log.ts';
import { identityAt } from '../../src/lvm/devices.ts';
import type { LiveChange } from '../../src/lvm/live.ts';
import { type ControlStand, startControl } from '../helpers/control.ts';
import { waitFor } from '../helpers/daemon.ts';
import { hostedProcesses } from '../helpers/hosted.ts';
import { check, documentOf } from '../helpers/openapi.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { TestGroup } from './images.ts';

/** A stand on one VG with an LV, in a folder that goes with it. */
async function withStand(
  use: (stand: ControlStand, group: TestGroup, client: ControlClient) => Promise<void>,
): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const group = await new TestGroup(join(folder, 'pv.img'), 'vg').write([{ name: 'a', extent: 0, extents: 4 }]);
    await using stand = await startControl([group.path]);
    await use(stand, group, new ControlClient(stand.socket));
  });
}

async function commandOn(group: TestGroup, name: string, ...argv: readonly string[]): Promise<CommandRequest> {
  return {
    name,
    argv: [...argv, '--devices', group.path],
    cwd: '/',
    // Nothing of the host's configuration, and nothing written to the host.
    env: { LVM_SYSTEM_DIR: '' },
    terminal: { isTTY: false, columns: 80 },
    devices: [(await identityAt(group.path)) ?? ''],
    configFile: null,
    configDevices: [],
  };
}

const NO_BACKUP = '--config=backup { archive=0 backup=0 }';

function begin(client: ControlClient, request: CommandRequest): Promise<EventStream<CommandEvent>> {
  return client.stream<CommandEvent>('POST', '/v1/commands', request);
}

interface Said {
  readonly events: readonly CommandEvent[];
  readonly stdout: string;
  readonly stderr: string;
  readonly code: number | null;
}

/** Everything that a command says; `answer` answers its prompts. */
async function follow(
  { events }: EventStream<CommandEvent>,
  answer: (event: Extract<CommandEvent, { type: 'prompt' }>, id: string) => Promise<void> = () => Promise.resolve(),
): Promise<Said> {
  const all: CommandEvent[] = [];
  const said = { stdout: '', stderr: '' };
  let code: number | null = null;
  let id = '';
  for await (const event of events) {
    all.push(event);
    if (event.type === 'started') ({ id } = event);
    else if (event.type === 'stdout' || event.type === 'stderr') said[event.type] += event.text;
    else if (event.type === 'prompt') await answer(event, id);
    else if (event.type === 'exit') ({ code } = event);
  }
  return { events: all, ...said, code };
}

async function refusal(request: Promise<unknown>): Promise<ControlClientError> {
  let caught: unknown = null;
  await request.catch((error: unknown) => (caught = error));
  assert.ok(caught instanceof ControlClientError, `not refused: ${String(caught)}`);
  return caught;
}

function methodsOf(stand: ControlStand): readonly string[] {
  return stand.live.calls.map(({ method }) => method).filter((method) => method !== 'status');
}

describe('the document', () => {
  test('says the same as the routes', async () => {
    const { paths } = await documentOf();
    const documented = Object.entries(paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
    );
    assert.deepEqual(documented.toSorted(), ROUTES.map(({ method, path }) => `${method} ${path}`).toSorted());
    for (const { method, path, needs } of ROUTES) {
      if (needs === null) continue;
      assert.ok('403' in (paths[path]?.[method.toLowerCase()]?.responses ?? {}), `${method} ${path} may be refused`);
    }
  });

  test('describes what is answered', async () => {
    await withStand(async (_stand, group, client) => {
      const document = await documentOf();
      assert.deepEqual(await client.request('GET', '/v1/openapi.json'), document);
      check(document, 'CommandList', await client.request('GET', '/v1/commands'));
      const request = await commandOn(group, 'lvs');
      check(document, 'CommandRequest', request);
      const { events } = await follow(await begin(client, request));
      for (const event of events) check(document, 'CommandEvent', event);
      check(document, 'CommandEvent', { type: 'progress', label: 'x', done: 1, total: 2, unit: 'bytes' });
      assert.throws(() => check(document, 'CommandEvent', { type: 'exit' }));
      assert.throws(() => check(document, 'CommandRequest', { ...request, devices: 'all' }));
    });
  });
});

describe('requests', () => {
  test('what is not there, and what is wrong', async () => {
    await withStand(async (_stand, _group, client) => {
      const cases: readonly (readonly [string, string, unknown, number, string])[] = [
        ['GET', '/v2/status', undefined, 404, 'NO_SUCH_RESOURCE'],
        ['GET', '/v1/commands/7/answers/8', undefined, 404, 'NO_SUCH_RESOURCE'],
        ['DELETE', '/v1/status', undefined, 405, 'BAD_METHOD'],
        ['POST', '/v1/commands', { name: 'lvs' }, 400, 'BAD_BODY'],
        ['POST', '/v1/commands', 'x'.repeat(5 * 2 ** 20), 413, 'TOO_LARGE'],
        ['DELETE', '/v1/commands/7', undefined, 404, 'NO_SUCH_COMMAND'],
        ['POST', '/v1/commands/7/answers', { id: 1, line: null }, 404, 'NO_SUCH_COMMAND'],
      ];
      const document = await documentOf();
      const { message: wrong } = await refusal(client.request('POST', '/v1/commands', { name: 'lvs', argv: [1] }));
      assert.match(wrong, /^argv\.0: .*string.*; cwd: .*string.*; env: [^\n]*$/);
      for (const [method, path, body, status, code] of cases) {
        const { status: found, reason, message } = await refusal(client.request(method, path, body));
        assert.deepEqual([found, reason], [status, code], `${method} ${path}`);
        check(document, 'Error', { code: reason, message });
      }
    });
  });

  test('a body that is no JSON, and one that never comes whole', async () => {
    await withStand(async (stand) => {
      const asked = httpRequest({ socketPath: stand.socket, path: '/v1/commands', method: 'POST' });
      asked.end('{"name":');
      const status = await new Promise((resolve) => asked.once('response', ({ statusCode }) => resolve(statusCode)));
      assert.equal(status, 400);
      const half = connect(stand.socket);
      half.write('POST /v1/commands HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{');
      half.destroy();
      const slow = connect(stand.socket);
      const begun = performance.now();
      slow.on('error', () => undefined);
      const drip = setInterval(() => void slow.write('x'), 50);
      slow.write('POST /v1/commands HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n');
      await new Promise((resolve) => slow.once('close', resolve));
      clearInterval(drip);
      assert.ok(performance.now() - begun >= 900, 'a request has its time');
      assert.deepEqual(stand.errors, []);
      assert.equal(await new ControlClient(stand.socket).text('/metrics'), '# no metrics\n');
    });
  });

  test('roles: a peer does what its role reaches, and nothing else', async () => {
    await withStand(async (stand, group, client) => {
      stand.role = null;
      for (const path of ['/v1/status', '/metrics', '/v1/commands']) {
        assert.equal((await refusal(client.request('GET', path))).status, 403, path);
      }
      assert.match((await refusal(begin(client, await commandOn(group, 'lvs')))).message, /your user has no role here/);
      stand.role = 'observer';
      assert.equal((await refusal(client.request('POST', '/v1/rescan'))).status, 403);
      const plain = { ...(await commandOn(group, 'lvs')), env: {} };
      assert.equal((await follow(await begin(client, plain))).code, 0);
      const refused = await refusal(begin(client, { ...plain, name: 'lvremove', argv: ['vg/a'] }));
      assert.deepEqual([refused.status, refused.reason], [403, 'FORBIDDEN']);
      assert.ok(stand.refusals.some((what) => what[0] === 'lvremove'));
      // What the environment or a configuration of one's own says counts as the option that says it.
      for (const own of [
        { env: { LVM_SYSTEM_DIR: '/x' } },
        { env: { ORION_LVM_DEVICES: '/x' } },
        { configFile: '/x' },
      ]) {
        assert.match((await refusal(begin(client, { ...plain, ...own }))).message, /needs the role administrator/);
      }
      assert.deepEqual(methodsOf(stand), []);
    });
  });
});

describe('a caller that is not to be believed', () => {
  const REQUEST: CommandRequest = {
    name: 'lvs',
    argv: [],
    cwd: '/',
    env: {},
    terminal: { isTTY: false, columns: 80 },
    devices: null,
    configFile: null,
    configDevices: [],
  };

  test("a command that names no devices gets the daemon's, whatever is said of them", async () => {
    await withTemporaryFolder(async (folder) => {
      const path = join(folder, 'pv.img');
      await writeFile(path, '');
      const started: CommandRequest[] = [];
      await using stand = await startControl([path], {
        start(request, listener) {
          started.push(request);
          queueMicrotask(() => {
            listener({ type: 'started', id: '1' });
            listener({ type: 'exit', code: 0 });
          });
          return { id: '1', answer: () => undefined, cancel: () => undefined };
        },
      });
      stand.role = 'observer';
      const client = new ControlClient(stand.socket);
      const devices = [(await identityAt(path)) ?? ''];
      const lies: readonly Partial<CommandRequest>[] = [{}, { devices }, { devices: ['1:2', ...devices] }];
      for (const lie of lies) await follow(await begin(client, { ...REQUEST, ...lie }));
      for (const { env } of started) assert.equal(env['ORION_LVM_DEVICES'], path);
      assert.equal(started.length, lies.length);
      // Where ".." leads to is for the kernel to say, not for us.
      const cwd = `${folder}/elsewhere/..`;
      const astray = await refusal(begin(client, { ...REQUEST, devices, cwd, argv: ['--devices', 'pv.img'] }));
      assert.deepEqual([astray.status, astray.reason], [400, 'BAD_BODY']);
      const relative = { ...REQUEST, devices, cwd: folder, argv: ['--devices', 'pv.img'] };
      assert.equal((await follow(await begin(client, relative))).code, 0);
    });
  });

  test('no directory is told of that is not that of a known device, nor are commands run that work elsewhere', async () => {
    await withStand(async (stand, group, client) => {
      const plain = { ...(await commandOn(group, 'lvs')), env: {} };
      const folder = dirname(group.path);
      const places: readonly (readonly [Role, string, boolean])[] = [
        ['observer', join(folder, 'secret'), true],
        ['observer', '/no/such/place', true],
        ['observer', folder, true],
        ['administrator', '/no/such/place', false],
        ['administrator', '/proc', true],
      ];
      for (const [role, cwd, runs] of places) {
        stand.role = role;
        const { code, stderr } = await follow(await begin(client, { ...plain, cwd }));
        assert.equal(code === 0, runs, `${role} in ${cwd}: ${stderr}`);
        assert.equal(stderr.includes('cannot work in'), !runs);
      }
      for (const name of ['audit', 'config', 'lvmdevices', 'man', 'status', 'top', 'version']) {
        const { code, stdout, stderr } = await follow(await begin(client, { ...plain, name, argv: [] }));
        assert.deepEqual(
          [code, stdout, stderr],
          [3, '', `  orion-lvmd does not run ${name}: it works where its caller is.\n`],
        );
      }
    });
  });

  test('who takes nothing is let go, and told no progress meanwhile', { timeout: 60_000 }, async () => {
    let cancelled = false;
    let progress = 0;
    await using stand = await startControl([], {
      start(_request, listener) {
        listener({ type: 'started', id: '1' });
        const text = 'x'.repeat(2 ** 20);
        const timer = setInterval(() => {
          listener({ type: 'stdout', text });
          listener({ type: 'progress', label: 'x', done: ++progress, total: 1e9, unit: 'bytes' });
        }, 1);
        return {
          id: '1',
          answer: () => undefined,
          cancel() {
            clearInterval(timer);
            cancelled = true;
          },
        };
      },
    });
    const body = JSON.stringify(REQUEST);
    const socket = connect(stand.socket);
    socket.write(`POST /v1/commands HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    socket.pause();
    await waitFor('the caller to be let go', () => cancelled);
    socket.destroy();
    assert.ok(progress >= 60 && progress < 100, `${progress} MiB were kept`);
  });
});

test('one user does not keep the others from their turn', { timeout: 60_000 }, async () => {
  await withStand(async (stand, group) => {
    const log = createLog({ level: 'silent', format: 'json' });
    const runner = new CommandRunner({ live: stand.live, log, env: process.env, maxRunning: 2 });
    const ended: string[] = [];
    const start = async (who: string, user: number | null, name: string, ...argv: readonly string[]): Promise<void> => {
      const listener = ({ type }: CommandEvent): void => void (type === 'exit' && ended.push(who));
      runner.start(await commandOn(group, name, ...argv), listener, user);
    };
    // Of two turns one user has one: his first command asks, his second waits for it.
    await start('first', 1000, 'vgremove', NO_BACKUP, 'vg');
    await start('second', 1000, 'lvs');
    await start('other', 1001, 'lvs');
    await start('administrator', null, 'lvs');
    await waitFor('the others to have had their turns', () => ended.length === 2);
    assert.deepEqual(ended, ['other', 'administrator']);
    await runner.close();
    assert.equal(ended.length, 4);
  });
});

describe('commands', () => {
  test('those that have nothing to do with our devices are not ours', async () => {
    await withStand(async (_stand, group, client) => {
      const request = await commandOn(group, 'lvs');
      const others = [{ devices: ['file:0:1'] }, { devices: [] }, { devices: null, configFile: '/other.toml' }];
      for (const other of others) {
        assert.equal((await refusal(begin(client, { ...request, ...other }))).reason, 'NOT_OURS');
      }
      const none = { ...request, argv: [], env: {}, devices: null };
      const { stdout, code } = await follow(await begin(client, none));
      assert.equal(code, 0);
      assert.match(stdout, /^ {2}a {4}vg /m);
    });
  });

  test('a change tells the volumes before and after, and nothing new is active before it is wiped', async () => {
    await withStand(async (stand, group, client) => {
      const create = await commandOn(group, 'lvcreate', NO_BACKUP, '-n', 'b', '-l', '2', 'vg');
      const { stdout, code, events } = await follow(await begin(client, create));
      assert.equal(code, 0);
      assert.equal(stdout, '  Logical volume "b" created.\n');
      assert.equal(events[0]?.type, 'started');
      assert.equal(events.at(-1)?.type, 'exit');
      assert.deepEqual(methodsOf(stand), ['prepare', 'committed']);
      const [prepared, committed] = stand.live.calls
        .filter(({ method }) => method !== 'status')
        .map(({ argument }) => argument as LiveChange);
      assert.deepEqual(
        prepared?.decisions.map(({ active, volume }) => [volume.name, active]),
        [['vg/b', false]],
      );
      assert.deepEqual(
        committed?.decisions.map(({ active, volume }) => [volume.name, active]),
        [['vg/b', true]],
      );
      assert.deepEqual(
        committed?.groups.map(({ name, seqnoBefore, seqnoAfter }) => [name, seqnoBefore, seqnoAfter]),
        [['vg', 1, 2]],
      );
      assert.deepEqual(
        stand.outcomes.map(({ exitCode, changes }) => [exitCode, changes.length]),
        [[0, 1]],
      );
    });
  });

  test('what a change takes away is named: volumes that go, and those that lose extents', async () => {
    await withStand(async (stand, group, client) => {
      await follow(await begin(client, await commandOn(group, 'lvreduce', NO_BACKUP, '-y', '-l', '1', 'vg/a')));
      await follow(await begin(client, await commandOn(group, 'lvextend', NO_BACKUP, '-l', '3', 'vg/a')));
      await follow(await begin(client, await commandOn(group, 'lvrename', NO_BACKUP, 'vg', 'a', 'z')));
      await follow(await begin(client, await commandOn(group, 'lvremove', NO_BACKUP, '-y', 'vg/z')));
      const prepared = stand.live.calls.filter(({ method }) => method === 'prepare');
      const named = prepared.map(({ argument }) => {
        const { leaving, losing } = argument as LiveChange;
        return [leaving.map(({ name }) => name), losing.map(({ name }) => name)];
      });
      assert.deepEqual(named, [
        [[], ['vg/a']],
        [[], []],
        [[], []],
        [['vg/z'], []],
      ]);
    });
  });

  test('a prompt goes to the caller, and his answer back', async () => {
    await withStand(async (_stand, group, client) => {
      for (const [line, code, answered] of [
        ['n', 5, 1],
        [null, 5, 1],
        ['y', 0, 1],
      ] as const) {
        const questions: string[] = [];
        const remove = await commandOn(group, 'vgremove', NO_BACKUP, 'vg');
        const said = await follow(await begin(client, remove), async (event, id) => {
          questions.push(event.question);
          await client.request('POST', `/v1/commands/${id}/answers`, { id: event.id, line });
        });
        assert.equal(said.code, code, said.stderr);
        assert.equal(questions.length, answered);
        assert.match(questions[0] ?? '', /^Do you really want to remove volume group "vg" containing 1 .*\[y\/n\]: $/);
      }
    });
  });

  test('the daemon may refuse: then nothing is committed', async () => {
    await withStand(async (stand, group, client) => {
      const before = await readFile(group.path);
      stand.live.before = (method) => {
        if (method === 'prepare') throw new Error('not a refusal');
      };
      const said = await follow(await begin(client, await commandOn(group, 'lvremove', NO_BACKUP, '-y', 'vg/a')));
      assert.equal(said.code, 5);
      assert.match(said.stderr, /orion-lvmd: Error: not a refusal/);
      assert.deepEqual(methodsOf(stand), ['prepare']);
      assert.ok(before.equals(await readFile(group.path)));
    });
  });

  for (const [step, committed] of [
    ['prepare', false],
    ['committed', true],
  ] as const) {
    test(`a command that dies in ${step} leaves no change open`, async () => {
      await withStand(async (stand, group, client) => {
        let first = true;
        stand.live.before = async (method) => {
          if (method !== step || !first) return;
          first = false;
          const [child = 0] = hostedProcesses();
          process.kill(child, 'SIGKILL');
          await waitFor('its end', () => !hostedProcesses().includes(child));
        };
        const said = await follow(
          await begin(client, await commandOn(group, 'lvcreate', NO_BACKUP, '-n', 'b', '-l', '2', 'vg')),
        );
        assert.equal(said.code, 5);
        assert.match(said.stderr, /the process of lvcreate was ended by SIGKILL/);
        assert.deepEqual(methodsOf(stand), ['prepare', 'committed']);
        const { stdout } = await follow(
          await begin(client, await commandOn(group, 'lvs', '--noheadings', '-olv_name')),
        );
        assert.deepEqual(stdout.trim().split(/\s+/), committed ? ['a', 'b'] : ['a']);
      });
    });
  }

  test('cancelled, a command that waits for a lock gives up; one that waits for an answer takes it for a no', async () => {
    await withStand(async (stand, group, client) => {
      const hold = await begin(client, await commandOn(group, 'vgremove', NO_BACKUP, 'vg'));
      let release: (() => Promise<void>) | null = null;
      const held = follow(hold, (event, id) => {
        release = async (): Promise<void> => {
          await client.request('POST', `/v1/commands/${id}/answers`, { id: event.id, line: 'n' });
        };
        return Promise.resolve();
      });
      await waitFor('the prompt', () => release !== null);
      const waiting = await begin(client, await commandOn(group, 'lvcreate', NO_BACKUP, '-l1', 'vg'));
      const list = (await client.request('GET', '/v1/commands')) as { commands: { id: string; name: string }[] };
      assert.deepEqual(
        list.commands.map(({ name }) => name),
        ['vgremove', 'lvcreate'],
      );
      await client.request('DELETE', `/v1/commands/${list.commands[1]?.id}`);
      const gaveUp = await follow(waiting);
      assert.equal(gaveUp.code, 5);
      await client.request('DELETE', `/v1/commands/${list.commands[0]?.id}`);
      assert.equal((await held).code, 5);
      assert.deepEqual(methodsOf(stand), []);
    });
  });

  test('cancelled when it asks about what it found on a new LV, a command takes the LV back', async () => {
    await withStand(async (_stand, group, client) => {
      const image = await open(group.path, 'r+');
      const { size } = await image.stat();
      // Swap space, wherever an LV may begin.
      for (let at = 2 ** 20; at + 8192 < size; at += 2 ** 20)
        await image.write(Buffer.from('SWAPSPACE2'), 0, 10, at + 4086);
      await image.close();
      const create = await begin(client, await commandOn(group, 'lvcreate', NO_BACKUP, '-n', 'b', '-l', '1', 'vg'));
      const said = await follow(create, async (event, id) => {
        assert.match(event.question, /swap signature detected/);
        await client.request('DELETE', `/v1/commands/${id}`);
      });
      assert.equal(said.code, 5);
      const { stdout } = await follow(await begin(client, await commandOn(group, 'lvs', '--noheadings', '-olv_name')));
      assert.deepEqual(stdout.trim().split(/\s+/), ['a']);
    });
  });

  test('a caller that goes away cancels', async () => {
    await withStand(async (stand, group, client) => {
      const stream = await begin(client, await commandOn(group, 'vgremove', NO_BACKUP, 'vg'));
      for await (const event of stream.events) if (event.type === 'prompt') break;
      stream.close();
      await waitFor('the end', () => stand.outcomes.length === 1);
      assert.equal(stand.outcomes[0]?.exitCode, 5);
      assert.deepEqual(methodsOf(stand), []);
    });
  });

  test('many at once are done one after the other, per VG', async () => {
    await withStand(async (stand, group, client) => {
      const names = Array.from({ length: 6 }, (_, i) => `n${i}`);
      const codes = await Promise.all(
        names.map(async (name) => {
          const create = await commandOn(group, 'lvcreate', NO_BACKUP, '-n', name, '-l', '1', 'vg');
          return (await follow(await begin(client, create))).code;
        }),
      );
      assert.deepEqual(codes, [0, 0, 0, 0, 0, 0]);
      const { stdout } = await follow(await begin(client, await commandOn(group, 'vgs', '--noheadings', '-ovg_seqno')));
      assert.equal(stdout.trim(), '7');
      // Nobody prepared before the one before him had committed.
      assert.deepEqual(
        methodsOf(stand),
        names.flatMap(() => ['prepare', 'committed']),
      );
    });
  });
});
