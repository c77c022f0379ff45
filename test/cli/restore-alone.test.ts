/**
 * A restore through the daemon keeps nobody away while it asks; from the answer on it has the volume alone: nobody connects to it before it
 * is done, whatever it is called, and the daemon does not go without a word.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { ControlClient } from '../../src/daemon/client/control-client.ts';
import { NbdClient } from '../../src/daemon/client/nbd-client.ts';
import { waitFor } from '../helpers/daemon.ts';
import { handOver } from '../helpers/hand-over.ts';
import { type Outcome, runProgram } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';
import { SnapshotStand } from '../helpers/snapshot-stand.ts';

interface Asking {
  readonly child: ChildProcess;
  readonly ended: Promise<[number | null, string | null]>;
  readonly answer: (text: string) => Promise<number | null>;
  readonly said: () => string;
}

/** Begins a restore onto vg/o that waits for its answer; `said` is what it printed. */
async function asking(stand: SnapshotStand, t: TestContext): Promise<Asking> {
  const child = spawn(join(CHECKOUT, 'bin/orion-lvm'), ['restore', 'image', 'vg/o'], {
    cwd: stand.folder,
    env: { ...process.env, ...stand.env },
  });
  t.after(() => child.kill('SIGKILL'));
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (said += chunk.toString()));
  const ended = once(child, 'close') as Asking['ended'];
  await waitFor('the question', () => said.includes('[y/n]') || child.exitCode !== null);
  return {
    child,
    ended,
    async answer(text) {
      child.stdin.end(text);
      return (await ended)[0];
    },
    said: () => said,
  };
}

function controlOf(stand: SnapshotStand): string {
  return join(dirname(stand.daemon.socket), 'control.sock');
}

function attached(stand: SnapshotStand, exportName: string): Promise<NbdClient> {
  return NbdClient.connect({ server: `unix:${stand.daemon.socket}`, exportName, contexts: [], timeoutMs: 10_000 });
}

/** Why a client that comes now is refused; '': he is not. */
async function visit(stand: SnapshotStand, exportName: string): Promise<string> {
  try {
    await (await attached(stand, exportName)).close();
    return '';
  } catch (error) {
    return (error as Error).message;
  }
}

for (const workers of ['0', '1']) {
  test(
    `while it asks, nobody is kept away, and what was asked is asked again of the volume (${workers} workers)`,
    { timeout: 120_000 },
    async (t) => {
      await SnapshotStand.with(async (stand) => {
        await stand.serve(workers);
        await stand.write('o', 1, 1);
        await stand.must('orion-lvm', 'backup', 'vg/o', 'image');
        const content = await stand.hash('o');
        await stand.write('o', 1, 2);
        const other = await stand.hash('o');
        for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
          const { child, ended } = await asking(stand, t);
          child.kill(signal);
          assert.deepEqual(await ended, [null, signal]);
        }
        const refused = await asking(stand, t);
        const client = await attached(stand, 'vg/o');
        assert.equal(await refused.answer('y\n'), 5, refused.said());
        assert.match(refused.said(), /vg\/o alone: 1 client has it open\./);
        const unasked = await stand.run('orion-lvm', 'restore', 'image', 'vg/o');
        assert.deepEqual([unasked.status, unasked.stderr.includes('[y/n]')], [5, false], unasked.stderr);
        await client.close();
        const left = await asking(stand, t);
        assert.equal(await left.answer(''), 5);
        assert.equal(await stand.hash('o'), other);

        const handed = await asking(stand, t);
        await handOver(stand.daemon);
        assert.equal(await handed.answer('y\n'), 0, handed.said());
        assert.equal(await stand.hash('o'), content);

        const renamed = await asking(stand, t);
        await stand.must('lvrename', 'vg', 'o', 'p');
        await stand.must('lvcreate', '-Zn', '-Wn', '-L40m', '-n', 'o', 'vg');
        const fresh = await stand.hash('o');
        assert.equal(await renamed.answer('y\n'), 5, renamed.said());
        assert.match(renamed.said(), /Cannot restore logical volume vg\/o: another one has this name now\./);
        assert.equal(await stand.hash('o'), fresh);
      });
    },
  );

  test(`a hold is of the volume, whatever it is called (${workers} workers)`, { timeout: 60_000 }, async (t) => {
    await SnapshotStand.with(async (stand) => {
      await stand.serve(workers);
      const client = await attached(stand, 'vg/o');
      const control = new ControlClient(controlOf(stand));
      const hold = await control.stream('POST', '/v1/holds/vg/o', {});
      t.after(() => hold.close());
      assert.match(await visit(stand, 'vg/o'), /vg\/o is in use by user \d+, process \d+ alone/);
      await stand.must('lvrename', 'vg', 'o', 'p');
      assert.match(await visit(stand, 'vg/p'), /vg\/p is in use by user \d+, process \d+ alone/);
      await stand.must('lvcreate', '-Zn', '-Wn', '-L4m', '-n', 'o', 'vg');
      assert.equal(await visit(stand, 'vg/o'), '');
      hold.close();
      await waitFor('the end of the hold', async () => (await visit(stand, 'vg/p')) === '');
      await client.close();
    });
  });

  test(
    `nobody connects while it writes, and a hold that ends is noticed before that (${workers} workers)`,
    { timeout: 60_000 },
    async (t) => {
      await SnapshotStand.with(async (stand) => {
        await stand.serve(workers);
        await stand.must('lvcreate', '-s', '-L8M', '-ns', 'vg/o');
        await stand.write('o', 1, 1);
        // What it was taken against is compared first.
        await stand.must('orion-lvm', 'backup', 'vg/s', 'full');
        await stand.must('lvcreate', '-s', '-L8M', '-nl', 'vg/o');
        await stand.must('orion-lvm', 'backup', 'vg/l', '--since', 's', 'image');
        const visits: string[] = [];
        let lost = false;
        // Between the command and the daemon: stops at a hold's answer, and may let it end with that.
        const between = createServer((near) => {
          const far = connect(controlOf(stand));
          for (const socket of [near, far]) socket.on('error', () => undefined);
          let holds = false;
          near.on('data', (chunk: Buffer) => {
            holds ||= chunk.includes('/v1/holds/');
            far.write(chunk);
          });
          near.on('close', () => far.destroy());
          far.on('data', (chunk: Buffer) => {
            void (async (): Promise<void> => {
              if (holds) visits.push(await visit(stand, 'vg/o'));
              if (holds && lost) near.end(chunk);
              else near.write(chunk);
            })();
          });
          far.on('end', () => near.end());
        });
        const path = join(stand.folder, 'between.sock');
        between.listen(path);
        await once(between, 'listening');
        t.after(() => between.close());
        const restore = (): Promise<Outcome> =>
          runProgram(join(CHECKOUT, 'bin/orion-lvm'), ['restore', '-y', 'image', 'vg/o'], {
            cwd: stand.folder,
            env: { ...stand.env, ORION_LVM_CONTROL: path },
          });
        const done = await restore();
        assert.equal(done.status, 0, done.stderr);
        assert.match(visits.join(), /vg\/o is in use by user \d+, process \d+ alone/);
        lost = true;
        const { status, stdout, stderr } = await restore();
        assert.equal(status, 5, stdout);
        assert.match(stderr, /Others may have written to logical volume vg\/o meanwhile/);
        assert.doesNotMatch(stdout + stderr, /restored/);
      });
    },
  );
}
