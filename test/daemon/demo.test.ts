/** `npm start` with nothing configured: the demo volume group is made once, served, and is one that LVM2 accepts. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, open, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { DEMO_NOTES, ensureDemo } from '../../src/daemon/demo-volume-group.ts';
import { waitFor } from '../helpers/daemon.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';

let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'orion-lvm-demo-'));
});
after(async () => {
  await rm(folder, { recursive: true, force: true });
});

interface Demo {
  readonly child: ChildProcess;
  readonly output: () => string;
  /** Ctrl-C; resolves with the exit code. */
  stop(): Promise<unknown>;
}

async function startDemo(env: NodeJS.ProcessEnv = {}): Promise<Demo> {
  const child = spawn(process.execPath, [join(CHECKOUT, 'src/daemon/demo.ts')], {
    cwd: folder,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const exited = once(child, 'exit');
  await waitFor('the welcome', () => {
    assert.equal(child.exitCode, null, output);
    return output.includes('Ctrl-C');
  });
  return {
    child,
    output: () => output,
    async stop() {
      child.kill('SIGINT');
      const [code] = (await exited) as [unknown];
      return code;
    },
  };
}

describe('the demo', () => {
  test('is made once, served, and what it says to try works', async (t) => {
    // Whoever has the port, this test or another program: the demo must do without.
    const holder = createServer().listen(10809, '127.0.0.1');
    await Promise.race([once(holder, 'listening'), once(holder, 'error')]).catch(() => holder.close());
    t.after(() => holder.close());

    const demo = await startDemo();
    t.after(() => demo.child.kill('SIGKILL'));
    assert.match(demo.output(), /Port 10809 of 127.0.0.1 is taken, so another one is used/);
    assert.match(demo.output(), /3 image files in var\/demo, made just now/);
    const commands = new Map(
      [...demo.output().matchAll(/^ {2}# (.*)\n {2}(.*)$/gm)].map(([, what = '', command = '']) => [what, command]),
    );
    const suggested = (what: RegExp): string => [...commands].find(([name]) => what.test(name))?.[1] ?? '';
    await writeFile(join(folder, 'README.md'), 'to be copied');
    assert.match(await mustRun('sh', ['-c', suggested(/what there is/)]), /export="demo\/stripes"/);
    assert.equal(await mustRun('sh', ['-c', suggested(/read a volume/)]), DEMO_NOTES);
    await mustRun('sh', ['-c', suggested(/copy something in/)], { cwd: folder });
    await mustRun('sh', ['-c', suggested(/an image of one/)], { cwd: folder });
    assert.match(await mustRun('sh', ['-c', suggested(/daemon says/)], { cwd: folder }), /"state": "serving"/);
    const lvs = suggested(/LVM2 would say/).replace('bin/', `${CHECKOUT}/bin/`);
    assert.match(await mustRun('sh', ['-c', lvs], { cwd: folder }), /notes +demo +-ri-/);
    const tcp = /nbd:\/\/127.0.0.1:\d+\/demo\/data/.exec(demo.output())?.[0] ?? '';
    assert.equal((await mustRun('nbdinfo', ['--size', tcp])).trim(), String(64 * 2 ** 20));
    assert.match(
      (await runProgram('nbdcopy', ['README.md', suggestedUri(demo, 'notes')], { cwd: folder })).stderr,
      /./,
    );
    assert.equal(await demo.stop(), 0);
    assert.match(demo.output(), /Stopped\. Everything that was written is on disk\./);

    const again = await startDemo();
    t.after(() => again.child.kill('SIGKILL'));
    assert.match(again.output(), /made earlier and kept/);
    const kept = await mustRun('sh', ['-c', `nbdcopy '${suggestedUri(again, 'data')}' - | head -c 12`]);
    assert.equal(kept, 'to be copied');
    assert.equal(await again.stop(), 0);
    await assert.rejects(stat(join(folder, 'var/nbd.sock')), { code: 'ENOENT' });
  });

  test('leaves the place to what is configured', async () => {
    const configured = join(folder, 'configured');
    await mkdir(configured);
    await writeFile(join(configured, 'lvm.toml'), `devices = ["none.img"]\nrun_dir = "${configured}/run"\n`);
    const demo = [join(CHECKOUT, 'src/daemon/demo.ts')];
    const { status, stderr } = await runProgram(process.execPath, demo, { cwd: configured });
    assert.equal(status, 5);
    assert.match(stderr, /no devices to serve: .*none.img/);
    await assert.rejects(stat(join(configured, 'var')), { code: 'ENOENT' });
  });

  test('says why it cannot make its images', async () => {
    const file = join(folder, 'a-file');
    await writeFile(file, '');
    await assert.rejects(ensureDemo(join(file, 'demo')), { code: 'DEMO_FAILED', exitCode: 5, message: /a-file/ });
  });

  test('is a volume group that LVM2 takes without a warning', async (t) => {
    const { images } = await ensureDemo(join(folder, 'for-lvm2'));
    const loops: string[] = [];
    t.after(async () => {
      for (const loop of loops) await mustRun('losetup', ['-d', loop]);
    });
    for (const image of images) loops.push((await mustRun('losetup', ['-f', '--show', image])).trim());
    const system = join(folder, 'lvm2');
    await mkdir(system);
    const lvm2 = async (...command: string[]): Promise<string[][]> => {
      const [name = '', ...args] = command;
      // LVM2 looks up whether LVs are active; a kernel without device-mapper answers with complaints of its own.
      const config = ['--driverloaded', 'n'];
      const run = await runProgram('lvm', [name, ...config, '--devices', loops.join(','), ...args], {
        env: { LVM_SYSTEM_DIR: system, LVM_SUPPRESS_FD_WARNINGS: '1' },
      });
      assert.equal(run.status, 0, run.stderr);
      assert.equal(run.stderr.replace(/.*(device-mapper|libdevmapper).*\n/g, ''), '');
      const rows = run.stdout.split('\n').map((line) => line.trim().split(/ +/));
      return rows.filter(([first]) => first !== '');
    };
    assert.deepEqual(await lvm2('vgck', 'demo'), []);
    assert.deepEqual(await lvm2('vgs', '--noheadings', '-o', 'vg_name,pv_count,lv_count,vg_attr,seqno'), [
      ['demo', '3', '4', 'wz--n-', '5'],
    ]);
    const pvs = await lvm2(
      'pvs',
      '--noheadings',
      '--units',
      'm',
      '-o',
      'vg_name,pv_attr,pv_size,pv_in_use,pv_mda_count',
    );
    assert.deepEqual(
      pvs,
      images.map(() => ['demo', 'a--', '252.00m', 'used', '1']),
    );
    const lvs = await lvm2(
      'lvs',
      '--noheadings',
      '-O',
      'lv_name',
      '-o',
      'lv_name,lv_size,segtype,stripes,lv_permissions',
    );
    // Without device-mapper, LVM2 doesn't know whether a writable LV is writable.
    const shown = lvs.map(([name, size, type, stripes, access]) => [name, size, type, stripes, access === 'read-only']);
    assert.deepEqual(shown, [
      ['big', '200.00m', 'linear', '1', false],
      ['big', '200.00m', 'linear', '1', false],
      ['data', '64.00m', 'linear', '1', false],
      ['notes', '4.00m', 'linear', '1', true],
      ['stripes', '192.00m', 'striped', '3', false],
    ]);
    const file = await open(images[0] ?? '');
    t.after(() => file.close());
    const { buffer } = await file.read(Buffer.alloc(DEMO_NOTES.length), 0, DEMO_NOTES.length, 2 ** 20);
    assert.equal(buffer.toString(), DEMO_NOTES);
  });
});

function suggestedUri(demo: Demo, lv: string): string {
  const uri = /nbd\+unix:\/\/\/demo\/data\?socket=\S+/.exec(demo.output())?.[0] ?? '';
  return uri.replace('demo/data', `demo/${lv}`);
}
