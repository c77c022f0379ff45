/** The launchers in bin/ and the unit: found through links, on the right Node, and what they say without one. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmod,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  realpath,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { waitFor } from '../helpers/daemon.ts';
import { runProgram } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';
import { TestGroup } from './images.ts';

const BIN = join(CHECKOUT, 'bin');
let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'orion-lvm-launcher-'));
});
after(async () => {
  await rm(folder, { recursive: true, force: true });
});

/** A directory with a `node` that answers as the version would, or says what it is to run (without the option for V8 before it), and a link to a few system programs. */
async function pathWithNode(version: string): Promise<string> {
  const directory = join(folder, `path-${version}`);
  await mkdir(directory);
  await writeFile(
    join(directory, 'node'),
    `#!/bin/sh\n[ "$1" = --version ] && echo ${version} || { shift; echo "ran $*"; }\n`,
  );
  await chmod(join(directory, 'node'), 0o755);
  return `${directory}:/usr/bin:/bin`;
}

/** An installation without node_modules, with its code in `code`/. */
async function installation(code: 'src' | 'dist'): Promise<string> {
  const root = await mkdtemp(join(folder, `${code}-`));
  await mkdir(join(root, code));
  await cp(BIN, join(root, 'bin'), { recursive: true, verbatimSymlinks: true });
  return root;
}

describe('launchers', () => {
  test('every name is a link to the one launcher', async () => {
    const names = (await readdir(BIN)).filter((name) => name !== 'orion-lvm');
    assert.ok(names.includes('orion-lvmd') && names.includes('pvs') && names.includes('vgcfgbackup'));
    for (const name of names) assert.equal(await readlink(join(BIN, name)), 'orion-lvm', name);
  });

  test('work through links, relative and absolute, from anywhere', async () => {
    await mkdir(join(folder, 'links'));
    await symlink(join(BIN, 'orion-lvmd'), join(folder, 'links/orion-lvmd'));
    await symlink('links/orion-lvmd', join(folder, 'orion-lvmd'));
    for (const path of ['links/orion-lvmd', './orion-lvmd']) {
      const { status, stdout } = await runProgram(path, ['--version'], { cwd: folder });
      assert.equal(status, 0);
      assert.match(stdout, /^\d+\.\d+\.\d+\n$/);
    }
    const inPath = { PATH: `${join(folder, 'links')}:${process.env['PATH']}` };
    assert.equal((await runProgram('orion-lvmd', ['--version'], { cwd: '/', env: inPath })).status, 0);
  });

  test('a link by a name of ones own choice does not hide the installation', async () => {
    const root = await installation('src');
    const bin = join(folder, 'usr-bin');
    await mkdir(bin);
    for (const name of ['orion-lvm', 'lvs']) await symlink(join(root, 'bin', name), join(bin, name));
    const env = { PATH: await pathWithNode('v25.0.0') };
    const { stdout } = await runProgram(join(bin, 'lvs'), ['-a', 'two words'], { env });
    assert.equal(stdout, `ran ${root}/bin/../src/cli/main.ts lvs -a two words\n`);
    const direct = await runProgram(join(bin, 'orion-lvm'), ['vgs'], { env });
    assert.equal(direct.stdout, `ran ${root}/bin/../src/cli/main.ts vgs\n`);
  });

  test('a link to the directory of commands is as good as the directory', async () => {
    const root = await installation('src');
    const bin = join(folder, 'linked bin');
    await symlink(join(root, 'bin'), bin);
    const env = { PATH: await pathWithNode('v25.1.0'), CDPATH: folder };
    for (const [path, cwd] of [
      [join(bin, 'lvs'), '/'],
      ['linked bin/lvs', folder],
    ] as const) {
      const { stdout } = await runProgram(path, ['-a'], { env, cwd });
      assert.equal(stdout, `ran ${await realpath(root)}/bin/../src/cli/main.ts lvs -a\n`);
    }
  });

  test('a package without sources runs its JavaScript', async () => {
    const root = await installation('dist');
    const env = { PATH: await pathWithNode('v24.11.0') };
    assert.equal(
      (await runProgram(join(root, 'bin/orion-lvmd'), [], { env })).stdout,
      `ran ${root}/bin/../dist/daemon/main.js\n`,
    );
  });

  for (const version of ['v20.20.2', 'v24.10.9', 'v24.9.0', 'v8.0.0', 'garbage']) {
    test(`say what is needed when there is only Node ${version}`, async () => {
      const root = await installation('src');
      const env = { PATH: await pathWithNode(version) };
      const { status, stderr } = await runProgram(join(root, 'bin/pvs'), [], { env });
      assert.equal(status, 5);
      assert.ok(stderr.includes(`pvs: needs Node 24.11 or newer, and the one in PATH is: ${version}.`), stderr);
      assert.ok(stderr.includes('npm ci'), stderr);
    });
  }
});

describe('systemd', () => {
  test('the unit is one that systemd takes', async () => {
    const text = await readFile(join(CHECKOUT, 'packaging/orion-lvmd.service'), 'utf8');
    const unit = join(folder, 'orion-lvmd.service');
    await writeFile(unit, text.replaceAll('/opt/orion-lvm', CHECKOUT));
    const { status, stderr } = await runProgram('systemd-analyze', ['verify', '--man=no', unit]);
    assert.equal(status, 0, stderr);
    assert.equal(stderr, '');
  });

  test('the daemon says when it is ready and when it stops', async (t) => {
    const { path } = await new TestGroup(join(folder, 'vg.img'), 'vg').write([{ name: 'a', extent: 0, extents: 1 }]);
    const socket = join(folder, 'notify.sock');
    // Prints the messages, and closes the descriptor that systemd-notify waits for.
    const listener = spawn('python3', ['-uc', NOTIFY_LISTENER, socket], { stdio: ['ignore', 'pipe', 'inherit'] });
    t.after(() => listener.kill());
    let messages = '';
    listener.stdout.on('data', (chunk: Buffer) => (messages += chunk.toString()));
    await waitFor('the listener', () => messages.includes('listening'));
    const args = ['--devices', path, '--listen', `unix:${folder}/n`, '--control', `${folder}/c`, '--log-level', 'warn'];
    const env = { ...process.env, NOTIFY_SOCKET: socket };
    const daemon = spawn(join(BIN, 'orion-lvmd'), args, { env, stdio: ['ignore', 'ignore', 'inherit'] });
    t.after(() => daemon.kill('SIGKILL'));
    await waitFor('READY', () => messages.includes('READY=1'));
    assert.match(messages, /STATUS=1 logical volumes served/);
    const exited = once(daemon, 'exit');
    daemon.kill('SIGTERM');
    assert.deepEqual(await exited, [0, null]);
    await waitFor('STOPPING', () => messages.includes('STOPPING=1'));
  });
});

const NOTIFY_LISTENER = `
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print('listening')
while True:
    message, fds, _, _ = socket.recv_fds(s, 4096, 4)
    for fd in fds: os.close(fd)
    print(message.decode())
`;
