/**
 * What can go wrong around a backup and a restore: two at the same time, a full disk, an interrupt while the server is slow, a volume
 * that is larger than the image.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:fs';
import { lstat, mkdir, open, readdir, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { withNewFile } from '../../src/cli/backup/image-sink.ts';
import { CommandError, StreamOutput } from '../../src/cli/messages.ts';
import { run } from '../../src/cli/run.ts';
import { HOST_SYSTEM, noteDevice } from '../../src/daemon/client/attached.ts';
import { closeAll } from '../../src/lvm/open.ts';
import { CommandError as Refusal } from '../../src/lvm/edit/errors.ts';
import { DeviceError } from '../../src/block/errors.ts';
import { accepts, waitFor } from '../helpers/daemon.ts';
import { mustRun, type Outcome } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';
import { NOBODY } from '../helpers/terminal.ts';

const MIB = 2 ** 20;

async function command(folder: string, ...args: readonly string[]): Promise<Outcome> {
  let [stdout, stderr] = ['', ''];
  const output = new StreamOutput({ write: (text) => (stdout += text) }, { write: (text) => (stderr += text) });
  const env = { LVM_SYSTEM_DIR: folder, ORION_LVM_CONTROL: '', ORION_LVM_DEVICES: join(folder, 'pv0') };
  const status = await run(args, output, { env, cwd: folder, uid: 1000, now: 0, terminal: NOBODY });
  output.flush();
  return { status, stdout, stderr };
}

/** nbdkit with these arguments; gives its URI. */
async function withServer(
  folder: string,
  name: string,
  args: readonly string[],
  use: (uri: string) => Promise<void>,
): Promise<void> {
  const socket = join(folder, name);
  const server = spawn('nbdkit', ['-f', '-U', socket, ...args], { stdio: 'ignore' });
  const ended = once(server, 'exit');
  try {
    await waitFor('nbdkit to listen', () => accepts(socket));
    await use(`nbd+unix:///?socket=${socket}`);
  } finally {
    server.kill('SIGKILL');
    await ended;
  }
}

describe('the file of a backup', () => {
  test('of two backups into one file one is made, and the other is told; --force replaces it', async () => {
    await withTemporaryFolder(async (folder) => {
      const path = join(folder, 'image');
      const first = withNewFile(path, { replace: false }, async (sink) => {
        await sink.write(Buffer.from('one'));
        // The other one ends first: this file has another name until it is whole.
        await writeFile(path, 'two');
      });
      await assert.rejects(first, /image exists already: use --force to replace it\./);
      assert.equal(await readFile(path, 'utf8'), 'two');
      await withNewFile(path, { replace: true }, (sink) => sink.write(Buffer.from('three')));
      assert.equal(await readFile(path, 'utf8'), 'three');
      assert.deepEqual(await readdir(folder), ['image']);
    });
  });

  test(
    'a device, a pipe, a link and a directory are refused at once, also with --force',
    { timeout: 60_000 },
    async () => {
      await withTemporaryFolder(async (folder) => {
        const places = ['pipe', 'link', 'dangling', 'directory'].map((name) => join(folder, name));
        await mustRun('mkfifo', [join(folder, 'pipe')]);
        await writeFile(join(folder, 'image'), 'one');
        await symlink('image', join(folder, 'link'));
        await symlink('nowhere', join(folder, 'dangling'));
        await mkdir(join(folder, 'directory'));
        const kinds = (): Promise<readonly number[]> =>
          Promise.all(places.map(async (path) => (await lstat(path)).mode & constants.S_IFMT));
        const before = await kinds();
        for (const path of [...places, '/dev/null']) {
          for (const replace of [false, true]) {
            const failed = withNewFile(path, { replace }, () => assert.fail('begun'));
            await assert.rejects(failed, {
              message: `${path} is no regular file, and is kept: name another, or - for standard output.`,
            });
          }
        }
        // What came meanwhile is kept too.
        const late = join(folder, 'late');
        const failed = withNewFile(late, { replace: true }, () => symlink('image', late));
        await assert.rejects(failed, /late is no regular file/);
        assert.deepEqual(await kinds(), before);
        assert.ok((await lstat('/dev/null')).isCharacterDevice());
        assert.equal(await readFile(join(folder, 'image'), 'utf8'), 'one');
        assert.deepEqual((await readdir(folder)).sort(), ['dangling', 'directory', 'image', 'late', 'link', 'pipe']);
      });
    },
  );

  test('its name may be as long as names can be', async () => {
    await withTemporaryFolder(async (folder) => {
      const name = 'x'.repeat(255);
      for (const replace of [false, true]) {
        await withNewFile(join(folder, name), { replace }, (sink) => sink.write(Buffer.from('one')));
      }
      assert.deepEqual(await readdir(folder), [name]);
    });
  });

  test('on a full disk it goes away, and the reason is told', async (t) => {
    await withTemporaryFolder(async (folder) => {
      const path = join(folder, 'image');
      await using probe = await open(folder);
      const full = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', errno: -28 });
      t.mock.method(Object.getPrototypeOf(probe) as typeof probe, 'write', () => Promise.reject(full));
      const failed = withNewFile(path, { replace: false }, (sink) => sink.write(Buffer.alloc(10)));
      await assert.rejects(failed, (error) => {
        assert(error instanceof CommandError);
        assert.match(error.lines.join(), /image: can't be written: No space left on device$/m);
        return true;
      });
      assert.deepEqual(await readdir(folder), []);
    });
  });
});

test('a disk that can not be read any more ends a restore with its reason', async (t) => {
  await withTemporaryFolder(async (folder) => {
    await writeFile(join(folder, 'image'), 'ORIONBAK');
    await using probe = await open(folder);
    t.mock.method(Object.getPrototypeOf(probe) as typeof probe, 'read', () =>
      Promise.reject(new Error('EIO: i/o error')),
    );
    const { status, stderr } = await command(folder, 'restore', '--verify', 'image');
    assert.deepEqual(
      [status, /^ {2}.*\/image: can't be read: EIO: i\/o error$/.test(stderr.trimEnd())],
      [5, true],
      stderr,
    );
  });
});

test('a volume that is larger than the image keeps what is beyond it', async () => {
  await withTemporaryFolder(async (folder) => {
    await writeFile(join(folder, 'small'), Buffer.alloc(2 * MIB, 5));
    await writeFile(join(folder, 'large'), Buffer.alloc(3 * MIB, 9));
    await withServer(folder, 'one', ['file', join(folder, 'small')], async (uri) => {
      assert.equal((await command(folder, 'backup', uri, 'image')).status, 0);
    });
    await withServer(folder, 'two', ['file', join(folder, 'large')], async (uri) => {
      const { status, stderr } = await command(folder, 'restore', '-y', 'image', uri);
      assert.equal(status, 0, stderr);
    });
    const wanted = Buffer.concat([Buffer.alloc(2 * MIB, 5), Buffer.alloc(MIB, 9)]);
    assert.ok((await readFile(join(folder, 'large'))).equals(wanted));
  });
});

test('a volume that the kernel has attached, waiting for its daemon, is overwritten with --force only', async (t) => {
  await withTemporaryFolder(async (folder) => {
    await writeFile(join(folder, 'pv0'), '');
    await truncate(join(folder, 'pv0'), 64 * MIB);
    const must = async (...args: readonly string[]): Promise<string> => {
      const { status, stdout, stderr } = await command(folder, ...args);
      assert.equal(status, 0, `${args.join(' ')}: ${stderr}`);
      return stdout.trim();
    };
    await must('vgcreate', 'vg', join(folder, 'pv0'));
    for (const name of ['o', 'r']) await must('lvcreate', '-L8M', '-n', name, 'vg');
    await must('backup', 'vg/o', 'image');
    t.mock.property(HOST_SYSTEM, 'directory', join(folder, 'notes'));
    t.mock.property(HOST_SYSTEM, 'sysBlock', join(folder, 'sys'));
    await mkdir(join(folder, 'sys/nbd3'), { recursive: true });
    await writeFile(join(folder, 'sys/nbd3/pid'), '17\n');
    const ids = await must('lvs', '--noheadings', '--separator', '/', '-o', 'vg_uuid,lv_uuid', 'vg/r');
    const server = 'unix:/run/orion-lvm/nbd.sock';
    await noteDevice({ kernelName: 'nbd3', exportName: 'vg/r', server, connections: 1, volume: ids });
    const { status, stderr } = await command(folder, 'restore', '-y', 'image', 'vg/r');
    assert.equal(status, 5);
    assert.match(stderr, /vg\/r in use: it is attached as \/dev\/nbd3, which waits for its daemon\./);
    // It may be read, others are not concerned, and whoever insists has it.
    await must('backup', 'vg/r', 'other');
    await must('restore', '-y', 'image', 'vg/o');
    await must('restore', '-y', '--force', 'image', 'vg/r');
  });
});

test('an interrupt does not wait for the server', { timeout: 180_000 }, async () => {
  await withTemporaryFolder(async (folder) => {
    await writeFile(join(folder, 'disk'), Buffer.alloc(4 * MIB, 5));
    await withServer(folder, 'quick', ['file', join(folder, 'disk')], async (uri) => {
      assert.equal((await command(folder, 'backup', uri, 'image')).status, 0);
    });
    const log = join(folder, 'log');
    const requests = (): Promise<string> => readFile(log, 'utf8').catch(() => '');
    const slow = [
      '--filter=log',
      '--filter=delay',
      'file',
      join(folder, 'disk'),
      `logfile=${log}`,
      'rdelay=300',
      'wdelay=300',
    ];
    // A server for each: nbdkit 1.32 ends by an assertion of its own (raw_send_socket) when a client goes while requests are delayed.
    for (const [name, asked, said] of [
      ['backup', 'Read', /^ {2}Interrupted\.$/],
      ['restore', 'Write', /is restored only in part\.\n {2}Interrupted\.$/],
    ] as const) {
      await withServer(folder, name, slow, async (uri) => {
        const args = name === 'backup' ? [name, uri, 'other'] : [name, '-y', 'image', uri];
        const env = { ...process.env, LVM_SYSTEM_DIR: folder, ORION_LVM_CONTROL: '' };
        const child = spawn(join(CHECKOUT, 'bin/orion-lvm'), args, { cwd: folder, env });
        let stderr = '';
        child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
        const ended = once(child, 'close');
        try {
          await waitFor(
            asked,
            async () => {
              const { exitCode, signalCode } = child;
              assert.deepEqual([exitCode, signalCode], [null, null], `${name} ended before its ${asked}`);
              return (await requests()).includes(` ${asked} `);
            },
            60_000,
          );
          child.kill('SIGINT');
          assert.deepEqual(await ended, [5, null]);
          assert.match(stderr.trimEnd(), said);
        } catch (cause) {
          throw new Error(`${name} said: ${stderr}\nnbdkit was asked:\n${await requests()}`, { cause });
        } finally {
          child.kill('SIGKILL');
        }
      });
      await rm(log);
    }
    assert.equal(
      (await readdir(folder)).some((name) => name.includes('other')),
      false,
    );
  });
});

test('nor for a daemon that does not answer', { timeout: 20_000 }, async () => {
  await withTemporaryFolder(async (folder) => {
    const control = join(folder, 'control.sock');
    const silent = createServer().listen(control);
    await once(silent, 'listening');
    const env = { ...process.env, LVM_SYSTEM_DIR: folder, ORION_LVM_CONTROL: control };
    const child = spawn(join(CHECKOUT, 'bin/orion-lvm'), ['backup', 'vg/o', 'image'], { cwd: folder, env });
    let stderr = '';
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    const ended = once(child, 'close');
    const [socket] = (await once(silent, 'connection')) as [Socket];
    await once(socket, 'data');
    child.kill('SIGINT');
    assert.deepEqual(await ended, [5, null], stderr);
    assert.equal(stderr, '  Interrupted.\n');
    silent.close();
    await once(silent, 'close');
  });
});

test('what fails when devices are closed keeps none of the others open, and all of it is told', async () => {
  const closed: number[] = [];
  const thing = (n: number, error?: Error): { close(): Promise<void> } => ({
    close: () => {
      closed.push(n);
      return error === undefined ? Promise.resolve() : Promise.reject(error);
    },
  });
  const device = new DeviceError('IO', '/dev/b', 'cannot be flushed');
  const things = [thing(1), thing(2, new Refusal('vg/o: lost.')), thing(3), thing(4, device), thing(5)];
  await assert.rejects(closeAll(things), (error) => {
    assert(error instanceof Refusal);
    assert.deepEqual(error.lines, ['vg/o: lost.', device.message]);
    return true;
  });
  assert.deepEqual(closed, [1, 2, 3, 4, 5]);
  await assert.rejects(closeAll([thing(6, new TypeError('a mistake')), thing(7)]), TypeError);
  assert.equal(closed.at(-1), 7);
});
