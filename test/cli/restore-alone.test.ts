/** A restore through the daemon has the volume alone: nobody connects to it, or restores it, before it is done. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { waitFor } from '../helpers/daemon.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';
import { SnapshotStand } from '../helpers/snapshot-stand.ts';

/** Begins a restore onto vg/o that waits for its answer; `said` is what it printed. */
async function asking(
  stand: SnapshotStand,
  t: TestContext,
): Promise<{
  readonly answer: (text: string) => Promise<number | null>;
  readonly said: () => string;
}> {
  const child = spawn(join(CHECKOUT, 'bin/orion-lvm'), ['restore', 'image', 'vg/o'], {
    cwd: stand.folder,
    env: { ...process.env, ...stand.env },
  });
  t.after(() => child.kill('SIGKILL'));
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (said += chunk.toString()));
  const ended = once(child, 'close') as Promise<[number | null]>;
  await waitFor('the question', () => said.includes('[y/n]') || child.exitCode !== null);
  return {
    async answer(text) {
      child.stdin.end(text);
      return (await ended)[0];
    },
    said: () => said,
  };
}

for (const workers of ['0', '1']) {
  test(
    `nobody else has the volume meanwhile, and a daemon that goes is told of (${workers} workers)`,
    { timeout: 60_000 },
    async (t) => {
      await SnapshotStand.with(async (stand) => {
        await stand.serve(workers);
        await stand.write('o', 1, 1);
        await stand.must('orion-lvm', 'backup', 'vg/o', 'image');
        const content = await stand.hash('o');
        const first = await asking(stand, t);
        const visitor = await runProgram('nbdinfo', [stand.daemon.uri('vg/o')]);
        assert.notEqual(visitor.status, 0);
        const second = await stand.run('orion-lvm', 'restore', '-y', 'image', 'vg/o');
        assert.equal(second.status, 5);
        assert.match(second.stderr, /vg\/o is in use by user \d+, process \d+ alone/);
        assert.equal(await first.answer('y\n'), 0, first.said());
        await mustRun('nbdinfo', [stand.daemon.uri('vg/o')]);
        assert.equal(await stand.hash('o'), content);

        // Who goes without a word holds nothing either.
        const third = await asking(stand, t);
        assert.equal(await third.answer(''), 5);
        await mustRun('nbdinfo', [stand.daemon.uri('vg/o')]);
        const fourth = await asking(stand, t);
        await stand.stop('SIGKILL');
        assert.equal(await fourth.answer('y\n'), 5, fourth.said());
      });
    },
  );
}
