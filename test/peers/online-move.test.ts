/**
 * pvmove of volumes that a real daemon serves and real clients write to: there and back, aborted, with the command, a worker or the
 * daemon killed on the way. Every acknowledged write is there, and LVM2 reads the metadata of a move in progress.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { waitForStatus } from '../daemon/status-of.ts';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { NbdWriter } from '../helpers/nbd-writer.ts';
import { mustRun, type Outcome, runProgram } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';

const MIB = 1024 * 1024;
const DATA_BYTES = 64 * MIB;

/** Three PVs; vg0/data is on the first one, vg0/wide striped over the first two. */
class Stand {
  readonly folder: string;
  readonly images: readonly string[];
  daemon: RunningDaemon | null = null;
  readonly #workers: string;

  private constructor(folder: string, workers: string) {
    this.folder = folder;
    this.images = [0, 1, 2].map((index) => join(folder, `pv${index}.img`));
    this.#workers = workers;
  }

  static async open(t: TestContext, workers: string): Promise<Stand> {
    const stand = new Stand(await mkdtemp(join(tmpdir(), 'orion-move-')), workers);
    t.after(() => stand.close());
    for (const image of stand.images) {
      await writeFile(image, '');
      await truncate(image, 160 * MIB);
    }
    const [first = '', second = ''] = stand.images;
    await stand.must('vgcreate', 'vg0', ...stand.images);
    await stand.must('lvcreate', '-L', `${DATA_BYTES}b`, '-n', 'data', 'vg0', first);
    await stand.must('lvcreate', '-L', '16m', '-i2', '-I64k', '-n', 'wide', 'vg0', first, second);
    await stand.start();
    return stand;
  }

  async start(): Promise<void> {
    this.daemon = await startDaemon(this.images, ['--workers', this.#workers]);
  }

  get socket(): string {
    assert(this.daemon !== null);
    return this.daemon.socket;
  }

  get env(): NodeJS.ProcessEnv {
    const control = this.daemon === null ? '' : join(this.socket, '../control.sock');
    return { ORION_LVM_DEVICES: this.images.join(','), ORION_LVM_CONTROL: control, LVM_SYSTEM_DIR: this.folder };
  }

  run(command: string, ...args: readonly string[]): Promise<Outcome> {
    return runProgram(join(CHECKOUT, 'bin', command), args, { cwd: this.folder, env: this.env });
  }

  must(command: string, ...args: readonly string[]): Promise<string> {
    return mustRun(join(CHECKOUT, 'bin', command), args, { cwd: this.folder, env: this.env });
  }

  writer(lv: string, sizeBytes: number): NbdWriter {
    return new NbdWriter(() => this.socket, `vg0/${lv}`, sizeBytes);
  }

  /** Whether any extent of an LV is on that PV. */
  async uses(pv: number): Promise<boolean> {
    return (await this.must('lvs', '--noheadings', '-a', '-o', 'devices')).includes(`pv${pv}.img`);
  }

  async moving(): Promise<boolean> {
    return (await this.must('lvs', '--noheadings', '-a', '-o', 'name')).includes('pvmove0');
  }

  /** Begins a pvmove and waits until it copies; `over` settles when the command has ended. */
  async begin(...args: readonly string[]): Promise<{ readonly over: Promise<number | null> }> {
    const env = { ...process.env, ...this.env };
    const child = spawn(join(CHECKOUT, 'bin/pvmove'), ['-i1', ...args], { cwd: this.folder, env });
    const over = once(child, 'close').then(([code]) => code as number | null);
    await Promise.race([once(child.stdout, 'data'), over]);
    return { over };
  }

  /** Processes of the daemon whose command line has this word. */
  async children(name: string): Promise<readonly number[]> {
    const found: number[] = [];
    for (const pid of await readdir('/proc')) {
      if (!/^\d+$/.test(pid)) continue;
      const [stat, command] = await Promise.all(
        ['stat', 'cmdline'].map((file) => readFile(`/proc/${pid}/${file}`, 'latin1').catch(() => '')),
      );
      const parent = Number(stat?.slice(stat.lastIndexOf(')')).split(' ')[2]);
      if (parent === this.daemon?.child.pid && command?.includes(name) === true) found.push(Number(pid));
    }
    return found;
  }

  /** LVM2's word about the metadata as it is now, on copies of the images. */
  async askLvm2(...command: readonly string[]): Promise<string> {
    const folder = join(this.folder, 'copies');
    await mkdir(folder, { recursive: true });
    const loops: string[] = [];
    try {
      for (const [index, image] of this.images.entries()) {
        const copy = join(folder, `${index}.img`);
        await mustRun('cp', ['--sparse=always', image, copy]);
        loops.push((await mustRun('losetup', ['--find', '--show', copy])).trim());
      }
      const env = { LVM_SYSTEM_DIR: folder, LVM_SUPPRESS_FD_WARNINGS: '1' };
      return await mustRun('/sbin/lvm', [...command, '--devices', loops.join(',')], { env });
    } finally {
      for (const loop of loops) await mustRun('losetup', ['--detach', loop]);
      await rm(folder, { recursive: true });
    }
  }

  async kill(): Promise<void> {
    assert(this.daemon !== null);
    const { child } = this.daemon;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  }

  async close(): Promise<void> {
    await this.daemon?.stop();
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** Moves until `interrupt` found the move in progress; a move may be over before. */
async function interrupted(stand: Stand, interrupt: () => Promise<void>): Promise<void> {
  for (let attempt = 0; attempt < 10; attempt++) {
    const [from, to] = (await stand.uses(0)) ? [0, 2] : [2, 0];
    const { over } = await stand.begin(`pv${from}.img`, `pv${to}.img`);
    await interrupt();
    await over;
    if (await stand.moving()) return;
  }
  assert.fail('every move was over too soon');
}

for (const workers of ['0', '2']) {
  void describe(`pvmove of what is served, --workers ${workers}`, () => {
    void test('there and back under fio with verification', async (t) => {
      const stand = await Stand.open(t, workers);
      const jobs = ['data', 'wide'].map((lv) => `[${lv}]\nuri=${stand.daemon?.uri(`vg0/${lv}`)}\n`);
      const options =
        'ioengine=nbd\nrw=randwrite\nbs=4k\niodepth=16\nverify=crc32c\nverify_backlog=256\nverify_fatal=1\n' +
        'time_based=1\nruntime=6\nfsync=64\n';
      await writeFile(join(stand.folder, 'job'), `[global]\n${options}${jobs.join('')}`);
      const fio = runProgram('fio', ['job'], { cwd: stand.folder });
      assert(stand.daemon !== null);
      await waitForStatus(stand.daemon, 'fio on both volumes', ({ exports }) =>
        exports.every(({ clients }) => clients > 0),
      );
      await stand.must('pvmove', 'pv0.img', 'pv2.img');
      assert(!(await stand.uses(0)));
      await stand.must('pvmove', 'pv2.img', 'pv0.img');
      assert((await stand.uses(0)) && !(await stand.uses(2)));
      await stand.must('pvmove', '--atomic', 'pv0.img', 'pv2.img');
      assert(!(await stand.uses(0)));
      const { status, stdout, stderr } = await fio;
      assert.equal(status, 0, stdout + stderr);
      await stand.must('vgck', 'vg0');
      assert.equal(await stand.daemon?.stop(), 0);
    });

    void test('the command is killed: LVM2 reads what it left, and pvmove goes on', async (t) => {
      const stand = await Stand.open(t, workers);
      const writers = [stand.writer('data', DATA_BYTES), stand.writer('wide', 16 * MIB)];
      for (const writer of writers) writer.start();
      await interrupted(stand, async () => {
        for (const pid of await stand.children('hosted')) process.kill(pid, 'SIGKILL');
      });
      await stand.askLvm2('vgck');
      assert.match(await stand.askLvm2('lvs', '-a', '--noheadings', '-o', 'name,move_pv,segtype'), /pvmove0\].*mirror/);
      const said = await stand.must('pvmove', '-i1');
      assert.match(said, /pv[02]\.img: Moved: 100\.00%/);
      assert(!(await stand.moving()));
      for (const writer of writers) await writer.stop();
      for (const writer of writers) await writer.verify();
      assert(writers.every((writer) => writer.writes > 100 && writer.reconnects === 0));
    });

    void test('in the background', async (t) => {
      const stand = await Stand.open(t, workers);
      const writer = stand.writer('data', DATA_BYTES);
      writer.start();
      assert.equal(await stand.must('pvmove', '-b', 'pv0.img', 'pv2.img'), '');
      await waitFor('the end of the move', async () => !(await stand.moving()));
      assert(!(await stand.uses(0)));
      await writer.stop();
      await writer.verify();
    });

    void test('aborted: what was moved stays moved, the rest is where it was', async (t) => {
      const stand = await Stand.open(t, workers);
      const writer = stand.writer('data', DATA_BYTES);
      writer.start();
      await interrupted(stand, async () => {
        for (const pid of await stand.children('hosted')) process.kill(pid, 'SIGKILL');
      });
      await stand.must('pvmove', '--abort');
      assert(!(await stand.moving()));
      await stand.askLvm2('vgck');
      await writer.stop();
      await writer.verify();
    });

    void test('the daemon is killed: it serves what is being moved again, and pvmove goes on', async (t) => {
      const stand = await Stand.open(t, workers);
      const writer = stand.writer('data', DATA_BYTES);
      writer.start();
      await interrupted(stand, async () => {
        await stand.kill();
        // Whatever the command still does, it does before the next daemon.
        await waitFor('its children to end', async () => (await stand.children('')).length === 0);
        await stand.start();
      });
      await stand.must('pvmove');
      assert(!(await stand.moving()));
      await writer.stop();
      await writer.verify();
      assert(writer.reconnects > 0);
    });
  });
}

void test('a worker is killed while its volumes copy', async (t) => {
  const stand = await Stand.open(t, '2');
  const writer = stand.writer('data', DATA_BYTES);
  writer.start();
  const { over } = await stand.begin('pv0.img', 'pv2.img');
  const workers = await stand.children('worker');
  assert.equal(workers.length, 2);
  for (const pid of workers) process.kill(pid, 'SIGKILL');
  assert.equal(await over, 0, 'the command waits for the workers that follow');
  assert(!(await stand.uses(0)) && !(await stand.moving()));
  await writer.stop();
  await writer.verify();
  assert(writer.reconnects > 0);
});
